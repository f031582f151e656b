"""The weights that ship with the package."""

from __future__ import annotations

from pathlib import Path

from dualrefine_ros.errors import CheckpointError
from dualrefine_ros.installed_files import find_installed

DEFAULT_WEIGHTS = Path("models/dualrefine_small.safetensors")


def default_checkpoint() -> Path:
    """Where they lie.

    Raises:
        CheckpointError: nowhere.
    """
    if (path := find_installed(DEFAULT_WEIGHTS)) is not None:
        return path
    raise CheckpointError(
        f"The weights that ship ({DEFAULT_WEIGHTS}) are not installed: name a checkpoint, or ask for random "
        "ones."
    )
