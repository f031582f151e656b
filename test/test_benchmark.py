"""The benchmark measures what it says: an honest reference, both sides alike, figures that can be read."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from dualrefine_ros.benchmark.reference import reference_frame
from dualrefine_ros.model import DualRefine, from_published
from dualrefine_ros.network_io import StageClock

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
