"""Agreement with the published implementation, stage by stage, on known weights and a real image pair.

Each test feeds a stage with the published numbers of the stage before it where those are recorded, so
that a failure points at one room.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dualrefine_ros.model import DualRefine, Prediction, from_published
from dualrefine_ros.model.backbones import normalise
from dualrefine_ros.model.epipolar import depth_candidates, epipolar_coordinates
from dualrefine_ros.model.pose_alignment import gauss_newton_step
from dualrefine_ros.model.refiner import MatchingFeatures, RefinerInputs
from dualrefine_ros.model.sampling import choose

PARITY = Path(__file__).parent / "parity"
sys.path.insert(0, str(PARITY))
from deterministic_weights import make_state_dict  # noqa: E402

CPU = torch.device("cpu")
SAMPLERS = ("plain", "native")
TOLERANCE = 2e-5
COORDINATE_TOLERANCE = 1e-4  # coordinates, in pixels, and costs


@pytest.fixture(scope="module", params=SAMPLERS)
def model(request: pytest.FixtureRequest) -> DualRefine:
    """The network on the known weights, with each sampler."""
    model = from_published(make_state_dict())
    model.refiner.sampler = request.param
    return model


@pytest.fixture(scope="module", params=["96x320", "192x640"])
def expected(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    """The published numbers as batches of one."""
    with np.load(PARITY / f"inference_{request.param}.npz") as file:
        return {key: torch.from_numpy(file[key])[None] for key in file}


@pytest.fixture(scope="module")
def detailed() -> dict[str, Tensor]:
    """The published numbers of the size whose intermediate maps are recorded."""
    with np.load(PARITY / "inference_96x320.npz") as file:
        return {key: torch.from_numpy(file[key])[None] for key in file}


def image(expected: Mapping[str, Tensor], name: str) -> Tensor:
    return expected[name].permute(0, 3, 1, 2).float() / 255


def quarter_intrinsics(expected: Mapping[str, Tensor]) -> Tensor:
    return expected["intrinsics"].float() / 4


@pytest.fixture(scope="module")
def prediction(model: DualRefine, expected: dict[str, Tensor]) -> Prediction:
    with torch.inference_mode():
        return model(
            image(expected, "image_cur"), image(expected, "image_prev"), expected["intrinsics"].float()
        )


def assert_agrees(actual: Tensor, expected: Tensor, atol: float = TOLERANCE, rtol: float = 0.0) -> None:
    torch.testing.assert_close(actual, expected.reshape(actual.shape), rtol=rtol, atol=atol)


@torch.inference_mode()
def test_teacher_disparities(model: DualRefine, expected: dict[str, Tensor]) -> None:
    pyramid = model.depth_backbone(normalise(image(expected, "image_cur")))
    decoder = model.depth_decoder
    x8, d4 = decoder.eighth_and_quarter(pyramid)
    assert_agrees(decoder.disparity_at(3, x8), expected["disp_teacher_scale3"])
    assert_agrees(decoder.disparity_at(2, d4), expected["disp_teacher_scale2"])
    assert_agrees(decoder.disparity_at(1, decoder.at_half(d4, pyramid)), expected["disp_teacher_scale1"])


@torch.inference_mode()
def test_teacher_pose(model: DualRefine, expected: dict[str, Tensor]) -> None:
    pose = model.teacher_pose(image(expected, "image_cur"), image(expected, "image_prev"))
    assert_agrees(pose, expected["pose_teacher"])


def test_teacher_disparity_at_full_size(prediction: Prediction, expected: dict[str, Tensor]) -> None:
    assert_agrees(prediction.disp_teacher, expected["disp_teacher_full"])


@torch.inference_mode()
def test_context_and_hidden_state(model: DualRefine, detailed: dict[str, Tensor]) -> None:
    encoded = model.encode(image(detailed, "image_cur"))
    assert_agrees(encoded.context, detailed["context"])
    assert_agrees(encoded.hidden, detailed["hidden_0"])


@torch.inference_mode()
def test_matching_features(model: DualRefine, detailed: dict[str, Tensor]) -> None:
    assert_agrees(model.encode(image(detailed, "image_cur")).matching.features, detailed["match_cur"])
    assert_agrees(model.encode_previous(image(detailed, "image_prev")).features, detailed["match_prev"])


@torch.inference_mode()
def test_fixed_confidence(model: DualRefine, expected: dict[str, Tensor]) -> None:
    assert_agrees(model.encode(image(expected, "image_cur")).matching.confidence, expected["conf_cur"])
    assert_agrees(model.encode_previous(image(expected, "image_prev")).confidence, expected["conf_prev"])


@torch.inference_mode()
def test_largest_depth_update(model: DualRefine, expected: dict[str, Tensor]) -> None:
    depth = model.to_depth(expected["disp_teacher_scale2"])
    assert_agrees(model.refiner.max_update(depth), expected["step1_max_update"])


@torch.inference_mode()
def test_epipolar_coordinates(model: DualRefine, detailed: dict[str, Tensor]) -> None:
    candidates = depth_candidates(
        model.to_depth(detailed["disp_teacher_scale2"]), detailed["step1_max_update"]
    )
    pixels = epipolar_coordinates(candidates, detailed["pose_teacher"], quarter_intrinsics(detailed))
    assert_agrees(pixels, detailed["step1_coords"], COORDINATE_TOLERANCE)


@pytest.mark.parametrize("sampler", SAMPLERS)
@torch.inference_mode()
def test_matching_cost(model: DualRefine, detailed: dict[str, Tensor], sampler: str) -> None:
    inputs = refiner_inputs(model, detailed)
    pixels = detailed["step1_coords"].flatten(2, 3)
    cost = choose(sampler, CPU).epipolar_cost(inputs.cur.features, inputs.prev_levels, pixels)
    assert_agrees(cost, detailed["step1_cost"], COORDINATE_TOLERANCE)


@torch.inference_mode()
def test_depth_update(model: DualRefine, detailed: dict[str, Tensor]) -> None:
    """Motion encoder, GRU and depth head together: no number between them is published."""
    depth = model.to_depth(detailed["disp_teacher_scale2"])
    block = model.refiner.update_block
    terms = block.gru.context_terms(detailed["context"])
    hidden = block.hidden_state(detailed["hidden_0"], terms, detailed["step1_cost"], depth)
    new_depth = depth + torch.tanh(block.depth_head(hidden)) * detailed["step1_max_update"]
    assert_agrees(new_depth, detailed["step1_depth"])
    assert_agrees(block.evolving_confidence(hidden), detailed["step1_weight"])


@pytest.mark.parametrize("sampler", SAMPLERS)
@torch.inference_mode()
def test_gauss_newton_step(detailed: dict[str, Tensor], sampler: str) -> None:
    step = gauss_newton_step(
        detailed["step1_depth"],
        detailed["pose_teacher"],
        quarter_intrinsics(detailed),
        detailed["match_cur"],
        detailed["match_prev"],
        detailed["conf_cur"] * detailed["step1_weight"],
        detailed["conf_prev"],
        choose(sampler, CPU).alignment_moments,
    )
    assert_agrees(step.xi, detailed["step1_twist"])
    assert_agrees(step.T_prev_cur, detailed["step1_pose"])
    assert bool(step.solved.all())


def refiner_inputs(model: DualRefine, detailed: dict[str, Tensor]) -> RefinerInputs:
    return model.refiner.inputs(
        MatchingFeatures(detailed["match_cur"], detailed["conf_cur"]),
        MatchingFeatures(detailed["match_prev"], detailed["conf_prev"]),
        detailed["context"],
        quarter_intrinsics(detailed),
    )


@torch.inference_mode()
def test_first_update(model: DualRefine, expected: dict[str, Tensor]) -> None:
    """One whole update, from the images."""
    cur = model.encode(image(expected, "image_cur"))
    inputs = model.refiner.inputs(
        cur.matching,
        model.encode_previous(image(expected, "image_prev")),
        cur.context,
        quarter_intrinsics(expected),
    )
    update = model.refiner.update(cur.hidden, model.to_depth(cur.disparity), expected["pose_teacher"], inputs)
    assert_agrees(update.depth, expected["step1_depth"], rtol=TOLERANCE)  # metres, some of them 10
    assert_agrees(update.T_prev_cur, expected["step1_pose"])


def test_update_norms(prediction: Prediction, expected: dict[str, Tensor]) -> None:
    assert_agrees(prediction.pose_update_norms, expected["pose_update_norms"])


@torch.inference_mode()
def test_solver(model: DualRefine, detailed: dict[str, Tensor]) -> None:
    """The fixed point from the published start."""
    refined = model.refiner.solve(
        detailed["hidden_0"],
        model.to_depth(detailed["disp_teacher_scale2"]),
        detailed["pose_teacher"],
        refiner_inputs(model, detailed),
        iterations=6,
    )
    assert_agrees(model.to_disparity(refined.depth), detailed["disp_refined_scale2"])
    assert_agrees(refined.T_prev_cur, detailed["pose_refined"])


@torch.inference_mode()
def test_refined_disparity_at_refinement_size(model: DualRefine, expected: dict[str, Tensor]) -> None:
    cur = model.encode(image(expected, "image_cur"))
    prev = model.encode_previous(image(expected, "image_prev"))
    refined = model.refine(cur, prev, expected["pose_teacher"], expected["intrinsics"].float(), iterations=6)
    assert_agrees(model.to_disparity(refined.depth), expected["disp_refined_scale2"])


def test_refined_disparity_at_full_size(prediction: Prediction, expected: dict[str, Tensor]) -> None:
    assert_agrees(prediction.disp_refined, expected["disp_refined_full"])


def test_refined_pose(prediction: Prediction, expected: dict[str, Tensor]) -> None:
    assert prediction.T_prev_cur is not None
    assert_agrees(prediction.T_prev_cur, expected["pose_refined"])
    assert int(prediction.status) == 0
