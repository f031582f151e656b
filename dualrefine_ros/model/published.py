"""The published checkpoint's keys, and ours.

The published file is one flat state dict. Some of its entries repeat others, some belong to parts that
the published model never runs; these are dropped by name. Every other key has exactly one home here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualrefine_ros.errors import CheckpointError
from dualrefine_ros.model.config import PUBLISHED, ModelConfig
from dualrefine_ros.model.dualrefine import DualRefine

UNUSED = re.compile(
    r"pnets\.[12]\.|pnets\.0\.0\.fc\.|update_block\.encoder\.convp[12]\.|pose_update\.(norm1|feats)\."
    r"|reproject_2\.delta_p$|decoder\.decoder\.|.*num_batches_tracked$"
)
PLAIN_ENTRIES = ("height", "width", "min_depth_bin", "max_depth_bin", "mean_depth_bin", "median_depth_bin")

# published prefix -> ours; the first that fits is taken
PREFIXES = (
    ("cnet_layer0a.0.", "depth_backbone.net.conv1."),
    ("cnet_layer0a.1.", "depth_backbone.net.bn1."),
    ("cnet_layer0b.0.", "depth_backbone.net.conv2."),
    ("cnet_layer0b.1.", "depth_backbone.net.bn2."),
    ("cnet_", "depth_backbone.net."),
    ("decoder.convs.72.", "depth_decoder.fuse_16."),
    ("decoder.convs.36.", "depth_decoder.fuse_8."),
    ("decoder.convs.18.", "depth_decoder.fuse_4."),
    ("decoder.convs.9.", "depth_decoder.fuse_2."),
    ("decoder.convs.up_x9_0.conv.", "depth_decoder.up_0."),
    ("decoder.convs.up_x9_1.conv.", "depth_decoder.up_1."),
    ("decoder.convs.dispConvScale0.", "depth_decoder.disparity.0."),
    ("decoder.convs.dispConvScale1.", "depth_decoder.disparity.1."),
    ("decoder.convs.dispConvScale2.", "depth_decoder.disparity.2."),
    ("decoder.convs.dispConvScale3.", "depth_decoder.disparity.3."),
    ("pnets.0.0.", "pose_teacher.backbone.net."),
    ("pnets.0.1.", "pose_teacher."),
    ("conv2.", "refiner.matching."),
    ("context.", "refiner.context."),
    ("hidden.", "refiner.hidden."),
    ("pose_update.weights.0.", "refiner.fixed_confidence.blocks."),
    ("pose_update.weights.1.", "refiner.fixed_confidence.head."),
    ("update_block.conv_head.", "refiner.update_block.depth_head."),
    ("update_block.weight.", "refiner.update_block.evolving_confidence."),
    ("update_block.mask.", "refiner.update_block.upsampling."),
    ("update_block.", "refiner.update_block."),
    ("reproject_2.", "refiner."),
)
_MAX_LISTED = 8
_HOMELESS = "?"  # before a key of the file that has no home; none of ours starts so


def our_key(published: str) -> str | None:
    """The home of a published key; None where it has none."""
    for prefix, ours in PREFIXES:
        if published.startswith(prefix):
            key = ours + published[len(prefix) :]
            key = key.replace(".weight_g", ".parametrizations.weight.original0")
            return key.replace(".weight_v", ".parametrizations.weight.original1")
    return None


def published_key(ours: str) -> str:
    """The inverse of :func:`our_key`."""
    published, prefix = max(
        ((p, o) for p, o in PREFIXES if ours.startswith(o)), key=lambda pair: len(pair[1]), default=("", "")
    )
    key = published + ours[len(prefix) :]
    key = key.replace(".parametrizations.weight.original0", ".weight_g")
    return key.replace(".parametrizations.weight.original1", ".weight_v")


def _listing(title: str, keys: list[str]) -> str:
    more = f" and {len(keys) - _MAX_LISTED} more" if len(keys) > _MAX_LISTED else ""
    return f"{len(keys)} {title} ({', '.join(sorted(keys)[:_MAX_LISTED])}{more})"


def check_fit(
    expected: Mapping[str, Tensor], given: Mapping[str, Tensor], name: Callable[[str], str] = str
) -> None:
    """Compare two state dicts key by key, and look at every number.

    Args:
        expected: of the network.
        given: of the file, under our keys.
        name: our key to the name the file's owner knows.

    Raises:
        CheckpointError: keys are missing, unexpected, of another shape or not finite; lists them.
    """
    misshapen = {
        key: f" {tuple(given[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected.keys() & given.keys()
        if given[key].shape != expected[key].shape
    }
    problems = [
        _listing(title, [name(key) + misshapen.get(key, "") for key in keys])
        for title, keys in (
            ("missing", expected.keys() - given.keys()),
            ("unexpected", given.keys() - expected.keys()),
            ("of another shape", misshapen.keys()),
            ("not finite", {key for key, value in given.items() if not bool(torch.isfinite(value).all())}),
        )
        if keys
    ]
    if problems:
        raise CheckpointError(
            "The weights do not fit this network (another backbone, or a damaged file?): "
            + "; ".join(problems)
            + "."
        )


def needed(model: DualRefine) -> dict[str, Tensor]:
    """The part of a model's state dict that a checkpoint holds: all but batch counters."""
    return {k: v for k, v in model.state_dict().items() if not is_counter(k)}


def is_counter(key: str) -> bool:
    """Whether a key is that of a batch counter, which no network needs to run."""
    return key.endswith("num_batches_tracked")


def published_config(state_dict: Mapping[str, Any]) -> ModelConfig:
    """The published network at the resolution the file names (192x640 where it names none).

    Raises:
        CheckpointError: the resolution is no pair of whole numbers.
    """
    try:
        height = int(state_dict.get("height", PUBLISHED.height))
        width = int(state_dict.get("width", PUBLISHED.width))
    except (OverflowError, TypeError, ValueError) as error:
        raise CheckpointError("The checkpoint's 'height' and 'width' are not whole numbers.") from error
    return ModelConfig(height=height, width=width)


def _is_plain(value: object) -> bool:
    """Whether it is a dense tensor or array of real numbers."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "fiub"
    if not isinstance(value, Tensor) or value.is_quantized or value.is_complex() or value.is_meta:
        return False
    return value.layout is torch.strided


def from_published(state_dict: Mapping[str, Any]) -> DualRefine:
    """The network of a published state dict, in evaluation mode.

    Args:
        state_dict: key -> torch tensor or NumPy array, with or without the plain entries ``height`` etc.

    Raises:
        CheckpointError: keys are missing, unexpected, of another shape or not finite; lists them.
    """
    model = DualRefine(published_config(state_dict))
    given: dict[str, Tensor] = {}
    names: dict[str, str] = {}  # ours -> the file's
    for key, value in state_dict.items():
        if not isinstance(key, str):
            raise CheckpointError(f"The checkpoint has an entry {key!r}, whose name is no text.")
        if key in PLAIN_ENTRIES or UNUSED.match(key):
            continue
        if not _is_plain(value):
            raise CheckpointError(f"The checkpoint's entry '{key}' is no dense tensor of real numbers.")
        home = our_key(key) or f"{_HOMELESS}{key}"
        given[home], names[home] = torch.as_tensor(value).float(), key
    check_fit(needed(model), given, lambda home: names.get(home) or published_key(home))
    model.load_state_dict(given, strict=False)
    return model.eval()
