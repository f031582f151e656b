"""The command line as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from dualrefine_ros.tools.main import COMMANDS, main


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"] if command else ["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "usage: dualrefine" in text
    assert "default: None" not in text


def test_what_the_system_refuses_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    poses = Path(__file__).parent.parent / "clips" / "kitti_0001" / "poses.txt"
    (tmp_path / "file").touch()
    missing = tmp_path / "file" / "figures.json"
    status = main(["evaluate", "odometry", str(poses), "--ground-truth", str(poses), "--json", str(missing)])
    error = capsys.readouterr().err
    assert status == 2
    assert error.count("\n") == 1
    assert str(tmp_path / "file") in error
