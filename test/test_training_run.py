"""Runs of a few steps: they go on exactly where they were interrupted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

sys.path.insert(0, str(Path(__file__).parent))
from training_helpers import TINY, data, module, trainer, write_drive

from dualrefine_ros.model import load_checkpoint, read_info
from dualrefine_ros.model.published import needed
from dualrefine_ros.tools.main import main
from dualrefine_ros.training.checkpoints import LatestCheckpoint
from dualrefine_ros.training.curves import read_curves
from dualrefine_ros.training.export import read_run
from dualrefine_ros.training.recipe import Phase

STEPS_AN_EPOCH = 3


class LossRecorder(pl.Callback):
    """Keeps the loss of every step, and stops the run as if it were killed."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.losses: dict[int, float] = {}
        self.phases: list[Phase] = []
        self._stop_after = stop_after

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses[trainer.global_step] = outputs["loss"].item()
        self.phases.append(pl_module.phase)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self._stop_after:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp("drive") / "wall", frames=2 * STEPS_AN_EPOCH + 2)


def latest(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "latest", every_n_train_steps=1, enable_version_counter=False)


@pytest.fixture(scope="module")
def whole_run(drive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[LossRecorder, dict[str, Any]]:
    recorder = LossRecorder()
    run = module()
    trainer(tmp_path_factory.mktemp("whole"), recorder, enable_checkpointing=False).fit(run, data(drive))
    return recorder, run.model.state_dict()


def test_a_run_goes_through_its_phases(whole_run) -> None:
    expected = [Phase.TEACHER, Phase.JOINT, Phase.FROZEN]
    assert whole_run[0].phases == [phase for phase in expected for _ in range(STEPS_AN_EPOCH)]


@pytest.mark.parametrize(
    "stop_after", [2, 3, 5, 7], ids=["in an epoch", "after an epoch", "in another phase", "when frozen"]
)
def test_an_interrupted_run_goes_on_exactly(drive: Path, whole_run, tmp_path: Path, stop_after: int) -> None:
    first, second = LossRecorder(stop_after), LossRecorder()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(tmp_path, latest(tmp_path), first).fit(module(), data(drive))
    torch.manual_seed(1234)  # whatever happened to the process's generator in between
    resumed = module(seed=99)  # its own first weights are not used
    resumed.seed = 0
    trainer(tmp_path, latest(tmp_path), second).fit(
        resumed, data(drive), ckpt_path=tmp_path / "latest.ckpt", weights_only=True
    )
    expected, weights = whole_run
    assert sorted(first.losses | second.losses) == sorted(expected.losses)
    assert min(second.losses) == stop_after + 1
    for step, loss in second.losses.items():
        assert loss == pytest.approx(expected.losses[step], rel=1e-6)
    for key, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, weights[key], rtol=1e-6, atol=1e-7)


def test_averaged_weights_go_on_exactly_and_are_what_is_kept(drive: Path, tmp_path: Path) -> None:
    """Lightning's callback with our checkpoints, against the mean by hand."""
    decay = 0.5

    class Recorder(pl.Callback):
        def __init__(self) -> None:
            self.weights: list[torch.Tensor] = []

        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
            self.weights.append(next(iter(pl_module.model.depth_decoder.parameters())).detach().clone())

    recorder, whole = Recorder(), module()
    averaging = EMAWeightAveraging(decay=decay)
    trainer(tmp_path, averaging, recorder, enable_checkpointing=False).fit(whole, data(drive))
    expected = recorder.weights[0]
    for weight in recorder.weights[1:]:
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(next(iter(whole.model.depth_decoder.parameters())), expected)

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(
            tmp_path,
            EMAWeightAveraging(decay=decay),
            LatestCheckpoint(tmp_path / "latest.ckpt", 1),
            LossRecorder(stop_after=4),
        ).fit(module(), data(drive))
    kept, _ = read_run(tmp_path / "latest.ckpt")
    by_hand = recorder.weights[0]
    for weight in recorder.weights[1:4]:
        by_hand = decay * by_hand + (1 - decay) * weight
    torch.testing.assert_close(next(iter(kept.depth_decoder.parameters())), by_hand)
    resumed = module()
    trainer(tmp_path, EMAWeightAveraging(decay=decay), enable_checkpointing=False).fit(
        resumed, data(drive), ckpt_path=tmp_path / "latest.ckpt", weights_only=True
    )
    for key, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, whole.model.state_dict()[key], rtol=1e-6, atol=1e-7)


def test_loader_processes_change_nothing(drive: Path, tmp_path: Path, whole_run) -> None:
    recorder = LossRecorder()
    trainer(tmp_path, recorder, epochs=1, enable_checkpointing=False).fit(module(), data(drive, workers=2))
    assert recorder.losses == {step: whole_run[0].losses[step] for step in recorder.losses}
    assert len(recorder.losses) == STEPS_AN_EPOCH


def test_validation_drives_and_training_goes_on_as_without(drive: Path, tmp_path: Path, whole_run) -> None:
    recorder = LossRecorder()
    driver = trainer(tmp_path, recorder, limit_val_batches=1.0, enable_checkpointing=False)
    driver.fit(module(), data(drive))
    assert recorder.losses == whole_run[0].losses
    figures = driver.callback_metrics
    for name in ("ate_percent", "rotation_deg", "scale_spread", "teacher_ate_percent"):
        assert torch.isfinite(figures[f"val/{name}"])
        assert figures[f"val/{name}"] == figures[f"wall/{name}"]


def test_command_line_trains_exports_and_starts_from_an_export(drive: Path, tmp_path: Path, capsys) -> None:
    """The whole walk of a user, in one epoch."""
    config = tmp_path / "tiny.yaml"
    config.write_text(
        f"""
model:
  network: {{depth_backbone: lcnet_050, pose_backbone: lcnet_050, height: 64, width: 96}}
  schedule: {{teacher_until_epoch: 0, frozen_from_epoch: 1}}
  initial: {{imagenet: false}}
  licence: ours
data:
  train: [{{path: {drive}}}]
  validate: [{{path: {drive}}}]
  batch_size: 2
  workers: 0
  cache: {tmp_path / "cache"}
best: {{monitor: val/ate_percent}}
pictures: {{every: 2}}
latest: {{every_n_train_steps: 1}}
trainer: {{accelerator: cpu, max_epochs: 1, log_every_n_steps: 1, enable_model_summary: false}}
"""
    )
    fit = ["train", "fit", "--config", str(config), "--out"]
    assert main([*fit, str(tmp_path / "run")]) == 0
    run = tmp_path / "run"
    assert (run / "pictures" / "step_0000002.png").is_file()
    assert len(list(run.glob("logs/*/events*"))) == 1
    assert (run / "curves.png").stat().st_size > 10_000
    (metrics,) = run.glob("csv/*/metrics.csv")
    header = metrics.read_text().splitlines()[0].split(",")
    assert {"loss", "train/pose_loss", "train/learning_rate", "val/ate_percent"} <= set(header)

    exported = tmp_path / "tiny.safetensors"
    assert main(["export", str(run / "checkpoints" / "best.ckpt"), str(exported)]) == 0
    info = read_info(exported)
    assert (info.config, info.licence, info.training["steps"]) == (TINY, "ours", STEPS_AN_EPOCH)
    weights = needed(load_checkpoint(exported))
    trained = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, trained[f"model.{key}"]) for key, value in weights.items())

    assert main([*fit, str(tmp_path / "again"), "--init", str(exported), "--trainer.max_steps", "1"]) == 0
    started = torch.load(tmp_path / "again" / "checkpoints" / "latest.ckpt", weights_only=True)
    assert started["dualrefine"]["training"]["initial_weights"] == "checkpoint tiny.safetensors"
    capsys.readouterr()


def test_export_refuses_what_is_no_training_checkpoint(tmp_path: Path, capsys) -> None:
    (tmp_path / "noise.ckpt").write_bytes(b"noise")
    assert main(["export", str(tmp_path / "noise.ckpt"), str(tmp_path / "out.safetensors")]) == 2
    torch.save({"epoch": 3}, tmp_path / "foreign.ckpt")
    assert main(["export", str(tmp_path / "foreign.ckpt"), str(tmp_path / "out.safetensors")]) == 2
    assert main(["export", str(tmp_path / "absent.ckpt"), str(tmp_path / "out.safetensors")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "is not a PyTorch file" in errors[0]
    assert "is no checkpoint of a training run" in errors[1]
    assert "There is no checkpoint" in errors[2]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--model.shedule", "3"], "--model.shedule"),
        (["--trainer.max_epochs", "many"], "many"),
        (
            ["--data.train", '[{"path": "nowhere"}]', "--model.initial.imagenet", "false"],
            "There is no recording nowhere",
        ),
    ],
)
def test_wrong_arguments_are_one_sentence(
    arguments: list[str], reason: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "fit", "--trainer.accelerator", "cpu", *arguments]) == 2
    error = capsys.readouterr().err.splitlines()
    assert reason in error[-1]
    assert not any("usage:" in line for line in error)


def test_missing_packages_are_named(monkeypatch, capsys) -> None:
    for loaded in [name for name in sys.modules if name.startswith("dualrefine_ros.training")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    assert main(["train", "fit"]) == 2
    assert "Training needs the package 'lightning" in capsys.readouterr().err


def test_curves_of_an_interrupted_run_are_one(tmp_path: Path) -> None:
    for version, lines in ((0, "1,0.5,\n2,0.4,\n3,9.0,"), (2, "3,0.3,\n3,,7.5"), (10, "4,0.2,")):
        folder = tmp_path / "csv" / f"version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text("step,loss,val/ate_percent\n" + lines)
    curves = read_curves(tmp_path)
    assert curves == {"loss": {1: 0.5, 2: 0.4, 3: 0.3, 4: 0.2}, "val/ate_percent": {3: 7.5}}
