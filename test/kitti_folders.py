"""Made KITTI odometry folders for tests."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 20, 10
K = np.array([[15.0, 0, 9.5], [0, 16.0, 4.5], [0, 0, 1]])
# p4 of camera 2 as in KITTI: mostly a baseline, but with offsets along y and z too
P4 = {
    0: np.zeros(3),
    1: np.array([-8.0, 0, 0]),
    2: np.array([0.9, -0.02, 0.004]),
    3: np.array([-7.0, 0.04, 0.002]),
}


def camera0_poses(count: int) -> np.ndarray:
    """(count, 3, 4): forward at 1 m a frame, turning left."""
    poses = []
    for i in range(count):
        angle = -0.1 * i
        R = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        poses.append(np.column_stack([R, [0.1 * i, 0.02 * i, 1.0 * i]]))
    return np.array(poses)


def write_sequence(
    folder: Path, cameras: tuple[int, ...] = (2,), frame_ids: tuple[int, ...] = (0, 1, 2, 3)
) -> Path:
    """A sequence whose image of frame i is uniformly of value 10 i."""
    folder.mkdir(parents=True, exist_ok=True)
    for camera in cameras:
        images = folder / f"image_{camera}"
        images.mkdir()
        for frame_id in frame_ids:
            pixels = np.full((HEIGHT, WIDTH, 3) if camera > 1 else (HEIGHT, WIDTH), 10 * frame_id, np.uint8)
            cv2.imwrite(str(images / f"{frame_id:06d}.png"), pixels)
    rows = [f"P{c}: {' '.join(map(str, np.column_stack([K, p4]).ravel()))}\n" for c, p4 in P4.items()]
    (folder / "calib.txt").write_text("".join(rows))
    np.savetxt(folder / "times.txt", 0.1 * np.array(frame_ids), fmt="%.6e")
    np.savetxt(folder / "poses.txt", camera0_poses(len(frame_ids)).reshape(-1, 12))
    return folder


def replace_line(path: Path, number: int, text: str) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = text
    path.write_text("\n".join(lines) + "\n")
