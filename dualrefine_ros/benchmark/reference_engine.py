"""The reference as an engine: frame in, depth and motion out, only the last image remembered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from dualrefine_ros.benchmark.reference import reference_frame
from dualrefine_ros.frame import Frame
from dualrefine_ros.model.dualrefine import DualRefine
from dualrefine_ros.network_io import StageClock, network_image, resize_map


@dataclass(frozen=True)
class ReferenceEstimate:
    """Depth (H, W) of a frame in the network's lengths, its motion (4, 4), and seconds of each stage."""

    depth: npt.NDArray[np.float32]
    T_prev_cur: npt.NDArray[np.float32]
    timings: dict[str, float]


class ReferenceEngine:
    """What :class:`~dualrefine_ros.odometry.VisualOdometry` is measured against.

    Args:
        model: as it is trained; it stays so.
        iterations: of the refiner.
        device: that it runs on, in float32.
    """

    def __init__(self, model: DualRefine, iterations: int, device: torch.device) -> None:
        self.model = model.to(device)
        self.iterations = iterations
        self.device = device
        self._last: Frame | None = None

    @torch.inference_mode()
    def process(self, frame: Frame) -> ReferenceEstimate:
        """One whole frame; the first is its own predecessor."""
        height, width = self.model.config.height, self.model.config.width
        clock = StageClock(self.device)
        last, self._last = self._last or frame, frame
        with clock("preprocess"):
            cur, prev = (network_image(f.image, height, width, self.device) for f in (frame, last))
            k = frame.intrinsics.resized(width, height)
            intrinsics = torch.tensor([[k.fx, k.fy, k.cx, k.cy]], device=self.device)
        result = reference_frame(self.model, cur, prev, intrinsics, self.iterations, clock)
        with clock("postprocess"):
            depth = self.model.to_depth(resize_map(result.disp_refined, frame).clamp(0, 1)).cpu().numpy()
            T_prev_cur = result.T_prev_cur[0].cpu().numpy()
        return ReferenceEstimate(depth, T_prev_cur, clock.seconds)
