"""PyTorch files, read without executing anything in them."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dualrefine_ros.errors import CheckpointError

_ZIP, _PICKLE = b"PK", b"\x80"  # how PyTorch's files of today and of before 1.6 start


def require_file(path: Path) -> None:
    """Raises CheckpointError where there is no file of this name."""
    if not path.exists():
        raise CheckpointError(f"There is no checkpoint {path}: check the path.")
    if not path.is_file():
        raise CheckpointError(
            f"{path} is {'a folder' if path.is_dir() else 'no regular file'}, not a checkpoint."
        )


def is_torch_file(path: Path) -> bool:
    """Whether a file starts as those of ``torch.save`` do."""
    with path.open("rb") as file:
        start = file.read(9)
    return start.startswith((_ZIP, _PICKLE)) and not _is_safetensors(start)


def read_torch_file(path: Path, allowed: Sequence[Any] = ()) -> Any:
    """What ``torch.save`` wrote, on the CPU.

    Args:
        path: of the file.
        allowed: classes and functions it may name beside tensors, numbers, strings and containers.

    Raises:
        CheckpointError: the file is missing, cut short, of another kind, or names anything else.
    """
    require_file(path)
    with path.open("rb") as file:
        start = file.read(9)
    if _is_safetensors(start):  # torch.load would read it too, and drop its metadata
        raise CheckpointError(f"{path} is a safetensors file, not one that torch.save wrote.")
    if not start.startswith((_ZIP, _PICKLE)):
        kind = "not a PyTorch file" if start else "empty"
        raise CheckpointError(f"{path} is {kind}: copy or download it again.")
    if start.startswith(_ZIP) and not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path} is cut short: copy or download it again.")
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(allowed)):
            warnings.simplefilter("ignore")  # what they say is said below, or concerns files we refuse
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than tensors and numbers, or is damaged; such objects are never loaded, "
            "since they could run code: save its state dict alone."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError) as error:
        raise CheckpointError(f"{path} is no whole PyTorch file: copy or download it again.") from error


def _is_safetensors(start: bytes) -> bool:
    """By its first 9 bytes: a length, which may be any bytes, and JSON."""
    return start[8:] == b"{"
