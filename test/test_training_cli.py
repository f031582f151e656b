"""What the command line makes of its arguments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from training_helpers import TINY, batch_of, write_drive

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
