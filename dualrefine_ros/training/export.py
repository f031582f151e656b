"""From a checkpoint of a training run to the network alone."""

from __future__ import annotations

from pathlib import Path

from dualrefine_ros.errors import CheckpointError, ConfigError
from dualrefine_ros.model import CheckpointInfo, DualRefine
from dualrefine_ros.model.config import ModelConfig
from dualrefine_ros.model.published import is_counter
from dualrefine_ros.model.torch_file import read_torch_file

_PREFIX = "model."  # of the network in the training module


def read_run(path: Path) -> tuple[DualRefine, CheckpointInfo]:
    """The network of a training run's checkpoint, in evaluation mode, and what is known about it.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint of a training run, or its weights are not
            those of the network it names.
    """
    checkpoint = read_torch_file(path)
    try:
        known = checkpoint["dualrefine"]
        config = ModelConfig(**known["network"])
        weights = {
            key.removeprefix(_PREFIX): value
            for key, value in checkpoint["state_dict"].items()
            if key.startswith(_PREFIX) and not is_counter(key)
        }
    except (AttributeError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{path} is no checkpoint of a training run of ours.") from error
    model = DualRefine(config)
    model.load_state_dict(weights)
    return model.eval(), CheckpointInfo(config, known["licence"], known["training"])
