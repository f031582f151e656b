"""The teacher's pose network: two images to a first guess of the motion (paper, Sec. 3.1.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dualrefine_ros.geometry.se3 import from_rotation_translation, so3_exp
from dualrefine_ros.model.backbones import CoarsestMap, stack_in_time
from dualrefine_ros.model.precision import full_precision

POSE_SCALE = 0.01  # keeps the first guesses of an untrained network small


class PoseTeacher(nn.Module):
    """ResNet-18 over two stacked images, four convolutions, spatial mean."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.backbone = CoarsestMap(backbone, in_channels=6)
        self.squeeze = nn.Conv2d(self.backbone.channels, 256, 1)
        self.pose0 = nn.Conv2d(256, 256, 3, padding=1)
        self.pose1 = nn.Conv2d(256, 256, 3, padding=1)
        self.pose2 = nn.Conv2d(256, 6, 1)

    def twist(self, image_first: Tensor, image_second: Tensor) -> Tensor:
        """Axis-angle and translation (B, 6) between normalised images in temporal order."""
        x = self.backbone(stack_in_time(image_first, image_second))
        for layer in (self.squeeze, self.pose0, self.pose1):
            x = torch.relu(layer(x))
        out: Tensor = POSE_SCALE * self.pose2(x).float().mean((2, 3))
        return out

    def to_previous(self, image_prev: Tensor, image_cur: Tensor) -> Tensor:
        """T_prev_cur (B, 4, 4): the network's motion, inverted."""
        return _inverted_motion(self.twist(image_prev, image_cur))

    def to_next(self, image_cur: Tensor, image_next: Tensor) -> Tensor:
        """T_next_cur (B, 4, 4): the network's motion as it is."""
        return _motion(self.twist(image_cur, image_next))


@full_precision
def _inverted_motion(twist: Tensor) -> Tensor:
    """rot(a)^T translate(-t)."""
    R = so3_exp(twist[:, :3]).transpose(1, 2)
    return from_rotation_translation(R, -R @ twist[:, 3:, None])


@full_precision
def _motion(twist: Tensor) -> Tensor:
    """translate(t) rot(a)."""
    return from_rotation_translation(so3_exp(twist[:, :3]), twist[:, 3:, None])
