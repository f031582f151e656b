"""The folder a replay leaves behind, written frame by frame and closed at any time.

frames.csv            a line a frame: stamp, status and its cause, pose, scale, update norms, milliseconds
trajectory_tum.txt    stamp, position, quaternion
trajectory_kitti.txt  3x4 poses, with frame numbers where these are not 0, 1, 2, ...
ground_truth_tum.txt  where the recording has it
depth/                a map a frame, 16-bit PNG (metres x 256) and/or NumPy archives
config.yaml           what it takes to run this again
summary.json          counts, speed, figures against ground truth
*.png                 pictures
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dualrefine_ros.data.depth_files import write_depth_npz, write_depth_png
from dualrefine_ros.data.source import Source
from dualrefine_ros.errors import ConfigError, DataError
from dualrefine_ros.evaluation.alignment import Alignment
from dualrefine_ros.evaluation.background import WriteBehind
from dualrefine_ros.evaluation.odometry_metrics import OdometryResult, evaluate_odometry
from dualrefine_ros.evaluation.output_files import make_folder, write_json
from dualrefine_ros.evaluation.replay import EngineLog, PoseRecorder, Step
from dualrefine_ros.evaluation.replay_plots import plot_replay
from dualrefine_ros.evaluation.summary import SUMMARY, TRAJECTORY
from dualrefine_ros.frame import NANOSECONDS, Status
from dualrefine_ros.geometry.quaternion import quaternion_from_rotation
from dualrefine_ros.geometry.trajectory import Trajectory, write_kitti, write_tum
from dualrefine_ros.observation import STAGES

FRAMES_CSV = "frames.csv"
PICTURES = ("trajectory.png", "error_over_length.png", "scale_drift.png", "engine.png")
FILES = (SUMMARY, TRAJECTORY, "trajectory_kitti.txt", "ground_truth_tum.txt", *PICTURES)
POSE_COLUMNS = ("tx", "ty", "tz", "qx", "qy", "qz", "qw")
DEPTH_FORMATS = ("png", "npz")
REPORTED_ALIGNMENTS = (Alignment.NONE, Alignment.RIGID, Alignment.SCALE, Alignment.SIMILARITY)


class ResultsFolder:
    """An observer of :func:`dualrefine_ros.evaluation.replay.replay` that writes what it sees.

    Args:
        folder: is made; may hold an earlier replay, which is replaced.
        config: written to ``config.yaml``.
        iterations: columns of update norms.
        depth_formats: out of ``DEPTH_FORMATS``.

    Raises:
        ConfigError: the folder holds something else.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], iterations: int, depth_formats: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.poses = PoseRecorder()
        self.engine_log = EngineLog()
        self._depth_formats = depth_formats
        _clear(folder)
        self._csv_file = open(folder / FRAMES_CSV, "w", newline="", encoding="utf-8")  # noqa: SIM115
        self._csv = csv.DictWriter(self._csv_file, _columns(iterations), restval="", extrasaction="ignore")
        self._csv.writeheader()
        if depth_formats:
            make_folder(folder / "depth")
        (folder / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
        self._write = WriteBehind()

    def __call__(self, step: Step) -> None:
        self.poses(step)
        self.engine_log(step)
        self._csv.writerow(_csv_row(step))
        self._csv_file.flush()  # a killed replay leaves its lines
        depth_path = self.folder / "depth" / f"{step.number:010d}"
        if "png" in self._depth_formats:
            self._write(write_depth_png, depth_path.with_suffix(".png"), step.estimate.depth)
        if "npz" in self._depth_formats:
            self._write(write_depth_npz, depth_path.with_suffix(".npz"), step.estimate.depth)

    def finish(self, source: Source, weights: str, network: str, *, complete: bool) -> dict[str, Any]:
        """Write what concerns the whole: trajectories, the summary and, last of all, pictures of them.

        Args:
            source: the recording, for its name, its ground truth and what it could not read.
            weights, network: in words; the weights are named in the pictures.
            complete: whether all frames that were asked for have been seen.

        Returns:
            The summary.

        Raises:
            DataError: there was no frame, or a depth map could not be written.
        """
        self._csv_file.close()
        trajectory = self.poses.trajectory()
        write_tum(self.folder / TRAJECTORY, trajectory)
        write_kitti(self.folder / "trajectory_kitti.txt", trajectory)
        if source.ground_truth is not None and source.ground_truth.stamps_ns is not None:
            write_tum(self.folder / "ground_truth_tum.txt", source.ground_truth)
        self._write.close()
        results, note = compare(trajectory, source.ground_truth)
        engine_speed, speed = self.engine_log.speed()
        summary = {
            "source": source.name,
            "weights": weights,
            "network": network,
            "complete": complete,
            "frames": len(trajectory),
            "frames_unreadable": source.skipped,
            "frames_by_status": {s.value: n for s in Status if (n := self.engine_log.statuses.count(s))},
            "path_length": float(trajectory.distances()[-1]),  # in the estimate's own scale
            "frames_per_second": speed,
            "frames_per_second_engine": engine_speed,
            "odometry": {name: result.figures() for name, result in results.items()},
            "odometry_note": note or None,
        }
        write_json(self.folder / SUMMARY, summary)
        plot_replay(self.folder, trajectory, results, self.engine_log, f"{source.name}, {weights}")
        return summary


def compare(trajectory: Trajectory, ground_truth: Trajectory | None) -> tuple[dict[str, OdometryResult], str]:
    """Results by alignment against the ground truth, and a sentence on why any are missing."""
    if ground_truth is None:
        return {}, "The recording has no ground truth."
    results = {}
    try:
        for alignment in REPORTED_ALIGNMENTS:
            results[alignment.value] = evaluate_odometry(trajectory, ground_truth, alignment)
    except DataError as error:
        return results, str(error)
    return results, ""


def _clear(folder: Path) -> None:
    """Make the folder; remove an earlier replay from it, and nothing else."""
    make_folder(folder)
    if any(folder.iterdir()) and not (folder / FRAMES_CSV).is_file():
        raise ConfigError(f"{folder} is not empty and holds no replay: name another folder for the results.")
    depth_maps = (path for path in (folder / "depth").glob("*") if path.stem.isdecimal())
    for path in (*(folder / name for name in FILES), *depth_maps):
        path.unlink(missing_ok=True)


def _columns(iterations: int) -> list[str]:
    norms = [f"update_norm_{i + 1}" for i in range(iterations)]
    times = [f"{stage}_ms" for stage in STAGES]
    return [
        "frame",
        "stamp",
        "status",
        *POSE_COLUMNS,
        "scale",
        "scale_confidence",
        *norms,
        *times,
        "total_ms",
        "cause",
    ]


def _csv_row(step: Step) -> dict[str, object]:
    estimate = step.estimate
    seconds, nanoseconds = divmod(estimate.stamp_ns, NANOSECONDS)
    R, t = estimate.T_world_cam[:3, :3], estimate.T_world_cam[:3, 3]
    pose = zip(POSE_COLUMNS, [*t, *quaternion_from_rotation(R)], strict=True)
    ran = [(i, norm) for i, norm in enumerate(estimate.pose_update_norms) if np.isfinite(norm)]
    return {
        "frame": step.number,
        "stamp": f"{seconds}.{nanoseconds:09d}",
        "status": estimate.status.value,
        **{name: f"{value:.9f}" for name, value in pose},
        "scale": f"{estimate.scale:.6g}",
        "scale_confidence": f"{estimate.scale_confidence:.3f}",
        **{f"update_norm_{i + 1}": f"{norm:.6e}" for i, norm in ran},
        **{f"{stage}_ms": f"{1e3 * seconds:.3f}" for stage, seconds in estimate.timings.items()},
        "total_ms": f"{1e3 * step.seconds:.3f}",
        "cause": estimate.cause,
    }
