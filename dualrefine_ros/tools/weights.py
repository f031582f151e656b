"""Which weights a command runs: those of a file, those that ship, or random ones."""

from __future__ import annotations

import argparse
from pathlib import Path

from dualrefine_ros.model import PRESETS
from dualrefine_ros.model.default_weights import default_checkpoint


def add_weights_arguments(parser: argparse.ArgumentParser) -> None:
    """``--checkpoint`` or ``--network``."""
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="weights; without, those that ship with the package"
    )
    parser.add_argument(
        "--network",
        choices=sorted(PRESETS),
        help="without a checkpoint, random weights for this network: the numbers mean nothing",
    )


def chosen_checkpoint(args: argparse.Namespace) -> Path | None:
    """The file; None where random weights are asked for.

    Raises:
        CheckpointError: the weights that ship are not installed.
    """
    return args.checkpoint or (None if args.network else default_checkpoint())
