"""What folding and shorter number types cost in accuracy, on the published weights and a real pair of images.

The bounds are a few times what was measured, not what was hoped for: disparities differ by 8e-6 in float32
(the larger images), 6e-4 in float16, 4e-3 in bfloat16; poses by 5e-7, 6e-5, 5e-4 (by a CPU that emulates it).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dualrefine_ros.model import DualRefine, Prediction, from_published
from dualrefine_ros.model.folding import folded

PARITY = Path(__file__).parent / "parity"
sys.path.insert(0, str(PARITY))
from deterministic_weights import make_state_dict  # noqa: E402


@pytest.fixture(scope="module")
def engine_network() -> DualRefine:
    """As the engine runs it."""
    return folded(from_published(make_state_dict()))


def published_numbers(size: str) -> dict[str, Tensor]:
    """As batches of one."""
    with np.load(PARITY / f"inference_{size}.npz") as file:
        return {key: torch.from_numpy(file[key])[None] for key in file}


def predict(model: DualRefine, recorded: dict[str, Tensor], dtype: torch.dtype) -> Prediction:
    cur, prev = (recorded[f"image_{name}"].permute(0, 3, 1, 2).float() / 255 for name in ("cur", "prev"))
    with torch.inference_mode(), torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        return model(cur.contiguous(), prev.contiguous(), recorded["intrinsics"].float())


@pytest.mark.parametrize(
    ("size", "dtype", "disparity", "pose"),
    [
        ("96x320", torch.float32, 2e-5, 2e-5),
        ("192x640", torch.float32, 2e-5, 2e-5),
        ("96x320", torch.float16, 1e-3, 2e-4),
        ("96x320", torch.bfloat16, 8e-3, 1e-3),
    ],
)
def test_error_to_the_published_numbers(
    engine_network: DualRefine, size: str, dtype: torch.dtype, disparity: float, pose: float
) -> None:
    """In [0, 1] and in the entries of the pose, after six iterations."""
    recorded = published_numbers(size)
    prediction = predict(engine_network, recorded, dtype)
    assert prediction.T_prev_cur is not None
    errors = [
        float((actual - recorded[name].reshape(actual.shape)).abs().max())
        for actual, name in (
            (prediction.disp_refined, "disp_refined_full"),
            (prediction.T_prev_cur, "pose_refined"),
        )
    ]
    assert errors[0] < disparity
    assert errors[1] < pose
    if dtype != torch.float32:
        assert errors[0] > 2e-5, "the shorter type is not used at all"
    assert int(prediction.status) == 0
