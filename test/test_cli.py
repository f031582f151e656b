"""The command line as a whole."""

from __future__ import annotations

import subprocess
import sys
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


def test_output_that_finds_no_room_or_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # errors show late, when buffers are emptied
    program = [sys.executable, "-m", "dualrefine_ros.tools.main", "splits", "eigen_zhou_train"]
    with open("/dev/full", "w") as full:
        refused = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "No space left on device" in refused.stderr
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as left_alone:
        assert left_alone.stdout is not None
        assert left_alone.stderr is not None
        left_alone.stdout.readline()
        left_alone.stdout.close()
        assert left_alone.stderr.read() == ""
    assert left_alone.returncode == 141


def test_ctrl_c_while_modules_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dualrefine_ros.tools.main.import_module", interrupted)
    assert main(["replay", "somewhere"]) == 130
    assert capsys.readouterr().err == "dualrefine replay: interrupted\n"
