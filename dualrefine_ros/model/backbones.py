"""Backbones from timm: feature pyramids for depth and pose.

HRNet: Wang et al., "Deep High-Resolution Representation Learning", 2020; every stage's maps are kept, as in
DIFFNet (Zhou et al., 2021). It differs from timm's in one thing: fuse layers upsample bilinearly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from dualrefine_ros.errors import ConfigError

MATCHING_CHANNELS = 64
_STRIDES = [2, 4, 8, 16, 32]


@dataclass(frozen=True)
class Pyramid:
    """What a depth backbone sees in one image.

    Args:
        half: (B, C, H/2, W/2), `s`.
        matching: (B, 64, H/4, W/4), `q`, where matching features and confidence start.
        levels: the maps at 1/4, 1/8, 1/16 and 1/32, a list each.
    """

    half: Tensor
    matching: Tensor
    levels: tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]


Channels = tuple[list[int], list[int], list[int], list[int]]  # of a pyramid's levels


class HRNetPyramid(nn.Module):
    """HRNet with the maps of all stages collected."""

    half_channels: int
    level_channels: Channels

    def __init__(self, name: str) -> None:
        super().__init__()
        net: Any = timm.create_model(name, pretrained=False)
        for unused in (
            "incre_modules",
            "downsamp_modules",
            "final_layer",
            "global_pool",
            "head_drop",
            "classifier",
        ):
            if hasattr(net, unused):
                delattr(net, unused)
        for module in net.modules():
            if isinstance(module, nn.Upsample):
                module.mode = "bilinear"
                module.align_corners = False
        widths = net.stage4_cfg["num_channels"]
        self.net = net
        self.half_channels = MATCHING_CHANNELS
        self.level_channels = (
            [MATCHING_CHANNELS] + [widths[0]] * 3,
            [widths[1]] * 3,
            [widths[2]] * 2,
            [widths[3]],
        )

    def _stem(self, image: Tensor) -> tuple[Tensor, Tensor]:
        half = self.net.act1(self.net.bn1(self.net.conv1(image)))
        return half, self.net.act2(self.net.bn2(self.net.conv2(half)))

    def matching(self, image: Tensor) -> Tensor:
        """Normalised image (B, 3, H, W) to `q` (B, 64, H/4, W/4); nothing else is computed."""
        return self._stem(image)[1]

    def forward(self, image: Tensor) -> Pyramid:
        """Normalised image (B, 3, H, W) to its pyramid."""
        return self._stages(*self._stem(image))

    def pair(self, image_cur: Tensor, image_prev: Tensor) -> tuple[Pyramid, Tensor]:
        """The pyramid of one image and `q` of another, the stem seeing both as one batch."""
        halves, quarters = self._stem(torch.cat((image_cur, image_prev)))
        quarter_cur, quarter_prev = quarters.chunk(2)
        return self._stages(halves.chunk(2)[0], quarter_cur), quarter_prev

    def _stages(self, half: Tensor, quarter: Tensor) -> Pyramid:
        net = self.net
        x = net.layer1(quarter)
        y2 = net.stage2([t(x) for t in net.transition1])
        y3 = net.stage3(_transition(net.transition2, y2))
        y4 = net.stage4(_transition(net.transition3, y3))
        return Pyramid(
            half,
            quarter,
            ([quarter, y2[0], y3[0], y4[0]], [y2[1], y3[1], y4[1]], [y3[2], y4[2]], [y4[3]]),
        )


def _transition(layers: nn.ModuleList, maps: list[Tensor]) -> list[Tensor]:
    """Existing branches pass, the new one starts from the coarsest map."""
    return [maps[i] if isinstance(layer, nn.Identity) else layer(maps[-1]) for i, layer in enumerate(layers)]


class TimmPyramid(nn.Module):
    """Any timm network with maps at strides 2, 4, 8, 16 and 32."""

    half_channels: int
    level_channels: Channels

    def __init__(self, name: str) -> None:
        super().__init__()
        self.net, channels = _intermediate_network(name, in_chans=3, indices=[0, 1, 2, 3, 4])
        self.to_matching = nn.Conv2d(channels[1], MATCHING_CHANNELS, 1)
        self.half_channels = channels[0]
        self.level_channels = ([channels[1]], [channels[2]], [channels[3]], [channels[4]])

    def matching(self, image: Tensor) -> Tensor:
        """Normalised image (B, 3, H, W) to `q` (B, 64, H/4, W/4); the network stops at stride 4."""
        (quarter,) = self.net.forward_intermediates(
            image, indices=[1], stop_early=True, intermediates_only=True
        )
        out: Tensor = self.to_matching(quarter)
        return out

    def forward(self, image: Tensor) -> Pyramid:
        """Normalised image (B, 3, H, W) to its pyramid."""
        half, *levels = self.net.forward_intermediates(
            image, indices=[0, 1, 2, 3, 4], intermediates_only=True
        )
        f4, f8, f16, f32 = levels
        return Pyramid(half, self.to_matching(f4), ([f4], [f8], [f16], [f32]))

    def pair(self, image_cur: Tensor, image_prev: Tensor) -> tuple[Pyramid, Tensor]:
        """The pyramid of one image and `q` of another."""
        return self(image_cur), self.matching(image_prev)


class CoarsestMap(nn.Module):
    """The stride-32 map of any timm network over several stacked images."""

    def __init__(self, name: str, in_channels: int) -> None:
        super().__init__()
        self.net, channels = _intermediate_network(name, in_chans=in_channels, indices=[4])
        self.channels = channels[4]

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, C, H/32, W/32)."""
        (coarsest,) = self.net.forward_intermediates(images, indices=[4], intermediates_only=True)
        out: Tensor = coarsest
        return out


def _intermediate_network(name: str, in_chans: int, indices: list[int]) -> tuple[Any, list[int]]:
    """A timm network cut behind the maps asked for, and the channels of all five maps.

    Raises:
        ConfigError: timm has no such network, or not with these strides.
    """
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ConfigError(f"timm has no backbone named '{name}'; similar: {', '.join(close) or 'none'}.")
    net: Any = timm.create_model(name, pretrained=False, in_chans=in_chans, num_classes=0)
    info = getattr(net, "feature_info", [])
    strides = [level["reduction"] for level in info] if isinstance(info, list) else []
    if strides != _STRIDES or not hasattr(net, "forward_intermediates"):
        raise ConfigError(
            f"The backbone '{name}' has feature maps at strides {strides}, but {_STRIDES} are needed: "
            "choose another, for example resnet18 or tf_efficientnet_lite0."
        )
    net.prune_intermediate_layers(indices, prune_norm=True, prune_head=True)
    return net, [level["num_chs"] for level in info]


def depth_backbone(name: str) -> HRNetPyramid | TimmPyramid:
    """The depth backbone of this timm name."""
    return HRNetPyramid(name) if name.startswith("hrnet") and timm.is_model(name) else TimmPyramid(name)


def normalise(image: Tensor) -> Tensor:
    """RGB in [0, 1] to what the networks were trained on.

    The result is contiguous: convolutions round differently for other strides, by 2e-5 in the features.
    """
    return ((image - 0.45) / 0.225).contiguous()


def stack_in_time(image_first: Tensor, image_second: Tensor) -> Tensor:
    """The (B, 6, H, W) input of a pose network."""
    return torch.cat((image_first, image_second), 1)
