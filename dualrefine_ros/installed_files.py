"""Files that come with the package but are no Python: configuration, weights."""

from __future__ import annotations

import os
from pathlib import Path


def find_installed(relative: Path) -> Path | None:
    """A file of the checkout, or of the share that colcon has installed; None where neither has it.

    Args:
        relative: to the repository's root, as ``models/dualrefine_small.safetensors``.
    """
    prefixes = filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    shares = (Path(prefix) / "share" / "dualrefine_ros" for prefix in prefixes)
    for folder in (Path(__file__).resolve().parents[1], *shares):
        if (folder / relative).is_file():
            return folder / relative
    return None
