"""The benchmark measures what it says: an honest reference, both sides alike, figures that can be read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import DeviceType
from torch.nn.functional import interpolate
from torch.nn.utils import parametrize

from dualrefine_ros.benchmark.cases import Case, moving_frames
from dualrefine_ros.benchmark.machine import describe_machine
from dualrefine_ros.benchmark.measure import measure
from dualrefine_ros.benchmark.profiling import kind_of, operators
from dualrefine_ros.benchmark.reference import reference_frame
from dualrefine_ros.benchmark.scaling import measure_scaling, plot_scaling
from dualrefine_ros.benchmark.timing import Measured, alternate, speed_up
from dualrefine_ros.model import (
    SMALL,
    DualRefine,
    coarse_alignment,
    from_published,
    native,
    random_model,
    read_info,
    save_checkpoint,
)
from dualrefine_ros.model.network import EncodedFrame
from dualrefine_ros.network_io import StageClock
from dualrefine_ros.observation import STAGES
from dualrefine_ros.ros.config import NodeConfig
from dualrefine_ros.ros.engine import engine_config
from dualrefine_ros.tools.bench import default_cases
from dualrefine_ros.tools.bench_node import node_parameters
from dualrefine_ros.tools.main import main

PARITY = Path(__file__).parent / "parity"
sys.path.insert(0, str(PARITY))
from deterministic_weights import make_state_dict  # noqa: E402

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def published() -> DualRefine:
    return from_published(make_state_dict())


@pytest.mark.parametrize("size", ["96x320", "192x640"])
@torch.inference_mode()
def test_reference_agrees_with_the_published_numbers(published: DualRefine, size: str) -> None:
    """On the network as it is trained: nothing folded."""
    assert any(isinstance(m, nn.BatchNorm2d) for m in published.modules())
    assert any(parametrize.is_parametrized(m) for m in published.modules())
    with np.load(PARITY / f"inference_{size}.npz") as file:
        expected = {key: torch.from_numpy(file[key])[None] for key in file}
    cur, prev = (expected[f"image_{name}"].permute(0, 3, 1, 2).float() / 255 for name in ("cur", "prev"))
    clock = StageClock(torch.device("cpu"))
    result = reference_frame(published, cur, prev, expected["intrinsics"].float(), 6, clock)
    for actual, name in (
        (result.disp_teacher, "disp_teacher_full"),
        (result.disp_refined, "disp_refined_full"),
        (result.T_prev_cur_teacher, "pose_teacher"),
        (result.T_prev_cur, "pose_refined"),
    ):
        torch.testing.assert_close(actual, expected[name].reshape(actual.shape), rtol=0, atol=TOLERANCE)
    assert list(clock.seconds) == ["encode", "teacher_pose", "refine", "upsample"]


@pytest.mark.parametrize("deviation", [0.5, 10.0])
@torch.inference_mode()
def test_reference_takes_depth_for_as_uncertain_as_the_network(deviation: float) -> None:
    """It has Jacobians by channel and depth; the engine eliminates depth from sums over the channels."""
    model = random_model(replace(SMALL, height=64, width=96, depth_deviation=deviation))
    texture = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    prev = interpolate(texture, size=(64, 96), mode="bicubic").clamp(0, 1)
    cur, intrinsics = torch.roll(prev, 1, -1), torch.tensor([[60.0, 60.0, 48.0, 32.0]])
    plain = reference_frame(model, cur, prev, intrinsics, 3, StageClock(torch.device("cpu")))
    ours = model(cur, prev, intrinsics, iterations=3)
    torch.testing.assert_close(plain.T_prev_cur, ours.T_prev_cur, rtol=0, atol=TOLERANCE)
    assert float((ours.T_prev_cur - ours.T_prev_cur_teacher).abs().max()) > 100 * TOLERANCE
    torch.testing.assert_close(plain.disp_refined, ours.disp_refined, rtol=0, atol=TOLERANCE)


def test_reference_starts_where_the_network_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, anything in (("LEFT", torch.inf), ("OVERLAP", 0.0), ("REACH", 0.0), ("SUSPICION", -1.0)):
        monkeypatch.setattr(coarse_alignment, name, anything)
    texture = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    prev = interpolate(texture, size=(64, 96), mode="bicubic").clamp(0, 1)
    cur, intrinsics = torch.roll(prev, 3, -1), torch.tensor([[60.0, 60.0, 48.0, 32.0]])
    found = {}
    for steps in (0, 2):
        model = random_model(replace(SMALL, height=64, width=96, coarse_steps=steps))
        plain = reference_frame(model, cur, prev, intrinsics, 1, StageClock(torch.device("cpu")))
        found[steps] = model(cur, prev, intrinsics, iterations=1).T_prev_cur
        torch.testing.assert_close(plain.T_prev_cur, found[steps], rtol=0, atol=10 * TOLERANCE)
    assert float((found[0] - found[2]).detach().abs().max()) > 1000 * TOLERANCE


def test_sides_take_turns_and_ratios_are_of_turns() -> None:
    """A machine that is slow for one turn is slow for both sides, and the ratio does not see it."""
    order: list[str] = []

    def work(name: str) -> Callable[[], str]:
        return lambda: order.append(name) or name

    measured = alternate([work("a"), work("b")], 3, torch.device("cpu"))
    assert order == ["a", "b"] * 3
    assert [m.results for m in measured] == [["a"] * 3, ["b"] * 3]
    fast, slow = Measured([1.0, 10.0, 1.0], [None] * 3), Measured([4.0, 40.0, 6.0], [None] * 3)
    assert speed_up(fast, slow) == 4.0
    assert slow.median_ms == 6000.0


def test_frames_move_and_are_the_same_each_time() -> None:
    first, second = moving_frames(2)
    np.testing.assert_array_equal(first.image[:, 6:], second.image[:, :-6])
    np.testing.assert_array_equal(moving_frames(2)[1].image, second.image)
    assert first.image.std() > 20
    assert second.stamp_ns > first.stamp_ns


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of a network that is quick to run."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    save_checkpoint(random_model(replace(SMALL, height=64, width=96)), path)
    return str(path)


def test_a_row_holds_what_was_measured(tiny: str) -> None:
    row = measure(Case(tiny, iterations=2), repeats=2)
    assert (row.case.height, row.case.width) == (64, 96)
    assert tuple(row.engine.stages_ms) == STAGES
    assert tuple(row.reference.stages_ms) == STAGES[1:]  # it judges nothing
    for side in (row.engine, row.reference):
        stages = side.stages_ms
        assert all(ms > 0 for ms in stages.values())
        assert 0.5 * sum(stages.values()) < side.frame_ms
        assert side.frames_per_s == pytest.approx(1000 / side.frame_ms)
        assert side.update_ms is not None
        assert side.peak_memory_mib is not None
        assert 100 < side.peak_memory_mib < 10_000  # PyTorch alone takes more than the lower one
    assert row.disparity_difference < 1e-4
    assert row.pose_difference < 1e-3  # of noise and random weights, where free depth leaves little to align


def test_without_iterations_there_is_no_update(tiny: str) -> None:
    row = measure(Case(tiny, iterations=0), repeats=1, with_memory=False)
    assert row.update_speed_up is row.engine.update_ms is row.engine.peak_memory_mib is None
    assert row.disparity_difference < 1e-4


def test_a_shorter_type_shows_in_the_difference(tiny: str) -> None:
    row = measure(Case(tiny, iterations=1, precision="bfloat16"), repeats=1, with_memory=False)
    assert 1e-6 < row.disparity_difference < 0.1


def test_a_size_can_be_asked_for(tiny: str) -> None:
    assert Case(tiny, 96, 128).model().config.width == 128
    assert Case("small", 64, 0).model().config.height == 64
    assert Case("small", 64, 0).model().config.width == SMALL.width


def test_command_line(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    given = ["bench", "--networks", tiny, "--iterations", "0", "1", "--repeats", "1", "--no-memory"]
    assert main([*given, "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "bench.json").read_text())
    assert [row["case"]["iterations"] for row in results["rows"]] == [0, 1]
    assert results["machine"]["cpu"]
    assert results["machine"]["torch"] == torch.__version__
    assert results["machine"]["threads"] == torch.get_num_threads()
    printed = capsys.readouterr().out
    assert f"{results['machine']['cpu']} ({torch.backends.cpu.get_cpu_capability()})" in printed
    assert "tiny.safetensors" in printed


def test_scaling(tiny: str, tmp_path: Path) -> None:
    scaling = measure_scaling(Case(tiny, iterations=1), 1, iter, ((64, 96), (128, 192)), (0, 4), (1, 3))
    assert [(p.height, p.width) for p in scaling.resolution] == [(64, 96), (128, 192)]
    assert [p.iterations for p in scaling.iterations] == [0, 4]
    assert [p.batch for p in scaling.batch] == [1, 3]
    assert all(p.ms > 0 for p in (*scaling.resolution, *scaling.iterations, *scaling.batch))
    plot_scaling(tmp_path / "scaling.png", scaling, "tiny")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_scaling_is_of_the_size_and_precision_asked_for(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    types: set[torch.dtype] = set()
    encode = DualRefine.encode

    def watched(model: DualRefine, image: torch.Tensor) -> EncodedFrame:
        if torch.is_autocast_enabled("cpu"):
            types.add(torch.get_autocast_dtype("cpu"))
        return encode(model, image)

    monkeypatch.setattr(DualRefine, "encode", watched)
    scaling = measure_scaling(Case(tiny, 64, 64, precision="bfloat16"), 1, iter, (), (0,), ())
    assert [(p.height, p.width) for p in scaling.iterations] == [(64, 64)]
    assert types == {torch.bfloat16}


def test_the_node_is_told_the_whole_case(tiny: str) -> None:
    case = Case(tiny, iterations=3, precision="bfloat16", device="cpu")
    config = NodeConfig(**node_parameters(case))
    assert config.checkpoint == tiny
    assert engine_config(config) == case.odometry()
    assert NodeConfig(**node_parameters(Case("small", backend="onnx"))).backend == "onnx"
    assert NodeConfig(**node_parameters(Case("small"))).random_network == "small"


def test_node(tiny: str, tmp_path: Path) -> None:
    given = ["bench", "--node", "--networks", tiny, "--iterations", "1", "--precisions", "bfloat16"]
    assert main([*given, "--repeats", "2", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "node.json").read_text())
    assert results["case"]["precision"] == "bfloat16"
    assert 0 < results["engine_ms"] < results["latency_ms"]
    assert len(results["service"]) == 2


def test_what_runs_by_itself_has_trained_weights_too() -> None:
    (shipped,) = {case.network for case in default_cases("cpu")} - {"published", "small"}
    assert read_info(shipped).training["steps"] > 0
    case = next(case for case in default_cases("cpu") if case.network == shipped)
    assert case == Case(shipped, iterations=6)  # at its own size


def test_vector_extensions_are_those_that_numpy_finds() -> None:
    found = describe_machine()["cpu_vectors"]
    from numpy._core._multiarray_umath import __cpu_features__ as features

    for name, flag in (("AVX2", "avx2"), ("FMA3", "fma"), ("AVX512F", "avx512f"), ("SVE", "sve")):
        assert (flag in found) == features.get(name, False), flag


def test_profile(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    given = ["bench", "--profile", "--networks", tiny, "--sizes", "160x160", "--iterations", "2"]
    assert main([*given, "--repeats", "1", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "profile.json").read_text())
    called = {}
    for side in ("engine", "reference"):
        profile = results[side]
        called[side] = {operator["name"]: operator["calls"] for operator in profile["operators"]}
        assert sum(profile["kinds_ms"].values()) == pytest.approx(profile["frame_ms"])
        assert all(ms >= 0 for ms in profile["kinds_ms"].values())
        assert profile["kinds_ms"]["convolutions"] > 0.05 * profile["frame_ms"]
    # what the engine has folded away and fused, and the reference does in every frame
    assert called["reference"]["aten::_weight_norm_interface"] > 10
    assert "aten::_weight_norm_interface" not in called["engine"]
    assert called["engine"]["aten::batch_norm"] < called["reference"]["aten::batch_norm"]
    if native.available():
        assert called["engine"]["native::epipolar_search"] == 2
        # once an iteration; before that coarse steps on one map, or on two, and what is left before and after
        steps = SMALL.coarse_steps
        assert called["engine"]["native::alignment_moments"] in (2 + steps, 2 + 2 * steps + 2)
        assert called["engine"]["native::convolution"] >= 2
        assert not any(name.startswith("native::") for name in called["reference"])
        assert isinstance(native.library().convolution, native.library()._FuncPtr)  # as it was
    printed = capsys.readouterr()
    assert "reference, costliest" in printed.out
    assert not printed.err


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::mkldnn_convolution", "convolutions"),
        ("aten::_slow_conv2d_forward", "convolutions"),
        ("aten::cudnn_convolution", "convolutions"),
        ("native::convolution", "convolutions"),
        ("aten::resolve_conj", "other operators"),
        ("aten::_batch_norm_impl_index", "norms"),
        ("aten::_weight_norm_interface", "norms"),
        ("aten::linalg_vector_norm", "products, sums"),
        ("aten::grid_sampler_2d", "sampling, resizing"),
        ("native::epipolar_search", "sampling, resizing"),
        ("aten::cat", "concatenation"),
        ("aten::addmm", "products, sums"),
        ("aten::add_", "pointwise"),
        ("aten::hardtanh_", "pointwise"),
        ("aten::rsub", "pointwise"),
        ("aten::_to_copy", "copies, allocation"),
        ("cudaLaunchKernel", "other operators"),
    ],
)
def test_kinds_of_operators(name: str, kind: str) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize(("on_gpu", "ms"), [(False, [2.0, 0.5]), (True, [3.0, 1.0])])
def test_operators_are_means_and_kernels_count_once(on_gpu: bool, ms: list[float]) -> None:
    def event(key: str, device: DeviceType, cpu_us: float, gpu_us: float) -> SimpleNamespace:
        times = {"self_cpu_time_total": cpu_us, "self_device_time_total": gpu_us}
        return SimpleNamespace(key=key, count=8, device_type=device, **times)

    events = [
        event("aten::add", DeviceType.CPU, 2000, 4000),
        event("aten::conv2d", DeviceType.CPU, 8000, 12000),
        event("void at::native::elementwise", DeviceType.CUDA, 0, 4000),
    ]
    found = operators(events, 4, on_gpu)
    assert [(o.name, o.calls) for o in found] == [("aten::conv2d", 2), ("aten::add", 2)]
    assert [o.ms for o in found] == ms


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["--sizes", "huge"], "192x640"),
        (["--sizes", "100x100"], "multiple of 32"),
        (["--networks", "tremendous"], "published, small"),
        (["--networks", "absent.safetensors"], "absent.safetensors"),
        (["--devices", "abacus"], "abacus"),
        (["--repeats", "0"], "1 or more"),
        (["--backends", "onnx", "--precisions", "bfloat16"], "float32"),
        (["--node", "--backends", "onnx", "--precisions", "bfloat16"], "float32"),
        (["--node", "--sizes", "96x320"], "leave --sizes out"),
        (["--node", "--threads", "1"], "OMP_NUM_THREADS"),
        (["--node", "--precisions", "float32", "bfloat16"], "give --precisions one value"),
        (["--scaling", "--sizes", "96x320", "192x640"], "give --sizes one value"),
        (["--scaling", "--backends", "onnx"], "with torch"),
        (["--profile", "--networks", "small", "published"], "give --networks one value"),
        (["--profile", "--backends", "onnx"], "with torch"),
    ],
)
def test_wrong_wishes_end_in_a_sentence(
    wrong: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["bench", "--repeats", "1", "--out", str(tmp_path), *wrong]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
