"""Triplets of frames from cached recordings, and the order in which training sees them.

Everything random is a function of a seed, the epoch and the place in it: a run that goes on from a checkpoint
sees what it would have seen, whatever the number of loader processes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Sampler

from dualrefine_ros.errors import DataError
from dualrefine_ros.training.augmentation import AugmentationConfig, augment
from dualrefine_ros.training.batch import TripletBatch
from dualrefine_ros.training.frame_cache import CachedRecording

log = logging.getLogger(__name__)

Key = tuple[int, int]  # epoch, index of the triplet
_SUBSAMPLING = 4  # of the pixels that tell whether the camera stands still


@dataclass(frozen=True)
class Centre:
    """A frame that has neighbours: recording, row in it, and the strides at which it has them."""

    recording: int
    row: int
    strides: tuple[int, ...]


def find_centres(
    recordings: Sequence[CachedRecording],
    wanted: Sequence[npt.NDArray[np.int64] | None],
    strides: Sequence[int],
    min_change: float,
) -> list[Centre]:
    """The middle frames of all triplets: three readable frames a stride apart, no gap between them.

    A gap is where the recording's own numbers jump, or, in recordings that do not number what they lack,
    where neighbours are more than half a usual interval further apart than their stride.

    Args:
        recordings: where to look.
        wanted: rows that may be in the middle, for each recording; None for all.
        strides: in frames.
        min_change: mean absolute difference between neighbours, in gray levels of 255, below which
            the camera is taken to stand still and the triplet is left out.
    """
    centres = []
    still = torn = 0
    for number, (recording, rows) in enumerate(zip(recordings, wanted, strict=True)):
        ids, readable = recording.frame_ids, recording.readable
        row_of = {int(i): row for row, i in enumerate(ids) if readable[row]}
        interval = _usual_interval(recording)
        for row in range(len(ids)) if rows is None else rows.tolist():
            if not readable[row]:
                continue
            numbered = [s for s in strides if ids[row] - s in row_of and ids[row] + s in row_of]
            complete = [s for s in numbered if _apart(recording, row, row_of, s) <= (s + 0.5) * interval]
            usable = tuple(
                stride
                for stride in complete
                if min_change <= 0 or _changes(recording, row, row_of, stride) >= min_change
            )
            if usable:
                centres.append(Centre(number, row, usable))
            elif complete:
                still += 1
            elif numbered:
                torn += 1
    if torn:
        log.info("%d triplets are left out: by their stamps, images are missing in between.", torn)
    if still:
        log.info("%d triplets are left out: the camera stands still (min_change %g).", still, min_change)
    if not centres and still:
        raise DataError(
            f"In all {still} training triplets the camera seems to stand still: lower data.min_change "
            f"({min_change:g} gray levels)."
        )
    if not centres:
        raise DataError("The training recordings hold no three frames in a row.")
    return centres


def _usual_interval(recording: CachedRecording) -> float:
    """The median time from one number to the next, in nanoseconds."""
    ids, stamps_ns = recording.frame_ids[recording.readable], recording.stamps_ns[recording.readable]
    return float(np.median(np.diff(stamps_ns) / np.diff(ids))) if len(ids) > 1 else 0.0


def _apart(recording: CachedRecording, row: int, row_of: dict[int, int], stride: int) -> int:
    """The larger of the times to both neighbours, in nanoseconds."""
    middle = int(recording.frame_ids[row])
    before, now, after = (int(recording.stamps_ns[row_of[middle + s]]) for s in (-stride, 0, stride))
    return max(now - before, after - now)


def _changes(recording: CachedRecording, row: int, row_of: dict[int, int], stride: int) -> float:
    """The smaller of the mean differences to both neighbours."""
    pixels = recording.pixels.get()[:, ::_SUBSAMPLING, ::_SUBSAMPLING]
    middle = pixels[row].astype(np.int16)
    neighbours = (row_of[int(recording.frame_ids[row]) + step] for step in (-stride, stride))
    return min(float(np.abs(middle - pixels[other]).mean()) for other in neighbours)


class Triplets(Dataset[TripletBatch]):
    """Three frames in a row, augmented; indexed by epoch and number.

    Args:
        recordings: what :func:`find_centres` looked through.
        centres: what it found.
        augmentation: how often and how much.
        seed: of everything random.
    """

    def __init__(
        self,
        recordings: Sequence[CachedRecording],
        centres: Sequence[Centre],
        augmentation: AugmentationConfig,
        seed: int,
    ) -> None:
        self._recordings = recordings
        self._centres = centres
        self._augmentation = augmentation
        self._seed = seed
        self._row_of = [{int(frame_id): row for row, frame_id in enumerate(r.frame_ids)} for r in recordings]

    def __len__(self) -> int:
        return len(self._centres)

    def __getitem__(self, key: Key) -> TripletBatch:
        epoch, index = key
        centre = self._centres[index]
        recording = self._recordings[centre.recording]
        generator = torch.Generator().manual_seed(_mix(self._seed, epoch, index))
        stride = centre.strides[int(torch.randint(len(centre.strides), (), generator=generator))]
        middle = int(recording.frame_ids[centre.row])
        rows = [self._row_of[centre.recording][middle + step] for step in (-stride, 0, stride)]
        pixels = recording.pixels.get()[rows]  # a copy
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
        intrinsics = torch.tensor(recording.intrinsics)
        return TripletBatch(*augment(images, intrinsics, self._augmentation, generator))


class EpochOrder(Sampler[list[Key]]):
    """Batches of one process: a permutation per epoch, dealt out to the processes; a remainder is dropped.

    Args:
        count: triplets.
        batch_size: of this process.
        seed: of the permutation.
        rank, world: this process, and how many there are.
    """

    def __init__(self, count: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        if count < batch_size * world:
            raise DataError(
                f"There are {count} training triplets, too few for one batch of {batch_size * world}."
            )
        self._count, self._batch_size, self._seed = count, batch_size, seed
        self._rank, self._world = rank, world
        self.epoch = 0
        self.start = 0  # batches of this epoch that are done

    def __len__(self) -> int:
        return self._count // (self._batch_size * self._world)

    def __iter__(self) -> Iterator[list[Key]]:
        generator = torch.Generator().manual_seed(_mix(self._seed, self.epoch))
        order = torch.randperm(self._count, generator=generator).tolist()
        for batch in range(self.start, len(self)):
            first = (batch * self._world + self._rank) * self._batch_size
            yield [(self.epoch, index) for index in order[first : first + self._batch_size]]


def _mix(*numbers: int) -> int:
    """A seed from several numbers, such that neighbours have nothing in common."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
