"""The types that travel through the package: what a camera gives and what the engine answers.

Camera axes are optical (REP-103): x right, y down, z forward. A pose ``T_target_source`` maps points
of the source frame to the target frame: ``X_target = T_target_source @ X_source``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from dualrefine_ros.errors import InputError

FloatArray = npt.NDArray[np.floating]
NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera without distortion; pixel centres are integers, (0, 0) is the top left pixel.

    Args:
        fx, fy: focal lengths in pixels, positive.
        cx, cy: principal point in pixels.
        width, height: size in pixels of the image these numbers belong to.

    Raises:
        InputError: a number is not finite, or a focal length or a side is not positive.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) for v in (self.fx, self.fy, self.cx, self.cy)):
            raise InputError(
                f"The camera matrix holds a number that is not finite (fx {self.fx}, fy {self.fy}, "
                f"cx {self.cx}, cy {self.cy}): calibrate the camera."
            )
        if self.fx <= 0 or self.fy <= 0:
            raise InputError(
                f"The focal lengths must be positive, not fx {self.fx}, fy {self.fy}: calibrate the camera."
            )
        if self.width <= 0 or self.height <= 0:
            raise InputError(f"An image of {self.width}x{self.height} pixels is empty.")

    @classmethod
    def from_matrix(cls, K: FloatArray, width: int, height: int) -> Intrinsics:
        """From a 3x3 (or the left of a 3x4) camera matrix."""
        return cls(float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]), width, height)

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """The 3x3 camera matrix K."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def resized(self, width: int, height: int) -> Intrinsics:
        """The same camera after its image is stretched to ``width x height`` (no half-pixel shift)."""
        sx, sy = width / self.width, height / self.height
        return Intrinsics(self.fx * sx, self.fy * sy, self.cx * sx, self.cy * sy, width, height)


@dataclass(frozen=True)
class Frame:
    """One image of a rectified camera, with what is known about it.

    Args:
        stamp_ns: time of exposure in nanoseconds (ROS stamps are exact in it, float seconds are not).
        image: (H, W, 3) uint8 RGB.
        intrinsics: of this image's size.
        T_world_cam: ground-truth camera pose, (4, 4) float64 in metres, where known.
        depth: ground-truth depth, (H, W) float32 in metres, NaN where unknown; where asked for.
    """

    stamp_ns: int
    image: npt.NDArray[np.uint8]
    intrinsics: Intrinsics
    T_world_cam: npt.NDArray[np.float64] | None = None
    depth: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise InputError(
                f"A frame needs an (H, W, 3) uint8 RGB image, not {self.image.shape} {self.image.dtype}."
            )
        height, width = self.image.shape[:2]
        if (width, height) != (self.intrinsics.width, self.intrinsics.height):
            raise InputError(
                f"The image is {width}x{height} but its calibration is for "
                f"{self.intrinsics.width}x{self.intrinsics.height}: publish the calibration of this image."
            )

    @property
    def stamp(self) -> float:
        """Time of exposure in seconds."""
        return self.stamp_ns / NANOSECONDS


class Status(Enum):
    """What an :class:`Estimate` is worth."""

    FIRST = "first"  # no previous frame to pair with: depth only, the pose stays
    TRACKING = "tracking"  # depth and motion
    STATIONARY = "stationary"  # depth; the camera stands still, and so does the pose, exactly
    DEGRADED = "degraded"  # depth and motion, worse than usual: blurred, or an iteration failed
    LOST = "lost"  # no motion that could be believed: the pose stays, its covariance grows


@dataclass(frozen=True)
class Estimate:
    """What the engine answers to one frame; (H, W) is the size of the frame's image.

    Args:
        stamp_ns: of the frame.
        status: what happened; the poses are finite whatever it says.
        depth: (H, W) float32 in metres, as far as the scale is right; NaN where there is none.
        T_world_cam: (4, 4) float64 pose of this frame's camera in the camera of the first frame.
        T_prev_cur: (4, 4) float64, maps this frame's camera to that of the frame it was matched with,
            which is the previous one unless that showed nothing or the camera stood still; None at the
            first and when lost.
        confidence: (H, W) float32 in [0, 1], the weight of each pixel in the pose; None where there is none.
        pose_update_norms: |xi| of each iteration; NaN after an early stop; empty without refinement.
        timings: seconds spent in each stage, in order.
        prev_stamp_ns: of the frame it was matched with; None at the first and when lost.
        cause: why the status is not TRACKING, a sentence for the user; else empty.
        scale: the factor between the network's lengths and metres, applied to depth and poses alike.
        scale_confidence: in [0, 1]; 0 where the scale is a fallback.
        covariance: (6, 6) float64 of ``T_prev_cur``: order translation, rotation; metres, radians; of
            ``xi`` in ``T_true = exp(xi) T_prev_cur``, so in the axes and about the origin of the camera
            matched with. Positive definite. None where there is no motion.
        pose_covariance: (6, 6) float64 of ``T_world_cam``, in the same manner in the world. Turn it into a
            message's with :mod:`dualrefine_ros.covariance`.
    """

    stamp_ns: int
    status: Status
    depth: npt.NDArray[np.float32]
    T_world_cam: npt.NDArray[np.float64]
    T_prev_cur: npt.NDArray[np.float64] | None = None
    confidence: npt.NDArray[np.float32] | None = None
    pose_update_norms: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    timings: dict[str, float] = field(default_factory=dict)
    prev_stamp_ns: int | None = None
    cause: str = ""
    scale: float = 1.0
    scale_confidence: float = 1.0
    covariance: npt.NDArray[np.float64] | None = None
    pose_covariance: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((6, 6)))
