"""The node's view of the engine, and how it gets one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from dualrefine_ros.frame import Estimate, Frame
from dualrefine_ros.ros.base_odometry import Matrix
from dualrefine_ros.ros.config import NodeConfig

if TYPE_CHECKING:
    from dualrefine_ros.odometry import OdometryConfig


class Engine(Protocol):
    """What the node needs of :class:`dualrefine_ros.odometry.VisualOdometry`, which see."""

    @property
    def device(self) -> Any:
        """Where it runs; prints as cpu or cuda:0."""

    def process(self, frame: Frame) -> Estimate: ...
    def reset(self) -> None: ...
    def new_pair(self) -> None: ...
    def release(self) -> None: ...
    def set_pose(self, T_world_cam: Matrix, covariance: Matrix | None = None) -> None: ...
    def set_extrinsics(self, T_base_cam: Matrix) -> None: ...
    def add_speed(self, stamp_ns: int, metres_per_second: float) -> None: ...
    def reconfigure(self, config: OdometryConfig) -> None: ...


def engine_config(config: NodeConfig) -> OdometryConfig:
    """The engine's part of the parameters.

    Raises:
        ConfigError: they contradict each other.
    """
    # Here and not above: PyTorch takes seconds to import, and a wrong parameter is answered before that
    from dualrefine_ros.covariance import CovarianceConfig
    from dualrefine_ros.gates import ImageGate, MotionLimits, StillGate
    from dualrefine_ros.odometry import OdometryConfig
    from dualrefine_ros.scale import ScaleConfig

    return OdometryConfig(
        iterations=config.iterations,
        device=config.device,
        backend=config.backend,
        precision=config.precision,
        solver_tolerance=config.solver_tolerance,
        on_device_error=config.on_device_error,
        max_gap=config.max_gap,
        min_flow=config.min_flow,
        images=ImageGate(min_contrast=config.min_contrast, refuse_frozen=config.refuse_frozen),
        limits=MotionLimits(
            max_speed=config.max_speed,
            max_rotation_rate=config.max_rotation_rate,
            min_agreement=config.min_agreement,
            max_agreement_loss=config.max_agreement_loss,
        ),
        still=StillGate(enter=config.still_enter, leave=config.still_leave),
        covariance=CovarianceConfig(
            factor=config.covariance_factor, step_correlation=config.covariance_step_correlation
        ),
        scale=ScaleConfig(
            mode=config.scale_mode, factor=config.scale_factor, camera_height=config.scale_camera_height
        ),
    )


def load_engine(config: NodeConfig) -> Engine:
    """The engine that the parameters ask for.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ConfigError: the device cannot, or parameters contradict each other.
    """
    from dualrefine_ros.model import load_checkpoint, random_model
    from dualrefine_ros.model.default_weights import default_checkpoint
    from dualrefine_ros.odometry import VisualOdometry

    settings = engine_config(config)
    if config.has_random_weights:
        return VisualOdometry(random_model(config.random_network), settings)
    return VisualOdometry(load_checkpoint(config.checkpoint or default_checkpoint()), settings)
