"""Where this package keeps what it makes for itself: compiled code, exported graphs."""

from __future__ import annotations

import logging
import os
import tempfile
from functools import cache
from pathlib import Path

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The user's, to read from; it may not exist, or be closed to us."""
    home = os.path.join(os.path.expanduser("~"), ".cache")  # begins with ~ where there is no home
    for root in (os.environ.get("XDG_CACHE_HOME", ""), home):
        if os.path.isabs(root):
            return Path(root) / "dualrefine_ros"
    return Path(_temporary("there is no home folder").name)


def writable_cache() -> Path:
    """The user's, or else one that ends with this process; it exists.

    Raises:
        OSError: not even that can be written.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        return Path(_temporary(f"{folder}: {error.strerror}").name)


@cache
def _temporary(reason: str) -> tempfile.TemporaryDirectory[str]:
    _log.warning(
        "Compiled code and exported graphs last as long as this process only (%s): set XDG_CACHE_HOME to a "
        "folder that can be written.",
        reason,
    )
    return tempfile.TemporaryDirectory(prefix="dualrefine_ros-")
