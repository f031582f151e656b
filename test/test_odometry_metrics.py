"""Odometry figures: against the figures of a widely used tool, and on paths whose errors are known."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dualrefine_ros.errors import DataError
from dualrefine_ros.evaluation.alignment import Alignment, associate, umeyama
from dualrefine_ros.evaluation.odometry_metrics import evaluate_odometry, local_scale
from dualrefine_ros.geometry.trajectory import Trajectory, read_trajectory

REFERENCE = Path(__file__).parent / "data" / "odometry_eval"
EXPECTED = json.loads((REFERENCE / "expected.json").read_text())
ALIGNMENTS = [alignment.value for alignment in Alignment]


@pytest.fixture(scope="module")
def reference_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odometry_eval")
    for packed in REFERENCE.glob("*.xz"):
        (folder / packed.stem).write_bytes(lzma.decompress(packed.read_bytes()))
    return folder


def yaw(angle: float) -> npt.NDArray[np.float64]:
    """A pose turned by ``angle`` about the camera's y axis."""
    pose = np.eye(4)
    pose[[0, 0, 2, 2], [0, 2, 0, 2]] = [np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)]
    return pose


def drive(count: int, step: float = 1.0, turn: float = 0.0, first: int = 0, **keys: bool) -> Trajectory:
    """``count`` poses, each ``step`` metres ahead of the one before and turned by ``turn``."""
    motion = yaw(turn)
    motion[2, 3] = step
    poses = [np.eye(4)]
    for _ in range(count - 1):
        poses.append(poses[-1] @ motion)
    numbers = first + np.arange(count)
    if keys.get("stamps"):
        return Trajectory(np.array(poses), stamps_ns=numbers * 100_000_000)
    return Trajectory(np.array(poses), frames=numbers)


@pytest.mark.parametrize("sequence", ["09", "10"])
@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_agrees_with_the_reference_tool(reference_files: Path, alignment: str, sequence: str) -> None:
    result = evaluate_odometry(
        read_trajectory(reference_files / f"estimate_{sequence}.txt"),
        read_trajectory(reference_files / f"ground_truth_{sequence}.txt"),
        Alignment(alignment),
    )
    figures = EXPECTED[alignment][sequence]
    assert len(figures) >= 3
    for name, value in figures.items():
        assert getattr(result, name) == pytest.approx(value, rel=1e-9), name


def test_known_errors_on_a_straight_road() -> None:
    truth = drive(1001)
    # every step 2 % short and turned by 0.01 degrees
    estimate = drive(1001, step=0.98, turn=np.deg2rad(0.01))
    result = evaluate_odometry(estimate, truth, Alignment.NONE)
    assert result.rpe_m == pytest.approx(0.02, rel=1e-9)
    assert result.rpe_deg == pytest.approx(0.01, rel=1e-6)
    assert result.r_err == pytest.approx(
        1.01, rel=0.01
    )  # a segment of 100 m ends at the first pose beyond it
    assert result.segments.t_err(100) == pytest.approx(2.2, abs=0.1)  # 2 m short of 101, 0.9 m aside
    assert result.segments.t_err(800) > result.segments.t_err(100)
    assert set(result.segments.lengths) == set(range(100, 900, 100))


def test_the_spread_of_steps_that_are_long_enough() -> None:
    """Ten steps of a metre, estimated as 0.9 and 1.1 in turns, and one too short to count."""
    true_steps, steps = np.append(np.ones(10), 0.1), np.append(np.tile([0.9, 1.1], 5), 0.5)
    truth, estimate = np.tile(np.eye(4), (2, 12, 1, 1))
    truth[1:, 2, 3], estimate[1:, 2, 3] = np.cumsum(true_steps), np.cumsum(steps)
    frames = np.arange(12)
    result = evaluate_odometry(
        Trajectory(estimate, frames=frames), Trajectory(truth, frames=frames), Alignment.NONE
    )
    assert result.scale_spread == pytest.approx(0.1)
    errors = np.cumsum(np.append(0, steps)) - np.cumsum(np.append(0, true_steps))
    assert result.ate_percent == pytest.approx(100 * np.sqrt((errors**2).mean()) / 10.1)


def test_who_stands_still_has_neither() -> None:
    still = Trajectory(np.tile(np.eye(4), (4, 1, 1)), frames=np.arange(4))
    result = evaluate_odometry(still, still, Alignment.NONE)
    assert (result.ate_percent, result.scale_spread) == (None, None)


def test_scale_alignment_undoes_a_scale_and_nothing_else() -> None:
    truth = drive(300, turn=0.01)
    half = drive(300, step=0.5, turn=0.01)
    result = evaluate_odometry(half, truth, Alignment.SCALE)
    assert result.similarity.scale == pytest.approx(2.0)
    assert result.ate == pytest.approx(0, abs=1e-9)
    assert evaluate_odometry(half, truth, Alignment.RIGID).ate > 1
    # a wrong first heading is for 6dof to undo, and the scale is for 7dof
    turned = Trajectory(np.linalg.inv(half.poses[0]) @ half.poses, frames=half.frames)
    turned.poses[1:] = yaw(0.3) @ turned.poses[1:]
    assert evaluate_odometry(turned, truth, Alignment.SCALE).ate > 1
    assert evaluate_odometry(turned, truth, Alignment.SIMILARITY).ate < 0.1


@pytest.mark.parametrize("alignment", ALIGNMENTS)
def test_an_own_world_frame_changes_nothing(alignment: str) -> None:
    """Both trajectories are taken relative to their first common pose, whatever world they are given in."""
    truth, estimate = drive(250, turn=0.01), drive(240, step=0.9, turn=0.011, first=10)
    elsewhere = yaw(2.0)
    elsewhere[:3, 3] = [100, -20, 3]
    moved = Trajectory(elsewhere @ estimate.poses, frames=estimate.frames)
    here = evaluate_odometry(estimate, truth, Alignment(alignment))
    there = evaluate_odometry(moved, truth, Alignment(alignment))
    assert there.ate == pytest.approx(here.ate, rel=1e-6)
    assert there.t_err == pytest.approx(here.t_err, rel=1e-6)


def test_umeyama_recovers_a_similarity() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(40, 3))
    R = yaw(1.2)[:3, :3]
    fit = umeyama(points, 3.0 * points @ R.T + [1, 2, 3], with_scale=True)
    np.testing.assert_allclose(fit.R, R, atol=1e-12)
    np.testing.assert_allclose(fit.t, [1, 2, 3], atol=1e-12)
    assert fit.scale == pytest.approx(3.0)


def test_umeyama_never_mirrors() -> None:
    points = np.random.default_rng(0).normal(size=(40, 3))
    fit = umeyama(points, points * [1, 1, -1], with_scale=False)
    assert np.linalg.det(fit.R) == pytest.approx(1.0)


def test_straight_path_can_be_aligned() -> None:
    result = evaluate_odometry(drive(50, step=0.5), drive(50), Alignment.SIMILARITY)
    assert result.ate == pytest.approx(0, abs=1e-9)


def test_missing_frames_are_left_out() -> None:
    truth = drive(400, turn=0.005)
    kept = np.delete(np.arange(400), [0, 1, 57, 58, 200])
    result = evaluate_odometry(truth[kept], truth, Alignment.NONE)
    assert len(result.estimate) == 395
    assert result.ate == pytest.approx(0, abs=1e-9)
    assert result.t_err == pytest.approx(0, abs=1e-9)


def test_every_third_frame_has_all_its_segments() -> None:
    truth = drive(1200)
    sparse = Trajectory(drive(400, step=2.94).poses, frames=np.arange(0, 1200, 3))
    result = evaluate_odometry(sparse, truth, Alignment.NONE)
    assert result.t_err == pytest.approx(2.0, rel=0.03)
    assert len(result.segments.lengths) > 150
    assert result.rpe_m == pytest.approx(0.06, rel=1e-9)


def test_short_sequence_says_which_figures_do_not_exist() -> None:
    result = evaluate_odometry(drive(80), drive(90), Alignment.NONE)
    assert result.t_err is None
    assert result.r_err is None
    assert "t_err and r_err do not exist" in (result.missing_figures() or "")
    assert "79.0 m" in (result.missing_figures() or "")
    assert evaluate_odometry(drive(200), drive(200), Alignment.NONE).missing_figures() is None


def test_association_by_stamp_takes_each_pose_once() -> None:
    poses = np.tile(np.eye(4), (4, 1, 1))
    milliseconds = 1_000_000
    truth = Trajectory(poses, stamps_ns=np.array([0, 100, 200, 300]) * milliseconds)
    estimate = Trajectory(poses, stamps_ns=np.array([4, 8, 191, 312]) * milliseconds)
    in_estimate, in_truth = associate(estimate, truth, 0.01)
    np.testing.assert_array_equal(in_estimate, [0, 2])
    np.testing.assert_array_equal(in_truth, [0, 2])


def test_association_with_a_single_pose() -> None:
    one = Trajectory(np.eye(4)[None], stamps_ns=np.array([100_000_000]))
    in_estimate, in_truth = associate(one, drive(5, stamps=True), 0.01)
    assert (list(in_estimate), list(in_truth)) == ([0], [1])
    in_estimate, in_truth = associate(drive(5, stamps=True), one, 0.01)
    assert (list(in_estimate), list(in_truth)) == ([1], [0])


def test_what_cannot_be_compared() -> None:
    with pytest.raises(DataError, match=r"nothing in common.*no frame number"):
        evaluate_odometry(drive(5, first=100), drive(5), Alignment.NONE)
    with pytest.raises(DataError, match=r"0.000 to 0.400 s.*nothing in common.*no stamps"):
        evaluate_odometry(drive(5, stamps=True), drive(5, first=1000, stamps=True), Alignment.NONE)
    with pytest.raises(DataError, match="--times"):
        evaluate_odometry(drive(5, stamps=True), drive(5), Alignment.NONE)
    with pytest.raises(DataError, match="motion needs two"):
        evaluate_odometry(drive(1), drive(5), Alignment.NONE)
    with pytest.raises(DataError, match="No scale"):
        evaluate_odometry(drive(5, step=0.0), drive(5), Alignment.SCALE)
    assert evaluate_odometry(drive(5, step=0.0), drive(5), Alignment.RIGID).ate > 0


def test_local_scale_finds_where_the_scale_changes() -> None:
    """Half way the estimate begins to take steps 20 % too long."""
    truth = drive(401)
    poses = truth.poses.copy()
    poses[200:, 2, 3] = 200 + 1.2 * np.arange(201)
    rows, ratios = local_scale(
        evaluate_odometry(Trajectory(poses, frames=truth.frames), truth, Alignment.NONE)
    )
    assert ratios[rows < 200] == pytest.approx(1.0)
    assert ratios[rows > 250] == pytest.approx(1.2)


def test_local_scale_of_a_standing_camera_is_empty() -> None:
    _, ratios = local_scale(evaluate_odometry(drive(5), drive(5, step=0.0), Alignment.NONE))
    assert len(ratios) == 0
