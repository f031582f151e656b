"""``dualrefine export``: a checkpoint of a training run -> a file that node and replay load."""

from __future__ import annotations

import argparse
from pathlib import Path

from dualrefine_ros.errors import CheckpointError
from dualrefine_ros.model.checkpoint import SUFFIX, save_checkpoint
from dualrefine_ros.training.export import read_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dualrefine export``."""
    parser.add_argument("checkpoint", type=Path, help="of a training run: best.ckpt, latest.ckpt")
    parser.add_argument("output", type=Path, metavar="OUT", help=f"file to write, *{SUFFIX}")


def run(args: argparse.Namespace) -> int:
    """Export, and say what was exported."""
    if args.output.suffix != SUFFIX:
        raise CheckpointError(f"Exports are {SUFFIX} files: name the output {args.output.stem}{SUFFIX}.")
    model, info = read_run(args.checkpoint)
    save_checkpoint(model, args.output, info)
    print(f"{args.output}: {info.training['steps']} steps, from {info.training['initial_weights']}")
    return 0
