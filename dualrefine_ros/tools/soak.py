"""``dualrefine soak``: the clip over DDS for half an hour, with faults; does the node stay well?

It does if

- memory grows by less than 1 % in ten minutes, by a line through all after the first quarter of the time;
- every good image is answered, or counted as dropped for a newer one: exactly, image by image where camera
  and node hear each other (see :mod:`dualrefine_ros.tools.soak_account`). Where one of them has just come
  back, the time to the first answer is reported, and must be less than 30 s;
- every service call is answered, and as it should be (a parameter out of range is refused);
- every number of the odometry is finite;
- the log holds no traceback, and the node ends with status 0 when it is told to.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.signals import SignalHandlerOptions
from tqdm import tqdm

from dualrefine_ros.data.source import open_source
from dualrefine_ros.errors import ConfigError
from dualrefine_ros.evaluation.plots import new_axes, new_figure, save
from dualrefine_ros.tools.dds import set_up_dds
from dualrefine_ros.tools.demo import BUNDLED_CLIP, NodeProcess
from dualrefine_ros.tools.demo_player import BASE_FRAME, START_PATIENCE, DemoError
from dualrefine_ros.tools.soak_robot import DEPTH, SoakRobot

MEMORY_PERIOD = 2.0  # seconds between looks at the memory
WARM_UP = 0.25  # share of the time, after which memory must be flat
GROWTH_LIMIT = 1.0  # percent in ten minutes
BAD_WORDS = ("Traceback", "[FATAL]", "should not happen")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dualrefine soak``."""
    parser.add_argument("--clip", type=Path, default=BUNDLED_CLIP, help="a recording: see dualrefine replay")
    parser.add_argument("--out", type=Path, default=Path("out/soak"), help="folder of the results")
    parser.add_argument("--minutes", type=float, default=30.0, help="how long")
    parser.add_argument("--rate", type=float, default=5.0, help="images a second")
    parser.add_argument("--faults", type=float, default=0.1, help="share of the images with a fault")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--checkpoint", type=Path, help="weights (.safetensors); without: small random ones")
    parser.add_argument("--iterations", type=int, default=1, help="refinement iterations")


def run(args: argparse.Namespace) -> int:
    """Play, injure, ask, watch; 0 if the node did well."""
    if not (args.minutes > 0 and args.rate > 0 and 0 <= args.faults <= 1):
        raise ConfigError("--minutes and --rate must be positive, and --faults between 0 and 1.")
    source = open_source(args.clip)
    frames = list(source.frames(range(len(source))))
    args.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the node never outlives the soak
    set_up_dds()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    robot = SoakRobot(frames, np.random.default_rng(args.seed))
    node = NodeProcess(args.out / "vo_node.log", _parameters(args))
    memory: list[tuple[float, float]] = []  # seconds, MiB
    start = time.monotonic()
    try:
        with node:
            _wait_for_node(robot, node)
            start = time.monotonic()
            try:
                _soak(robot, node, memory, start, args)
            except KeyboardInterrupt:
                print("Interrupted: the report is of the time until now.")
            robot.settle()
    except DemoError as error:
        print(error)  # the report tells of the time until then
    finally:
        robot.close()
        rclpy.shutdown()
    log = (args.out / "vo_node.log").read_text(errors="replace")
    report = make_report(robot, memory, time.monotonic() - start, node.returncode, log)
    (args.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    plot_memory(args.out / "memory.png", memory, report)
    verdict = "well" if report["passed"] else "NOT well: " + ", ".join(report["failures"])
    print(f"{report['images']} images, {sum(report['faults'].values())} faults; the node did {verdict}.")
    print(f"Wrote {args.out / 'report.json'}, {args.out / 'memory.png'}, {args.out / 'vo_node.log'}")
    return 0 if report["passed"] else 1


def _parameters(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "checkpoint": str(args.checkpoint.resolve()) if args.checkpoint else "",
        "random_network": "small",
        "iterations": args.iterations,
        "base_frame": BASE_FRAME,
        "trajectory_file": str((args.out / "trajectory.tum").resolve()),
        **{f"qos_overrides./{end}.depth": DEPTH for end in ("image.subscription", "odometry.publisher")},
    }


def _wait_for_node(robot: SoakRobot, node: NodeProcess) -> None:
    end = time.monotonic() + START_PATIENCE
    while not robot.spin(0.2, robot.camera.is_heard):
        node.check()
        if time.monotonic() > end:
            raise DemoError("vo_node has not come up.")
    robot.say_where_the_camera_sits()
    robot.meet("start")


def _soak(
    robot: SoakRobot,
    node: NodeProcess,
    memory: list[tuple[float, float]],
    start: float,
    args: argparse.Namespace,
) -> None:
    due = start
    with tqdm(total=round(60 * args.minutes), desc="soaking", unit="s") as progress:
        while (elapsed := time.monotonic() - start) < 60 * args.minutes:
            node.check()
            if not memory or elapsed - memory[-1][0] >= MEMORY_PERIOD:
                memory.append((elapsed, node.memory()))
                progress.set_postfix_str(f"{memory[-1][1]:.0f} MiB, {robot.faults.total()} faults")
                progress.update(round(elapsed) - progress.n)
            robot.step(args.faults)
            due = max(due + 1 / args.rate, time.monotonic())
            robot.spin(max(due - time.monotonic(), 0.0) + 1e-3)


def make_report(
    robot: SoakRobot, memory: list[tuple[float, float]], seconds: float, returncode: int | None, log: str
) -> dict[str, Any]:
    """What came of it, and whether that is good enough."""
    growth = memory_growth(memory)
    words = [word for word in BAD_WORDS if word in log]
    failures = {
        "memory grows, or too little of it was seen": not growth < GROWTH_LIMIT,
        "the log holds " + ", ".join(words): bool(words),
        "exit status": returncode != 0,
        "services without an answer": bool(robot.unanswered_calls),
        "services with a wrong answer": bool(robot.wrong_answers),
        "numbers that are not finite": bool(robot.not_finite),
        "no image was answered": not robot.account.totals["good answered"],
    }
    return {
        "passed": not any(failures.values()) and not robot.account.failures.total(),
        "failures": [name for name, failed in failures.items() if failed] + robot.account.failed_checks(),
        "minutes": round(seconds / 60, 2),
        **robot.account.report(),
        "faults": dict(sorted(robot.faults.items())),
        "service_calls": dict(robot.calls),
        "unanswered_calls": robot.unanswered_calls,
        "wrong_answers": robot.wrong_answers,
        "memory_growth_percent_per_10_min": round(growth, 3),
        "memory_mib": {"first": memory[0][1], "last": memory[-1][1], "most": max(m for _, m in memory)}
        if memory
        else {},
        "odometry": robot.diagnostics.get("odometry", {}),
        "exit_status": returncode,
    }


def memory_growth(memory: list[tuple[float, float]]) -> float:
    """Percent in ten minutes, by a line through what follows the warm-up; NaN if there is too little."""
    if len(memory) < 8:
        return float("nan")
    seconds, size = np.array(memory).T
    warm = seconds >= WARM_UP * seconds[-1]
    slope, level = np.polyfit(seconds[warm] - seconds[warm][0], size[warm], 1)
    return float(100 * 600 * slope / level)


def plot_memory(path: Path, memory: list[tuple[float, float]], report: dict[str, Any]) -> None:
    """Draw resident memory over time."""
    if not memory:
        return
    growth = report["memory_growth_percent_per_10_min"]
    figure = new_figure(f"vo_node's memory: {growth:+.2f} % in 10 min after warm-up", width=9.0, height=4.5)
    axes = new_axes(figure, figure.add_gridspec(1, 1)[0], "time [min]", "resident memory [MiB]")
    seconds, size = np.array(memory).T
    axes.plot(seconds / 60, size)
    axes.axvline(WARM_UP * seconds[-1] / 60, ls=":", color="gray")
    axes.set_ylim(0, 1.1 * size.max())
    save(figure, path)
