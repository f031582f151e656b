"""What the command line makes of its arguments."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from training_helpers import TINY, batch_of, write_drive

from dualrefine_ros.data.splits import load_split
from dualrefine_ros.model import random_model
from dualrefine_ros.tools.main import main
from dualrefine_ros.training.batch import as_float
from dualrefine_ros.training.forward import teach
from dualrefine_ros.training.module import DualRefineTraining


class Stopped(Exception):
    """Raised where a test has seen enough."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny network from chance."""
    folder = tmp_path_factory.mktemp("config")
    drive = write_drive(folder / "wall", frames=6)
    path = folder / "tiny.yaml"
    path.write_text(
        f"""
out: {folder / "run"}
model:
  network: {{depth_backbone: lcnet_050, pose_backbone: lcnet_050, height: 64, width: 96}}
  initial: {{imagenet: false}}
data: {{train: [{{path: {drive}}}], batch_size: 2, workers: 0, cache: {folder / "cache"}}}
pictures: {{every: 0}}
trainer: {{accelerator: cpu, max_epochs: 1, enable_model_summary: false}}
"""
    )
    return path


def fit(config: Path, *arguments: str) -> int:
    return main(["train", "fit", "--config", str(config), *arguments])


def test_batch_norms_of_several_processes_keep_their_activations(config: Path, monkeypatch) -> None:
    """In evaluation mode the network says the same before and after; torch's own conversion drops them."""
    plugins: list[Any] = []

    def stop(run: DualRefineTraining, stage: str) -> None:
        plugins.append(run.trainer._accelerator_connector._layer_sync)
        raise Stopped

    monkeypatch.setattr(DualRefineTraining, "setup", stop)
    with pytest.raises(Stopped):
        fit(config, "--trainer.sync_batchnorm", "true")
    model = random_model(TINY).eval()
    images = as_float(batch_of(1).images)
    with torch.no_grad():
        before = teach(model, *images)
        synchronised = plugins[0].apply(model)
        after = teach(synchronised, *images)
    norms = [m for m in synchronised.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(m, nn.SyncBatchNorm) for m in norms)
    assert not any(isinstance(m, BatchNormAct2d) for m in synchronised.modules())
    for scale, disparity in before.disparities.items():
        torch.testing.assert_close(after.disparities[scale], disparity)
    torch.testing.assert_close(after.T_prev_cur, before.T_prev_cur)


# of KITTI odometry, in the data set's own table
DRIVES = {
    "00": "2011_10_03/2011_10_03_drive_0027_sync",
    "01": "2011_10_03/2011_10_03_drive_0042_sync",
    "02": "2011_10_03/2011_10_03_drive_0034_sync",
    "03": "2011_09_26/2011_09_26_drive_0067_sync",
    "04": "2011_09_30/2011_09_30_drive_0016_sync",
    "05": "2011_09_30/2011_09_30_drive_0018_sync",
    "06": "2011_09_30/2011_09_30_drive_0020_sync",
    "07": "2011_09_30/2011_09_30_drive_0027_sync",
    "08": "2011_09_30/2011_09_30_drive_0028_sync",
    "09": "2011_09_30/2011_09_30_drive_0033_sync",
    "10": "2011_09_30/2011_09_30_drive_0034_sync",
}
CONFIGS = Path(__file__).parents[1] / "config" / "train"


def drive_of(folder: str) -> str:
    """A drive of KITTI raw, whatever name it goes by."""
    parts = folder.split("/")
    return DRIVES[parts[-1]] if parts[-2] == "sequences" else "/".join(parts[-2:])


@pytest.mark.parametrize("name", ["kitti_mr", "kitti_hr", "kitti_odom", "small"])
def test_the_best_is_chosen_on_what_is_neither_trained_nor_tested_on(name: str) -> None:
    data = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["data"]
    seen = [recording["split"] for recording in data["train"]]
    tests = {
        "eigen_zhou_train": ["eigen_test", "eigen_benchmark_test", "odom_09", "odom_10"],
        "odom_train": ["odom_val", "odom_09", "odom_10"],
    }
    seen += tests[seen[0]]
    taken = {drive_of(frame.folder) for split in seen for frame in load_split(split)}
    validated = [drive_of(recording["path"]) for recording in data["validate"]]
    assert validated
    assert not taken & set(validated)


def test_a_split_to_validate_on_is_refused(config: Path, capsys) -> None:
    assert fit(config, "--data.validate", '[{"path": "kitti", "split": "eigen_zhou_val"}]') == 2
    assert "name one in kitti instead of the split eigen_zhou_val" in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def trained(config: Path) -> Path:
    """The folder of a run of one step, with its exported network."""
    run = config.parent / "trained"
    assert fit(config, "--out", str(run), "--trainer.max_steps", "1") == 0
    checkpoint = run / "checkpoints" / "latest.ckpt"
    assert main(["export", str(checkpoint), str(run / "network.safetensors")]) == 0
    return run


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--ckpt_path", "network.safetensors"], "start from it by --init"),
        (["--ckpt_path", "absent.ckpt"], "There is no checkpoint"),
        (["--ckpt_path", "noise.ckpt"], "is not a PyTorch file"),
        (["--ckpt_path", "foreign.ckpt"], "is no checkpoint of a training run"),
        (
            ["--ckpt_path", "checkpoints/latest.ckpt", "--model.network.depth_backbone", "lcnet_075"],
            "is of another network (lcnet_050, lcnet_050)",
        ),
        (["--init", "checkpoints/latest.ckpt"], "dualrefine export"),
    ],
)
def test_what_a_run_cannot_start_from_is_one_sentence(
    config: Path, trained: Path, monkeypatch, capsys, arguments: list[str], reason: str
) -> None:
    monkeypatch.chdir(trained)
    Path("noise.ckpt").write_bytes(b"noise")
    torch.save({"epoch": 3}, "foreign.ckpt")
    capsys.readouterr()
    assert fit(config, *arguments) == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_going_on_with_another_network_setting_is_said(config: Path, trained: Path, caplog) -> None:
    latest = ["--ckpt_path", str(trained / "checkpoints" / "latest.ckpt"), "--trainer.max_steps", "1"]
    assert fit(config, *latest, "--out", str(trained.parent / "same")) == 0
    assert "another experiment" not in caplog.text
    assert (
        fit(config, *latest, "--out", str(trained.parent / "other"), "--model.network.depth_deviation", "2")
        == 0
    )
    assert "was trained with depth_deviation 0.0 (now 2.0)" in caplog.text


@pytest.mark.parametrize("command", ["test", "predict"])
def test_only_what_we_have_is_offered(config: Path, command: str, capsys) -> None:
    assert main(["train", command, "--config", str(config)]) == 2
    choices = capsys.readouterr().err.splitlines()[-1].partition("choose from")[2].partition(")")[0]
    assert "fit" in choices
    assert "validate" in choices
    assert command not in choices


def test_a_run_says_nothing_that_nobody_needs(config: Path, tmp_path: Path) -> None:
    """In a process of its own: pytest collects what loggers say in another way than people see it."""
    command = [sys.executable, "-m", "dualrefine_ros.tools.main", "train", "fit", "--config", str(config)]
    command += ["--out", str(tmp_path / "run"), "--trainer.max_steps", "1"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "`Trainer.fit` stopped" in said.stderr, "what Lightning has to say of the run is still said"
    assert "weights_only" not in said.stderr
    assert "Tip" not in said.stderr
