"""How the network behaves: iterations, batches, backbones, short types, and when numbers go bad."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dualrefine_ros.errors import ConfigError, InputError
from dualrefine_ros.geometry.se3 import se3_exp
from dualrefine_ros.model import SMALL, DualRefine, ModelConfig, SolverStatus, random_model
from dualrefine_ros.model.disparity import convex_upsample, depth_to_disparity, disparity_to_depth

H, W = SMALL.height, SMALL.width
INTRINSICS = torch.tensor([[185.0, 183.0, 156.0, 47.0]])


@pytest.fixture(scope="module")
def model() -> DualRefine:
    return random_model("small")


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    """Smooth noise, and the same moved a little to the side."""
    generator = torch.Generator().manual_seed(1)
    wide = torch.nn.functional.interpolate(
        torch.rand(1, 3, 13, 41, generator=generator), (H, W + 8), mode="bicubic"
    ).clamp(0, 1)
    return wide[..., 4:-4].contiguous(), wide[..., 2 : W + 2].contiguous()


@torch.inference_mode()
def test_no_previous_image_gives_depth_and_no_pose(model: DualRefine, images: tuple[Tensor, Tensor]) -> None:
    prediction = model(images[0], None, INTRINSICS)
    assert prediction.T_prev_cur is None
    assert prediction.T_prev_cur_teacher is None
    assert prediction.disp_teacher.shape == (1, 1, H, W)
    assert prediction.pose_update_norms.shape == (1, 0)
    assert torch.equal(prediction.disp_refined, prediction.disp_teacher)


@torch.inference_mode()
def test_iterations_are_chosen_at_run_time(model: DualRefine, images: tuple[Tensor, Tensor]) -> None:
    teacher = model(*images, INTRINSICS, iterations=0)
    assert teacher.T_prev_cur is not None
    assert torch.equal(teacher.T_prev_cur, teacher.T_prev_cur_teacher)
    assert torch.equal(teacher.disp_refined, teacher.disp_teacher)
    for iterations in (1, 2, 3, 9):
        prediction = model(*images, INTRINSICS, iterations=iterations)
        assert prediction.pose_update_norms.shape == (1, iterations)
        assert bool(torch.isfinite(prediction.pose_update_norms).all())
        assert not torch.equal(prediction.disp_refined, prediction.disp_teacher)
        assert torch.equal(prediction.disp_teacher, teacher.disp_teacher)
        assert int(prediction.status) == SolverStatus.OK


@torch.inference_mode()
def test_tolerance_stops_early(model: DualRefine, images: tuple[Tensor, Tensor]) -> None:
    prediction = model(*images, INTRINSICS, iterations=6, tolerance=1e6)
    assert torch.isnan(prediction.pose_update_norms[0]).tolist() == [False] + [True] * 5
    one = model(*images, INTRINSICS, iterations=1)
    assert torch.equal(prediction.disp_refined, one.disp_refined)


@torch.inference_mode()
def test_batch_elements_with_two_evaluations_do_not_touch_each_other(
    model: DualRefine, images: tuple[Tensor, Tensor]
) -> None:
    """Up to two evaluations the solver chooses nothing over the batch, so elements are independent."""
    both = model(torch.cat(images), torch.cat(images[::-1]), INTRINSICS.expand(2, 4), iterations=2)
    alone = model(images[1], images[0], INTRINSICS, iterations=2)
    torch.testing.assert_close(both.disp_refined[1:], alone.disp_refined, atol=2e-5, rtol=0)
    assert both.T_prev_cur is not None
    assert alone.T_prev_cur is not None
    torch.testing.assert_close(both.T_prev_cur[1:], alone.T_prev_cur, atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_autocast_runs_and_stays_close(
    model: DualRefine, images: tuple[Tensor, Tensor], dtype: torch.dtype
) -> None:
    exact = model(*images, INTRINSICS, iterations=2)
    with torch.autocast("cpu", dtype=dtype):
        short = model(*images, INTRINSICS, iterations=2)
    assert short.disp_refined.dtype == torch.float32
    assert short.T_prev_cur is not None
    assert short.T_prev_cur.dtype == torch.float32
    torch.testing.assert_close(short.disp_refined, exact.disp_refined, atol=0.02, rtol=0)
    torch.testing.assert_close(short.T_prev_cur, exact.T_prev_cur, atol=0.02, rtol=0)


@torch.inference_mode()
def test_unsolvable_pose_system_keeps_the_teacher_pose(model: DualRefine) -> None:
    """Images without any texture give the alignment no gradient, so its matrix is zero."""
    flat = torch.full((1, 3, H, W), 0.5)
    with torch.random.fork_rng():
        dead = random_model("small", seed=3)
        for parameter in dead.refiner.matching.parameters():
            parameter.zero_()
        prediction = dead(flat, flat, INTRINSICS, iterations=3)
    assert int(prediction.status) & SolverStatus.POSE_UNSOLVED
    assert torch.equal(prediction.T_prev_cur, prediction.T_prev_cur_teacher)
    assert bool(torch.isnan(prediction.pose_update_norms).all())
    assert bool(torch.isfinite(prediction.disp_refined).all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@torch.inference_mode()
def test_bad_numbers_inside_an_iteration_keep_the_last_finite_depth(
    images: tuple[Tensor, Tensor], bad: float
) -> None:
    broken = random_model("small")
    broken.refiner.update_block.depth_head.conv2.bias.fill_(torch.nan)
    prediction = broken(*images, INTRINSICS, iterations=4)
    assert int(prediction.status) & SolverStatus.NON_FINITE
    assert bool(torch.isfinite(prediction.disp_refined).all())
    torch.testing.assert_close(prediction.disp_refined, prediction.disp_teacher, atol=1e-5, rtol=0)
    assert prediction.T_prev_cur is not None
    assert bool(torch.isfinite(prediction.T_prev_cur).all())

    broken = random_model("small")
    broken.refiner.update_block.evolving_confidence[2].bias.fill_(bad * -1)
    prediction = broken(*images, INTRINSICS, iterations=4)
    assert prediction.T_prev_cur is not None
    assert bool(torch.isfinite(prediction.T_prev_cur).all())
    assert int(prediction.status) & SolverStatus.POSE_UNSOLVED


@torch.inference_mode()
def test_one_bad_element_does_not_spoil_its_batch(images: tuple[Tensor, Tensor]) -> None:
    model = random_model("small")
    cur = torch.cat(images)
    prev = torch.cat(images[::-1]).clone()
    prev[0] = torch.nan
    prediction = model(cur, prev, INTRINSICS.expand(2, 4), iterations=4)
    good, bad = 1, 0
    assert int(prediction.status[good]) == SolverStatus.OK
    assert int(prediction.status[bad]) != SolverStatus.OK
    assert prediction.T_prev_cur is not None
    assert bool(torch.isfinite(prediction.T_prev_cur[good]).all())
    assert bool(torch.isfinite(prediction.disp_refined).all())


@pytest.mark.parametrize(
    ("depth_backbone", "pose_backbone"),
    [("tf_efficientnet_lite0", "resnet18"), ("resnet18", "tf_efficientnet_lite0"), ("hrnet_w18", "resnet18")],
)
@torch.inference_mode()
def test_backbones_are_a_choice(depth_backbone: str, pose_backbone: str) -> None:
    config = replace(SMALL, depth_backbone=depth_backbone, pose_backbone=pose_backbone, height=64, width=96)
    model = random_model(config)
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    prediction = model(image, image.flip(3), INTRINSICS, iterations=1)
    assert prediction.disp_refined.shape == (1, 1, 64, 96)
    torch.testing.assert_close(
        model.encode_previous(image).features, model.encode(image).matching.features, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("switch", ["pose_updates", "fixed_confidence", "evolving_confidence"])
@torch.inference_mode()
def test_switches_of_table_2(switch: str, images: tuple[Tensor, Tensor]) -> None:
    full = random_model("small")(*images, INTRINSICS, iterations=2)
    model = random_model(replace(SMALL, **{switch: False}))
    prediction = model(*images, INTRINSICS, iterations=2)
    assert prediction.T_prev_cur is not None
    assert full.T_prev_cur is not None
    assert not torch.equal(prediction.T_prev_cur, full.T_prev_cur)
    if switch == "pose_updates":
        assert torch.equal(prediction.T_prev_cur, prediction.T_prev_cur_teacher)
        assert not torch.equal(prediction.disp_refined, prediction.disp_teacher)


def test_training_mode_reaches_every_parameter_of_the_update(images: tuple[Tensor, Tensor]) -> None:
    model = random_model("small").train()
    both = torch.cat(images)
    prediction = model(both, both.flip(0), INTRINSICS.expand(2, 4), iterations=1)
    assert prediction.T_prev_cur is not None
    (prediction.disp_refined.mean() + prediction.T_prev_cur[:, :3].square().mean()).backward()
    for name, parameter in model.refiner.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name


def test_other_floating_point_numbers_do_as_well(model: DualRefine) -> None:
    cur, prev = torch.rand(2, 1, 3, H, W)
    with torch.no_grad():
        usual = model(cur, prev, INTRINSICS, iterations=1)
        wide = model(cur.double(), prev.double(), INTRINSICS.double(), iterations=1)
    assert torch.equal(usual.disp_refined, wide.disp_refined)
    assert torch.equal(usual.T_prev_cur, wide.T_prev_cur)


def test_refuses_what_does_not_fit(model: DualRefine) -> None:
    image = torch.rand(1, 3, H, W)
    with pytest.raises(InputError, match="multiples of 32"):
        model(torch.rand(1, 3, 90, 320), None, INTRINSICS)
    with pytest.raises(InputError, match="differ in shape"):
        model(image, torch.rand(1, 3, H, 2 * W), INTRINSICS)
    with pytest.raises(InputError, match="Intrinsics"):
        model(image, image, INTRINSICS[0])
    with pytest.raises(InputError, match="0 or more"):
        model(image, image, INTRINSICS, iterations=-1)
    with pytest.raises(InputError, match="whole number"):
        model(image, image, INTRINSICS, iterations=2.5)  # type: ignore[arg-type]
    for tolerance in (-1.0, float("nan")):
        with pytest.raises(InputError, match="0 or more"):
            model(image, image, INTRINSICS, tolerance=tolerance)
    with pytest.raises(InputError, match="floating point"):
        model((image * 255).byte(), image, INTRINSICS)
    with pytest.raises(InputError, match="floating point"):
        model(image, (image * 255).byte(), INTRINSICS)
    with pytest.raises(ConfigError, match="no backbone named"):
        DualRefine(replace(SMALL, depth_backbone="no_such_net"))
    with pytest.raises(ConfigError, match="strides"):
        DualRefine(replace(SMALL, depth_backbone="vit_tiny_patch16_224"))
    with pytest.raises(ConfigError, match="multiple of 32"):
        ModelConfig(height=100)
    with pytest.raises(ConfigError, match="no network"):
        random_model("large")


def test_random_weights_depend_on_the_seed_only() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = random_model("small"), random_model("small"), random_model("small", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    key = "refiner.matching.1.weight"
    assert torch.equal(first.state_dict()[key], second.state_dict()[key])
    assert not torch.equal(first.state_dict()[key], other.state_dict()[key])


def test_disparity_and_depth() -> None:
    disparity = torch.tensor([0.0, 1.0, 0.5])
    depth = disparity_to_depth(disparity, 0.1, 100.0)
    torch.testing.assert_close(depth, torch.tensor([100.0, 0.1, 1 / 5.005]))
    torch.testing.assert_close(depth_to_disparity(depth, 0.1, 100.0), disparity)


def test_convex_upsampling_orders_its_logits() -> None:
    """Weight on one neighbour copies that neighbour into one sub-pixel; beyond the border lies zero."""
    coarse = torch.arange(1.0, 7.0).view(1, 1, 2, 3)
    logits = torch.zeros(1, 9, 4, 4, 2, 3)
    logits[:, 4] = 50.0  # the pixel itself
    logits[:, 4, 1, 2] = 0.0
    logits[:, 5, 1, 2] = 50.0  # sub-row 1, sub-column 2 looks to the right
    fine = convex_upsample(coarse, logits.view(1, 144, 2, 3))
    expected = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3).clone()
    expected[0, 0, 1::4, 2::4] = torch.tensor([[2.0, 3.0, 0.0], [5.0, 6.0, 0.0]])
    torch.testing.assert_close(fine, expected)


def test_pose_of_the_next_frame_is_the_networks_motion_as_it_is(
    model: DualRefine, images: tuple[Tensor, Tensor]
) -> None:
    """Seen the same way round, the pose to the next frame and the pose to the previous one are inverse."""
    with torch.inference_mode():
        to_next = model.pose_teacher.to_next(images[0], images[1])
        to_previous = model.pose_teacher.to_previous(images[0], images[1])
        twist = model.pose_teacher.twist(images[0], images[1])
    torch.testing.assert_close(to_next @ to_previous, torch.eye(4)[None], atol=1e-6, rtol=0)
    rotation = se3_exp(torch.cat((torch.zeros(1, 3), twist[:, :3]), 1))
    torch.testing.assert_close(to_next[:, :3, :3], rotation[:, :3, :3])
    torch.testing.assert_close(to_next[:, :3, 3], twist[:, 3:])
