"""Tables in plain text, and what their rows are called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dualrefine_ros.errors import ConfigError


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be: the first one to the left, numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, ["-" * width for width in widths], *rows):
        first, *others = row
        cells = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """File names, with suffix and parent folders only where it takes these to tell them apart.

    The files of a replay go by the name of its folder.

    Raises:
        ConfigError: two paths are the same.
    """
    whole = [(path if path.is_dir() else path.with_suffix("")).resolve().parts for path in paths]
    replays = [parts[:-1] if parts[-1].startswith("trajectory_") else parts for parts in whole]
    for parts_of in (replays, whole, [path.resolve().parts for path in paths]):
        for depth in range(1, max(map(len, parts_of)) + 1):
            names = ["/".join(parts[-depth:]) for parts in parts_of]
            if len(set(names)) == len(names):
                return names
    raise ConfigError("The same path is given twice: leave one of them out.")
