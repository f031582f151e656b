"""Between images and tensors: resizing in, resizing out, and the time it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from dualrefine_ros.frame import Frame, Intrinsics

_SAME_CAMERA = 1e-3  # relative difference of intrinsics below which two frames are of one camera


def resized(image: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """An (H0, W0, 3) uint8 RGB image, stretched to (H, W, 3).

    With an antialiasing Lanczos filter, as in the published evaluation.
    """
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def network_image(image: npt.NDArray[np.uint8], height: int, width: int, device: torch.device) -> Tensor:
    """An (H0, W0, 3) uint8 RGB image as a (1, 3, H, W) float tensor in [0, 1], stretched to size."""
    tensor = torch.from_numpy(resized(image, height, width)).to(device)
    return tensor.permute(2, 0, 1)[None].float() / 255


def resize_map(values: Tensor, frame: Frame) -> Tensor:
    """A (1, 1, h, w) map, resized bilinearly to the (H0, W0) of the frame's image."""
    size = frame.image.shape[:2]
    return interpolate(values.float(), size=size, mode="bilinear", align_corners=False)[0, 0]


def same_camera(first: Intrinsics, second: Intrinsics) -> bool:
    """Whether two sets of intrinsics, at the same image size, are of one camera."""
    return bool(np.allclose(first.matrix, second.matrix, rtol=_SAME_CAMERA, atol=0.0))


class StageClock:
    """Measures stages by name: ``with clock("encode"): ...``; waits for the device at each end.

    What is entered twice adds up.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Measure the block under this name."""
        start = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
