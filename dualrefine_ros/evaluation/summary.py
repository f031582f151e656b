"""What a results folder says about itself, for programs that only ask that."""

from __future__ import annotations

import json
from pathlib import Path

SUMMARY, TRAJECTORY = "summary.json", "trajectory_tum.txt"  # of a replay and of the demo


def weights_of(path: Path) -> str:
    """What a replay says about its weights, given its folder or a file in it; empty where there is none."""
    return said_by(path, "weights") or said_by(path.parent, "weights")


def said_by(folder: Path, key: str) -> str:
    """What the summary in a folder has under this key; empty where there is none."""
    try:
        return str(json.loads((folder / SUMMARY).read_text(encoding="utf-8"))[key])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
