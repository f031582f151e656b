"""Which predicted depth map belongs to which ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dualrefine_ros.data.depth_files import list_depth_maps, read_depth
from dualrefine_ros.data.source import Source
from dualrefine_ros.errors import DataError
from dualrefine_ros.evaluation.depth_metrics import DepthErrors, DepthMap, DepthProtocol, evaluate_depth
from dualrefine_ros.evaluation.summary import SUMMARY

RgbImage = npt.NDArray[np.uint8]
Truth = tuple[DepthMap, RgbImage | None]


@dataclass(frozen=True)
class DepthSample:
    """A predicted depth map and the way to its ground truth.

    Args:
        name: for people.
        prediction: file; None where it is missing.
        load_truth: the true (H, W) depth in metres, NaN where unknown, and the image where there is one.
    """

    name: str
    prediction: Path | None
    load_truth: Callable[[], Truth]


@dataclass(frozen=True)
class DepthResult:
    """A sample compared.

    Args:
        errors: its figures.
        compared: (H, W) the prediction as it was compared, scaled and clamped.
        truth, image: as loaded.
    """

    errors: DepthErrors
    compared: DepthMap
    truth: DepthMap
    image: RgbImage | None


def depth_folder(predictions: Path) -> Path:
    """The folder of depth maps of a replay, or the folder itself.

    Raises:
        DataError: the replay has written none.
    """
    if (predictions / "depth").is_dir():
        return predictions / "depth"
    if (predictions / SUMMARY).is_file():
        raise DataError(f"{predictions} is a replay without depth maps: replay again with --depth npz.")
    return predictions


def samples_of_maps(predictions: Path, truths: Path) -> list[DepthSample]:
    """One sample for each true depth map in a folder, matched by frame number or name.

    Raises:
        DataError: a folder is missing or holds no depth map.
    """
    predicted = list_depth_maps(depth_folder(predictions))
    return [
        DepthSample(name, predicted.get(name), partial(_load_map, path))
        for name, path in list_depth_maps(truths).items()
    ]


def samples_of_source(predictions: Path, source: Source, indices: Sequence[int]) -> list[DepthSample]:
    """One sample for each of the frames of a recording that carries depth, matched by frame number.

    Raises:
        DataError: the folder is missing or holds no depth map.
    """
    predicted = list_depth_maps(depth_folder(predictions))
    return [
        DepthSample(
            f"{source.name}/{source.frame_id(index)}",
            predicted.get(str(source.frame_id(index))),
            partial(_load_frame, source, index),
        )
        for index in indices
    ]


def samples_of_drives(predictions: Path, drives: Iterable[tuple[Source, list[int]]]) -> Iterator[DepthSample]:
    """The samples of several recordings, each one's predictions in the subfolder of its name.

    Raises:
        DataError: a subfolder is missing or holds no depth map.
    """
    for source, indices in drives:
        yield from samples_of_source(predictions / source.name, source, indices)


def evaluate_sample(sample: DepthSample, protocol: DepthProtocol) -> DepthResult:
    """Load a sample and compare it.

    Raises:
        DataError: there is no prediction, a file is damaged, or nothing can be compared; names the sample.
    """
    if sample.prediction is None:
        raise DataError(f"{sample.name}: there is no prediction.")
    truth, image = sample.load_truth()
    try:
        errors, compared = evaluate_depth(read_depth(sample.prediction), truth, protocol)
    except DataError as error:
        raise DataError(f"{sample.name}: {error}") from None
    return DepthResult(errors, compared, truth, image)


def _load_map(path: Path) -> Truth:
    return read_depth(path), None


def _load_frame(source: Source, index: int) -> Truth:
    frame = source[index]
    if frame.depth is None:
        raise DataError(f"{source.name}/{source.frame_id(index)}: the recording has no depth of this frame.")
    return frame.depth, frame.image
