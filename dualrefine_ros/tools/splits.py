"""``dualrefine splits``: the lists of KITTI frames the literature uses."""

from __future__ import annotations

import argparse

from dualrefine_ros.data.splits import SPLITS, load_split, read_split


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dualrefine splits``."""
    parser.add_argument(
        "name", nargs="?", help="print this list: 'folder frame side' a line; without, the names"
    )


def run(args: argparse.Namespace) -> int:
    """Print the names, or one list."""
    if args.name is None:
        text = "".join(
            f"{name:22}{len(load_split(name)):6} frames  {what}\n" for name, what in SPLITS.items()
        )
    else:
        text = read_split(args.name)
    print(text, end="")
    return 0
