"""``dualrefine import``: the published file to a checkpoint of ours."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("published", type=Path, metavar="PUBLISHED.pth", help="the published depth_pose.pth")
    parser.add_argument("out", type=Path, metavar="OUT.safetensors", help="the checkpoint to write")
    parser.add_argument("--licence", default="as published by the authors", help="recorded in the checkpoint")


def run(args: argparse.Namespace) -> int:
    """Import; raises CheckpointError where the file does not fit."""
    from dualrefine_ros.model import CheckpointInfo, from_published, read_published, save_checkpoint

    model = from_published(read_published(args.published))
    summary = {"source": f"imported from {args.published.name}"}
    save_checkpoint(model, args.out, CheckpointInfo(model.config, args.licence, summary))
    print(f"Wrote {args.out}: {model.config.depth_backbone}, {model.config.width}x{model.config.height}.")
    return 0
