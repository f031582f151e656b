"""``dualrefine bench``: how fast the engine is here, against the same network done plainly.

Engine and reference take turns on the same frames, and every ratio is one of frames measured one after the
other. On a machine that does other work too, trust the ratios and not the milliseconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dualrefine_ros.benchmark.cases import Case
from dualrefine_ros.benchmark.machine import describe_machine, machine_line
from dualrefine_ros.benchmark.measure import Row, measure
from dualrefine_ros.benchmark.profiling import KINDS, OUTSIDE, Profile, measure_profile
from dualrefine_ros.benchmark.scaling import measure_scaling, plot_scaling
from dualrefine_ros.errors import ConfigError
from dualrefine_ros.evaluation.output_files import make_folder, write_json
from dualrefine_ros.model.default_weights import default_checkpoint
from dualrefine_ros.observation import PRECISIONS
from dualrefine_ros.odometry_config import BACKENDS
from dualrefine_ros.tools.table import format_table

RESULTS = "bench.json"
SCALING = "scaling.json"
PROFILE = "profile.json"
NODE = "node.json"
WISHES = ("networks", "sizes", "iterations", "precisions", "backends", "devices")
HEADER = (
    "network", "input", "device", "type", "it.", "frame", "encode", "pose", "refine", "update", "upsample",
    "frames/s", "MiB", "reference", "MiB", "faster", "update faster", "differs",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dualrefine bench``."""
    several: dict[str, Any] = {"nargs": "+", "metavar": "X"}
    parser.add_argument("--networks", **several, help="published, small (random weights) or checkpoints")
    parser.add_argument("--sizes", **several, help="network inputs, as 192x640; without: each network's own")
    parser.add_argument("--iterations", **several, type=int, help="of the refiner")
    parser.add_argument("--precisions", **several, choices=list(PRECISIONS), help=", ".join(PRECISIONS))
    parser.add_argument("--backends", **several, choices=list(BACKENDS), help=", ".join(BACKENDS))
    parser.add_argument("--devices", **several, help="cpu, cuda ...; without: all there are")
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="frames measured of each side")
    parser.add_argument("--threads", type=int, metavar="N", help="of the CPU; without: PyTorch's own choice")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory, which takes longest")
    other = parser.add_argument_group("something else, of one case").add_mutually_exclusive_group()
    other.add_argument("--scaling", action="store_true", help="how cost grows with input, iterations, batch")
    other.add_argument("--profile", action="store_true", help="which operators the time goes to")
    other.add_argument("--node", action="store_true", help="what the ROS node adds to the engine")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), metavar="DIR", help="for the results")


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, write the figures."""
    if args.repeats < 1 or (args.threads is not None and args.threads < 1):
        raise ConfigError("--repeats and --threads must be 1 or more.")
    if args.threads:
        torch.set_num_threads(args.threads)
    machine = describe_machine()
    for wanted, measure_other in ((args.scaling, _scaling), (args.profile, _profile), (args.node, _node)):
        if wanted:
            return measure_other(args, single_case(args), machine)
    cases = chosen_cases(args)
    rows: list[Row] = []
    for case in tqdm(cases, unit="case", disable=not sys.stderr.isatty()):
        rows.append(measure(case, args.repeats, with_memory=not args.no_memory))
        write_json(args.out / RESULTS, {"machine": machine, "rows": [asdict(row) for row in rows]})
    print(machine_line(machine))
    print(table(rows))
    print(
        f"Times in ms, medians of {args.repeats}; differs: from the reference, in disparity (99 % of the "
        f"pixels) or pose.\nAll figures: {args.out / RESULTS}"
    )
    return 0


def _scaling(args: argparse.Namespace, case: Case, machine: Mapping[str, Any]) -> int:
    scaling = measure_scaling(
        case, args.repeats, partial(tqdm, unit="point", disable=not sys.stderr.isatty())
    )
    write_json(args.out / SCALING, {"machine": machine, "case": asdict(case), **asdict(scaling)})
    plot_scaling(
        args.out / "scaling.png",
        scaling,
        f"{case.network}, {machine['cpu']}, {case.device}, {case.precision}",
    )
    points = [*scaling.resolution, *scaling.iterations, *scaling.batch]
    rows = [[f"{p.height}x{p.width}", str(p.iterations), str(p.batch), f"{p.ms:.1f}"] for p in points]
    print(machine_line(machine))
    print(format_table(("input", "iterations", "batch", "ms"), rows))
    print(f"Medians of {args.repeats}. Figures and picture: {args.out}")
    return 0


def _profile(args: argparse.Namespace, case: Case, machine: Mapping[str, Any]) -> int:
    profiles = measure_profile(case, args.repeats)
    sides = {side: asdict(profile) | {"kinds_ms": profile.kinds_ms} for side, profile in profiles.items()}
    write_json(args.out / PROFILE, {"machine": machine, "case": asdict(case), **sides})
    print(machine_line(machine))
    print(profile_tables(profiles))
    print(f"Means of {args.repeats} frames, with the profiler's own work. All: {args.out / PROFILE}")
    return 0


def _node(args: argparse.Namespace, case: Case, machine: Mapping[str, Any]) -> int:
    from dualrefine_ros.tools.bench_node import measure_node  # needs ROS

    if args.threads:
        raise ConfigError("The node is a process of its own: set OMP_NUM_THREADS instead of --threads.")
    make_folder(args.out)
    timing = measure_node(args.out / "vo_node.log", case, args.repeats)
    figures = timing.summary()
    write_json(args.out / NODE, {"machine": machine, "case": asdict(case), **figures, **asdict(timing)})
    print(machine_line(machine))
    print(format_table(("medians", "ms"), [[name, f"{value:.1f}"] for name, value in figures.items()]))
    return 0


def chosen_cases(args: argparse.Namespace) -> list[Case]:
    """Every combination of what was asked for; without a wish, those that show the most in a few minutes.

    Raises:
        ConfigError: a size cannot be read.
    """
    devices = args.devices or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if not any(getattr(args, name) for name in WISHES if name != "devices"):
        return [case for device in devices for case in default_cases(device)]
    return _combinations(args, devices)


def single_case(args: argparse.Namespace) -> Case:
    """The one that was asked for, on the GPU where there is one and nobody names a device.

    Raises:
        ConfigError: several were asked for, or a size cannot be read.
    """
    for name in WISHES:
        if len(getattr(args, name) or ()) > 1:
            raise ConfigError(f"--scaling, --profile and --node measure one case: give --{name} one value.")
    on_gpu = torch.cuda.is_available() and args.backends != ["onnx"]
    return _combinations(args, args.devices or ["cuda" if on_gpu else "cpu"])[0]


def _combinations(args: argparse.Namespace, devices: Sequence[str]) -> list[Case]:
    combinations = product(
        devices,
        args.networks or ["published"],
        map(_size, args.sizes or ["0x0"]),
        args.iterations or [6],
        args.precisions or ["float32"],
        args.backends or ["torch"],
    )
    return [
        Case(network, height, width, iterations, precision, device, backend)
        for device, network, (height, width), iterations, precision, backend in combinations
    ]


def default_cases(device: str) -> list[Case]:
    """The networks as they are run, unrefined, in a shorter type, with trained weights, in ONNX."""
    short = "float16" if device.startswith("cuda") else "bfloat16"
    has_onnx = device == "cpu" and all(map(find_spec, ("onnx", "onnxruntime", "onnxscript")))
    onnx = [Case("small", iterations=6, device=device, backend="onnx")] if has_onnx else []
    trained = str(default_checkpoint())
    return [
        Case("published", iterations=6, device=device),
        Case("published", iterations=0, device=device),
        Case("published", iterations=6, precision=short, device=device),
        Case("published", 96, 320, iterations=6, device=device),
        Case("small", iterations=6, device=device),
        Case("small", iterations=0, device=device),
        Case(trained, iterations=6, device=device),
        Case(trained, iterations=6, precision=short, device=device),
        *onnx,
    ]


def _size(text: str) -> tuple[int, int]:
    try:
        height, width = map(int, text.lower().split("x"))
    except ValueError:
        raise ConfigError(f"A size is written HEIGHTxWIDTH, as 192x640, not '{text}'.") from None
    return height, width


def table(rows: Sequence[Row]) -> str:
    """All rows in plain text."""
    return format_table(HEADER, [_cells(row) for row in rows])


def profile_tables(profiles: Mapping[str, Profile], top: int = 12) -> str:
    """Both sides by kind of operator, and the costliest operators of each."""
    sides = list(profiles)
    rows = [
        [kind, *(cell for side in sides for cell in _share(profiles[side].kinds_ms[kind], profiles[side]))]
        for kind in (*KINDS, OUTSIDE)
    ]
    rows.append(
        ["frame", *(cell for side in sides for cell in _share(profiles[side].frame_ms, profiles[side]))]
    )
    tables = [format_table(("", *(word for side in sides for word in (f"{side}, ms", "%"))), rows)]
    for side, profile in profiles.items():
        costliest = [
            [o.name, o.kind, f"{o.calls:.0f}", *_share(o.ms, profile)] for o in profile.operators[:top]
        ]
        tables.append(format_table((f"{side}, costliest", "kind", "calls", "ms", "%"), costliest))
    return "\n\n".join(tables)


def _share(ms: float, profile: Profile) -> tuple[str, str]:
    return f"{ms:.1f}", f"{100 * ms / profile.frame_ms:.0f}"


def _cells(row: Row) -> list[str]:
    case, fast, plain = row.case, row.engine, row.reference
    stages = [f"{fast.stages_ms[stage]:.1f}" for stage in ("encode", "teacher_pose", "refine")]
    return [
        Path(case.network).name,
        f"{case.height}x{case.width}",
        case.device,
        case.precision if case.backend == "torch" else case.backend,
        str(case.iterations),
        f"{fast.frame_ms:.1f}",
        *stages,
        _number(fast.update_ms, ".1f"),
        f"{fast.stages_ms['upsample']:.1f}",
        f"{fast.frames_per_s:.2f}",
        _number(fast.peak_memory_mib, ".0f"),
        f"{plain.frame_ms:.1f}",
        _number(plain.peak_memory_mib, ".0f"),
        f"{row.speed_up:.2f}x",
        _number(row.update_speed_up, ".2f", "x"),
        f"{max(row.disparity_difference, row.pose_difference):.0e}",
    ]


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"
