"""What the engine does when images or motions are not to be believed, without a network's help or hindrance.

The network is replaced by a script: for each frame it says how the camera moved and how well the images
agree. What the images alone say is tested on pictures drawn here, whose motion is known.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dualrefine_ros import odometry as engine_module
from dualrefine_ros.data.source import open_source
from dualrefine_ros.errors import ConfigError, DeviceError
from dualrefine_ros.frame import Estimate, Frame, Intrinsics, Status
from dualrefine_ros.gates import ImageGate, MotionLimits, RateLimiter, StillGate, blindness, blur, look_at
from dualrefine_ros.geometry.camera import back_project, project, transform
from dualrefine_ros.geometry.se3 import se3_exp
from dualrefine_ros.image_motion import agreement, implied_flow, normal_flow
from dualrefine_ros.model import ModelConfig, random_model
from dualrefine_ros.model.refiner import MatchingFeatures
from dualrefine_ros.observation import Observation, ObservedMotion, Remembered
from dualrefine_ros.odometry import OdometryConfig, VisualOdometry
from dualrefine_ros.ros.base_odometry import T_BASE_OPTICAL, BaseOdometry
from dualrefine_ros.scale import ScaleConfig

SIDES = (96, 64)
CAMERA = Intrinsics(60.0, 60.0, 47.5, 31.5, *SIDES)
TENTH = 100_000_000  # nanoseconds
FORWARD = np.array([0.0, 0.0, 0.5, 0.0, 0.01, 0.0])  # metres and radians of a step


MEMORY_SPENT = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
DEVICE_LOST = RuntimeError("CUDA error: device-side assert triggered")


def motion(xi: np.ndarray) -> np.ndarray:
    return se3_exp(torch.from_numpy(xi)[None])[0].numpy()


def picture(seed: int, shift: float = 0.0) -> np.ndarray:
    """A smooth random texture (H, W, 3), the same for a seed, moved right by some pixels."""
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[0 : SIDES[1], 0 : SIDES[0]].astype(float)
    u = u - shift
    waves = rng.normal(size=(40, 2)) * 0.35
    phases = rng.uniform(0, 2 * np.pi, 40)
    g = sum(np.sin(a * u + b * v + p) for (a, b), p in zip(waves, phases, strict=True))
    return np.repeat(np.clip(128 + 14 * g, 0, 255).astype(np.uint8)[..., None], 3, 2)


class Script:
    """A network that says what it is told; each frame has another picture unless told otherwise."""

    def __init__(self) -> None:
        self.xi = FORWARD.copy()
        self.flow = 3.0
        self.agreement = 0.8
        self.H = np.diag([1e6] * 6)
        self.depth = 10.0
        self.failures: list[Exception] = []
        self.matched: list[bool] = []

    def observe(self, model: Any, frame: Frame, previous: Remembered | None, *_: object) -> Observation:
        if self.failures:
            raise self.failures.pop(0)
        self.matched.append(previous is not None)
        seen = None
        if previous is not None:
            T = np.full((4, 4), np.nan) if np.isnan(self.xi).any() else motion(self.xi)
            seen = ObservedMotion(T, self.H, 1.0, self.flow, self.flow, self.agreement, 0.7)
        depth = np.full(frame.image.shape[:2], self.depth, np.float32)
        nothing = torch.zeros(1)
        remembered = Remembered(
            nothing, MatchingFeatures(nothing, nothing), frame.intrinsics.resized(model.config.width, 64)
        )
        return Observation(
            remembered, depth, seen, None, np.zeros(0, np.float32), bool(np.isfinite(depth).all())
        )


class Network:
    """Weights that nobody asks."""

    config = ModelConfig("tf_efficientnet_lite0", "tf_efficientnet_lite0", height=64, width=96)

    def __init__(self) -> None:
        self.places: list[object] = []

    def to(self, device: object) -> Network:
        self.places.append(device)
        return self

    def cpu(self) -> Network:
        return self


class Robot:
    """An engine with a scripted network, driven frame by frame at 10 Hz."""

    def __init__(self, script: Script, config: OdometryConfig) -> None:
        self.odometry = VisualOdometry(Network(), config)  # type: ignore[arg-type]
        self.script = script
        self.stamp_ns = 0
        self.count = 0

    def see(self, image: np.ndarray | None = None, after: int = TENTH, **frame: Any) -> Estimate:
        self.stamp_ns += after
        self.count += 1
        image = picture(self.count) if image is None else image
        camera = replace(CAMERA, width=image.shape[1], height=image.shape[0])
        return self.odometry.process(Frame(self.stamp_ns, image, frame.get("camera", camera)))

    def drive(self, steps: int) -> list[Estimate]:
        return [self.see() for _ in range(steps)]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Robot]:
    def robot(**changes: Any) -> Robot:
        script = Script()
        monkeypatch.setattr(engine_module, "observe", script.observe)
        monkeypatch.setattr(engine_module, "folded", copy.copy)
        return Robot(script, OdometryConfig(device="cpu", **changes))

    return robot


def walked(steps: int) -> np.ndarray:
    return np.linalg.matrix_power(motion(FORWARD), steps)


def assert_at(estimate: Estimate, T: np.ndarray) -> None:
    np.testing.assert_allclose(estimate.T_world_cam, T, atol=1e-12)


def assert_sure(*estimates: Estimate) -> None:
    """Covariances are finite, symmetric and positive definite, whatever happened."""
    for estimate in estimates:
        for C in (estimate.pose_covariance, estimate.covariance):
            if C is not None:
                assert np.isfinite(C).all()
                assert np.array_equal(C, C.T)
                assert np.linalg.eigvalsh(C).min() > 0


def test_steps_add_up(make: Callable[..., Robot]) -> None:
    estimates = make().drive(6)
    assert [e.status for e in estimates] == [Status.FIRST] + [Status.TRACKING] * 5
    for i, estimate in enumerate(estimates):
        assert_at(estimate, walked(i))
        assert estimate.cause == ""
    assert_sure(*estimates)
    assert estimates[3].prev_stamp_ns == estimates[2].stamp_ns
    # straight on: what a step adds to the pose's rotation is the step's, as often as correlated errors count
    rotation = [np.trace(e.pose_covariance[3:, 3:]) for e in estimates]
    assert estimates[4].covariance is not None
    added = np.trace(estimates[4].covariance[3:, 3:]) * OdometryConfig().covariance.chain_factor
    assert rotation[4] - rotation[3] == pytest.approx(added)
    growing = [np.linalg.eigvalsh(e.pose_covariance) for e in estimates]
    assert (np.diff(growing, axis=0) > 0).all()


# --- Images that show nothing ---


@pytest.mark.parametrize(
    ("image", "word"),
    [
        (np.zeros((64, 96, 3), np.uint8), "black"),
        (np.full((64, 96, 3), 255, np.uint8), "white"),
        (np.full((64, 96, 3), 128, np.uint8), "blank"),
    ],
)
def test_blind_images_are_lost_and_nothing_is_lost_with_them(
    make: Callable[..., Robot], image: np.ndarray, word: str
) -> None:
    """The next good frame is matched with the last good one: the motion in between is not lost."""
    robot = make()
    before = robot.drive(3)[-1]
    blind = robot.see(image)
    assert blind.status is Status.LOST
    assert word in blind.cause
    assert np.isnan(blind.depth).all()
    assert blind.T_prev_cur is None
    assert blind.covariance is None
    assert_at(blind, before.T_world_cam)
    assert np.trace(blind.pose_covariance) > np.trace(before.pose_covariance)
    after = robot.see()
    assert after.status is Status.TRACKING
    assert after.prev_stamp_ns == before.stamp_ns
    assert_at(after, walked(3))
    assert np.trace(after.pose_covariance) < np.trace(blind.pose_covariance)
    assert_sure(blind, after)


def test_noise_on_a_black_image_shows_nothing() -> None:
    noise = np.random.default_rng(0).poisson(1.0, (64, 96, 3)).astype(np.uint8)
    assert "black" in blindness(look_at(noise, None), None, ImageGate())


def test_a_frozen_camera_is_lost(make: Callable[..., Robot]) -> None:
    robot = make()
    place = robot.drive(3)[-1]
    frozen = robot.see(picture(3))
    assert frozen.status is Status.LOST
    assert "frozen" in frozen.cause
    assert_at(frozen, place.T_world_cam)
    assert robot.see().status is Status.TRACKING
    simulator = make(images=ImageGate(refuse_frozen=False))
    simulator.drive(3)
    assert simulator.see(picture(3)).status is Status.TRACKING


def smeared(image: np.ndarray) -> np.ndarray:
    """As a camera that turns while the shutter is open sees it."""
    return np.stack([np.roll(image, i, 1) for i in range(16)]).mean(0).astype(np.uint8)


def test_blurred_images_count_less(make: Callable[..., Robot]) -> None:
    robot = make()
    sharp = robot.drive(8)[-1]
    estimate = robot.see(smeared(picture(9)))
    assert estimate.status is Status.DEGRADED
    assert "blurred" in estimate.cause
    assert_at(estimate, walked(8))
    assert estimate.covariance is not None
    assert sharp.covariance is not None
    assert np.trace(estimate.covariance[3:, 3:]) > 4 * np.trace(sharp.covariance[3:, 3:])
    assert robot.see().status is Status.TRACKING


def test_a_dirty_lens_becomes_the_usual() -> None:
    look, said = look_at(picture(1), None), []
    for _ in range(40):
        look = look_at(smeared(picture(1)), look)
        said.append(bool(blur(look, ImageGate())))
    assert said[0]
    assert not said[-1]


# --- Motions that cannot be ---


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"xi": np.array([0, 0, 9.0, 0, 0, 0])}, "too fast"),
        ({"xi": np.array([0, 0, 0.1, 0, 0.6, 0])}, "turn is too fast"),
        ({"xi": np.full(6, np.nan)}, "not finite"),
        ({"agreement": 0.05}, "nothing in common"),
        ({"agreement": 0.3}, "worse than standing still"),
    ],
)
def test_wild_motions_are_not_integrated(
    make: Callable[..., Robot], wrong: dict[str, Any], word: str
) -> None:
    robot = make()
    place = robot.drive(3)[-1]
    good = dict(vars(robot.script))
    vars(robot.script).update(wrong)
    lost = robot.see()
    assert lost.status is Status.LOST
    assert word in lost.cause
    assert_at(lost, place.T_world_cam)
    assert lost.T_prev_cur is None
    assert np.isfinite(lost.depth).all()  # the depth is still the network's
    vars(robot.script).update(good)
    found = robot.see()
    assert found.status is Status.TRACKING
    assert found.prev_stamp_ns == place.stamp_ns
    assert_at(found, walked(3))
    assert_sure(lost, found)


def test_it_recovers_by_itself_where_the_scene_is_another(make: Callable[..., Robot]) -> None:
    """After two frames that match nothing, the newest is the one to match with."""
    robot = make()
    robot.drive(3)
    robot.script.agreement = 0.0
    lost = robot.drive(2)
    robot.script.agreement = 0.8
    found = robot.see()
    assert [e.status for e in (*lost, found)] == [Status.LOST, Status.LOST, Status.TRACKING]
    assert found.prev_stamp_ns == lost[1].stamp_ns
    assert_at(found, walked(3))
    assert np.trace(found.pose_covariance) > np.trace(lost[1].pose_covariance)


@pytest.mark.parametrize("lost_for", [1, 2, 3, 30])
def test_the_twist_after_being_lost_is_that_of_the_motion_that_was_seen(
    make: Callable[..., Robot], lost_for: int
) -> None:
    """5 m/s ahead and a slow turn, whichever frame the found one is matched with."""
    robot, base = make(), BaseOdometry()
    for estimate in robot.drive(5):
        before = base.update(estimate, T_BASE_OPTICAL)
    robot.script.agreement = 0.0
    for estimate in robot.drive(lost_for):
        lost = base.update(estimate, T_BASE_OPTICAL)
    robot.script.agreement = 0.8
    across = 1 + lost_for % 2  # every second lost frame is one to match with
    robot.script.xi = across * FORWARD
    found = base.update(robot.see(), T_BASE_OPTICAL)
    assert lost.twist_covariance[0, 0] >= 100
    np.testing.assert_allclose(before.twist, [5, 0, 0, 0, 0, -0.1], atol=1e-9)
    np.testing.assert_allclose(found.twist, before.twist, atol=1e-9)
    if across == 1:
        np.testing.assert_allclose(found.twist_covariance, before.twist_covariance, rtol=1e-6)


def test_the_first_twist_after_standing_is_not_that_of_the_stand(make: Callable[..., Robot]) -> None:
    """The engine matches with the frame before it stood, ten seconds ago; the motion is of the last tenth."""
    robot, base = make(), BaseOdometry()
    robot.script.flow = 0.05
    for estimate in robot.drive(100):
        base.update(estimate, T_BASE_OPTICAL)
    robot.script.flow = 3.0
    moving = robot.see()
    assert moving.prev_stamp_ns == TENTH
    np.testing.assert_allclose(base.update(moving, T_BASE_OPTICAL).twist, [5, 0, 0, 0, 0, -0.1], atol=1e-9)


def test_being_lost_for_long_says_so(make: Callable[..., Robot]) -> None:
    """As unsure as if the robot had gone on, any way: 5 m/s for half a second."""
    robot = make(max_gap=10.0)
    robot.drive(4)
    black = np.zeros((64, 96, 3), np.uint8)
    lost = [robot.see(black) for _ in range(5)][-1]
    assert np.sqrt(lost.pose_covariance[0, 0]) == pytest.approx(2.5, rel=0.05)


def test_limits_are_in_metres(make: Callable[..., Robot]) -> None:
    """A scale that makes the motion ten times as large makes it too fast."""
    robot = make(limits=MotionLimits(max_speed=10.0), scale=ScaleConfig(factor=10.0))
    robot.see()
    assert robot.see().status is Status.LOST


# --- Standing still ---


def test_a_standing_robot_does_not_creep(make: Callable[..., Robot]) -> None:
    robot = make()
    place = robot.drive(3)[-1]
    robot.script.flow = 0.05
    still = robot.drive(50)
    assert {e.status for e in still} == {Status.STATIONARY}
    for estimate in still:
        assert np.array_equal(estimate.T_world_cam, place.T_world_cam)
        assert np.array_equal(estimate.T_prev_cur, np.eye(4))
    np.testing.assert_allclose(still[-1].pose_covariance, place.pose_covariance)  # it grows no more
    assert_sure(*still)


def test_hysteresis_and_no_motion_lost(make: Callable[..., Robot]) -> None:
    """Between the thresholds the state stays; once it moves, the whole way since it stood counts."""
    robot = make(still=StillGate(enter=0.1, leave=0.3))
    statuses = []
    for flow in (0.2, 0.2, 0.05, 0.2, 0.29, 0.31, 0.2, 0.05):
        robot.script.flow = flow
        robot.drive(1) if not statuses else None
        statuses.append(robot.see().status)
    T, S = Status.TRACKING, Status.STATIONARY
    assert statuses == [T, T, S, S, S, T, T, S]
    # 4 motions count: 0.2, 0.2, 0.31 (matched with the frame before it stood) and 0.2
    assert_at(robot.see(), walked(4))


def test_the_gate_can_be_off(make: Callable[..., Robot]) -> None:
    robot = make(still=StillGate(enter=0.0))
    robot.script.flow = 0.0
    assert robot.drive(3)[-1].status is Status.TRACKING


def test_fast_cameras_match_with_older_frames(make: Callable[..., Robot]) -> None:
    """Below min_flow the pose moves on, but its errors do not add up."""
    robot = make(min_flow=2.0)
    robot.drive(2)
    robot.script.flow = 1.0
    one = robot.see()
    robot.script.xi = 2 * FORWARD
    two = robot.see()
    assert one.prev_stamp_ns == two.prev_stamp_ns == 2 * TENTH
    np.testing.assert_allclose(two.T_world_cam, walked(1) @ motion(2 * FORWARD), atol=1e-12)
    robot.script.flow = 3.0
    three = robot.see()
    four = robot.see()
    assert three.prev_stamp_ns == 2 * TENTH
    assert four.prev_stamp_ns == three.stamp_ns


# --- Time and cameras ---


def test_gaps_start_a_new_pair(make: Callable[..., Robot]) -> None:
    robot = make(max_gap=1.0)
    place = robot.drive(3)[-1]
    assert robot.see(after=10 * TENTH).status is Status.TRACKING
    late = robot.see(after=31 * TENTH)
    assert late.status is Status.FIRST
    assert "gap of 3.10 s" in late.cause
    assert_at(late, walked(3))
    # it went on at 0.5 m a second for 3.1 seconds, for all one knows
    assert np.sqrt(late.pose_covariance[0, 0]) > 1.5 > np.sqrt(place.pose_covariance[0, 0])
    assert_at(robot.see(), walked(4))
    assert_sure(late)


@pytest.mark.parametrize(("back", "word"), [(0, "repeat"), (-25 * TENTH, "jump back by 2.500 s")])
def test_stamps_that_do_not_increase_restart_the_pair_at_the_last_pose(
    make: Callable[..., Robot], back: int, word: str
) -> None:
    robot = make()
    robot.drive(30)
    estimate = robot.see(after=back)
    assert estimate.status is Status.FIRST
    assert word in estimate.cause
    assert_at(estimate, walked(29))
    assert robot.see().status is Status.TRACKING
    assert_at(robot.see(), walked(31))


def test_a_loop_that_begins_with_a_black_frame(make: Callable[..., Robot]) -> None:
    robot = make()
    robot.drive(30)
    robot.see(np.zeros((64, 96, 3), np.uint8), after=-25 * TENTH)
    estimates = robot.drive(3)
    assert [e.status for e in estimates] == [Status.FIRST, Status.TRACKING, Status.TRACKING]
    assert_at(estimates[-1], walked(31))


def test_another_camera_in_mid_run(make: Callable[..., Robot]) -> None:
    robot = make()
    robot.drive(3)
    estimate = robot.see(camera=replace(CAMERA, fx=70.0))
    assert estimate.status is Status.FIRST
    assert "intrinsics changed" in estimate.cause
    assert_at(estimate, walked(2))


def test_another_size_of_the_same_camera_goes_on(make: Callable[..., Robot]) -> None:
    robot = make()
    robot.drive(3)
    estimate = robot.see(np.repeat(np.repeat(picture(77), 2, 0), 2, 1), camera=CAMERA.resized(192, 128))
    assert estimate.status is Status.TRACKING
    assert estimate.depth.shape == (128, 192)


def test_not_a_number_in_the_depth(make: Callable[..., Robot]) -> None:
    """Features that led to it are not matched with, nor is the motion beside it believed."""
    robot = make()
    robot.drive(3)
    robot.script.depth = np.nan
    estimate = robot.see()
    assert estimate.status is Status.LOST
    assert "not finite" in estimate.cause
    assert np.isnan(estimate.depth).all()
    assert_at(estimate, walked(2))
    robot.script.depth = 10.0
    after = robot.see()
    assert after.status is Status.TRACKING
    assert after.prev_stamp_ns == 3 * TENTH
    assert_sure(estimate, after)


# --- All of it together ---

EVENTS = (
    "good",
    "still",
    "black",
    "frozen",
    "wild",
    "nan",
    "bad depth",
    "cut",
    "gap",
    "back",
    "zoom",
    "memory",
)


@given(events=st.lists(st.sampled_from(EVENTS), max_size=25))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens(make: Callable[..., Robot], events: list[str]) -> None:
    """No exception but the device's, every number finite, nothing moved but by a motion that was believed."""
    robot = make(on_device_error="fail")
    place = robot.see()
    for event in events:
        robot.script.__init__()  # type: ignore[misc]
        robot.script.flow = 0.05 if event == "still" else 3.0
        robot.script.agreement = 0.0 if event == "cut" else 0.8
        robot.script.depth = np.nan if event == "bad depth" else 10.0
        if event in ("wild", "nan"):
            robot.script.xi = np.full(6, 50.0 if event == "wild" else np.nan)
        if event == "memory":
            robot.script.failures = [MEMORY_SPENT]
        image = np.zeros((64, 96, 3), np.uint8) if event == "black" else None
        image = picture(robot.count) if event == "frozen" else image
        camera = {"camera": replace(CAMERA, fx=70.0)} if event == "zoom" else {}
        try:
            estimate = robot.see(image, {"gap": 50, "back": -20}.get(event, 1) * TENTH, **camera)
        except DeviceError:
            assert event == "memory"
            continue
        assert_sure(estimate)
        if estimate.T_prev_cur is None or estimate.status is Status.STATIONARY:
            assert_at(estimate, place.T_world_cam)
        else:
            step = np.linalg.inv(place.T_world_cam) @ estimate.T_world_cam
            np.testing.assert_allclose(step, motion(FORWARD), atol=1e-9)
        unexplained = estimate.status in (Status.LOST, Status.DEGRADED) and not estimate.cause
        assert not unexplained
        place = estimate
    robot.script.__init__()  # type: ignore[misc]
    robot.see()
    robot.see()
    assert robot.see().status is Status.TRACKING  # three good frames, and all is well


def test_the_real_network_on_a_clip_with_faults() -> None:
    """Untrained, but with eyes: what the images alone say is not scripted here."""
    clip = list(islice(open_source(Path(__file__).parent.parent / "clips" / "kitti_0001"), 5))
    rng = np.random.default_rng(0)

    def noisy(frame: Frame) -> np.ndarray:
        return np.clip(frame.image + rng.normal(0, 3, frame.image.shape), 0, 255).astype(np.uint8)

    shape = clip[0].image.shape
    images = [
        (clip[0].image, Status.FIRST),
        (clip[1].image, Status.TRACKING),
        (noisy(clip[1]), Status.STATIONARY),
        (noisy(clip[1]), Status.STATIONARY),
        (clip[2].image, Status.TRACKING),
        (np.zeros(shape, np.uint8), Status.LOST),
        (clip[3].image, Status.TRACKING),
        (rng.integers(0, 255, shape, np.uint8), Status.LOST),
        (clip[4].image, Status.TRACKING),
        (clip[4].image, Status.LOST),
    ]
    odometry = VisualOdometry(random_model("small"), OdometryConfig(iterations=1, device="cpu"))
    statuses = [
        odometry.process(Frame(i * TENTH, image, clip[0].intrinsics)).status
        for i, (image, _) in enumerate(images)
    ]
    assert statuses == [status for _, status in images]


# --- The robot's commands ---


def test_set_pose(make: Callable[..., Robot]) -> None:
    robot = make()
    robot.drive(3)
    T = motion(np.array([10.0, -5.0, 2.0, 0.1, 2.0, 0.0]))
    robot.odometry.set_pose(T, 0.04 * np.eye(6))
    estimate = robot.see()
    assert_at(estimate, T @ motion(FORWARD))
    assert np.sqrt(estimate.pose_covariance[3, 3]) == pytest.approx(0.2, rel=0.05)
    assert estimate.status is Status.TRACKING


@pytest.mark.parametrize("far", [0.0, 100.0, 1e7])
@pytest.mark.parametrize("known", [np.zeros(6), np.array([0.25, 0.25, 0.0, 0.0, 0.0, 0.0685])])
@pytest.mark.parametrize("flow", [0.05, 3.0])
def test_nothing_is_known_exactly_because_somebody_says_so(
    make: Callable[..., Robot], far: float, known: np.ndarray, flow: float
) -> None:
    """Neither by a covariance of zeros nor by RViz's, which knows x, y and yaw only."""
    for driven in (0, 3):
        robot, base = make(), BaseOdometry()
        for estimate in robot.drive(driven):
            base.update(estimate, T_BASE_OPTICAL)
        T_odom_base = motion(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.7]))
        T_odom_base[:2, 3] = far, -far
        robot.odometry.set_pose(*base.placed(T_odom_base, np.diag(known), T_BASE_OPTICAL))
        robot.script.flow = flow
        for estimate in robot.drive(2):
            published = base.update(estimate, T_BASE_OPTICAL).pose_covariance
            least = OdometryConfig().covariance
            assert np.diag(published)[:3].min() > 0.9 * least.least_translation**2
            assert np.diag(published)[3:].min() > 0.9 * least.least_rotation**2
            assert np.linalg.eigvalsh(published).min() > 0.5 * least.least_rotation**2


def test_set_pose_while_standing(make: Callable[..., Robot]) -> None:
    robot = make(min_flow=2.0)
    robot.drive(2)
    robot.script.flow = 1.0
    robot.see()  # moved on, but still matched with the frame before
    T = motion(np.array([10.0, -5.0, 2.0, 0.1, 2.0, 0.0]))
    robot.odometry.set_pose(T)
    robot.script.xi = 2 * FORWARD
    np.testing.assert_allclose(
        robot.see().T_world_cam, T @ np.linalg.inv(motion(FORWARD)) @ motion(2 * FORWARD), atol=1e-12
    )


def test_pause(make: Callable[..., Robot]) -> None:
    robot = make(max_gap=1e9)
    robot.drive(3)
    robot.odometry.new_pair()
    resumed = robot.see(after=600 * TENTH)
    assert resumed.status is Status.FIRST
    assert_at(resumed, walked(2))
    assert np.sqrt(resumed.pose_covariance[0, 0]) > 10
    assert_at(robot.see(), walked(3))


def test_release_keeps_the_pose(make: Callable[..., Robot]) -> None:
    robot = make()
    robot.drive(3)
    robot.odometry.release()
    assert robot.odometry._memory.key is None  # no tensor is kept
    assert robot.odometry.model.places == [torch.device("cpu"), "cpu"]
    assert_at(robot.see(), walked(2))
    assert robot.odometry.model.places[2:] == [torch.device("cpu")]  # fetched again, once
    assert_at(robot.see(), walked(3))
    assert len(robot.odometry.model.places) == 3


def test_a_lost_device_can_be_released(make: Callable[..., Robot]) -> None:
    """As when the node is deactivated or ended after a driver's crash; the pose is not the device's."""

    class Gone(Network):
        error = DEVICE_LOST

        def to(self, device: object) -> Network:
            raise self.error

    robot = make()
    robot.drive(3)
    robot.odometry.model, robot.odometry._spare = Gone(), Network()  # type: ignore[assignment]
    robot.odometry.release()
    assert not isinstance(robot.odometry.model, Gone)
    found = robot.see()  # the driver is back
    assert found.status is Status.FIRST
    assert_at(found, walked(2))
    robot.odometry.model = Gone()  # type: ignore[assignment]
    Gone.error = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        robot.odometry.release()


def test_no_room_after_a_release(make: Callable[..., Robot], monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have taken the device's memory meanwhile: no silent death, and all is well once it is free."""
    robot = make()
    robot.drive(3)
    robot.odometry.release()

    def refuse(self: Network, device: object) -> Network:
        raise MEMORY_SPENT

    with monkeypatch.context() as patch:
        patch.setattr(Network, "to", refuse)
        with pytest.raises(DeviceError, match="out of memory"):
            robot.see()
    assert_at(robot.see(), walked(2))
    assert_at(robot.see(), walked(3))


def test_limits_change_at_run_time(make: Callable[..., Robot]) -> None:
    robot = make()
    robot.drive(3)
    config = robot.odometry.config
    robot.odometry.reconfigure(replace(config, limits=MotionLimits(max_speed=1.0), iterations=2))
    assert robot.see().status is Status.LOST
    assert robot.odometry.iterations == 2
    with pytest.raises(ConfigError, match="Device and backend"):
        robot.odometry.reconfigure(replace(config, device="cuda"))


def test_scale_goes_into_everything_alike(make: Callable[..., Robot]) -> None:
    one, ten = make().drive(4), make(scale=ScaleConfig(factor=4.0)).drive(4)
    for a, b in zip(one, ten, strict=True):
        np.testing.assert_allclose(b.depth, 4 * a.depth)
        np.testing.assert_allclose(b.T_world_cam[:3, 3], 4 * a.T_world_cam[:3, 3])
        np.testing.assert_allclose(b.T_world_cam[:3, :3], a.T_world_cam[:3, :3])
        assert (a.scale, b.scale) == (1.0, 4.0)
    assert one[-1].T_prev_cur is not None
    assert ten[-1].T_prev_cur is not None
    np.testing.assert_allclose(ten[-1].T_prev_cur[:3, 3], 4 * one[-1].T_prev_cur[:3, 3])


def test_external_scale_through_the_engine(make: Callable[..., Robot]) -> None:
    """The network says 0.5 m a step, the wheels 1.5 m."""
    robot = make(scale=ScaleConfig(mode="external"))
    for k in range(200):
        robot.odometry.add_speed(k * TENTH // 5, 15.0)
    estimates = robot.drive(30)
    assert estimates[0].scale_confidence == 0
    assert estimates[-1].scale == pytest.approx(3.0, rel=1e-3)
    assert estimates[-1].scale_confidence > 0.9
    assert estimates[-1].depth[0, 0] == pytest.approx(30.0, rel=1e-3)
    step = np.linalg.inv(estimates[-2].T_world_cam) @ estimates[-1].T_world_cam
    assert np.linalg.norm(step[:3, 3]) == pytest.approx(1.5, rel=1e-3)


@pytest.mark.parametrize("agreement", [0.8, 0.0])
def test_a_speed_limit_does_not_keep_the_scale_from_being_measured(
    make: Callable[..., Robot], agreement: float
) -> None:
    """Lengths five times too long make every motion too fast, until a speedometer corrects them.

    But what the images do not bear out measures nothing.
    """
    robot = make(scale=ScaleConfig(mode="external"), limits=MotionLimits(max_speed=1.5))
    robot.script.agreement = agreement
    for k in range(200):
        robot.odometry.add_speed(k * TENTH // 5, 1.0)
    estimates = robot.drive(30)
    assert "too fast (5.0 m/s" in estimates[1].cause or agreement == 0
    if agreement:
        assert {e.status for e in estimates[5:]} == {Status.TRACKING}
        assert estimates[-1].scale == pytest.approx(0.2, rel=1e-3)
        step = np.linalg.inv(estimates[-2].T_world_cam) @ estimates[-1].T_world_cam
        assert np.linalg.norm(step[:3, 3]) == pytest.approx(0.1, rel=1e-3)
    else:
        assert estimates[-1].scale_confidence == 0


def test_without_refinement_the_covariance_comes_from_the_motion(make: Callable[..., Robot]) -> None:
    aligned, teacher = make(), make()
    with_alignment = aligned.drive(3)[-1]
    teacher.script.H = np.zeros((6, 6))
    without = teacher.drive(3)[-1]
    assert without.status is Status.TRACKING
    assert with_alignment.covariance is not None
    assert without.covariance is not None
    c = teacher.odometry.config.covariance
    length = float(np.linalg.norm(motion(FORWARD)[:3, 3]))
    expected = (c.unaligned_factor * c.translation_error * length) ** 2 + c.least_translation**2
    assert without.covariance[0, 0] == pytest.approx(expected, rel=0.01)


# --- The device ---


@pytest.mark.parametrize("error", [MEMORY_SPENT, DEVICE_LOST, MemoryError("no room")])
def test_a_second_try(make: Callable[..., Robot], error: Exception) -> None:
    robot = make()
    robot.drive(3)
    robot.script.failures = [error]
    assert robot.see().status is Status.TRACKING
    assert_at(robot.see(), walked(4))


def test_a_smaller_try(make: Callable[..., Robot]) -> None:
    """Where the pair does not fit, depth alone may."""
    robot = make()
    robot.drive(3)
    robot.script.failures = [MEMORY_SPENT, MEMORY_SPENT]
    estimate = robot.see()
    assert estimate.status is Status.FIRST
    assert "out of memory" in estimate.cause
    assert robot.script.matched[-1] is False
    assert_at(robot.see(), walked(3))


@pytest.mark.parametrize(("policy", "tries"), [("retry", 3), ("fail", 1)])
def test_no_answer_but_a_word_and_nothing_lost(make: Callable[..., Robot], policy: str, tries: int) -> None:
    robot = make(on_device_error=policy)
    robot.drive(3)
    robot.script.failures = [MEMORY_SPENT] * tries
    with pytest.raises(DeviceError, match="out of memory"):
        robot.see()
    assert robot.script.failures == []
    assert_at(robot.see(), walked(3))


def test_falling_back_to_the_cpu(make: Callable[..., Robot]) -> None:
    robot = make(on_device_error="cpu")
    robot.drive(3)
    robot.odometry.device = torch.device("xpu")  # stands for a device that is lost
    robot.odometry._spare = Network()  # which an engine keeps that is not on the CPU
    broken = robot.odometry.model
    robot.script.failures = [DEVICE_LOST]
    estimate = robot.see()
    assert estimate.status is Status.FIRST
    assert "runs on the CPU" in estimate.cause
    assert robot.odometry.device.type == "cpu"
    assert robot.odometry.model is not broken
    assert_at(estimate, walked(2))
    assert_at(robot.see(), walked(3))


@pytest.mark.parametrize("policy", ["retry", "cpu", "fail"])
def test_mistakes_of_the_program_are_not_the_devices(make: Callable[..., Robot], policy: str) -> None:
    robot = make(on_device_error=policy)
    robot.script.failures = [RuntimeError("shape '[2, 3]' is invalid for input of size 5")]
    with pytest.raises(RuntimeError, match="shape"):
        robot.see()


# --- What the images alone say ---


def gray_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image[..., 0].astype(np.float32) / 255)[None, None]


@pytest.mark.parametrize("shift", [0.1, 0.3, 0.8])
def test_normal_flow_of_a_known_shift(shift: float) -> None:
    """Along random directions of edges, the motion across them is 2/pi of the shift on average."""
    flow = float(normal_flow(gray_tensor(picture(5, shift)), gray_tensor(picture(5))))
    assert 0.4 * shift < flow < shift


def test_normal_flow_of_noise_and_of_light() -> None:
    rng = np.random.default_rng(0)
    still = [np.clip(picture(5) + rng.normal(0, 2, (64, 96, 3)), 0, 255).astype(np.uint8) for _ in range(2)]
    assert float(normal_flow(gray_tensor(still[0]), gray_tensor(still[1]))) < 0.1
    brighter = (0.8 * picture(5).astype(float) + 20).astype(np.uint8)
    assert float(normal_flow(gray_tensor(brighter), gray_tensor(picture(5)))) < 0.05


def test_normal_flow_outvotes_a_passing_car() -> None:
    passing = picture(5)
    passing[20:50, 30:60] = picture(6)[20:50, 30:60]
    assert float(normal_flow(gray_tensor(passing), gray_tensor(picture(5)))) < 0.1


def test_implied_flow_ignores_the_scale() -> None:
    K = torch.tensor([[60.0, 60.0, 47.5, 31.5]])
    depth = torch.full((1, 1, 64, 96), 5.0)
    T = torch.eye(4)[None]
    T[0, 0, 3] = 0.5
    assert float(implied_flow(depth, T, K)) == pytest.approx(60 * 0.5 / 5, rel=1e-5)
    T[0, 0, 3] = 5.0
    assert float(implied_flow(10 * depth, T, K)) == pytest.approx(6, rel=1e-5)


def test_agreement_of_the_right_the_wrong_and_no_motion() -> None:
    """A fronto-parallel wall moves sideways by six pixels."""
    K = torch.tensor([[60.0, 60.0, 47.5, 31.5]])
    depth = torch.full((1, 1, 64, 96), 5.0)
    right, none = torch.eye(4)[None], torch.eye(4)[None]
    right[0, 0, 3] = -0.5
    pixels = project(transform(right, back_project(depth, K)), K)
    assert float(pixels[0, 0, 0, 10]) == pytest.approx(4.0, abs=1e-3)
    cur, prev = gray_tensor(picture(5, 6.0)), gray_tensor(picture(5))
    wrong = right.clone()
    wrong[0, 0, 3] = 0.5
    assert float(agreement(cur, prev, depth, right, K)) > 0.95
    assert float(agreement(cur, prev, depth, none, K)) < 0.5
    assert float(agreement(cur, prev, depth, wrong, K)) < 0.5
    assert abs(float(agreement(cur, gray_tensor(picture(6)), depth, right, K))) < 0.3
    behind = right.clone()
    behind[0, 2, 3] = -10.0
    assert float(agreement(cur, prev, depth, behind, K)) < 0.5


# --- Rates ---


@pytest.mark.parametrize(
    ("camera", "wanted", "expected"), [(100, 30, 30), (30, 30, 30), (10, 30, 10), (60, 15, 15)]
)
def test_max_rate(camera: int, wanted: int, expected: int) -> None:
    limiter = RateLimiter(wanted)
    rng = np.random.default_rng(0)
    stamps = [int((i + rng.uniform(-0.1, 0.1)) * 1e9 / camera) for i in range(10 * camera)]
    assert sum(map(limiter.admits, stamps)) == pytest.approx(10 * expected, rel=0.05)


def test_max_rate_after_a_loop() -> None:
    limiter = RateLimiter(10)
    assert limiter.admits(100 * TENTH)
    assert not limiter.admits(100 * TENTH + TENTH // 2)
    assert limiter.admits(0)
    assert RateLimiter(0).admits(0)
    with pytest.raises(ConfigError):
        RateLimiter(-1.0)


@pytest.mark.parametrize(
    ("make_bad", "message"),
    [
        (lambda: StillGate(0.3, 0.1), "enter <= leave"),
        (lambda: ImageGate(blur_ratio=1.0), "blur_ratio"),
        (lambda: MotionLimits(max_speed=0.0), "max_speed"),
        (lambda: MotionLimits(min_agreement=1.0), "min_agreement"),
        (lambda: OdometryConfig(max_gap=0.0), "max_gap"),
        (lambda: OdometryConfig(on_device_error="pray"), "on_device_error"),
    ],
)
def test_configurations_out_of_range(make_bad: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_bad()
