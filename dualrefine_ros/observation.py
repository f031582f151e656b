"""One pass of the network over a frame and the one before it, as numbers the engine can judge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dualrefine_ros.frame import Frame, Intrinsics
from dualrefine_ros.image_motion import agreement, gray, implied_flow, normal_flow
from dualrefine_ros.model.equilibrium import Refinement
from dualrefine_ros.model.network import Network
from dualrefine_ros.model.refiner import MatchingFeatures
from dualrefine_ros.network_io import StageClock, network_image, resize_map

FloatMap = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]

# that are timed; "judge" is the engine's look at the image and at what the network says of it
STAGES = ("judge", "preprocess", "encode", "teacher_pose", "refine", "upsample", "postprocess")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NOISE_POOL = 2  # pixels to a side that are averaged before edges are followed: half the noise


@dataclass(frozen=True)
class Remembered:
    """What the next frame needs of this one; ``image`` is (1, 3, H, W) at network size."""

    image: Tensor
    matching: MatchingFeatures
    intrinsics: Intrinsics


@dataclass(frozen=True)
class ObservedMotion:
    """How the camera moved, in the network's lengths, and what speaks for it.

    Args:
        T_prev_cur: (4, 4); not necessarily finite.
        H, residual_variance: of the alignment, see :class:`~dualrefine_ros.model.equilibrium.Refinement`.
        image_flow: pixels of the network's input that the edges moved, from the images alone.
        implied_flow: pixels that depth and pose imply.
        agreement, agreement_at_rest: of the images, through the motion and without any.
    """

    T_prev_cur: Matrix
    H: Matrix
    residual_variance: float
    image_flow: float
    implied_flow: float
    agreement: float
    agreement_at_rest: float


@dataclass(frozen=True)
class Observation:
    """What the network says of a frame; (H, W) is the size of the frame's image.

    Args:
        remembered: for the next frame.
        depth: (H, W), in the network's lengths; NaN where it is not finite.
        motion: None without a previous frame.
        confidence: (H, W), or None without refinement.
        pose_update_norms: |xi| of each iteration.
        sound: whether every number is finite and every pose system could be solved.
    """

    remembered: Remembered
    depth: FloatMap
    motion: ObservedMotion | None
    confidence: FloatMap | None
    pose_update_norms: npt.NDArray[np.float32]
    sound: bool


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context in which the network computes as a precision, one of :data:`PRECISIONS`, says."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


def observe(
    model: Network,
    frame: Frame,
    previous: Remembered | None,
    iterations: int,
    tolerance: float,
    precision: str,
    clock: StageClock,
) -> Observation:
    """Run the network: encode, guess the pose, refine depth and pose, upsample."""
    device = model.device
    network = model.config
    intrinsics = frame.intrinsics.resized(network.width, network.height)
    with clock("preprocess"):
        image = network_image(frame.image, network.height, network.width, device)
        K = torch.tensor([[intrinsics.fx, intrinsics.fy, intrinsics.cx, intrinsics.cy]], device=device)
    with autocast(device, precision):
        with clock("encode"):
            encoded = model.encode(image)
        with clock("teacher_pose"):
            T = torch.eye(4, device=device)[None]
            if previous is not None:
                T = model.teacher_pose(image, previous.image)
        with clock("refine"):
            matching, iterations = (previous.matching, iterations) if previous else (None, 0)
            refined = model.refine(encoded, matching, T, K, iterations, tolerance)
        with clock("upsample"):
            disparity = model.disparity(refined)
    with clock("postprocess"):
        depth = model.to_depth(resize_map(disparity, frame).clamp(0, 1)).cpu().numpy()
        finite = np.isfinite(depth)
        sound = bool(finite.all()) and int(refined.status[0]) == 0
        return Observation(
            remembered=Remembered(image, encoded.matching, intrinsics),
            depth=depth if finite.all() else np.where(finite, depth, np.float32(np.nan)),
            motion=None if previous is None else _motion(image, previous.image, refined, K),
            confidence=None if refined.weight is None else resize_map(refined.weight, frame).cpu().numpy(),
            pose_update_norms=refined.pose_update_norms[0].cpu().numpy(),
            sound=sound,
        )


def _motion(image: Tensor, image_prev: Tensor, refined: Refinement, K: Tensor) -> ObservedMotion:
    cur, prev = gray(image), gray(image_prev)
    depth, T = refined.depth.float(), refined.T_prev_cur.float()
    shrink = image.shape[-1] // depth.shape[-1]
    small, small_prev, small_K = avg_pool2d(cur, shrink), avg_pool2d(prev, shrink), K / shrink
    rest = torch.eye(4, device=T.device)[None]
    numbers = torch.stack(
        (
            _NOISE_POOL * normal_flow(avg_pool2d(cur, _NOISE_POOL), avg_pool2d(prev, _NOISE_POOL)),
            shrink * implied_flow(depth, T, small_K),
            agreement(small, small_prev, depth, T, small_K),
            agreement(small, small_prev, depth, rest, small_K),
            refined.residual_variance,
        )
    )
    image_flow, flow, moved, at_rest, variance = numbers[:, 0].tolist()  # one wait for the device
    return ObservedMotion(
        T_prev_cur=refined.T_prev_cur[0].double().cpu().numpy(),
        H=refined.H[0].double().cpu().numpy(),
        residual_variance=variance,
        image_flow=image_flow,
        implied_flow=flow,
        agreement=moved,
        agreement_at_rest=at_rest,
    )
