"""From a checkpoint of a training run to the network alone."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from dualrefine_ros.errors import CheckpointError, ConfigError
from dualrefine_ros.model import CheckpointInfo, DualRefine
from dualrefine_ros.model.checkpoint import SUFFIX
from dualrefine_ros.model.config import ModelConfig
from dualrefine_ros.model.published import check_fit, is_counter, needed
from dualrefine_ros.model.torch_file import read_torch_file

_log = logging.getLogger(__name__)
_PREFIX = "model."  # of the network in the training module


def read_run(path: Path) -> tuple[DualRefine, CheckpointInfo]:
    """The network of a training run's checkpoint, in evaluation mode, and what is known about it.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint of a training run, or its weights are not
            those of the network it names.
    """
    config, weights, known = _read(path)
    model = DualRefine(config)
    model.load_state_dict(weights)
    return model.eval(), CheckpointInfo(config, known["licence"], known["training"])


def check_run(path: Path, model: DualRefine) -> None:
    """Whether training a network can go on from a file; warns where the network is set up otherwise.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint of a training run, or of another network.
    """
    if path.suffix == SUFFIX:
        raise CheckpointError(
            f"{path} is an exported network, without the state of its training: start from it by --init."
        )
    config, weights, _ = _read(path)
    try:
        check_fit(needed(model), weights)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} is of another network ({config.depth_backbone}, {config.pose_backbone}): use the "
            f"configuration it was trained with. {error}"
        ) from error
    now = asdict(model.config)
    changed = [f"{key} {was} (now {now[key]})" for key, was in asdict(config).items() if was != now[key]]
    if changed:
        _log.warning("%s was trained with %s: what follows is another experiment.", path, ", ".join(changed))


def _read(path: Path) -> tuple[ModelConfig, dict[str, Tensor], dict[str, Any]]:
    """The network's configuration and weights, and what is known about them."""
    checkpoint = read_torch_file(path)
    try:
        known = checkpoint["dualrefine"]
        weights = {
            key.removeprefix(_PREFIX): value
            for key, value in checkpoint["state_dict"].items()
            if key.startswith(_PREFIX) and not is_counter(key)
        }
        return ModelConfig(**known["network"]), weights, known
    except (AttributeError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{path} is no checkpoint of a training run of ours.") from error
