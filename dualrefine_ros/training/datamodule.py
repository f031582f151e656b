"""Recordings to batches, for Lightning."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
from torch.utils.data import DataLoader

from dualrefine_ros.data.source import Source, open_source
from dualrefine_ros.data.splits import open_split
from dualrefine_ros.errors import ConfigError, DataError
from dualrefine_ros.training.augmentation import AugmentationConfig
from dualrefine_ros.training.batch import TripletBatch
from dualrefine_ros.training.frame_cache import CachedRecording, cache_recording
from dualrefine_ros.training.triplets import EpochOrder, Triplets, find_centres


@dataclass(frozen=True)
class Recording:
    """A recording on disk, or a published split of a data set.

    Args:
        path: of the recording; of the data set's root where a split is named.
        split: eigen_zhou_train, odom_train ...; None for all frames of one recording, as for validation.
        options: of the reader: camera, sequence, topic, calibration, rate, depth ...
    """

    path: Path
    split: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def open(self) -> list[tuple[Source, npt.NDArray[np.int64] | None]]:
        """The sources, each with the indices of the frames it is about; None for all.

        Raises:
            DataError: there is nothing at the path, or it cannot be read.
        """
        path = self.path.expanduser()
        if not path.exists():
            raise DataError(f"There is no recording {path}: correct data.train or data.validate.")
        if self.split is None:
            return [(open_source(path, **self.options), None)]
        drives = open_split(self.split, path, **self.options)
        return [(source, np.array(indices, np.int64)) for source, indices in drives]


class TripletData(pl.LightningDataModule):
    """Training triplets and validation recordings.

    Args:
        train: recordings to learn from.
        validate: recordings to drive through after an epoch; measured is what their ground truth allows.
        height: of the network; set by the model's configuration.
        width: of the network; set by the model's configuration.
        batch_size: triplets a step in each process.
        strides: frames between the three of a triplet; one is drawn for each.
        min_change: mean gray level difference of neighbours below which a triplet is left out, because the
            camera stands still; 0 keeps all.
        augmentation: mirroring and colours.
        cache: folder of decoded and resized frames (width * height * 3 bytes each).
        workers: loader processes; 0 loads in the training process.
        seed: of order and augmentation.
    """

    def __init__(
        self,
        train: list[Recording] | None = None,
        validate: list[Recording] | None = None,
        height: int = 192,
        width: int = 640,
        batch_size: int = 12,
        strides: tuple[int, ...] = (1,),
        min_change: float = 0.0,
        augmentation: AugmentationConfig = AugmentationConfig(),
        cache: Path = Path("~/.cache/dualrefine_ros/frames"),
        workers: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or not strides or min(strides) < 1 or workers < 0:
            raise ConfigError("Training needs batch_size and strides of 1 or more, and workers of 0 or more.")
        self._train, self._validate = train or [], validate or []
        for recording in self._validate:
            if recording.split is not None:
                raise ConfigError(
                    f"data.validate drives through whole recordings: name one in {recording.path} instead of "
                    f"the split {recording.split}."
                )
        self._size = (height, width)
        self._batch_size, self._strides, self._min_change = batch_size, strides, min_change
        self._augmentation = augmentation
        try:
            self._cache = cache.expanduser()
        except RuntimeError as error:
            raise ConfigError(f"There is no home folder for {cache}: set data.cache to a folder.") from error
        self._workers = workers
        self._seed = seed
        self._triplets: Triplets | None = None
        self._resume: tuple[int, int] = (0, 0)  # epoch, batches of it that are done
        self.position: tuple[int, int] = (0, 0)  # likewise, now

    @property
    def validates(self) -> bool:
        """Whether there is anything to validate on."""
        return bool(self._validate)

    def prepare_data(self) -> None:
        """Fill the cache, in one process of each machine; validation reads recordings as they are."""
        if self.trainer is None or self.trainer.training:
            self._recordings()

    def setup(self, stage: str) -> None:
        """Find the triplets."""
        if stage == "fit" and self._triplets is None:
            recordings, wanted = self._recordings()
            centres = find_centres(recordings, wanted, self._strides, self._min_change)
            self._triplets = Triplets(recordings, centres, self._augmentation, self._seed)

    def _recordings(self) -> tuple[list[CachedRecording], list[npt.NDArray[np.int64] | None]]:
        if not self._train:
            raise DataError("No training recording is named: set data.train.")
        cached, wanted = [], []
        for recording in self._train:
            for source, indices in recording.open():
                identity = {
                    "path": str(recording.path.expanduser().resolve()),
                    "options": {key: str(value) for key, value in recording.options.items()},
                    "drive": f"{source.name} {getattr(source, 'T_cam0_cam', None)}",
                }
                cached.append(cache_recording(source, identity, *self._size, self._cache))
                wanted.append(indices)
        return cached, wanted

    def train_dataloader(self) -> DataLoader[TripletBatch]:
        """The loader of the current epoch, from where a checkpoint left it."""
        assert self._triplets is not None, "setup() comes first"
        assert self.trainer is not None
        order = EpochOrder(
            len(self._triplets),
            self._batch_size,
            self._seed,
            self.trainer.global_rank,
            self.trainer.world_size,
        )
        order.epoch = self.trainer.current_epoch
        epoch, done = self._resume
        order.start = done if epoch == order.epoch and done < len(order) else 0
        return DataLoader(
            self._triplets,
            batch_sampler=order,
            num_workers=self._workers,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )

    def val_dataloader(self) -> DataLoader[Source]:
        """The validation recordings, one by one."""
        sources = [source for recording in self._validate for source, _ in recording.open()]
        return DataLoader(sources, batch_size=None, num_workers=0)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        """How far the epoch is."""
        return {"position": list(self.position)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        epoch, done = state_dict["position"]
        self._resume = self.position = (epoch, done)
