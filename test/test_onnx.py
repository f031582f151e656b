"""The exported graphs, run by onnxruntime, against the published numbers and against PyTorch."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.frame import Frame, Intrinsics
from dualrefine_ros.model import (
    SMALL,
    CheckpointInfo,
    DualRefine,
    coarse_alignment,
    from_published,
    random_model,
    save_checkpoint,
)
from dualrefine_ros.model.disparity import UPSAMPLING
from dualrefine_ros.odometry import OdometryConfig, VisualOdometry
from dualrefine_ros.tools.main import main

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
pytest.importorskip("onnxscript", reason="the extra 'onnx' is not installed")

from dualrefine_ros.model import cache as cache_module  # noqa: E402
from dualrefine_ros.model import onnx_export  # noqa: E402
from dualrefine_ros.model import onnx_network as onnx_network_module  # noqa: E402
from dualrefine_ros.model.onnx_network import OnnxNetwork, onnx_network  # noqa: E402

PARITY = Path(__file__).parent / "parity"
sys.path.insert(0, str(PARITY))
from deterministic_weights import make_state_dict  # noqa: E402

TOLERANCE = 1e-3
TINY = replace(SMALL, height=64, width=96)
CAMERA = Intrinsics(60.0, 60.0, 48.0, 32.0, 96, 64)


@pytest.fixture(scope="module")
def published() -> DualRefine:
    """On the known weights, at the smaller of the recorded sizes."""
    return from_published({**make_state_dict(), "height": 96, "width": 320})


@pytest.fixture(scope="module")
def exported(published: DualRefine, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """From a checkpoint of ours, by the command line; that of a training run where training is tested."""
    folder = tmp_path_factory.mktemp("onnx")
    info = CheckpointInfo(published.config, licence="ours")
    save_checkpoint(published, folder / "known.safetensors", info)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["export", str(folder / "known.safetensors"), str(folder / "net.onnx")]) == 0
    graphs = onnx_export.graph_paths(folder / "net.onnx")
    assert said.getvalue().split() == [str(path) for path in graphs.values()]
    assert {path.name for path in folder.iterdir()} == {
        "known.safetensors",
        *(f"net.{name}.onnx" for name in ("frame", "pose", "step", "upsample")),
    }, "nothing else is left behind"
    return graphs


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    with np.load(PARITY / "inference_96x320.npz") as file:
        return {key: torch.from_numpy(file[key])[None] for key in file}


def assert_agrees(actual: Tensor, published: Tensor) -> None:
    torch.testing.assert_close(actual, published.reshape(actual.shape), rtol=0, atol=TOLERANCE)


@torch.inference_mode()
def test_published_numbers(
    published: DualRefine, exported: dict[str, Path], expected: dict[str, Tensor]
) -> None:
    """From the images to disparity and pose, solvers of ours in between."""
    network = OnnxNetwork(published.config, exported)
    cur, prev = (expected[f"image_{name}"].permute(0, 3, 1, 2).float() / 255 for name in ("cur", "prev"))
    encoded, before = network.encode(cur), network.encode(prev)
    assert_agrees(encoded.matching.features, expected["match_cur"])
    assert_agrees(encoded.matching.confidence, expected["conf_cur"])
    assert_agrees(encoded.hidden, expected["hidden_0"])
    assert_agrees(encoded.disparity, expected["disp_teacher_scale2"])
    T = network.teacher_pose(cur, prev)
    assert_agrees(T, expected["pose_teacher"])
    K = expected["intrinsics"].float()
    first = network.updater(encoded, before.matching, K)(
        encoded.hidden, network.to_depth(encoded.disparity), T
    )
    assert_agrees(first.depth, expected["step1_depth"])
    assert_agrees(first.T_prev_cur, expected["step1_pose"])
    refined = network.refine(encoded, before.matching, T, K, iterations=6)
    assert_agrees(network.disparity(refined), expected["disp_refined_full"])
    assert_agrees(refined.T_prev_cur, expected["pose_refined"])
    assert_agrees(refined.pose_update_norms, expected["pose_update_norms"])


def test_files_are_what_runtimes_expect(published: DualRefine, exported: dict[str, Path]) -> None:
    """Opset, fixed shapes, one image at a time, no GridSample of opset 20, and whose weights they are."""
    h, w = 96 // UPSAMPLING, 320 // UPSAMPLING
    for name, path in exported.items():
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
        metadata = {item.key: item.value for item in model.metadata_props}
        assert json.loads(metadata["config"]) == asdict(published.config)
        assert metadata["licence"] == "ours"
        names, outputs = onnx_export.GRAPHS[name]
        assert [i.name for i in model.graph.input] == list(names)
        assert [o.name for o in model.graph.output] == list(outputs)
        for value in (*model.graph.input, *model.graph.output):
            assert all(d.HasField("dim_value") for d in value.type.tensor_type.shape.dim), value.name
    step = onnx.load(exported["step"])
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in step.graph.input}
    assert shapes["features_prev"] == [1, 64, h, w]
    assert shapes["context_terms"] == [1, 192, h, w]
    samples = [node for node in step.graph.node if node.op_type == "GridSample"]
    assert samples
    assert {a.s.decode() for node in samples for a in node.attribute if a.name == "mode"} <= {"bilinear"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


def frames() -> list[Frame]:
    noise = np.random.default_rng(0).integers(0, 256, (8, 13, 3), dtype=np.uint8)
    wide = np.kron(noise, np.ones((8, 8, 1), np.uint8))
    return [Frame(i * 10**8, np.ascontiguousarray(wide[:, 2 * i : 2 * i + 96]), CAMERA) for i in range(3)]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_engine_answers_the_same_on_either_backend(
    cache: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    """Also where refinement does not start at the teacher's pose."""
    if elsewhere:
        for name, anything in (("LEFT", np.inf), ("OVERLAP", 0.0), ("REACH", 0.0), ("SUSPICION", -1.0)):
            monkeypatch.setattr(coarse_alignment, name, anything)
    model = random_model(TINY)
    engines = [
        VisualOdometry(model, OdometryConfig(iterations=4, device="cpu", backend=b))
        for b in ("torch", "onnx")
    ]
    answers = [[engine.process(frame) for frame in frames()] for engine in engines]
    for plain, other in zip(*answers, strict=True):
        assert plain.status is other.status
        np.testing.assert_allclose(other.depth, plain.depth, rtol=TOLERANCE)
        np.testing.assert_allclose(other.T_world_cam, plain.T_world_cam, atol=TOLERANCE)
        np.testing.assert_allclose(other.pose_covariance, plain.pose_covariance, rtol=1e-2, atol=1e-12)
    assert any(answer.T_prev_cur is not None for answer in answers[1])
    engines[1].release()
    engines[1].process(frames()[0])


def test_the_engine_exports_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx_network(random_model(TINY))
    assert len(list(cache.rglob("*.onnx"))) == 4
    monkeypatch.setattr(onnx_export, "_export", lambda *_: pytest.fail("exported again"))
    onnx_network(random_model(TINY))


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_graphs_that_were_cut_off_are_made_anew(
    cache: Path, part: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a power cut; the export itself is tested above."""
    onnx_network(random_model(TINY))
    step = next(cache.rglob("*.step.onnx"))
    whole = step.read_bytes()

    def export(model: DualRefine, output: Path, metadata: dict[str, str]) -> dict[str, Path]:
        step.write_bytes(whole)
        return onnx_export.graph_paths(output)

    monkeypatch.setattr(onnx_network_module, "export_onnx", export)
    os.truncate(step, int(part * len(whole)))
    onnx_network(random_model(TINY))
    assert step.read_bytes() == whole


def test_without_a_cache_the_graphs_last_as_long_as_the_process(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or, where not even that can be had, one sentence says what to do."""
    onnx_network(random_model(TINY))
    exported = {path.name: path for path in cache.rglob("*.onnx")}

    def export(model: DualRefine, output: Path, metadata: dict[str, str]) -> dict[str, Path]:
        paths = onnx_export.graph_paths(output)
        for path in paths.values():
            shutil.copy(exported[path.name], path)
        return paths

    (tmp_path / "a file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(onnx_network_module, "export_onnx", export)
    onnx_network(random_model(TINY))
    monkeypatch.setattr(onnx_network_module, "export_onnx", lambda *_: pytest.fail("exported again"))
    onnx_network(random_model(TINY))
    monkeypatch.setattr(cache_module, "_temporary", lambda _: tempfile.TemporaryDirectory(dir="/proc"))
    with pytest.raises(ConfigError, match="XDG_CACHE_HOME"):
        onnx_network(random_model(TINY))


def test_as_many_threads_as_the_thread_that_computes_has(cache: Path) -> None:
    """The node loads the network in a thread that has one, and computes in another."""
    found: list[int] = []

    def count(graph: str) -> None:
        options = network._sessions[graph].get_session_options()
        found.append(options.intra_op_num_threads)
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"

    def compute() -> None:
        torch.set_num_threads(3)
        network.encode(torch.rand(1, 3, TINY.height, TINY.width))
        count("frame")

    torch.set_num_threads(1)
    network = onnx_network(random_model(TINY))
    count("frame")
    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert found == [1, 3]


def test_what_cannot_be_had_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    model = random_model(TINY)
    with pytest.raises(ConfigError, match="backend must be one of torch, onnx"):
        OdometryConfig(backend="abacus")
    for setting in ({"precision": "bfloat16"}, {"device": "cuda"}):
        with pytest.raises(ConfigError, match="onnx backend runs on the CPU"):
            OdometryConfig(backend="onnx", **setting)
    engine = VisualOdometry(model, OdometryConfig(device="cpu"))
    with pytest.raises(ConfigError, match="backend cannot be changed"):
        engine.reconfigure(OdometryConfig(device="cpu", backend="onnx"))
    with pytest.raises(ConfigError, match="refine the pose"):
        onnx_export.export_onnx(random_model(replace(TINY, pose_updates=False)), tmp_path / "a.onnx", {})
    save_checkpoint(model, tmp_path / "net.safetensors")
    given = ["export", str(tmp_path / "net.safetensors")]
    assert main([*given, str(tmp_path / "nowhere" / "a.onnx")]) == 2
    assert main([*given, str(tmp_path / "a.pb")]) == 2
    assert main([*given, str(tmp_path / "a.onnx"), "--half"]) == 2
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    assert main([*given, str(tmp_path / "a.onnx")]) == 2
    with pytest.raises(ConfigError, match="pip install"):
        VisualOdometry(model, OdometryConfig(device="cpu", backend="onnx"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "folder" in lines[0]
    assert "--half" in lines[2]
    assert "dualrefine_ros[onnx]" in lines[3]
    assert list(tmp_path.glob("*.onnx")) == []
