"""Our checkpoint files: safetensors with metadata, written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from dualrefine_ros.errors import CheckpointError, ConfigError
from dualrefine_ros.model.config import PUBLISHED, ModelConfig
from dualrefine_ros.model.dualrefine import DualRefine
from dualrefine_ros.model.published import check_fit, needed
from dualrefine_ros.model.torch_file import is_torch_file, read_torch_file, require_file

FORMAT = "dualrefine_ros/1"
# the published file's plain entries may be NumPy numbers, pickled under either name of NumPy's module
_SCALAR = type(np.float64(0)).__reduce__(np.float64(0))[0]
_NUMPY_NUMBERS: list[Any] = [
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class CheckpointInfo:
    """The metadata of a checkpoint.

    Args:
        config: the network.
        licence: under which the weights may be used.
        training: summary of how they came to be (free keys, JSON values).
    """

    config: ModelConfig
    licence: str = "unknown"
    training: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(
    model: DualRefine, path: str | Path, info: CheckpointInfo | None = None, half: bool = False
) -> None:
    """Write a checkpoint; an interrupted or failed call leaves no file of that name half-written.

    Args:
        model: whose weights are written.
        path: of the file.
        info: its metadata.
        half: whether the weights of convolutions are stored as float16, which halves the file. Biases and
            norms stay as they are: they are few, and variances may be smaller than float16's numbers.

    Raises:
        CheckpointError: the name does not end in .safetensors, its folder does not exist, or the file cannot
            be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise CheckpointError(f"Checkpoints are {SUFFIX} files: name the output {path.stem}{SUFFIX}.")
    if not path.parent.is_dir():
        raise CheckpointError(f"There is no folder {path.parent} to write {path.name} to: create it first.")
    info = info or CheckpointInfo(model.config)
    metadata = {
        "format": FORMAT,
        "config": json.dumps(asdict(model.config)),
        "licence": info.licence,
        "training": json.dumps(dict(info.training)),
    }
    tensors = {key: value.detach().cpu().contiguous() for key, value in needed(model).items()}
    if half:
        tensors = {key: value.half() if value.dim() > 1 else value for key, value in tensors.items()}
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as handle:
            temporary = handle.name
        save_file(tensors, temporary, metadata)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"Cannot write the checkpoint {path}: {reason}.") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def read_info(path: str | Path) -> CheckpointInfo:
    """The metadata of a checkpoint, without its tensors.

    Raises:
        CheckpointError: the file is missing, damaged or no checkpoint of ours.
    """
    _, info = _read(Path(path), with_tensors=False)
    return info


def load_checkpoint(path: str | Path) -> DualRefine:
    """The network of a checkpoint, in evaluation mode, on the CPU, in float32.

    Raises:
        CheckpointError: the file is missing, damaged, no checkpoint of ours, or its weights are not those
            of the network it names.
    """
    path = Path(path)
    tensors, info = _read(path, with_tensors=True)
    try:
        model = DualRefine(info.config)
        check_fit(needed(model), tensors)
    except (CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    model.load_state_dict({key: value.float() for key, value in tensors.items()}, strict=False)
    return model.eval()


def _read(path: Path, with_tensors: bool) -> tuple[dict[str, torch.Tensor], CheckpointInfo]:
    require_file(path)
    if path.suffix in (".pth", ".pt"):
        raise CheckpointError(
            f"{path} is a PyTorch file: turn it into a checkpoint with "
            f"'dualrefine import {path} {path.with_suffix(SUFFIX).name}'."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()} if with_tensors else {}  # noqa: SIM118
    except SafetensorError as error:
        if is_torch_file(path):
            raise CheckpointError(
                f"{path} was written by PyTorch: 'dualrefine export' makes a checkpoint of a training run's, "
                "'dualrefine import' of the published one."
            ) from error
        raise CheckpointError(
            f"{path} is not a whole safetensors file: copy or download it again."
        ) from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{path} is a safetensors file, but no checkpoint of dualrefine_ros.")
    try:
        config = _read_config(metadata["config"])
        training = dict(json.loads(metadata.get("training", "{}")))
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path} has metadata this version cannot read ({error}).") from error
    return tensors, CheckpointInfo(config, metadata.get("licence", "unknown"), training)


def _read_config(text: str) -> ModelConfig:
    """Raises ConfigError, TypeError or ValueError where it is not one."""
    config = ModelConfig(**json.loads(text))
    for entry in fields(ModelConfig):
        value, kind = getattr(config, entry.name), type(getattr(PUBLISHED, entry.name))
        if not isinstance(value, (int, float) if kind is float else kind) or value == float("inf"):
            raise TypeError(f"{entry.name} is {value!r}")
    return config


def read_published(path: str | Path) -> dict[str, Any]:
    """The state dict in a published ``depth_pose.pth``; nothing in it is executed.

    Raises:
        CheckpointError: the file is missing, damaged, or holds anything but a state dict.
    """
    state_dict = read_torch_file(Path(path), _NUMPY_NUMBERS)
    if not isinstance(state_dict, dict):
        raise CheckpointError(f"{path} holds a {type(state_dict).__name__}, not a state dict.")
    return state_dict
