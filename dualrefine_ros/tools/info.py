"""``dualrefine info``: what a checkpoint holds."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a .safetensors checkpoint")


def run(args: argparse.Namespace) -> int:
    """Print the metadata; loading the weights proves that they fit."""
    from dualrefine_ros.model import load_checkpoint, read_info

    info = read_info(args.checkpoint)
    model = load_checkpoint(args.checkpoint)
    config = info.config
    rows = {
        "file": f"{args.checkpoint} ({args.checkpoint.stat().st_size / 1e6:.1f} MB)",
        "sha256": hashlib.sha256(args.checkpoint.read_bytes()).hexdigest(),
        "depth backbone": config.depth_backbone,
        "pose backbone": config.pose_backbone,
        "network input": f"{config.width}x{config.height} (width x height)",
        "depth range": f"{config.min_depth:g} .. {config.max_depth:g}, metres up to scale",
        "coarse pose steps": f"{config.coarse_steps} on each of two maps" if config.coarse_steps else "none",
        "depth in the pose step": _trust_in_depth(config.depth_deviation),
        "parameters": f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} million",
        "licence": info.licence,
        **{f"training: {key}": value for key, value in info.training.items()},
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        printable = "".join(c if c.isprintable() else "?" for c in str(value))  # no escape codes of a file's
        print(f"{name:<{width}}  {printable}")
    return 0


def _trust_in_depth(deviation: float) -> str:
    return f"log depth uncertain by {deviation:g}" if deviation else "taken for exact, as in the paper"
