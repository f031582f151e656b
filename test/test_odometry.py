"""The engine: one frame after the other on the real clip, and what it does with unusual input."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dualrefine_ros.data.source import open_source
from dualrefine_ros.devices import why_slow
from dualrefine_ros.errors import ConfigError, InputError
from dualrefine_ros.frame import Frame, Intrinsics, Status
from dualrefine_ros.model import SMALL, DualRefine, random_model
from dualrefine_ros.odometry import OdometryConfig, VisualOdometry, resolve_device

CLIP = Path(__file__).parent.parent / "clips" / "kitti_0001"


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return list(islice(open_source(CLIP), 4))


@pytest.fixture(scope="module")
def model() -> DualRefine:
    return random_model("small")


def network_inputs(frame: Frame, model: DualRefine) -> tuple[torch.Tensor, torch.Tensor]:
    """The image and intrinsics at network size, computed here from the specification."""
    W, H = model.config.width, model.config.height
    resized = Image.fromarray(frame.image).resize((W, H), Image.Resampling.LANCZOS)
    image = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() / 255
    h0, w0 = frame.image.shape[:2]
    K = frame.intrinsics
    return image, torch.tensor([[K.fx * W / w0, K.fy * H / h0, K.cx * W / w0, K.cy * H / h0]])


def test_the_engine_gives_what_the_network_says(frames: list[Frame], model: DualRefine) -> None:
    """Cached features, folded norms, resizing and chaining change nothing but rounding in the numbers.

    Steps on random features are large (0.04) and their rounding, up to 3e-5, depends on the number of
    threads and the instructions of the machine; in the pose they lead to, it cancels.
    """
    odometry = VisualOdometry(model, OdometryConfig(device="cpu"))
    estimates = [odometry.process(frame) for frame in frames[:3]]
    T_world_cam = np.eye(4)
    for previous, current, estimate in zip(frames, frames[1:], estimates[1:], strict=False):
        image_prev, _ = network_inputs(previous, model)
        image_cur, K = network_inputs(current, model)
        with torch.inference_mode():
            prediction = model(image_cur, image_prev, K)
            disparity = torch.nn.functional.interpolate(
                prediction.disp_refined, current.image.shape[:2], mode="bilinear"
            )
            depth = model.to_depth(disparity)[0, 0].numpy()
        assert prediction.T_prev_cur is not None
        assert estimate.T_prev_cur is not None
        T_prev_cur = prediction.T_prev_cur[0].numpy().astype(float)
        np.testing.assert_allclose(estimate.T_prev_cur, T_prev_cur, atol=2e-5)
        np.testing.assert_allclose(estimate.depth, depth, rtol=2e-4)
        norms = prediction.pose_update_norms[0]
        np.testing.assert_allclose(estimate.pose_update_norms, norms, atol=1e-4)
        T_world_cam = T_world_cam @ T_prev_cur
        np.testing.assert_allclose(estimate.T_world_cam, T_world_cam, atol=5e-5)


def test_first_frame_gives_depth_only_and_the_next_ones_motion(
    frames: list[Frame], model: DualRefine
) -> None:
    odometry = VisualOdometry(model)
    first, second = odometry.process(frames[0]), odometry.process(frames[1])
    assert first.status is Status.FIRST
    assert first.T_prev_cur is None
    assert first.confidence is None
    assert np.array_equal(first.T_world_cam, np.eye(4))
    assert second.status is Status.TRACKING
    assert second.T_prev_cur is not None
    assert second.confidence is not None
    for estimate, frame in ((first, frames[0]), (second, frames[1])):
        assert estimate.stamp_ns == frame.stamp_ns
        assert estimate.depth.shape == frame.image.shape[:2]
        assert estimate.depth.dtype == np.float32
        assert 0.1 <= estimate.depth.min() <= estimate.depth.max() <= 100
        assert estimate.T_world_cam.dtype == np.float64
    assert second.confidence.shape == frames[1].image.shape[:2]
    assert 0 <= second.confidence.min() <= second.confidence.max() <= 1
    assert list(second.timings) == [
        "judge",
        "preprocess",
        "encode",
        "teacher_pose",
        "refine",
        "upsample",
        "postprocess",
    ]
    assert all(seconds > 0 for seconds in second.timings.values())


def test_rotations_stay_proper(frames: list[Frame], model: DualRefine) -> None:
    odometry = VisualOdometry(model, OdometryConfig(iterations=1))
    for frame in frames:
        R = odometry.process(frame).T_world_cam[:3, :3]
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-14)


def test_reset_starts_again_with_the_same_numbers(frames: list[Frame], model: DualRefine) -> None:
    odometry = VisualOdometry(model, OdometryConfig(iterations=1))
    before = [odometry.process(frame) for frame in frames[:2]]
    odometry.reset()
    after = [odometry.process(frame) for frame in frames[:2]]
    for a, b in zip(before, after, strict=True):
        assert a.status == b.status
        assert np.array_equal(a.T_world_cam, b.T_world_cam)
        assert np.array_equal(a.depth, b.depth)


def test_iterations_change_at_run_time(frames: list[Frame], model: DualRefine) -> None:
    odometry = VisualOdometry(model, OdometryConfig(iterations=2))
    odometry.process(frames[0])
    assert odometry.process(frames[1]).pose_update_norms.shape == (2,)
    odometry.iterations = 0
    teacher_only = odometry.process(frames[2])
    assert teacher_only.pose_update_norms.shape == (0,)
    assert teacher_only.T_prev_cur is not None
    assert teacher_only.confidence is None
    with pytest.raises(ConfigError, match="from 0 to 100, not -1"):
        odometry.iterations = -1
    assert odometry.iterations == 0


def test_another_camera_starts_a_new_pair_but_keeps_the_trajectory(
    frames: list[Frame], model: DualRefine
) -> None:
    odometry = VisualOdometry(model, OdometryConfig(iterations=1))
    odometry.process(frames[0])
    place = odometry.process(frames[1]).T_world_cam
    zoomed = replace(frames[2], intrinsics=replace(frames[2].intrinsics, fx=900.0, fy=900.0))
    estimate = odometry.process(zoomed)
    assert estimate.status is Status.FIRST
    assert estimate.T_prev_cur is None
    np.testing.assert_allclose(estimate.T_world_cam, place, atol=1e-12)


def test_the_same_camera_at_another_size_goes_on(frames: list[Frame], model: DualRefine) -> None:
    odometry = VisualOdometry(model, OdometryConfig(iterations=1))
    odometry.process(frames[0])
    half = np.ascontiguousarray(frames[1].image[:374:2, ::2])
    intrinsics = frames[1].intrinsics.resized(621, 187)
    estimate = odometry.process(Frame(frames[1].stamp_ns, half, intrinsics))
    assert estimate.status is Status.TRACKING
    assert estimate.depth.shape == (187, 621)


def test_bad_numbers_in_the_network_are_lost_and_do_not_move(frames: list[Frame]) -> None:
    broken = random_model("small", seed=1)
    odometry = VisualOdometry(broken, OdometryConfig(iterations=2))
    odometry.process(frames[0])
    place = odometry.process(frames[1]).T_world_cam
    with torch.no_grad():
        saved = odometry.model.pose_teacher.pose2.bias.clone()
        odometry.model.pose_teacher.pose2.bias.fill_(torch.nan)
    estimate = odometry.process(frames[2])
    assert estimate.status is Status.LOST
    np.testing.assert_allclose(estimate.T_world_cam, place, atol=1e-12)
    with torch.no_grad():
        odometry.model.pose_teacher.pose2.bias.copy_(saved)
    assert odometry.process(frames[3]).status is Status.TRACKING


def test_a_failing_network_leaves_the_engine_as_it_was(
    frames: list[Frame], model: DualRefine, monkeypatch: pytest.MonkeyPatch
) -> None:
    odometry, other = (VisualOdometry(model, OdometryConfig(iterations=1)) for _ in range(2))
    for frame in frames[:2]:
        odometry.process(frame)
        other.process(frame)
    with monkeypatch.context() as patch:
        patch.setattr(odometry.model, "disparity", lambda refinement: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            odometry.process(frames[3])
    a, b = odometry.process(frames[2]), other.process(frames[2])
    assert np.array_equal(a.T_world_cam, b.T_world_cam)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_short_precisions_stay_close(frames: list[Frame], precision: str) -> None:
    model = random_model(replace(SMALL, coarse_steps=0))  # random features turn the image anywhere
    exact = VisualOdometry(model, OdometryConfig(iterations=1))
    short = VisualOdometry(model, OdometryConfig(iterations=1, precision=precision))
    for frame in frames[:2]:
        a, b = exact.process(frame), short.process(frame)
    assert b.status is Status.TRACKING
    np.testing.assert_allclose(b.T_world_cam, a.T_world_cam, atol=5e-3)
    assert np.median(np.abs(b.depth / a.depth - 1)) < 0.02


def test_devices() -> None:
    assert resolve_device("auto", cuda_available=False) == torch.device("cpu")
    assert resolve_device("auto", cuda_available=True) == torch.device("cuda")
    assert resolve_device("cuda:1", cuda_available=True) == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="sees no CUDA"):
        resolve_device("cuda", cuda_available=False)
    with pytest.raises(ConfigError, match="no device 'abacus'"):
        resolve_device("abacus", cuda_available=True)


@pytest.mark.parametrize(
    ("machine", "extensions", "slow"),
    [("x86_64", "AVX2", True), ("x86_64", "AVX512", False), ("aarch64", "DEFAULT", False)],
)
def test_short_precisions_that_cost_time_are_named(
    model: DualRefine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    machine: str,
    extensions: str,
    slow: bool,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: extensions)
    odometry = VisualOdometry(model, OdometryConfig(device="cpu"))
    assert not caplog.messages
    odometry.reconfigure(OdometryConfig(device="cpu", precision="bfloat16"))
    assert [("slower than float32" in message) for message in caplog.messages] == [True] * slow
    assert why_slow(torch.device("cuda"), "float16") == ""


def test_configurations_out_of_range() -> None:
    wrong_iterations = ({"iterations": number} for number in (-1, 101, 2.5))
    for bad in (*wrong_iterations, {"precision": "float8"}, {"solver_tolerance": float("nan")}):
        with pytest.raises(ConfigError):
            OdometryConfig(**bad)
    assert OdometryConfig(iterations=np.int64(4)).iterations == 4


def test_frames_refuse_what_does_not_fit() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    camera = Intrinsics(5.0, 5.0, 3.0, 2.0, 6, 4)
    Frame(0, image, camera)
    for bad in (image[..., 0], image.astype(np.float32), image[:3]):
        with pytest.raises(InputError):
            Frame(0, bad, camera)
    for field, value in (("fx", 0.0), ("fy", -1.0), ("cx", float("nan")), ("fx", float("inf")), ("width", 0)):
        with pytest.raises(InputError):
            replace(camera, **{field: value})
    assert camera.resized(12, 2) == Intrinsics(10.0, 2.5, 6.0, 1.0, 12, 2)
    assert Intrinsics.from_matrix(camera.matrix, 6, 4) == camera
