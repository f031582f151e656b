"""Small text files: calibrations, stamps, trajectories."""

from __future__ import annotations

from pathlib import Path

from dualrefine_ros.errors import DataError


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        DataError: it is missing, or no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable text file ({error}).") from None
