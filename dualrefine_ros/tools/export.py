"""``dualrefine export``: weights for a robot: a checkpoint that node and replay load, or ONNX files.

From a checkpoint of a training run or of ours. NAME.safetensors is one file. NAME.onnx stands for four:
NAME.frame.onnx, NAME.pose.onnx, NAME.step.onnx and NAME.upsample.onnx (opset 18, fixed shapes, batch 1),
whose inputs and outputs docs/performance.md explains.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dualrefine_ros.errors import CheckpointError
from dualrefine_ros.model import CheckpointInfo, DualRefine, load_checkpoint, read_info
from dualrefine_ros.model.checkpoint import SUFFIX, save_checkpoint
from dualrefine_ros.model.torch_file import require_file
from dualrefine_ros.training.export import read_run

ONNX = ".onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dualrefine export``."""
    parser.add_argument(
        "checkpoint",
        type=Path,
        help=f"of a training run (best.ckpt, latest.ckpt), or one of ours (*{SUFFIX})",
    )
    parser.add_argument("output", type=Path, metavar="OUT", help=f"file to write, *{SUFFIX} or *{ONNX}")
    parser.add_argument(
        "--half", action="store_true", help=f"half the size: weights of a *{SUFFIX} in 16 bits"
    )


def run(args: argparse.Namespace) -> int:
    """Export, and say what was exported."""
    if args.output.suffix not in (SUFFIX, ONNX):
        raise CheckpointError(
            f"Exports are {SUFFIX} or {ONNX} files: name the output {args.output.stem}{SUFFIX}."
        )
    if args.half and args.output.suffix == ONNX:
        raise CheckpointError(
            f"--half stores the weights of a *{SUFFIX} in 16 bits: leave it out for {ONNX} files."
        )
    require_file(args.checkpoint)
    if args.output.exists() and args.output.samefile(args.checkpoint):
        raise CheckpointError(f"{args.output} would be written over itself: name another file.")
    model, info = _read(args.checkpoint)
    if args.output.suffix == ONNX:
        from dualrefine_ros.model.onnx_export import export_onnx

        known = {"licence": info.licence, "training": json.dumps(dict(info.training))}
        for path in export_onnx(model, args.output, known).values():
            print(path)
        return 0
    save_checkpoint(model, args.output, info, args.half)
    made = [f"{info.training['steps']} steps"] if "steps" in info.training else []
    made += [f"from {info.training['initial_weights']}"] if "initial_weights" in info.training else []
    print(f"{args.output}: {', '.join(made) or 'the weights of ' + str(args.checkpoint)}")
    return 0


def _read(path: Path) -> tuple[DualRefine, CheckpointInfo]:
    if path.suffix == SUFFIX:
        return load_checkpoint(path), read_info(path)
    return read_run(path)
