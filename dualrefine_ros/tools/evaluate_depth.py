"""Compare depth maps with laser depth by the Eigen protocol: seven figures, the mean over images.

PREDICTIONS is a folder of depth maps (16-bit PNG holding metres x 256, .npz or .npy holding metres) named
by frame number, or a folder written by `dualrefine replay --depth`. Ground truth is one of

  a KITTI raw drive (*_sync)          its laser scans, projected into the camera
  a folder of depth maps              matched by name, such as proj_depth/groundtruth/image_02
  with --split, the root of KITTI raw   PREDICTIONS/<drive> holds the maps of each drive

Only true depths up to 80 m inside the crop of Garg et al. count, and a prediction is first multiplied by
the ratio of medians; --scaling, --cap and --crop change that. For improved ground truth (--truth
annotated) the literature uses --crop none.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dualrefine_ros.data.source import open_source
from dualrefine_ros.data.splits import SPLITS, open_split
from dualrefine_ros.errors import ConfigError, DataError
from dualrefine_ros.evaluation.depth_metrics import DepthErrors, DepthProtocol, mean_errors
from dualrefine_ros.evaluation.depth_samples import (
    DepthSample,
    evaluate_sample,
    samples_of_drives,
    samples_of_maps,
    samples_of_source,
)
from dualrefine_ros.evaluation.output_files import make_folder, write_json
from dualrefine_ros.evaluation.summary import weights_of
from dualrefine_ros.tools.table import format_table

HELP = "score depth maps against laser depth"
TRUTHS = {
    "eigen": "scans, depth as in the literature's figures on the Eigen split (ahead of the scanner)",
    "velodyne": "scans, depth along the optical axis",
    "annotated": "improved maps, proj_depth/groundtruth",
}
FIGURES = ("abs_rel", "sq_rel", "rmse", "rmse_log", "a1", "a2", "a3")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dualrefine evaluate depth``."""
    protocol = DepthProtocol()
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="folder of depth maps")
    parser.add_argument("--ground-truth", type=Path, required=True, metavar="DIR", help="see above")
    parser.add_argument(
        "--truth",
        choices=TRUTHS,
        default="eigen",
        help="of KITTI raw: " + "; ".join(f"{k}: {v}" for k, v in TRUTHS.items()),
    )
    parser.add_argument("--split", choices=[name for name in SPLITS if name.startswith("eigen")])
    parser.add_argument("--camera", type=int, help="of a drive, 0 to 3 (default 2)")
    parser.add_argument("--scaling", choices=("median", "none"), default="median", help="default median")
    parser.add_argument("--crop", choices=("garg", "none"), default="garg", help="default garg")
    parser.add_argument(
        "--cap", type=float, default=protocol.max_depth, metavar="M", help=f"default {protocol.max_depth:g}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the means")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write depth_errors.csv, means and pictures")
    parser.add_argument(
        "--error-maps", type=int, default=10, metavar="N", help="pictures of the N worst images (default 10)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the table; write the files that are asked for."""
    protocol = DepthProtocol(
        max_depth=args.cap, garg_crop=args.crop == "garg", median_scaling=args.scaling == "median"
    )
    if args.error_maps < 0:
        raise ConfigError(f"--error-maps must be 0 or more, not {args.error_maps}.")
    samples = _samples(args)
    errors, left_out = _evaluate(samples, protocol)
    figures = _figures(list(errors.values()), protocol, left_out)
    print(_table(args.predictions.name, figures))
    if left_out:
        print(f"\n{len(left_out)} of {len(samples)} images were left out, the first: {left_out[0]}")
    if args.json:
        write_json(args.json, figures)
    if args.out:
        make_folder(args.out)
        _write_csv(args.out / "depth_errors.csv", errors)
        write_json(args.out / "depth_summary.json", figures)
        worst = sorted(samples, key=lambda s: errors[s.name].abs_rel if s.name in errors else -1.0)[::-1]
        label = weights_of(args.predictions) or args.predictions.name
        _draw([s for s in worst if s.name in errors][: args.error_maps], protocol, args.out, label)
    return 0


def _samples(args: argparse.Namespace) -> list[DepthSample]:
    truth: Path = args.ground_truth
    if args.split:
        return list(samples_of_drives(args.predictions, open_split(args.split, truth, depth=args.truth)))
    if truth.name.endswith("_sync") or any(truth.glob("image_0[0-3]")):
        source = open_source(truth, camera=args.camera, depth=args.truth)
        return samples_of_source(args.predictions, source, range(len(source)))
    return samples_of_maps(args.predictions, truth)


def _evaluate(
    samples: Sequence[DepthSample], protocol: DepthProtocol
) -> tuple[dict[str, DepthErrors], list[str]]:
    """Figures by name of sample, and why samples were left out."""
    errors, left_out = {}, []
    for sample in tqdm(samples, unit="image"):
        try:
            errors[sample.name] = evaluate_sample(sample, protocol).errors
        except DataError as error:  # noqa: PERF203
            left_out.append(str(error))
    if not errors:
        raise DataError(f"None of {len(samples)} images can be compared, the first: {left_out[0]}")
    return errors, left_out


def _figures(
    errors: Sequence[DepthErrors], protocol: DepthProtocol, left_out: Sequence[str]
) -> dict[str, Any]:
    mean = mean_errors(errors)
    scales = np.array([e.scale for e in errors])
    return {
        **{name: getattr(mean, name) for name in FIGURES},
        "images": len(errors),
        "left_out": len(left_out),
        "scale_median": float(np.median(scales)),
        "scale_relative_std": float(np.std(scales / np.median(scales))),
        "protocol": asdict(protocol),
    }


def _table(name: str, figures: Mapping[str, Any]) -> str:
    header = ["predictions", *FIGURES, "scale", "images"]
    cells = [f"{figures[figure]:.4f}" for figure in FIGURES]
    return format_table(header, [[name, *cells, f"{figures['scale_median']:.4g}", str(figures["images"])]])


def _write_csv(path: Path, errors: Mapping[str, DepthErrors]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *(field.name for field in fields(DepthErrors))])
        writer.writerows([name, *asdict(e).values()] for name, e in errors.items())


def _draw(samples: Sequence[DepthSample], protocol: DepthProtocol, folder: Path, label: str) -> None:
    # matplotlib takes a second to import: only who wants pictures waits for it
    from dualrefine_ros.evaluation.depth_plots import plot_depth_error

    make_folder(folder / "error_maps")
    for sample in tqdm(samples, unit="picture", file=sys.stderr):
        path = folder / "error_maps" / f"{sample.name.replace('/', '_')}.png"
        plot_depth_error(path, evaluate_sample(sample, protocol), protocol, f"{sample.name}, {label}")
