"""The engine: frames in, depth and motion out. No ROS here or below.

One frame walks: resize -> teacher -> refiner -> relative pose and depth -> trajectory. Two things are
remembered between frames: what the previous one left for matching, and the trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.frame import Estimate, Frame, Intrinsics, Status
from dualrefine_ros.geometry.rigid import nearest_rigid
from dualrefine_ros.model.dualrefine import DualRefine
from dualrefine_ros.model.folding import folded
from dualrefine_ros.model.refiner import MatchingFeatures
from dualrefine_ros.network_io import StageClock, network_image, resize_map, same_camera

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class OdometryConfig:
    """How the engine runs the network.

    Raises:
        ConfigError: a value is out of range.
    """

    iterations: int = 6  # refinement iterations; 0 is the teacher alone
    device: str = "auto"  # auto (CUDA if present, else CPU), cpu, cuda, cuda:1 ...
    precision: str = "float32"  # of the convolutions: float32, bfloat16, float16
    solver_tolerance: float = 0.0  # relative residual at which iterating stops early; 0 never does

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise ConfigError(f"iterations must be 0 or more, not {self.iterations}.")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, not '{self.precision}'.")
        if not self.solver_tolerance >= 0:
            raise ConfigError(f"solver_tolerance must be 0 or more, not {self.solver_tolerance}.")


def resolve_device(requested: str, cuda_available: bool) -> torch.device:
    """The device for a request: ``auto`` takes CUDA where there is one.

    Raises:
        ConfigError: the request names no device, or one that is not there.
    """
    if requested == "auto":
        return torch.device("cuda" if cuda_available else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise ConfigError(f"There is no device '{requested}': use auto, cpu or cuda.") from error
    if device.type == "cuda" and not cuda_available:
        raise ConfigError(f"Device '{requested}' was asked for, but PyTorch sees no CUDA: use auto or cpu.")
    return device


@dataclass(frozen=True)
class Previous:
    """What the next frame needs of the last one; ``image`` is (1, 3, H, W) at network size."""

    image: Tensor
    matching: MatchingFeatures
    intrinsics: Intrinsics


class VisualOdometry:
    """Monocular visual odometry: call :meth:`process` with one frame after the other."""

    def __init__(self, model: DualRefine, config: OdometryConfig = OdometryConfig()) -> None:
        self.config = config
        self.iterations = config.iterations
        self.device = resolve_device(config.device, torch.cuda.is_available())
        self.model = folded(model).to(self.device)
        self._previous: Previous | None = None
        self._T_world_cam = np.eye(4)

    @property
    def iterations(self) -> int:
        """Refinement iterations of the next frame; may be changed between frames.

        Raises:
            ConfigError: set to a negative number.
        """
        return self._iterations

    @iterations.setter
    def iterations(self, value: int) -> None:
        if value < 0:
            raise ConfigError(f"iterations must be 0 or more, not {value}.")
        self._iterations = value

    def reset(self) -> None:
        """Forget the previous frame and start a new trajectory at the identity."""
        self._previous = None
        self._T_world_cam = np.eye(4)

    @torch.inference_mode()
    def process(self, frame: Frame) -> Estimate:
        """Depth of this frame and its motion since the last.

        The first frame, and the first of another camera, has depth only. An exception leaves the
        engine as it was.
        """
        clock = StageClock(self.device)
        network = self.model.config
        intrinsics = frame.intrinsics.resized(network.width, network.height)
        with clock("preprocess"):
            image = network_image(frame.image, network.height, network.width, self.device)
            K = torch.tensor(
                [[intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy]], device=self.device
            )
        with clock("encode"), self._autocast():
            encoded = self.model.encode(image)
        previous = self._previous
        if previous is not None and not same_camera(previous.intrinsics, intrinsics):
            previous = None
        with clock("teacher_pose"), self._autocast():
            T = torch.eye(4, device=self.device)[None]
            if previous is not None:
                T = self.model.teacher_pose(image, previous.image)
        with clock("refine"), self._autocast():
            matching, iterations = (previous.matching, self.iterations) if previous else (None, 0)
            refined = self.model.refine(encoded, matching, T, K, iterations, self.config.solver_tolerance)
        with clock("upsample"), self._autocast():
            disparity = self.model.disparity(refined)
        with clock("postprocess"):
            depth = self.model.to_depth(resize_map(disparity, frame).clamp(0, 1)).cpu().numpy()
            confidence = None if refined.weight is None else resize_map(refined.weight, frame).cpu().numpy()
            T_prev_cur = refined.T_prev_cur[0].double().cpu().numpy()
            norms = refined.pose_update_norms[0].cpu().numpy()

        sound = int(refined.status[0]) == 0 and bool(np.isfinite(depth).all())
        if not np.isfinite(T_prev_cur).all():
            T_prev_cur, sound = np.eye(4), False
        T_world_cam = nearest_rigid(self._T_world_cam @ T_prev_cur)
        self._previous = Previous(image, encoded.matching, intrinsics)
        self._T_world_cam = T_world_cam
        status = Status.FIRST if previous is None else Status.TRACKING
        return Estimate(
            stamp_ns=frame.stamp_ns,
            status=status if sound else Status.DEGRADED,
            depth=depth,
            T_world_cam=T_world_cam.copy(),
            T_prev_cur=None if previous is None else nearest_rigid(T_prev_cur),
            confidence=confidence,
            pose_update_norms=norms,
            timings=clock.seconds,
        )

    def _autocast(self) -> torch.autocast:
        dtype = PRECISIONS[self.config.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32)
