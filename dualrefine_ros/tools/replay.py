"""``dualrefine replay``: a recording through the engine into a folder of results."""

from __future__ import annotations

import argparse
import math
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from dualrefine_ros import __version__
from dualrefine_ros.data.source import Source, open_source
from dualrefine_ros.errors import ConfigError, DataError
from dualrefine_ros.evaluation.replay import Observer, replay
from dualrefine_ros.evaluation.results import DEPTH_FORMATS, ResultsFolder
from dualrefine_ros.model import PRESETS, ModelConfig, load_checkpoint, random_model
from dualrefine_ros.model.dualrefine import DualRefine
from dualrefine_ros.odometry import PRECISIONS, OdometryConfig, VisualOdometry
from dualrefine_ros.tools.weights import add_weights_arguments, chosen_checkpoint

RANDOM = "RANDOM WEIGHTS"
SOURCE_OPTIONS = ("sequence", "camera", "topic", "calibration", "rate")
OPTIONS = ("source", *SOURCE_OPTIONS, "checkpoint", "network", "every", "start", "end", "depth")
INTERRUPTED = 130  # exit status, as the shell's


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dualrefine replay``."""
    defaults = OdometryConfig()
    parser.add_argument(
        "source", type=Path, help="KITTI sequence or raw drive, folder of images, video, or ROS 2 bag"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    add_weights_arguments(parser)
    parser.add_argument(
        "--iterations", type=int, default=defaults.iterations, metavar="N", help="of refinement"
    )
    parser.add_argument("--device", default=defaults.device, help="auto, cpu, cuda, cuda:1 ...")
    parser.add_argument("--precision", default=defaults.precision, choices=PRECISIONS)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th frame")
    parser.add_argument("--start", type=int, metavar="FRAME", help="number of the first frame")
    parser.add_argument("--end", type=int, metavar="FRAME", help="number of the last frame")
    parser.add_argument("--depth", nargs="+", choices=DEPTH_FORMATS, default=[], help="write depth maps")
    parser.add_argument("--view", action="store_true", help="watch in Rerun")
    parser.add_argument("--rrd", type=Path, metavar="FILE", help="record for Rerun")
    parser.add_argument("--sequence", help="of a KITTI odometry folder, e.g. 09")
    parser.add_argument("--camera", type=int, help="of a KITTI recording, 0 to 3")
    parser.add_argument("--topic", help="image topic of a bag")
    parser.add_argument("--calibration", type=Path, metavar="YAML", help="of images, videos or bags")
    parser.add_argument("--rate", type=float, metavar="HZ", help="frames per second of images or videos")


def run(args: argparse.Namespace) -> int:
    """Replay, leave results, say where they are."""
    source = open_source(args.source, **{name: getattr(args, name) for name in SOURCE_OPTIONS})
    indices = select(source, args.start, args.end, args.every)
    model, weights = _load(chosen_checkpoint(args), args.network)
    config = OdometryConfig(args.iterations, args.device, precision=args.precision)
    network = network_name(model.config)
    # the gap that parts two drives is counted in the frames that are taken
    odometry = VisualOdometry(model, replace(config, max_gap=config.max_gap * args.every))

    complete = False
    with ExitStack() as stack:
        observers: list[Observer] = []
        if args.view or args.rrd:
            # an extra: only who wants to watch needs it
            from dualrefine_ros.evaluation.rerun_view import RerunView

            view = RerunView(f"{source.name}, {weights}", window=args.view, file=args.rrd)
            observers.append(stack.enter_context(view))
        results = ResultsFolder(args.out, _settings(args, odometry), args.iterations, args.depth)
        observers.append(results)
        stop = stack.enter_context(stop_on_interrupt())
        try:
            with logging_redirect_tqdm(), tqdm(total=len(indices), unit="frame", desc=source.name) as bar:
                observers.append(lambda _: bar.update())
                replay(source, odometry, indices=indices, observers=observers, stop=stop)
            complete = not stop.is_set()
        except DataError:
            if stop.is_set():  # before the first frame was done
                raise KeyboardInterrupt from None
            raise
        finally:
            # whatever happened, what was done is kept
            if len(results.poses):
                print(_report(results.finish(source, weights, network, complete=complete), args.out))
    return 0 if complete else INTERRUPTED


def select(source: Source, start: int | None, end: int | None, every: int) -> list[int]:
    """Indices of every ``every``-th of the frames numbered ``start`` to ``end``, both included.

    Raises:
        ConfigError: there is none, or ``every`` is not positive.
    """
    if every < 1:
        raise ConfigError(f"--every must be 1 or more, not {every}.")
    low, high = (0 if start is None else start), (math.inf if end is None else end)
    if start is not None and low > high:
        raise ConfigError(f"--start {start} lies behind --end {end}: name the first frame and the last.")
    indices = [i for i in range(len(source)) if low <= source.frame_id(i) <= high][::every]
    if not indices:
        limits = {"--start": start, "--end": end}
        asked = " ".join(f"{name} {frame}" for name, frame in limits.items() if frame is not None)
        raise ConfigError(
            f"{source.name} has frames {source.frame_id(0)} to {source.frame_id(len(source) - 1)}, "
            f"none of them in {asked}."
        )
    return indices


@contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C (or SIGTERM) sets; a second one interrupts at once."""
    stop = threading.Event()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():  # asked before printing: `timeout` sends two, one close upon the other
            raise KeyboardInterrupt
        stop.set()
        print("Stopping after this frame; again to stop at once.", file=sys.stderr)

    for number in previous:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _load(checkpoint: Path | None, network: str | None) -> tuple[DualRefine, str]:
    """The network, and its weights in words."""
    if checkpoint is not None:
        return load_checkpoint(checkpoint), f"weights {checkpoint.stem}"
    assert network is not None
    print(
        f"'{network}' runs with {RANDOM}: its trajectory and depth mean nothing.",
        file=sys.stderr,
    )
    return random_model(network), RANDOM


def network_name(config: ModelConfig) -> str:
    """The preset, where it is one; else what decides its speed."""
    described = f"{config.depth_backbone} {config.width}x{config.height}"
    return next((name for name, preset in PRESETS.items() if preset == config), described)


def _settings(args: argparse.Namespace, odometry: VisualOdometry) -> dict[str, Any]:
    """What it takes to run this again."""
    options = {
        name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items() if name in OPTIONS
    }
    return {
        "dualrefine": __version__,
        "torch": str(torch.__version__),
        "replay": options,
        "odometry": asdict(odometry.config),
        "network": asdict(odometry.model.config),
    }


def _report(summary: dict[str, Any], folder: Path) -> str:
    lines = ["frames: {frames} (network {network}, {weights})".format(**summary) + f", results in {folder}"]
    if not summary["complete"]:
        lines[0] += ", complete up to the last frame done"
    counts = {**summary["frames_by_status"], "unreadable": summary["frames_unreadable"]}
    lines.append(", ".join(f"{count} {name}" for name, count in counts.items() if count))
    if summary["frames_per_second"]:
        speeds = "{frames_per_second:.2f} frames/s, the engine alone {frames_per_second_engine:.2f} frames/s"
        lines.append(speeds.format(**summary))
    return "\n".join(lines)
