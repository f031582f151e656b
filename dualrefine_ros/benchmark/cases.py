"""What is measured: networks, sizes, settings, and the images they see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.frame import NANOSECONDS, Frame, Intrinsics
from dualrefine_ros.model import PRESETS, DualRefine, ModelConfig, load_checkpoint, random_model
from dualrefine_ros.observation import autocast
from dualrefine_ros.odometry import OdometryConfig

CAMERA = Intrinsics(fx=721.5, fy=721.5, cx=609.6, cy=172.9, width=1242, height=375)  # a KITTI camera
RATE = 10  # frames a second
_PAN = 6  # pixels that the image moves to the side from frame to frame


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Args:
        network: a preset, whose weights are random, or the path of a checkpoint.
        height, width: of the network's input; 0 for the network's own.
        iterations, precision, device, backend: see :class:`~dualrefine_ros.odometry.OdometryConfig`.
    """

    network: str = "published"
    height: int = 0
    width: int = 0
    iterations: int = 6
    precision: str = "float32"
    device: str = "cpu"
    backend: str = "torch"

    def model(self) -> DualRefine:
        """The network, as it is trained.

        Raises:
            CheckpointError: the checkpoint cannot be used.
            ConfigError: the size cannot.
        """
        if self.network in PRESETS:
            return random_model(self._sized(PRESETS[self.network]))
        if not Path(self.network).suffix:
            presets = ", ".join(PRESETS)
            raise ConfigError(f"There is no network '{self.network}': choose {presets} or a checkpoint.")
        loaded = load_checkpoint(self.network)
        model = DualRefine(self._sized(loaded.config)).eval()
        model.load_state_dict(loaded.state_dict())
        return model

    def odometry(self) -> OdometryConfig:
        """The engine's settings."""
        return OdometryConfig(
            iterations=self.iterations, precision=self.precision, device=self.device, backend=self.backend
        )

    def autocast(self, device: torch.device) -> torch.autocast:
        """A context in which the network computes as the precision says."""
        return autocast(device, self.precision)

    def _sized(self, config: ModelConfig) -> ModelConfig:
        return replace(config, height=self.height or config.height, width=self.width or config.width)


def moving_frames(count: int, camera: Intrinsics = CAMERA, seed: int = 0) -> list[Frame]:
    """Images of smooth noise that move to the side, the same for the same seed."""
    random = np.random.default_rng(seed)
    width = camera.width + count * _PAN
    noise = random.integers(0, 256, (camera.height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    scene = cv2.resize(noise, (width, camera.height), interpolation=cv2.INTER_CUBIC)
    return [
        Frame(
            i * NANOSECONDS // RATE,
            np.ascontiguousarray(scene[:, i * _PAN : i * _PAN + camera.width]),
            camera,
        )
        for i in range(count)
    ]
