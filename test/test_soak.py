"""The soak's judgement: what is lost, or goes wrong, must be seen; and a short soak of the real node."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dualrefine_ros.data.source import open_source
from dualrefine_ros.ros.statistics import ENDS
from dualrefine_ros.tools.main import main
from dualrefine_ros.tools.soak import memory_growth
from dualrefine_ros.tools.soak_account import LONGEST_RECONNECTION, LONGEST_SILENCE, Account
from dualrefine_ros.tools.soak_faults import BAD_IMAGES, CALIBRATION_FAULTS, POOR_IMAGES
from dualrefine_ros.tools.soak_robot import SoakRobot

CLIP = Path(__file__).parents[1] / "clips/kitti_0001"
BEFORE = Counter(received=7, answered=5, dropped=2)


def drive(**changes: int) -> tuple[Account, Counter[str]]:
    """Ten good images (0 to 9), two bad ones, one while paused; 8 answered, 2 dropped; with changes."""
    account = Account()
    account.begin(BEFORE)
    assert account.stretch is not None
    account.stretch.good.update(dict.fromkeys(range(10)))
    account.stretch.bad, account.stretch.paused = 2, 1
    account.stretch.heard.update(range(8))
    counts = Counter(received=13, answered=8, dropped=2, refused=2, skipped=1)
    counts.update(changes)
    counts.update(BEFORE)
    return account, counts


def test_all_is_well() -> None:
    account, counts = drive()
    assert account.stretch is not None
    assert account.stretch.on_their_way(counts) == {}
    account.end(counts)
    assert account.failed_checks() == []
    report = account.report()
    assert (report["images"], report["images_good"], report["good_answered"]) == (13, 10, 8)
    assert report["node_counts"] == dict.fromkeys(("received", *ENDS), 0) | {
        "received": 13,
        "answered": 8,
        "dropped": 2,
        "refused": 2,
        "skipped": 1,
    }


UNCOUNTED = "good images neither answered nor counted (1)"


@pytest.mark.parametrize(
    ("changes", "failures"),
    [
        ({"received": -1, "dropped": -1}, {"images lost on the way (1)", UNCOUNTED}),
        ({"dropped": -1}, {"images without an end (1)", UNCOUNTED}),
        ({"answered": 1, "dropped": -1}, {"answers not heard (1)", UNCOUNTED}),
        ({"refused": 1, "dropped": -1}, {"good images refused (1)", UNCOUNTED}),
        ({"skipped": 1, "refused": -1}, {"images skipped though not paused (1)"}),
        ({"failed": 1, "refused": -1}, {"images that the device failed on (1)"}),
        ({"waiting": 3, "refused": -1, "dropped": -2}, {"good images that waited in vain (1)"}),
        ({"received": 1, "dropped": 1}, {"images lost on the way (1)"}),  # more than were sent
    ],
)
def test_every_loss_is_seen(changes: dict[str, int], failures: set[str]) -> None:
    account, counts = drive(**changes)
    account.end(counts)
    assert set(account.failed_checks()) == failures


def test_losses_of_one_stretch_are_not_made_good_by_another() -> None:
    account, counts = drive(received=-1, dropped=-1)
    account.end(counts)
    other, more = drive(received=1, dropped=1)
    account.stretch = other.stretch
    account.end(more)
    assert [stretch["images lost on the way"] for stretch in account.failed_stretches] == [1, -1]
    assert "images lost on the way (2)" in account.failed_checks()


def test_answers_must_be_of_good_images_and_once() -> None:
    account, counts = drive(answered=2, refused=-2)
    assert account.stretch is not None
    account.stretch.heard.update([77, 3])
    account.end(counts)
    assert set(account.failed_checks()) == {"answers to no good image (1)", "images answered twice (1)"}


def test_some_may_wait_after_a_change_of_size() -> None:
    for changes, failures in ((0, ["good images that waited in vain (1)"]), (1, [])):
        account, counts = drive(waiting=3, refused=-1, dropped=-2)
        assert account.stretch is not None
        account.stretch.size_changes = changes
        account.end(counts)
        assert account.failed_checks() == failures


def silence(looks: list[tuple[int, int]]) -> list[str]:
    """What is said of a stretch whose looks saw so many images answered and dropped."""
    account = Account()
    account.begin(BEFORE)
    assert account.stretch is not None
    counts = Counter(BEFORE)
    for answered, dropped in looks:
        stamps = range(counts["received"], counts["received"] + answered + dropped)
        account.stretch.good.update(dict.fromkeys(stamps))
        account.stretch.heard.update(stamps[:answered])
        counts.update(answered=answered, dropped=dropped, received=len(stamps))
        account.stretch.look(counts)
    account.end(counts)
    return account.failed_checks()


def test_to_drop_everything_is_no_answer() -> None:
    assert silence([(1, 0), *[(0, 5)] * (LONGEST_SILENCE + 4)]) == ["seconds of dropping all that came (4)"]
    assert silence([*[(0, 5)] * LONGEST_SILENCE, (1, 0), *[(0, 5)] * LONGEST_SILENCE]) == []


def test_a_burst_that_dds_held_back_is_no_silence_of_the_node() -> None:
    assert silence([(5, 0), *[(0, 0)] * 9, (1, 49), (5, 0)]) == []


def test_reconnections_are_measured_and_have_an_end() -> None:
    account = Account()
    for seconds, tries in ((0.5, 2), (2.5, 10), (1.0, 4)):
        account.reconnected("publisher restarts", seconds, tries)
    assert account.failed_checks() == []
    report = account.report()
    assert report["reconnections"] == {"publisher restarts": {"number": 3, "median_s": 1.0, "longest_s": 2.5}}
    assert report["images_before_reconnected"] == 16
    account.reconnected("start", LONGEST_RECONNECTION + 1, 99)
    assert account.failed_checks() == ["reconnections that took too long (1)"]


@pytest.mark.parametrize("percent", [0.0, 0.9, 1.1, 20.0])
def test_memory_growth(percent: float) -> None:
    """800 MiB that grow by so much in each ten minutes, after a beginning that does not count."""
    seconds = np.arange(0.0, 1800.0, 2.0)
    warm = np.clip(seconds / 400.0, 0, 1) * 200 + 600
    noise = np.random.default_rng(0).normal(0, 3, len(seconds))
    slope = 800 * percent / 100 / 600
    memory = list(zip(seconds, warm + slope * (seconds - 450) + noise, strict=True))
    assert memory_growth(memory) == pytest.approx(percent, abs=0.05)
    assert not memory_growth(memory[:7]) < 1.0


@pytest.fixture
def quiet_robot(ros):
    robot = SoakRobot(list(open_source(CLIP).frames(range(3))), np.random.default_rng(0))
    yield robot
    robot.close()


def test_faults_are_faults(quiet_robot: SoakRobot) -> None:
    random = np.random.default_rng(0)
    for spoil in POOR_IMAGES.values():
        image, _ = quiet_robot.camera.image()
        before = bytes(image.data)
        spoil(image, random)
        assert bytes(image.data) != before
        assert len(image.data) == len(before)
    for lie in BAD_IMAGES.values():
        image, _ = quiet_robot.camera.image()
        lie(image)
        consistent = image.step * image.height == len(image.data) and image.encoding == "rgb8"
        assert not consistent
    for name, fault in CALIBRATION_FAULTS.items():
        _, info = quiet_robot.camera.image()
        good = info.k.copy()
        before, after = fault(info)
        assert [one is info for one in before] != [True], name
        assert len(before) + len(after) < 3
        np.testing.assert_array_equal(info.k, good)  # what is sent next is sound


def test_a_short_soak_of_the_real_node(tmp_path: Path) -> None:
    arguments = ["--clip", str(CLIP), "--out", str(tmp_path), "--minutes", "0.2", "--faults", "0.2"]
    command = [sys.executable, "-m", "dualrefine_ros.tools.main", "soak", *arguments, "--iterations", "0"]
    ran = subprocess.run(command, capture_output=True, text=True)
    report = json.loads((tmp_path / "report.json").read_text())
    assert "the node did" in ran.stdout
    # the memory is not flat yet
    assert [failure for failure in report["failures"] if not failure.startswith("memory")] == [], report
    assert ran.returncode == (0 if report["passed"] else 1)
    assert report["good_answered"] > 10
    assert report["exit_status"] == 0
    assert sum(report["faults"].values()) > 5
    assert (tmp_path / "memory.png").stat().st_size > 1000


@pytest.mark.parametrize("wrong", [["--minutes", "0"], ["--rate", "nan"], ["--faults", "1.5"]])
def test_bad_arguments(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["soak", *wrong]) == 2
    assert "--faults between 0 and 1" in capsys.readouterr().err
