"""The same network with less to do at inference: normalisations folded into the convolutions before them."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dualrefine_ros.model.convolution import Convolution3x3, fits
from dualrefine_ros.model.dualrefine import DualRefine
from dualrefine_ros.model.update_block import UpdateBlock
from dualrefine_ros.model.update_inference import InferenceUpdate

_TOLERANCE = 1e-3  # relative; folding itself rounds at 1e-5


def folded(model: DualRefine) -> DualRefine:
    """A copy for inference, in evaluation mode; the original stays as it is and can be trained on.

    Weight normalisation is multiplied out. Batch normalisation is folded into the convolution it follows,
    in the backbones too: which one that is is read from the order of their layers, so the result is
    checked, and the batch normalisations of a network that orders them otherwise are left alone. Weights
    lie channels-last in memory, and the features follow them.
    """
    light = _without_weight_norms(model)
    before = _words(light)
    for module in list(light.modules()):
        _fold_batch_norms(module)
    if not _agree(_words(light), before):
        light = _without_weight_norms(model)
    update_block = light.refiner.update_block
    assert isinstance(update_block, UpdateBlock)
    light.refiner.update_block = InferenceUpdate(update_block)
    _speed_up_convolutions(light)
    return light.to(memory_format=torch.channels_last)


def _without_weight_norms(model: DualRefine) -> DualRefine:
    # not a deep copy: copies of weight-normalised layers share a class, and removing the norm changes it
    copied = DualRefine(model.config).eval().requires_grad_(False)
    copied.load_state_dict(model.state_dict())
    copied.refiner.sampler = model.refiner.sampler
    for module in copied.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return copied


def _fold_batch_norms(parent: nn.Module) -> None:
    """Fold each batch norm among the direct children into the convolution just before it."""
    children = list(parent.named_children())
    for (_, conv), (name, norm) in pairwise(children):
        if not (isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
            continue
        if norm.running_mean is None or norm.running_var is None or conv.out_channels != norm.num_features:
            continue
        conv.weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.bias = bias
        # timm's batch norms may carry the activation that follows
        rest = [getattr(norm, part) for part in ("drop", "act") if hasattr(norm, part)]
        setattr(parent, name, nn.Sequential(*rest) if rest else nn.Identity())


def _speed_up_convolutions(parent: nn.Module) -> None:
    """Replace what :class:`Convolution3x3` can stand in for."""
    for name, module in parent.named_children():
        if fits(module):
            setattr(parent, name, Convolution3x3.like(cast(nn.Conv2d, module)))
        else:
            _speed_up_convolutions(module)


@torch.no_grad()
def _words(model: DualRefine) -> list[Tensor]:
    """What a network says about two small images of noise."""
    device = next(model.parameters()).device
    noise = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)).to(device)
    encoded = model.encode(noise[:1])
    twist = model.pose_teacher.twist(noise[:1], noise[1:])
    matching = encoded.matching
    return [encoded.disparity, encoded.hidden, matching.features, matching.confidence, twist]


def _agree(first: list[Tensor], second: list[Tensor]) -> bool:
    """Whether all numbers are the same but for rounding."""
    return all(
        bool((a - b).abs().max() <= _TOLERANCE * b.abs().max()) for a, b in zip(first, second, strict=True)
    )
