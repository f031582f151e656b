"""What a results folder says about itself, for programs that only ask that."""

from __future__ import annotations

import json
from pathlib import Path

SUMMARY = "summary.json"


def weights_of(path: Path) -> str:
    """What a replay says about its weights, given its folder or a file in it; empty where there is none."""
    for folder in (path, path.parent):
        try:
            return str(json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["weights"])
        except (OSError, ValueError, KeyError, TypeError):  # noqa: PERF203
            continue
    return ""
