"""What a run by the command line leaves: the best of the refiner, and a state to go on from exactly."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from training_helpers import write_drive

from dualrefine_ros.tools.main import main
from dualrefine_ros.training.module import DualRefineTraining

STEPS_AN_EPOCH = 2
EPOCHS = 3  # one of each phase


class Interrupted(Exception):
    """Stands for a power cut."""


@pytest.fixture(scope="module", autouse=True)
def _no_pictures() -> Iterator[None]:
    """They take a third of the time of runs so short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dualrefine_ros.training.curves.plot_curves", lambda run: None)
        yield


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp("drive") / "wall", frames=2 * STEPS_AN_EPOCH + 2)


def train(drive: Path, out: Path, *arguments: str) -> int:
    config = drive.parent / "tiny.yaml"
    config.write_text(
        f"""
model:
  network: {{depth_backbone: lcnet_050, pose_backbone: lcnet_050, height: 64, width: 96}}
  schedule: {{teacher_until_epoch: 1, frozen_from_epoch: 2, warmup_steps: 2}}
  validation: {{iterations: 2}}
  initial: {{imagenet: false}}
data:
  train: [{{path: {drive}}}]
  validate: [{{path: {drive}}}]
  batch_size: 2
  workers: 0
  cache: {drive.parent / "cache"}
best: {{monitor: val/ate_percent}}
pictures: {{every: 0}}
latest: {{every_n_train_steps: 1}}
trainer: {{accelerator: cpu, max_epochs: {EPOCHS}, log_every_n_steps: 1, enable_model_summary: false}}
"""
    )
    return main(["train", "fit", "--config", str(config), "--out", str(out), *arguments])


def checkpoint(run: Path, name: str) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def logged(run: Path) -> dict[tuple[str, int], str]:
    """(column, step) -> value; a resumed run's later logs over its earlier ones."""
    values = {}
    for log in sorted(run.glob("csv/version_*/metrics.csv")):
        with open(log, newline="", encoding="ascii") as file:
            for row in csv.DictReader(file):
                values |= {(k, int(row["step"])): v for k, v in row.items() if v}
    return values


@pytest.fixture(scope="module")
def whole(drive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert train(drive, out) == 0
    return out


def refined(log: dict[tuple[str, int], str]) -> dict[int, float]:
    return {step: float(value) for (name, step), value in log.items() if name == "val/ate_percent"}


def test_the_best_is_not_of_the_teacher_alone(whole: Path) -> None:
    log = logged(whole)
    ate = refined(log)
    last_steps = [STEPS_AN_EPOCH * (epoch + 1) - 1 for epoch in range(EPOCHS)]
    assert sorted(ate) == last_steps[1:], "the teacher's epoch has no refined figure"
    assert {step for name, step in log if name == "val/teacher_ate_percent"} == set(last_steps)
    best = checkpoint(whole, "best")
    winner = min(ate, key=lambda step: ate[step])
    assert best["global_step"] == winner + 1


def test_the_last_step_is_kept(drive: Path, tmp_path: Path) -> None:
    assert (
        train(drive, tmp_path / "run", "--latest.every_n_train_steps", "4", "--trainer.max_steps", "5") == 0
    )
    assert checkpoint(tmp_path / "run", "latest")["global_step"] == 5


def test_the_latest_waits_for_no_validation_that_does_not_follow(
    drive: Path, tmp_path: Path, monkeypatch
) -> None:
    """Validation after more batches than an epoch has."""

    def power_cut(self: DualRefineTraining, *_: Any) -> None:
        if self.global_step == STEPS_AN_EPOCH:
            raise Interrupted

    monkeypatch.setattr(DualRefineTraining, "on_train_batch_start", power_cut)
    arguments = ("--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", "3")
    with pytest.raises(Interrupted):
        train(drive, tmp_path / "run", *arguments)
    assert checkpoint(tmp_path / "run", "latest")["global_step"] == STEPS_AN_EPOCH


@pytest.mark.parametrize(
    ("hook", "step", "workers"),
    [
        ("on_train_batch_start", STEPS_AN_EPOCH - 1, 0),
        ("on_train_batch_start", 2 * STEPS_AN_EPOCH - 1, 1),
        ("on_validation_epoch_start", 2 * STEPS_AN_EPOCH, 0),
        ("on_validation_epoch_end", 3 * STEPS_AN_EPOCH, 0),
    ],
    ids=["teacher", "joint", "before validation", "in the last validation"],
)
def test_an_interrupted_run_ends_as_the_whole_one(
    drive: Path, whole: Path, tmp_path: Path, monkeypatch, hook: str, step: int, workers: int
) -> None:
    """Losses, validation figures, the best and the final weights; also with a process that reads ahead."""
    run, reading = tmp_path / "run", ("--data.workers", str(workers))
    original = getattr(DualRefineTraining, hook)

    def power_cut(self: DualRefineTraining, *arguments: Any) -> Any:
        if self.global_step == step:
            raise Interrupted
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(DualRefineTraining, hook, power_cut)
        with pytest.raises(Interrupted):
            train(drive, run, *reading)
    assert train(drive, run, *reading, "--ckpt_path", str(run / "checkpoints" / "latest.ckpt")) == 0
    expected, found = logged(whole), logged(run)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert float(found[key]) == pytest.approx(float(value), rel=1e-5, abs=1e-9), key
    for name in ("best", "latest"):
        one, other = checkpoint(whole, name), checkpoint(run, name)
        assert one["global_step"] == other["global_step"]
        for key, value in one["state_dict"].items():
            torch.testing.assert_close(other["state_dict"][key], value, rtol=1e-6, atol=1e-7)


def test_a_run_goes_on_from_its_best(drive: Path, whole: Path, tmp_path: Path) -> None:
    """It was written after an epoch's validation: the next epoch follows."""
    best = whole / "checkpoints" / "best.ckpt"
    done = torch.load(best, weights_only=True)["global_step"]
    assert train(drive, tmp_path / "run", "--ckpt_path", str(best), "--trainer.max_epochs", "4") == 0
    steps = {step for name, step in logged(tmp_path / "run") if name == "loss"}
    assert steps == set(range(done, 4 * STEPS_AN_EPOCH))


def test_failed_steps_in_a_row_are_remembered() -> None:
    run = DualRefineTraining.__new__(DualRefineTraining)
    pl.LightningModule.__init__(run)
    run.on_load_checkpoint({"dualrefine": {"failed_steps": 7, "failed_in_a_row": 3}})
    assert (run.failed_in_all, run.failed_in_a_row) == (7, 3)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--best.monitor", "abs_rel"], "val/abs_rel is the mean"),
        (["--best.monitor", "val/a1"], "set best.mode to max"),
        (["--best.monitor", "val/ate_percent", "--best.mode", "max"], "set best.mode to min"),
        (["--latest.every_n_train_steps", "0"], "must be 1 or more"),
        (["--data.min_change", "200"], "lower data.min_change (200 gray levels)"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(
    drive: Path, tmp_path: Path, arguments: list[str], reason: str, capsys
) -> None:
    assert train(drive, tmp_path / "run", *arguments) == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]
    assert not list((tmp_path / "run").glob("checkpoints/*.ckpt"))


@pytest.mark.parametrize("teacher_until_epoch", [0, 1], ids=["joint", "teacher"])
def test_a_figure_nobody_measures_ends_the_run_after_the_first_epoch_without_losing_it(
    drive: Path, tmp_path: Path, capsys, teacher_until_epoch: int
) -> None:
    arguments = ["--best.monitor", "val/abs_rel", "--latest.every_n_train_steps", "1000"]
    arguments += ["--model.schedule.teacher_until_epoch", str(teacher_until_epoch)]
    assert train(drive, tmp_path / "run", *arguments) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "does not measure val/abs_rel" in error
    assert "val/teacher_ate_percent" in error
    assert checkpoint(tmp_path / "run", "latest")["global_step"] == STEPS_AN_EPOCH
    latest = str(tmp_path / "run" / "checkpoints" / "latest.ckpt")
    mended = ["--ckpt_path", latest, "--best.monitor", "val/ate_percent", "--trainer.max_epochs", "2"]
    assert train(drive, tmp_path / "run", *mended) == 0
    assert checkpoint(tmp_path / "run", "latest")["global_step"] == 2 * STEPS_AN_EPOCH


def test_a_best_that_nothing_can_choose_is_announced(drive: Path, tmp_path: Path, caplog) -> None:
    arguments = ("--data.validate", "null", "--trainer.max_steps", "1")
    assert train(drive, tmp_path / "run", *arguments) == 0
    assert "There will be no best.ckpt: data.validate names no recording" in caplog.text


def test_validation_needs_no_training_data(drive: Path, whole: Path, tmp_path: Path, capsys) -> None:
    config = drive.parent / "tiny.yaml"
    best = whole / "checkpoints" / "best.ckpt"
    arguments = ["--config", str(config), "--out", str(tmp_path), "--data.train", "null"]
    assert main(["train", "validate", *arguments, "--ckpt_path", str(best)]) == 0
    assert "val/ate_percent" in capsys.readouterr().out
    arguments += ["--best.monitor", "val/abs_rel"]  # of no concern here
    assert main(["train", "validate", *arguments, "--ckpt_path", str(best)]) == 0
