"""Checkpoints: ours, the published one, and everything that can be wrong with either."""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dualrefine_ros.errors import CheckpointError
from dualrefine_ros.model import (
    SMALL,
    CheckpointInfo,
    from_published,
    load_checkpoint,
    random_model,
    read_info,
    save_checkpoint,
)
from dualrefine_ros.model.published import our_key, published_key
from dualrefine_ros.tools.main import main

PARITY = Path(__file__).parent / "parity"
sys.path.insert(0, str(PARITY))
from deterministic_weights import make_state_dict  # noqa: E402

PLAIN = {
    "height": 192,
    "width": 640,
    "min_depth_bin": torch.tensor(0.1),
    "max_depth_bin": np.float64(100.0),  # pickled as a NumPy scalar
    "mean_depth_bin": np.float32(3.0),
    "median_depth_bin": 2.5,
}


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    return {key: torch.from_numpy(value) for key, value in make_state_dict().items()} | PLAIN


@pytest.fixture(scope="module")
def pth(published: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "depth_pose.pth"
    torch.save(published, path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    model = random_model("small")
    save_checkpoint(model, path, CheckpointInfo(model.config, "CC0", {"steps": 3}))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.err if status else captured.out


def assert_one_sentence(message: str) -> None:
    assert message.count("\n") == 1, message
    assert message.rstrip().endswith("."), message
    assert "Traceback" not in message


def test_import_and_load_give_the_published_network(
    pth: Path, published: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mr.safetensors"
    status, text = run(capsys, "import", pth, out)
    assert status == 0
    assert "hrnet_w18, 640x192" in text
    model = load_checkpoint(out)
    assert not model.training
    ours = model.state_dict()
    for key in (
        "cnet_stage4.0.branches.3.0.conv1.weight",
        "update_block.gru.convq.weight_v",
        "pnets.0.1.pose2.bias",
    ):
        assert torch.equal(ours[str(our_key(key))], published[key]), key
    direct = from_published(published)
    assert all(torch.equal(ours[key], value) for key, value in direct.state_dict().items())
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["config"])["depth_backbone"] == "hrnet_w18"
    assert json.loads(metadata["config"])["max_depth"] == 100.0
    assert metadata["licence"]
    status, text = run(capsys, "info", out)
    assert status == 0
    for expected in (
        "hrnet_w18",
        "resnet18",
        "640x192 (width",
        "0.1 .. 100, metres up to scale",
        "imported from depth_pose.pth",
    ):
        assert expected in text


def test_numpy_arrays_do_as_well() -> None:
    state = make_state_dict()
    model = from_published(state)
    assert np.array_equal(model.refiner.delta.detach().numpy(), state["reproject_2.delta"])


def test_every_published_key_has_one_home(published: dict[str, Any]) -> None:
    model = from_published(published)
    for key in model.state_dict():
        if not key.endswith("num_batches_tracked"):
            assert published_key(key) in published, key
            assert our_key(published_key(key)) == key


def test_the_resolution_is_the_files(published: dict[str, Any]) -> None:
    assert from_published(published | {"height": 288, "width": 960}).config.width == 960
    with pytest.raises(CheckpointError, match="whole numbers"):
        from_published(published | {"height": "tall"})


def test_misfits_are_listed_by_their_published_names(published: dict[str, Any]) -> None:
    state = dict(published)
    del state["cnet_layer1.0.conv1.weight"]
    del state["update_block.gru.w.weight_g"]
    state["something.new"] = torch.zeros(3)
    state["reproject_2.delta"] = torch.zeros(2)
    with pytest.raises(CheckpointError) as caught:
        from_published(state)
    message = str(caught.value)
    assert "2 missing (cnet_layer1.0.conv1.weight, update_block.gru.w.weight_g)" in message
    assert "1 unexpected (something.new)" in message
    assert "1 of another shape (reproject_2.delta (2,) instead of (1,))" in message


@pytest.mark.parametrize(
    "unused", ["pnets.1.0.conv1.weight", "pose_update.norm1.weight", "decoder.decoder.0.conv.conv.bias"]
)
def test_unused_keys_may_be_absent(published: dict[str, Any], unused: str) -> None:
    state = {key: value for key, value in published.items() if key != unused}
    assert len(state) == len(published) - 1
    from_published(state)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("evil_was_here"),))


def test_bad_published_files(
    pth: Path,
    small: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    truncated = tmp_path / "truncated.pth"
    truncated.write_bytes(pth.read_bytes()[:100_000])
    text = tmp_path / "text.pth"
    text.write_text("not a checkpoint")
    empty = tmp_path / "empty.pth"
    empty.write_bytes(b"")
    a_list = tmp_path / "list.pth"
    torch.save([1, 2], a_list)
    other = tmp_path / "other.pth"
    torch.save({"encoder.weight": torch.zeros(2)}, other)
    evil = tmp_path / "evil.pth"
    torch.save({"x": Evil()}, evil)
    old = tmp_path / "old.pth"
    torch.save({"x": Evil()}, old, _use_new_zipfile_serialization=False)
    pickled = tmp_path / "pickled.pth"
    pickled.write_bytes(pickle.dumps({"a": 1}))
    script = tmp_path / "script.pth"
    with pytest.deprecated_call():
        torch.jit.script(torch.nn.Linear(2, 2)).save(script)
    out = tmp_path / "out.safetensors"
    for bad, reason in {
        pickled: "",
        script: "",
        truncated: "is cut short",
        text: "is not a PyTorch file",
        empty: "is empty",
        a_list: "holds a list, not a state dict",
        other: "unexpected (encoder.weight)",
        evil: "holds more than tensors and numbers",
        old: "holds more than tensors and numbers",
        tmp_path / "missing.pth": "There is no checkpoint",
        tmp_path: "is a folder",
        small: "is a safetensors file",
    }.items():
        status, message = run(capsys, "import", bad, out)
        assert status == 2, bad
        assert_one_sentence(message)
        assert reason in message
        assert "\x1b" not in message
        assert "orch.load" not in message
        assert not out.exists()
    assert not (tmp_path / "evil_was_here").exists()
    assert {p.name for p in tmp_path.iterdir() if p.suffix != ".pth"} == set()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({5: torch.zeros(1)}, "an entry 5"),
        ({"height": float("inf")}, "whole numbers"),
        ({"reproject_2.delta": torch.zeros(1).to_sparse()}, "no dense tensor"),
        ({"reproject_2.delta": torch.zeros(1, dtype=torch.complex64)}, "no dense tensor"),
        ({"reproject_2.delta": torch.zeros(1, device="meta")}, "no dense tensor"),
        ({"reproject_2.delta": np.array(["1"])}, "no dense tensor"),
        ({"reproject_2.delta": {"a": 1}}, "no dense tensor"),
    ],
)
def test_entries_that_are_no_weights(published: dict[str, Any], change: dict[Any, Any], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        from_published(published | change)


def test_our_own_names_are_not_published_ones() -> None:
    with pytest.raises(CheckpointError, match=r"unexpected \(.*depth_backbone\.net\."):
        from_published(random_model("published").state_dict())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(
    published: dict[str, Any], small: Path, tmp_path: Path, value: float
) -> None:
    delta = published["reproject_2.delta"].clone().fill_(value)
    with pytest.raises(CheckpointError, match=r"1 not finite \(reproject_2\.delta\)"):
        from_published(published | {"reproject_2.delta": delta})
    broken = tmp_path / "broken.safetensors"
    with safe_open(small, "pt") as file:
        save_file(load_file(small) | {"refiner.delta": torch.full((1,), value)}, broken, file.metadata())
    with pytest.raises(CheckpointError, match=r"1 not finite \(refiner\.delta\)"):
        load_checkpoint(broken)


def test_output_that_cannot_be_written(pth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for out, reason in (
        (tmp_path / "no_such_folder" / "x.safetensors", "There is no folder"),
        (tmp_path / "x.pth", "name the output x.safetensors"),
    ):
        status, message = run(capsys, "import", pth, out)
        assert status == 2
        assert_one_sentence(message)
        assert reason in message
    assert list(tmp_path.iterdir()) == []


def test_failed_write_keeps_the_old_file(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(small.read_bytes())

    def half_written(tensors: object, filename: str, metadata: object) -> None:
        Path(filename).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("dualrefine_ros.model.checkpoint.save_file", half_written)
    with pytest.raises(CheckpointError, match="disk full"):
        save_checkpoint(random_model("small"), path)
    assert path.read_bytes() == small.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_info_round_trip(small: Path) -> None:
    info = read_info(small)
    assert info == CheckpointInfo(SMALL, "CC0", {"steps": 3})
    loaded, saved = load_checkpoint(small).state_dict(), random_model("small").state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in saved.items())


def test_a_file_of_before_our_additions_is_the_papers(small: Path, tmp_path: Path) -> None:
    with safe_open(small, "pt") as file:
        metadata = file.metadata()
    config = json.loads(metadata["config"])
    del config["depth_deviation"], config["coarse_steps"]
    old = tmp_path / "old.safetensors"
    save_file(load_file(small), old, {**metadata, "config": json.dumps(config)})
    assert load_checkpoint(old).config == replace(SMALL, depth_deviation=0.0, coarse_steps=0)
    for wrong in (-1.0, "much"):
        config["depth_deviation"] = wrong
        save_file(load_file(small), tmp_path / "bad.safetensors", {**metadata, "config": json.dumps(config)})
        with pytest.raises(CheckpointError):
            read_info(tmp_path / "bad.safetensors")


def test_half_precision_storage_is_widened(small: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    with safe_open(small, "pt") as file:
        save_file({k: v.half() for k, v in load_file(small).items()}, path, file.metadata())
    assert {p.dtype for p in load_checkpoint(path).parameters()} == {torch.float32}


def test_half_the_size_and_nearly_the_same_output(small: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.safetensors"
    assert main(["export", str(small), str(half), "--half"]) == 0
    assert half.stat().st_size < 0.52 * small.stat().st_size
    assert read_info(half).config == read_info(small).config
    images, intrinsics = torch.rand(2, 1, 3, 96, 320), torch.tensor([[185.0, 184.0, 157.0, 47.0]])
    with torch.inference_mode():
        whole, halved = (load_checkpoint(p)(*images, intrinsics, iterations=0) for p in (small, half))
    assert 0 < float((whole.disp_teacher - halved.disp_teacher).abs().max()) < 1e-2
    assert float((whole.T_prev_cur_teacher - halved.T_prev_cur_teacher).abs().max()) < 1e-3


def test_a_file_of_pytorchs_is_led_to_where_it_is_read(small: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "best.ckpt")
    with pytest.raises(CheckpointError, match="'dualrefine export' makes a checkpoint"):
        load_checkpoint(tmp_path / "best.ckpt")


def test_a_cut_safetensors_file_is_none_of_pytorchs(tmp_path: Path) -> None:
    """Whatever the length at its start: this one begins as a pickle."""
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((0x480).to_bytes(8, "little") + b'{"__metadata__":')
    with pytest.raises(CheckpointError, match="copy or download it again"):
        load_checkpoint(cut)


def test_no_export_over_its_own_source(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = small.read_bytes()
    assert main(["export", str(small), str(small)]) == 2
    assert "would be written over itself" in capsys.readouterr().err
    assert main(["export", "nowhere.ckpt", str(small)]) == 2
    assert "There is no checkpoint nowhere.ckpt" in capsys.readouterr().err
    assert small.read_bytes() == before


def test_bad_checkpoints(pth: Path, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(small.read_bytes()[:-1000])
    text = tmp_path / "text.safetensors"
    text.write_text("not a checkpoint")
    empty = tmp_path / "empty.safetensors"
    empty.write_bytes(b"")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    with safe_open(small, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(small)
    other_backbone = tmp_path / "other.safetensors"
    config = json.dumps({**json.loads(metadata["config"]), "depth_backbone": "resnet18"})
    save_file(tensors, other_backbone, {**metadata, "config": config})
    unknown = tmp_path / "unknown.safetensors"
    config = json.dumps({**json.loads(metadata["config"]), "depth_backbone": "no_such_net"})
    save_file(tensors, unknown, {**metadata, "config": config})
    newer = tmp_path / "newer.safetensors"
    save_file(tensors, newer, {**metadata, "config": '{"colour": 1}'})
    odd = []
    for number, change in enumerate(
        ({"depth_backbone": 5}, {"height": 96.0}, {"max_depth": float("inf")}, {"pose_updates": "no"})
    ):
        config = json.dumps({**json.loads(metadata["config"]), **change})
        odd.append(tmp_path / f"odd{number}.safetensors")
        save_file(tensors, odd[-1], {**metadata, "config": config})
    for number, training in enumerate(("[1]", '"text"')):
        odd.append(tmp_path / f"training{number}.safetensors")
        save_file(tensors, odd[-1], {**metadata, "training": training})
    for bad in (
        *odd,
        truncated,
        text,
        empty,
        foreign,
        other_backbone,
        unknown,
        newer,
        tmp_path / "missing.safetensors",
        pth,
    ):
        status, message = run(capsys, "info", bad)
        assert status == 2, bad
        assert_one_sentence(message)
        assert str(bad) in message
    assert "dualrefine import" in message
