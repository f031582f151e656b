"""``dualrefine evaluate covariance``: replay recordings with ground truth, check what covariances promise.

Every figure is 1 for an honest covariance but the last column, which is 95 %. Above 1 the covariance is too
small: raise --factor until the steps are honest, then --step-correlation until the poses are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from dualrefine_ros.covariance import CovarianceConfig
from dualrefine_ros.data.source import Source, open_source
from dualrefine_ros.errors import ConfigError, DataError
from dualrefine_ros.evaluation.calibration import AXES, Calibration, ErrorRecorder
from dualrefine_ros.evaluation.output_files import write_json
from dualrefine_ros.evaluation.replay import replay
from dualrefine_ros.model import load_checkpoint
from dualrefine_ros.odometry import OdometryConfig, VisualOdometry
from dualrefine_ros.scale import ScaleConfig
from dualrefine_ros.tools.table import distinct_names, format_table

HELP = "check covariances and scale against ground truth"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dualrefine evaluate covariance``."""
    parser.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help="recording with ground truth")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="weights")
    parser.add_argument("--iterations", type=int, default=OdometryConfig.iterations, metavar="N")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda ...")
    parser.add_argument(
        "--camera-height",
        type=float,
        metavar="M",
        help="metres above the ground: measure the scale by it; without, the scale is fitted to the truth",
    )
    parser.add_argument(
        "--factor", type=float, default=CovarianceConfig.factor, help="the node's covariance_factor"
    )
    parser.add_argument(
        "--step-correlation",
        type=float,
        default=CovarianceConfig.step_correlation,
        metavar="R",
        help="the node's covariance_step_correlation",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="take the first N frames only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")


def run(args: argparse.Namespace) -> int:
    """Print a table of steps and poses for each recording."""
    scale = ScaleConfig()
    if args.camera_height is not None:
        scale = ScaleConfig(mode="camera_height", camera_height=args.camera_height)
    covariance = CovarianceConfig(factor=args.factor, step_correlation=args.step_correlation)
    config = OdometryConfig(args.iterations, args.device, covariance=covariance, scale=scale)
    if args.limit is not None and args.limit < 2:
        raise ConfigError(f"--limit must leave two frames or more, not {args.limit}.")
    names = distinct_names(args.sources)
    odometry = VisualOdometry(load_checkpoint(args.checkpoint), config)
    rows, figures = [], {}
    for name, path in zip(names, args.sources, strict=True):
        source = open_source(path)
        if source.ground_truth is None:
            raise DataError(f"{path} has no ground truth to compare with.")
        recorder = ErrorRecorder()
        indices = range(len(source))[: args.limit]
        _replay(source, odometry, indices, recorder)
        left = recorder.scale()
        factor = left if args.camera_height is None else 1.0
        parts = {"steps": recorder.steps(factor), "poses": recorder.poses(factor)}
        rows += [_row(f"{name} {kind}", part) for kind, part in parts.items()]
        figures[name] = {"scale_to_truth": left} | {kind: p.figures() for kind, p in parts.items()}
        print(f"{name}: true lengths are {left:.3f} of the estimated ones (median of the steps)")
    print("\n" + format_table(["", "count", "mean", "median", *AXES, "within 95 %"], rows))
    if args.json:
        write_json(args.json, figures)
    return 0


def _replay(source: Source, odometry: VisualOdometry, indices: range, recorder: ErrorRecorder) -> None:
    with tqdm(total=len(indices), unit="frame", desc=source.name) as bar:
        replay(source, odometry, indices=indices, observers=[recorder, lambda _: bar.update()])


def _row(name: str, calibration: Calibration) -> list[str]:
    f = calibration.figures()
    ratios = [f"{f[key]:.2f}" for key in ("mean", "median", *AXES)]
    return [name, f"{f['count']:.0f}", *ratios, f"{100 * f['within_95']:.0f} %"]
