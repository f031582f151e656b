"""``dualrefine demo``: a clip through the real node, over real DDS, and pictures of what came back."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import rclpy
import torch
from rclpy.signals import SignalHandlerOptions

from dualrefine_ros.data.source import Source, open_source
from dualrefine_ros.errors import ConfigError
from dualrefine_ros.model import read_info
from dualrefine_ros.odometry import OdometryConfig, resolve_device
from dualrefine_ros.tools.dds import set_up_dds
from dualrefine_ros.tools.demo_player import BASE_FRAME, T_BASE_CAM, DemoError, Player
from dualrefine_ros.tools.demo_report import FILES, write_results
from dualrefine_ros.tools.replay import network_name
from dualrefine_ros.tools.weights import add_weights_arguments, chosen_checkpoint

BUNDLED_CLIP = Path("clips/kitti_0001")
NODE_LOG = "vo_node.log"
CAMERA_HEIGHT = float(T_BASE_CAM[2, 3])  # metres above the base, which is on the ground
SHEET_LENGTH = 7  # frames; the first, whose scale nobody knows yet, is drawn only if it is the only one
LOG_PREFIX = re.compile(r"^\[\w+\] \[[\d.]+\] \[\S+\]: ")  # severity, time, logger
NODE_PATIENCE = 20.0  # seconds for the node to end by itself


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dualrefine demo``."""
    parser.add_argument("--clip", type=Path, default=BUNDLED_CLIP, help="a recording: see dualrefine replay")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder of the results")
    add_weights_arguments(parser)
    parser.add_argument(
        "--iterations", type=int, default=OdometryConfig.iterations, help="refinement iterations"
    )
    parser.add_argument("--device", default=OdometryConfig.device, help="auto, cpu, cuda, ...")
    parser.add_argument("--frames", type=int, help="play only the first frames")
    parser.add_argument(
        "--rate",
        type=float,
        metavar="HZ",
        help="play in real time, so that a slow node drops frames; without: each frame waits for the last",
    )


def run(args: argparse.Namespace) -> int:
    """Play, record, and write what came back, even if it is not everything."""
    source, frame_count = _open_clip(args)
    args.checkpoint = chosen_checkpoint(args)
    _prepare(args.out)
    if not args.checkpoint:
        print(f"'{args.network}' runs with RANDOM WEIGHTS: its numbers mean nothing.")
    interruption = Interruption()
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGTERM too, so that the node never outlives the demo
        signal.signal(number, interruption)
    print(f"ROS_DOMAIN_ID is {set_up_dds()}: set it likewise to look on.")
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = NodeProcess(args.out / NODE_LOG, _node_parameters(args))

    def check() -> None:
        interruption.check()
        node.check()

    player = Player(frame_count, SHEET_LENGTH, check)
    complete = False
    try:
        player.require_silence()
        with node:
            player.wait_for_node()
            player.play(source.frames(range(frame_count)), args.rate)
            complete = True
    finally:
        player.close()
        rclpy.shutdown()
        if player.recording.poses:
            weights = args.checkpoint.name if args.checkpoint else "RANDOM WEIGHTS: the numbers mean nothing"
            summary = write_results(
                args.out,
                player.recording,
                source.ground_truth,
                T_BASE_CAM,
                title=f"{source.name}, {weights}",
                facts={"complete": complete, **_facts(args, source)},
            )
            _tell(summary, args.out)
    return 0


def _open_clip(args: argparse.Namespace) -> tuple[Source, int]:
    for name, value in (("--rate", args.rate), ("--frames", args.frames)):
        if value is not None and not value > 0:
            raise ConfigError(f"{name} must be positive, not {value}.")
    clip = args.clip
    if clip == BUNDLED_CLIP and not clip.exists():  # started from elsewhere than the checkout
        clip = Path(__file__).resolve().parents[2] / BUNDLED_CLIP
    source = open_source(clip)
    return source, min(len(source), args.frames or len(source))


def _prepare(folder: Path) -> None:
    """Make the folder, and leave nothing of an earlier demo that could be taken for this one's."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made ({error}): name another folder with --out.") from error
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def _node_parameters(args: argparse.Namespace) -> dict[str, Any]:
    # the base hangs below the camera by metres, so the way must be in metres too
    metric = {"scale.mode": "camera_height", "scale.camera_height": CAMERA_HEIGHT}
    return {
        **(metric if args.checkpoint else {}),
        "checkpoint": str(args.checkpoint.resolve()) if args.checkpoint else "",
        "random_network": args.network or "none",
        "iterations": args.iterations,
        "device": args.device,
        "base_frame": BASE_FRAME,
    }


def _facts(args: argparse.Namespace, source: Source) -> dict[str, Any]:
    """What the summary says beside the counts."""
    return {
        "clip": source.name,
        "weights": str(args.checkpoint) if args.checkpoint else "random",
        "network": args.network or network_name(read_info(args.checkpoint).config),
        "iterations": args.iterations,
        "scale": f"by the camera's height of {CAMERA_HEIGHT:g} m" if args.checkpoint else "unknown",
        "trajectory_of": BASE_FRAME,
        "device": str(resolve_device(args.device, torch.cuda.is_available())),
        "playback": "lock-step" if args.rate is None else f"{args.rate:g} Hz",
        "ros_distro": _ros_distro(),
        "rmw": rclpy.get_rmw_implementation_identifier(),
    }


def _ros_distro() -> str | None:
    """Of the sourced ROS 2, else of PyPI's wheels, whose names carry it."""
    names = (distribution.metadata["Name"] or "" for distribution in metadata.distributions())
    wheels = (match[1] for match in map(re.compile(r"ros-(\w+)-rclpy").fullmatch, names) if match)
    return os.environ.get("ROS_DISTRO") or next(wheels, None)


def _tell(summary: dict[str, Any], folder: Path) -> None:
    latency = summary["latency_ms"]
    print(
        f"{summary['frames_processed']} of {summary['frames_in']} frames answered on {summary['device']}, "
        f"{summary['frames_dropped']} dropped; latency {latency['median']:.0f} ms median, "
        f"{latency['p95']:.0f} ms at 95 %; weights: {summary['weights']}."
    )
    if (truth := summary.get("against_ground_truth")) is not None:
        print(
            f"ATE {truth['ate_percent']:.2f} % of {truth['length_m']:.0f} m, {truth['rpe_deg']:.3f} deg a "
            f"frame, once aligned with ground truth by a factor of {truth['scale']:.3g}; "
            f"scale {summary['scale']}."
        )
    print("Wrote " + ", ".join(str(folder / name) for name in FILES if (folder / name).exists()))


class Interruption:
    """A signal handler that raises KeyboardInterrupt, and again where Python has swallowed the first.

    One that lands in a callback of C code is printed as ignored and lost.
    """

    def __init__(self) -> None:
        self._requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal."""
        self._requested = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if the signal has come."""
        if self._requested:
            raise KeyboardInterrupt


class NodeProcess:
    """``vo_node`` in a process of its own, for the time of a ``with`` block.

    Args:
        log: the file of what it says.
        parameters: of the node.
    """

    def __init__(self, log: Path, parameters: dict[str, Any]) -> None:
        self._log = log
        # JSON is YAML that no path can be misread in
        assignments = [f"{name}:={json.dumps(value)}" for name, value in parameters.items()]
        arguments = [word for assignment in assignments for word in ("-p", assignment)]
        self._command = [sys.executable, "-m", "dualrefine_ros.ros.node", "--ros-args", *arguments]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> NodeProcess:
        with self._log.open("wb") as file:
            # A session of its own: Ctrl-C is for the demo, which then ends the node
            self._process = subprocess.Popen(
                self._command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(NODE_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def returncode(self) -> int | None:
        """The exit status, once it has ended."""
        return None if self._process is None else self._process.poll()

    def memory(self) -> float:
        """Resident memory in MiB."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def check(self) -> None:
        """Raise a DemoError with its last words if the node has died."""
        if self._process is None or self._process.poll() is None:
            return
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        last_words = LOG_PREFIX.sub("", lines[-1]) if lines else "it said nothing."
        raise DemoError(
            f"vo_node ended with status {self._process.returncode}: {last_words} (its log: {self._log})"
        )
