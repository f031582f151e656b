"""The node's view of the engine, and how it gets one."""

from __future__ import annotations

from typing import Any, Protocol

from dualrefine_ros.frame import Estimate, Frame
from dualrefine_ros.ros.config import NodeConfig


class Engine(Protocol):
    """What the node needs of :class:`dualrefine_ros.odometry.VisualOdometry`."""

    iterations: int

    @property
    def device(self) -> Any:
        """Where it runs; prints as cpu or cuda:0."""

    def process(self, frame: Frame) -> Estimate:
        """Depth and motion of the next frame; DualRefineError, and nothing changed, if it is unusable."""

    def reset(self) -> None:
        """Forget the previous frame and the trajectory."""


def load_engine(config: NodeConfig) -> Engine:
    """The engine that the parameters ask for.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ConfigError: the device or the precision cannot.
    """
    # Here and not above: PyTorch takes seconds to import, and a wrong parameter is answered before that
    from dualrefine_ros.model import load_checkpoint, random_model
    from dualrefine_ros.odometry import OdometryConfig, VisualOdometry

    model = load_checkpoint(config.checkpoint) if config.checkpoint else random_model(config.random_network)
    return VisualOdometry(
        model,
        OdometryConfig(
            iterations=config.iterations,
            device=config.device,
            precision=config.precision,
            solver_tolerance=config.solver_tolerance,
        ),
    )
