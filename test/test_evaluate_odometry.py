"""``dualrefine evaluate odometry`` as a user meets it: tables, JSON, pictures, and clear refusals."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
import pytest

from dualrefine_ros.geometry.trajectory import Trajectory, write_kitti, write_tum
from dualrefine_ros.tools.main import main

REFERENCE = Path(__file__).parent / "data" / "odometry_eval"
FIGURES = ("t_err", "r_err", "ate", "rpe_m", "rpe_deg")


@pytest.fixture
def sequence_09(tmp_path: Path) -> tuple[str, str]:
    """Paths of the reference estimate and ground truth."""
    for packed in REFERENCE.glob("*_09.txt.xz"):
        (tmp_path / packed.stem).write_bytes(lzma.decompress(packed.read_bytes()))
    return str(tmp_path / "estimate_09.txt"), str(tmp_path / "ground_truth_09.txt")


def straight(count: int, step: float = 1.0) -> Trajectory:
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, 2, 3] = step * np.arange(count)
    return Trajectory(poses, stamps_ns=100_000_000 * np.arange(count), frames=np.arange(count))


def evaluate(*arguments: object) -> int:
    return main(["evaluate", "odometry", *map(str, arguments)])


def test_reference_through_the_command_line(sequence_09: tuple[str, str], tmp_path: Path) -> None:
    estimate, truth = sequence_09
    for alignment in ("none", "scale", "6dof", "7dof"):
        assert (
            evaluate(estimate, "--ground-truth", truth, "--align", alignment, "--json", tmp_path / "j") == 0
        )
        figures = json.loads((tmp_path / "j").read_text())
        for name, value in json.loads((REFERENCE / "expected.json").read_text())[alignment]["09"].items():
            assert figures[name] == pytest.approx(value, rel=1e-6)


def test_several_results_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_kitti(tmp_path / "poses.txt", straight(150))
    for name, step in (("near", 1.0), ("far", 1.1)):
        (tmp_path / name).mkdir()
        write_tum(tmp_path / name / "trajectory_tum.txt", straight(150, step))
    (tmp_path / "far" / "summary.json").write_text('{"weights": "random weights"}')
    (tmp_path / "times.txt").write_text("".join(f"{0.1 * i:.6f}\n" for i in range(150)))
    estimates = [tmp_path / "near" / "trajectory_tum.txt", tmp_path / "far"]
    out = tmp_path / "deep" / "plots"
    arguments = ["--align", "none", "--json", tmp_path / "j.json", "--out", out]
    assert evaluate(*estimates, "--ground-truth", tmp_path / "poses.txt", *arguments) == 0
    printed = capsys.readouterr().out
    assert "\nnear " in printed
    assert "\nfar " in printed
    figures = json.loads((tmp_path / "j.json").read_text())
    assert figures["near"]["ate"] == pytest.approx(0, abs=1e-9)
    assert figures["far"]["rpe_m"] == pytest.approx(0.1)
    assert figures["far"]["t_err"] == pytest.approx(10.1)  # the segment ends at the first pose beyond 100 m
    assert {p.name for p in out.iterdir()} == {"trajectory.png", "error_over_length.png", "scale_drift.png"}
    assert all(p.stat().st_size > 10_000 for p in out.iterdir())


def test_two_files_of_one_replay_have_names_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    write_kitti(tmp_path / "run" / "trajectory_kitti.txt", straight(40))
    write_tum(tmp_path / "run" / "trajectory_tum.txt", straight(40))
    write_tum(tmp_path / "truth.txt", straight(40))
    (tmp_path / "times.txt").write_text("".join(f"{0.1 * i:.6f}\n" for i in range(40)))
    files = [tmp_path / "run" / f"trajectory_{kind}.txt" for kind in ("kitti", "tum")]
    arguments = ["--ground-truth", tmp_path / "truth.txt", "--times", tmp_path / "times.txt"]
    assert evaluate(*files, *arguments) == 0
    printed = capsys.readouterr().out
    assert "\ntrajectory_kitti " in printed
    assert "\ntrajectory_tum " in printed


def test_files_that_differ_in_suffix_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("run.txt", "run.kitti"):
        write_kitti(tmp_path / name, straight(40))
    assert evaluate(tmp_path / "run.txt", tmp_path / "run.kitti", "--ground-truth", tmp_path / "run.txt") == 0
    assert "\nrun.kitti " in capsys.readouterr().out


def test_short_sequence_has_null_and_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_kitti(tmp_path / "truth.txt", straight(40))
    write_kitti(tmp_path / "estimate.txt", straight(38))
    truth = tmp_path / "truth.txt"
    arguments = ["--json", tmp_path / "j.json", "--out", tmp_path / "out"]
    assert evaluate(tmp_path / "estimate.txt", "--ground-truth", truth, *arguments) == 0
    printed = capsys.readouterr()
    assert "t_err and r_err do not exist: they need 100 m" in printed.out
    assert "nan" not in printed.out.lower()
    assert "line i was taken for frame i" in printed.out
    figures = json.loads((tmp_path / "j.json").read_text())
    assert figures["t_err"] is None
    assert figures["r_err"] is None
    assert figures["ate"] == pytest.approx(0, abs=1e-9)


def test_time_offset(tmp_path: Path) -> None:
    write_tum(tmp_path / "truth.txt", straight(40))
    late = Trajectory(straight(40).poses, stamps_ns=straight(40).stamps_ns + 1_700_000_000_000_000_000)
    write_tum(tmp_path / "estimate.txt", late)
    arguments = [tmp_path / "estimate.txt", "--ground-truth", tmp_path / "truth.txt"]
    assert evaluate(*arguments) == 2
    assert evaluate(*arguments, "--time-offset", -1_700_000_000) == 0


@pytest.mark.parametrize("option", ["--time-offset", "--max-time-difference"])
@pytest.mark.parametrize("value", ["nan", "1e300"])
def test_times_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    write_tum(tmp_path / "truth.txt", straight(40))
    truth = tmp_path / "truth.txt"
    assert evaluate(truth, "--ground-truth", truth, option, value) == 2
    assert f"{option} must be" in capsys.readouterr().err


IDENTITY = "1 0 0 0 0 1 0 0 0 0 1 0"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no pose"),
        (f"{IDENTITY}\n", "one pose in common"),
        (f"90 {IDENTITY}\n91 {IDENTITY}\n", "nothing in common"),
        ("1 0 0 0 0 1 0 0 0 0 1\n", "line 1: 11 columns"),
        (f"{IDENTITY}\n1 {IDENTITY}\n", "line 2: 13 columns"),
        ("0 0 0 0 0 0 0 1\n0.1 0 0 1 0 0 0 1\n", "--times"),
        (f"{IDENTITY}\n{IDENTITY}\n", "No scale fits"),
    ],
)
def test_bad_estimate_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    write_kitti(tmp_path / "truth.txt", straight(40))
    (tmp_path / "estimate.txt").write_text(content)
    assert evaluate(tmp_path / "estimate.txt", "--ground-truth", tmp_path / "truth.txt") == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "estimate.txt" in error
    assert error.count("\n") == 0


def test_folders_of_other_things_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The demo's trajectory is the robot's: no figure against a camera's poses would mean anything."""
    write_tum(tmp_path / "truth.txt", straight(40))
    assert evaluate(tmp_path, "--ground-truth", tmp_path / "truth.txt") == 2
    assert "is no folder of a replay" in capsys.readouterr().err
    write_tum(tmp_path / "trajectory_tum.txt", straight(40))
    assert evaluate(tmp_path, "--ground-truth", tmp_path / "truth.txt") == 0
    (tmp_path / "summary.json").write_text('{"trajectory_of": "base_link"}')
    for named in (tmp_path, tmp_path / "trajectory_tum.txt"):
        assert evaluate(named, "--ground-truth", tmp_path / "truth.txt") == 2
        assert "trajectory of base_link, in a vehicle's axes" in capsys.readouterr().err


def test_files_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_kitti(tmp_path / "truth.txt", straight(40))
    truth = tmp_path / "truth.txt"
    for option, message in (("--out", "is a file: name a folder"), ("--json", "cannot be written: Is a dir")):
        path = truth if option == "--out" else tmp_path
        assert evaluate(truth, "--ground-truth", truth, option, path) == 2
        printed = capsys.readouterr()
        assert message in printed.err
        assert printed.err.count("\n") == 1
        assert "ATE" in printed.out, "the table is shown even so"


def test_times_too_short_and_same_estimate_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tum(tmp_path / "estimate.txt", straight(40))
    write_kitti(tmp_path / "truth.txt", straight(40))
    (tmp_path / "times.txt").write_text("0\n0.1\n")
    assert evaluate(tmp_path / "estimate.txt", "--ground-truth", tmp_path / "truth.txt") == 2
    assert "too few for frame 39" in capsys.readouterr().err
    assert evaluate(*[tmp_path / "estimate.txt"] * 2, "--ground-truth", tmp_path / "truth.txt") == 2
    assert "given twice" in capsys.readouterr().err
