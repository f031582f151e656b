"""Changes to a triplet that leave the geometry true."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision.transforms import functional as colour

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.geometry.camera import project, rays, sampling_grid, transform
from dualrefine_ros.geometry.se3 import from_rotation_translation, so3_exp

MAX_TURN = 10.0  # degrees


@dataclass(frozen=True)
class AugmentationConfig:
    """How often and how much; a triplet's three frames are changed alike, but for ``shake``.

    Raises:
        ConfigError: a number is out of range.
    """

    flip: float = 0.5  # probability of mirroring left and right
    jitter: float = 0.5  # probability of changing colours, seen by the network but not by the losses
    brightness: float = 0.2  # largest relative change
    contrast: float = 0.2  # largest relative change
    saturation: float = 0.2  # largest relative change
    hue: float = 0.1  # largest shift, in turns of the colour circle
    grayscale: float = 0.0  # probability of dropping colours altogether, for gray cameras
    # degrees, standard deviations of pitch, yaw and roll of the camera, cut at twice as much: for roads that
    # slope and cameras that are mounted otherwise
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    shake: float = 0.0  # probability of turning the outer two frames besides, each in a way of its own
    # degrees, as above, that this adds to the motion: for cameras that turn more than the recordings'
    shake_turn: tuple[float, float, float] = (0.4, 1.5, 0.4)

    def __post_init__(self) -> None:
        for name in ("turn", "shake_turn"):
            angles = getattr(self, name)
            if not all(0 <= angle <= MAX_TURN for angle in angles):
                raise ConfigError(
                    f"The augmentation's {name} must be 0 to {MAX_TURN:g} degrees, not {angles}."
                )
        for name, value in vars(self).items():
            if not isinstance(value, tuple) and not 0 <= value <= 1:
                raise ConfigError(f"The augmentation's {name} must be between 0 and 1, not {value}.")
        if self.hue > 0.5:
            raise ConfigError(f"The augmentation's hue must be 0.5 at most, not {self.hue}.")


def augment(
    images: Tensor, intrinsics: Tensor, config: AugmentationConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Change a triplet at random.

    Args:
        images: (3, 3, H, W) uint8.
        intrinsics: (4,) fx, fy, cx, cy.
        config: how often and how much.
        generator: where chance comes from.

    Returns:
        The images to compare, the images to look at, the intrinsics.
    """
    flip, jitter, gray = torch.rand(3, generator=generator).tolist()
    shaken = config.shake > 0 and bool(torch.rand((), generator=generator) < config.shake)
    if flip < config.flip:
        images, intrinsics = mirror(images, intrinsics)
    if gray < config.grayscale:
        images = colour.rgb_to_grayscale(images, num_output_channels=3)
    angles = torch.zeros(3, 3)
    if any(config.turn):
        angles += _angles(1, config.turn, generator)
    if shaken:
        angles[[0, 2]] += _angles(2, config.shake_turn, generator)
    if angles.any():
        images = turned(images, intrinsics, angles)
    seen = jittered(images, config, generator) if jitter < config.jitter else images
    return images, seen, intrinsics


def _angles(count: int, deviations: tuple[float, float, float], generator: torch.Generator) -> Tensor:
    """As many turns (count, 3) about x, y and z, in degrees."""
    return torch.randn(count, 3, generator=generator).clamp(-2, 2) * torch.tensor(deviations)


def mirror(images: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Left and right exchanged; pixel u becomes W - 1 - u, and the principal point with it."""
    fx, fy, cx, cy = intrinsics.unbind()
    return images.flip(-1), torch.stack((fx, fy, images.shape[-1] - 1 - cx, cy))


def turned(images: Tensor, intrinsics: Tensor, angles: Tensor) -> Tensor:
    """What cameras at the same places would see that are turned about x, y and z.

    What lies outside of the images is their border. Cameras that are all turned alike have moved as before,
    in axes of their own; where one is turned otherwise, the motion between them has another rotation, and
    in the axes of the one the same translation.

    Args:
        images: (N, 3, H, W).
        intrinsics: (4,).
        angles: (N, 3), or (1, 3) for all, degrees.
    """
    height, width = images.shape[-2:]
    count = len(angles)
    T_images_turned = from_rotation_translation(so3_exp(torch.deg2rad(angles)), torch.zeros(count, 3, 1))
    cameras = intrinsics.expand(count, 4)
    directions = transform(T_images_turned, rays(cameras, height, width))
    grid = sampling_grid(project(directions, cameras), height, width)
    found = grid_sample(
        images.float(),
        grid.expand(len(images), -1, -1, -1),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return found.round().to(images.dtype)


def jittered(images: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation and hue changed, in random order."""
    amounts = torch.empty(4).uniform_(-1, 1, generator=generator).tolist()
    brightness, contrast, saturation, hue = amounts
    changes = (
        (colour.adjust_brightness, 1 + config.brightness * brightness),
        (colour.adjust_contrast, 1 + config.contrast * contrast),
        (colour.adjust_saturation, 1 + config.saturation * saturation),
        (colour.adjust_hue, config.hue * hue),
    )
    for index in torch.randperm(len(changes), generator=generator).tolist():
        change, amount = changes[index]
        images = change(images, amount)
    return images
