"""The teacher's depth decoder, coarse to fine (paper, Sec. 3.1.1; DIFFNet, Zhou et al., 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, interpolate

from dualrefine_ros.model.backbones import HRNetPyramid, Pyramid, TimmPyramid
from dualrefine_ros.model.layers import ChannelAttention, ReflectionConv


def upsample_nearest(x: Tensor) -> Tensor:
    """(B, C, h, w) to (B, C, 2h, 2w)."""
    return interpolate(x, scale_factor=2.0, mode="nearest")


class FusionBlock(nn.Module):
    """Upsample the coarse map, join the skip maps, weigh channels, conv3x3; its relu is the caller's."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.ca = ChannelAttention(in_channels)
        self.conv_se = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, coarse: Tensor, skips: list[Tensor]) -> Tensor:
        """(B, C, h, w) and maps of (2h, 2w) to (B, C', 2h, 2w), before its relu."""
        out: Tensor = self.conv_se(self.ca(torch.cat((upsample_nearest(coarse), *skips), 1)))
        return out


class DepthDecoder(nn.Module):
    """Pyramid to feature maps, and feature maps to disparities; scale i is 1/2^i of the image."""

    def __init__(self, backbone: HRNetPyramid | TimmPyramid) -> None:
        super().__init__()
        f4, f8, f16, f32 = (sum(channels) for channels in backbone.level_channels)
        self.fuse_16 = FusionBlock(f32 + f16, 256)
        self.fuse_8 = FusionBlock(256 + f8, 128)
        self.fuse_4 = FusionBlock(128 + f4, 64)
        self.fuse_2 = FusionBlock(64 + backbone.half_channels, 32)
        self.up_0 = ReflectionConv(32, 16)
        self.up_1 = ReflectionConv(16, 16)
        self.disparity = nn.ModuleList(ReflectionConv(channels, 1) for channels in (16, 32, 64, 128))

    def eighth_and_quarter(self, pyramid: Pyramid) -> tuple[Tensor, Tensor]:
        """The maps (B, 128, H/8, W/8) and (B, 64, H/4, W/4): all that the refiner needs."""
        f4, f8, f16, (f32,) = pyramid.levels
        x16 = torch.relu(self.fuse_16(f32, f16))
        x8 = torch.relu(self.fuse_8(x16, f8))
        return x8, torch.relu(self.fuse_4(x8, f4))

    def at_half(self, quarter: Tensor, pyramid: Pyramid) -> Tensor:
        """The map (B, 32, H/2, W/2)."""
        return torch.relu(self.fuse_2(quarter, [pyramid.half]))

    def at_full(self, half: Tensor) -> Tensor:
        """The map (B, 16, H, W)."""
        return elu(self.up_1(upsample_nearest(elu(self.up_0(half)))))

    def disparity_at(self, scale: int, features: Tensor) -> Tensor:
        """Disparity in [0, 1], (B, 1, h, w), from the map of that scale."""
        return torch.sigmoid(self.disparity[scale](features))
