"""From a checkpoint of a training run to the network alone."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from dualrefine_ros.errors import CheckpointError
from dualrefine_ros.model import CheckpointInfo, DualRefine
from dualrefine_ros.model.config import ModelConfig

_PREFIX = "model."  # of the network in the training module


def read_run(path: Path) -> tuple[DualRefine, CheckpointInfo]:
    """The network of a training run's checkpoint, in evaluation mode, and what is known about it.

    Raises:
        CheckpointError: the file is missing, damaged, or no checkpoint of a training run.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}: check the path.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        known = checkpoint["dualrefine"]
        config = ModelConfig(**known["network"])
        weights = {
            key.removeprefix(_PREFIX): value
            for key, value in checkpoint["state_dict"].items()
            if key.startswith(_PREFIX)
        }
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0][:120]
        raise CheckpointError(f"{path} is no checkpoint of a training run of ours ({reason}).") from error
    model = DualRefine(config)
    model.load_state_dict(weights)
    return model.eval(), CheckpointInfo(config, known["licence"], known["training"])
