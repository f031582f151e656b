"""The published lists: known sizes and entries, and the drives they name."""

from __future__ import annotations

from pathlib import Path

import pytest
from kitti_folders import write_sequence

from dualrefine_ros.data import splits
from dualrefine_ros.data.splits import SPLITS, SplitFrame, load_split, open_split
from dualrefine_ros.errors import DataError
from dualrefine_ros.tools.main import main


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("eigen_zhou_train", 39810, SplitFrame("2011_09_26/2011_09_26_drive_0022_sync", 473, 3)),
        ("eigen_zhou_val", 4424, SplitFrame("2011_09_26/2011_09_26_drive_0028_sync", 82, 3)),
        ("eigen_test", 697, SplitFrame("2011_09_26/2011_09_26_drive_0002_sync", 69, 2)),
        ("eigen_benchmark_test", 652, SplitFrame("2011_09_26/2011_09_26_drive_0002_sync", 69, 2)),
        ("odom_train", 36671, SplitFrame("sequences/08", 4056, 3)),
        ("odom_val", 4075, SplitFrame("sequences/00", 1569, 2)),
        ("odom_09", 1590, SplitFrame("sequences/09", 0, 2)),
        ("odom_10", 1200, SplitFrame("sequences/10", 0, 2)),
    ],
)
def test_sizes_are_those_of_the_literature(name: str, count: int, first: SplitFrame) -> None:
    frames = load_split(name)
    assert len(frames) == len(set(frames)) == count
    assert frames[0] == first


def test_training_and_test_drives_do_not_meet() -> None:
    drives = {name: {frame.folder for frame in load_split(name)} for name in SPLITS}
    assert not (drives["eigen_zhou_train"] | drives["eigen_zhou_val"]) & drives["eigen_test"]
    assert drives["eigen_benchmark_test"] <= drives["eigen_test"]
    assert drives["odom_train"] == {f"sequences/{i:02d}" for i in range(9)}


def test_the_drives_of_a_split_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sequence(tmp_path / "sequences" / "00", cameras=(2, 3), frame_ids=(0, 1, 3))
    write_sequence(tmp_path / "sequences" / "01", cameras=(2,))
    monkeypatch.setattr(splits, "read_split", lambda _: "0 3 l\n1 2 l\n0 0 l\n0 1 r\n")
    opened = [
        (source.name, source.T_cam0_cam[0, 3] > 0, indices)
        for source, indices in open_split("mine", tmp_path)
    ]
    assert opened == [("00", False, [0, 2]), ("01", False, [2]), ("00", True, [1])]
    monkeypatch.setattr(splits, "read_split", lambda _: "0 2 l\n")
    with pytest.raises(DataError, match="00 has no frame 2"):
        list(open_split("mine", tmp_path))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["splits"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == list(SPLITS)
    assert main(["splits", "odom_09"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["9 0 l", "9 1 l"]
    assert main(["splits", "nyu"]) == 2
    assert "no split 'nyu'" in capsys.readouterr().err
