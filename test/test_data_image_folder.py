"""Image folders and videos: lens distortion removed, stamps from wherever they are, bad input."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from dualrefine_ros.data.image_files import common_image_size
from dualrefine_ros.data.rectification import Rectifier, read_camera_yaml
from dualrefine_ros.data.source import open_source
from dualrefine_ros.errors import DataError

WIDTH, HEIGHT = 160, 120
K = np.array([[110.0, 0, 82.0], [0, 108.0, 57.0], [0, 0, 1]])
PLUMB_BOB = [-0.28, 0.09, 0.001, -0.0007, -0.01]
RATIONAL = [0.4, 0.05, 0.0005, -0.0003, 0.002, 0.65, 0.1, 0.003]
EQUIDISTANT = [-0.02, 0.006, -0.002, 0.0005]


def calibration(**changes: object) -> dict:
    """A YAML of camera_calibration as ROS writes it."""
    entries = {
        "image_width": WIDTH,
        "image_height": HEIGHT,
        "camera_name": "narrow_stereo",
        "camera_matrix": {"rows": 3, "cols": 3, "data": K.ravel().tolist()},
        "distortion_model": "plumb_bob",
        "distortion_coefficients": {"rows": 1, "cols": 5, "data": [0.0] * 5},
        "rectification_matrix": {"rows": 3, "cols": 3, "data": np.eye(3).ravel().tolist()},
        "projection_matrix": {
            "rows": 3,
            "cols": 4,
            "data": np.column_stack([K, np.zeros(3)]).ravel().tolist(),
        },
    }
    return entries | changes


def distorted_by(model: str, coefficients: list[float], P: np.ndarray | None = None) -> dict:
    changes = {"distortion_model": model, "distortion_coefficients": {"data": coefficients}}
    if P is not None:
        changes["projection_matrix"] = {"data": np.column_stack([P, np.zeros(3)]).ravel().tolist()}
    return calibration(**changes)


def write_folder(folder: Path, names: list[str], entries: dict | None = None) -> Path:
    """Images named as given; the i-th is uniformly of value i."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        cv2.imwrite(str(folder / name), np.full((HEIGHT, WIDTH, 3), i, np.uint8))
    (folder / "camera.yaml").write_text(yaml.safe_dump(entries or calibration()))
    return folder


def plumb_bob(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The model's formula, by hand: Brown 1966 as OpenCV documents it."""
    k1, k2, p1, p2, k3 = PLUMB_BOB
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    return x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (
        r2 + 2 * y * y
    ) + 2 * p2 * x * y


def rational(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    k1, k2, p1, p2, k3, k4, k5, k6 = RATIONAL
    r2 = x * x + y * y
    radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    return x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (
        r2 + 2 * y * y
    ) + 2 * p2 * x * y


def equidistant(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kannala and Brandt 2006."""
    k1, k2, k3, k4 = EQUIDISTANT
    r = np.hypot(x, y) + 1e-12
    theta = np.arctan(r)
    bent = theta * (1 + k1 * theta**2 + k2 * theta**4 + k3 * theta**6 + k4 * theta**8)
    return x * bent / r, y * bent / r


def scene(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A smooth colour for every viewing direction."""
    colours = [np.sin(5 * x), np.sin(6 * y + 1), np.sin(4 * x + 3 * y)]
    return np.round(127 + 100 * np.stack(colours, axis=-1)).astype(np.uint8)


def seen_through(lens: Callable, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """The scene's image by the distorting camera: each pixel's direction by inverting the formula."""
    v, u = np.mgrid[: size[0], : size[1]]
    target_x, target_y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
    x, y = target_x.copy(), target_y.copy()
    for _ in range(200):
        bent_x, bent_y = lens(x, y)
        x, y = x + 0.7 * (target_x - bent_x), y + 0.7 * (target_y - bent_y)
    np.testing.assert_allclose(lens(x, y), (target_x, target_y), atol=1e-9)
    return scene(x, y)


@pytest.mark.parametrize(
    ("model", "coefficients", "lens"),
    [
        ("plumb_bob", PLUMB_BOB, plumb_bob),
        ("rational_polynomial", RATIONAL, rational),
        ("equidistant", EQUIDISTANT, equidistant),
    ],
)
@pytest.mark.parametrize("P", [None, np.array([[130.0, 0, 80.0], [0, 131.0, 60.0], [0, 0, 1]])])
def test_rectified_images_are_those_of_a_pinhole(
    tmp_path: Path, model: str, coefficients: list[float], lens: Callable, P: np.ndarray | None
) -> None:
    entries = distorted_by(model, coefficients, P)
    if P is None:
        del entries["projection_matrix"]
    folder = write_folder(tmp_path, ["0.png"], entries)
    cv2.imwrite(str(folder / "0.png"), np.ascontiguousarray(seen_through(lens)[..., ::-1]))
    frame = open_source(folder, rate=10)[0]
    K_new = frame.intrinsics
    if P is not None:
        np.testing.assert_array_equal(K_new.matrix, P)
    v, u = np.mgrid[4 : HEIGHT - 4, 4 : WIDTH - 4]
    expected = scene((u - K_new.cx) / K_new.fx, (v - K_new.cy) / K_new.fy)
    difference = np.abs(frame.image[4:-4, 4:-4].astype(int) - expected)
    assert np.percentile(difference, 99) <= 2
    assert np.abs(seen_through(lens)[4:-4, 4:-4].astype(int) - expected).max() > 30, "the lens must matter"


def test_a_stereo_camera_is_turned_to_its_rectified_axes(tmp_path: Path) -> None:
    R = cv2.Rodrigues(np.array([0.03, -0.05, 0.02]))[0]
    entries = calibration(rectification_matrix={"data": R.ravel().tolist()})
    del entries["distortion_coefficients"]
    folder = write_folder(tmp_path, ["0.png"], entries)
    cv2.imwrite(str(folder / "0.png"), np.ascontiguousarray(seen_through(lambda x, y: (x, y))[..., ::-1]))
    image = open_source(folder, rate=10)[0].image
    v, u = np.mgrid[20 : HEIGHT - 20, 20 : WIDTH - 20]
    x, y, z = np.moveaxis(np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(K).T @ R, -1, 0)
    difference = np.abs(image[20:-20, 20:-20].astype(int) - scene(x / z, y / z))
    assert np.percentile(difference, 99) <= 2


def test_without_distortion_pixels_are_untouched(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, ["0.png"])
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    cv2.imwrite(str(folder / "0.png"), np.ascontiguousarray(pixels[..., ::-1]))
    frame = open_source(folder, rate=10)[0]
    np.testing.assert_array_equal(frame.image, pixels)
    np.testing.assert_array_equal(frame.intrinsics.matrix, K)


def test_stamps_at_a_rate_and_natural_order(tmp_path: Path) -> None:
    source = open_source(write_folder(tmp_path, ["f8.png", "f9.png", "f10.jpg", "f12.png"]), rate=30)
    frames = list(source)
    assert [round(float(f.image.mean())) for f in frames] == [0, 1, 2, 3]
    assert [f.stamp_ns for f in frames] == [0, 33_333_333, 66_666_667, 100_000_000]
    assert [source.frame_id(i) for i in range(4)] == [8, 9, 10, 12]


def test_stamps_from_times_txt(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, ["a.png", "b.png"])
    (folder / "times.txt").write_text("12.5\n12.600000001\n")
    source = open_source(folder)
    assert [f.stamp_ns for f in source] == [12_500_000_000, 12_600_000_001]
    assert [source.frame_id(i) for i in range(2)] == [0, 1]
    (folder / "times.txt").write_text("12.5\n")
    with pytest.raises(DataError, match="has 1 lines for 2 images"):
        open_source(folder)


@pytest.mark.parametrize(
    ("names", "stamps_ns"),
    [
        (["1403636579763555584.png", "1403636579813555456.png"], [1403636579763555584, 1403636579813555456]),
        (["1305031102.175304.png", "1305031102.211214.png"], [1305031102175304000, 1305031102211214000]),
        (["1403636579763555.png", "1403636579813555.png"], [1403636579763555000, 1403636579813555000]),
    ],
)
def test_stamps_from_file_names(tmp_path: Path, names: list[str], stamps_ns: list[int]) -> None:
    source = open_source(write_folder(tmp_path, names))
    assert [f.stamp_ns for f in source] == stamps_ns
    assert [source.frame_id(i) for i in range(2)] == [0, 1]


def test_bad_folders(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", ["0.png", "1.png"])
    with pytest.raises(DataError, match=r"give the frames per second with --rate\.$"):
        open_source(folder)
    with pytest.raises(DataError, match=r"\(--rate\) must be a positive number of frames per second, not 0"):
        open_source(folder, rate=0.0)
    (folder / "other.yaml").write_text("")
    with pytest.raises(DataError, match="more than one camera calibration"):
        open_source(folder, rate=10)
    assert len(open_source(folder, rate=10, calibration=folder / "camera.yaml")) == 2
    for file in folder.glob("*.yaml"):
        file.unlink()
    with pytest.raises(DataError, match="no camera calibration"):
        open_source(folder, rate=10)
    with pytest.raises(DataError, match=r"none\.yaml does not exist"):
        open_source(folder, rate=10, calibration=folder / "none.yaml")
    write_folder(folder, ["0.png"], calibration(image_width=320))
    with pytest.raises(DataError, match="are 160x120 pixels, but their calibration is for 320x120"):
        open_source(folder, rate=10)


def test_frames_of_another_size_are_skipped(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [f"{i}.png" for i in range(4)], distorted_by("plumb_bob", PLUMB_BOB))
    cv2.imwrite(str(folder / "2.png"), np.zeros((HEIGHT // 2, WIDTH, 3), np.uint8))
    source = open_source(folder, rate=10)
    assert [f.stamp_ns for f in source] == [0, 100_000_000, 300_000_000]
    assert source.skipped == 1
    os.rename(folder / "2.png", folder / "0.png")  # the first one decides no more than any other
    assert [f.stamp_ns for f in open_source(folder, rate=10)] == [100_000_000, 200_000_000]


def test_the_size_of_most_images_is_told_by_their_headers(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [f"{i}.png" for i in range(200)])
    paths = [folder / f"{i}.png" for i in range(200)]
    for path in paths[:60]:
        cv2.imwrite(str(path), np.zeros((5, 7, 3), np.uint8))
    for path in paths[60:80]:
        path.write_bytes(path.read_bytes()[:40])  # nothing is left but the header
    assert common_image_size(paths) == (WIDTH, HEIGHT)
    for path in paths[:-1]:
        path.write_bytes(b"\x89PNG\r\n\x1a\n")
    assert common_image_size(paths) == (WIDTH, HEIGHT)
    with pytest.raises(DataError, match="None of the 199 images"):
        common_image_size(paths[:-1])


def matrix(values: list[float]) -> dict:
    return {"data": values}


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (calibration(camera_matrix=matrix([0, 0, 80, 0, 0, 60, 0, 0, 1])), "focal lengths must be positive"),
        (calibration(camera_matrix=matrix([100, 0, float("nan"), 0, 100, 60, 0, 0, 1])), "not finite"),
        (calibration(camera_matrix=matrix([1, 2, 3])), "'camera_matrix' must hold 'data' with 9 numbers"),
        (calibration(camera_matrix=[1, 2, 3]), "'camera_matrix'"),
        (calibration(image_width="wide"), "'image_width' must be a whole number"),
        (distorted_by("fov", [0.9]), "model 'fov' is not supported"),
        (distorted_by("equidistant", PLUMB_BOB), "has 4 coefficients, not 5"),
        (distorted_by("plumb_bob", [float("inf")] * 5), "not finite"),
        ({"image_width": 3, "image_height": 2}, "'camera_matrix'"),
        (["a", "list"], "no camera calibration"),
    ],
)
def test_a_wrong_calibration_is_explained(tmp_path: Path, entries: dict, words: str) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(yaml.safe_dump(entries))
    with pytest.raises(DataError, match=words) as caught:
        read_camera_yaml(path)
    assert str(path) in str(caught.value)


def test_a_yaml_syntax_error_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text("image_width: 3\nimage_height: [3\n")
    with pytest.raises(DataError, match=r"camera\.yaml, line \d"):
        read_camera_yaml(path)


def test_a_rectifier_survives_pickling(tmp_path: Path) -> None:
    path = write_folder(tmp_path, [], distorted_by("plumb_bob", PLUMB_BOB)) / "camera.yaml"
    image = seen_through(plumb_bob)
    rectify = Rectifier(read_camera_yaml(path))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(rectify))(image), rectify(image))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """40 frames at 20 Hz, the i-th uniformly of value 5 i."""
    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20, (WIDTH, HEIGHT))
    for i in range(40):
        writer.write(np.full((HEIGHT, WIDTH, 3), 5 * i, np.uint8))
    writer.release()
    (tmp_path / "drive.yaml").write_text(yaml.safe_dump(calibration()))
    return path


def number_of(frame) -> int:
    return round(float(frame.image.mean()) / 5)


def test_video_in_order_and_by_index(video: Path) -> None:
    source = open_source(video)
    assert [number_of(f) for f in source] == list(range(40))
    assert [f.stamp_ns for f in source][:3] == [0, 50_000_000, 100_000_000]
    source = pickle.loads(pickle.dumps(source))
    assert [number_of(source[i]) for i in (33, 2, 3, 17, -1, 0)] == [33, 2, 3, 17, 39, 0]
    assert open_source(video, rate=10)[1].stamp_ns == 100_000_000
    with pytest.raises(IndexError):
        source[40]


def test_a_video_cut_short_gives_what_there_is(video: Path) -> None:
    data = video.read_bytes()
    video.write_bytes(data[: len(data) // 2])
    source = open_source(video)
    assert 10 < len(source) < 30
    assert [number_of(f) for f in source] == list(range(len(source)))


def test_bad_videos(video: Path) -> None:
    (video.parent / "drive.yaml").write_text(yaml.safe_dump(calibration(image_height=60)))
    with pytest.raises(DataError, match="is 160x120 pixels"):
        open_source(video)
    video.write_bytes(b"no video")
    with pytest.raises(DataError, match="cannot be opened as a video"):
        open_source(video)
