"""Files somebody asked for; where the system refuses one, a sentence says which and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dualrefine_ros.errors import ConfigError


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they do not exist.

    Raises:
        ConfigError: a file is in the way, or the system refuses.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: name a folder for the results.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"The folder {folder} cannot be made: {error.strerror}.") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write figures for programs to read; the file's folder is made.

    Raises:
        ConfigError: the file cannot be written.
        ValueError: a number is not finite; None stands for a figure that does not exist.
    """
    text = json.dumps(content, indent=2, allow_nan=False)
    make_folder(path.parent)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from None
