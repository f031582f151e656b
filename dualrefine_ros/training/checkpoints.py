"""Which checkpoints a run leaves: the best by a figure of validation, and the latest."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.training.recipe import Phase

log = logging.getLogger(__name__)

LARGER_IS_BETTER = ("a1",)  # figures; of all others the smaller


class BestCheckpoint(ModelCheckpoint):
    """The best so far by the figure that ``monitor`` names.

    Epochs of the teacher alone have no refined figures: they are no candidates, unless ``monitor`` names a
    figure of the teacher.

    Raises:
        ConfigError: validation does not measure what ``monitor`` names, or ``mode`` prefers the worse.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Refuse what would fail after the first epoch only."""
        if self.monitor is None:
            return
        figure = self.monitor.rsplit("/", 1)[-1].removeprefix("teacher_")
        if "/" not in self.monitor:
            raise ConfigError(
                f"best.monitor must name the recording too: val/{self.monitor} is the mean over all of them."
            )
        wanted = "max" if figure in LARGER_IS_BETTER else "min"
        if self.mode != wanted:
            raise ConfigError(f"The best {figure} is the {wanted}imum: set best.mode to {wanted}.")
        if not trainer.datamodule.validates:  # type: ignore[attr-defined]
            log.warning(
                "There will be no best.ckpt: data.validate names no recording to measure %s on.", self.monitor
            )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Keep it, if it is the best."""
        if trainer.state.fn is TrainerFn.FITTING and self._measured(trainer, pl_module):
            super().on_validation_end(trainer, pl_module)

    def _measured(self, trainer: pl.Trainer, pl_module: Any) -> bool:
        if self.monitor is None or self.monitor in trainer.callback_metrics:
            return True
        if pl_module.phase is Phase.TEACHER:  # the refiner's figures will be those that the teacher has now
            recording, figure = self.monitor.rsplit("/", 1)
            if f"{recording}/teacher_{figure}" in trainer.callback_metrics:
                return False
        known = sorted(n for n in trainer.callback_metrics if "/" in n and not n.startswith("train/"))
        raise ConfigError(
            f"Validation does not measure {self.monitor}, which best.monitor names; it measures "
            f"{', '.join(known) or 'nothing'}."
        )


class LatestCheckpoint(Checkpoint):
    """The state every so many steps and at the end of the run, to go on from.

    Where an epoch ends and validation follows, it is saved after that, so that a run that goes on misses no
    candidate for the best and knows how good the best is.

    Args:
        path: of the file.
        every_n_train_steps: how much of a run may be lost.
    """

    def __init__(self, path: Path, every_n_train_steps: int = 500) -> None:
        if every_n_train_steps < 1:
            raise ConfigError("latest.every_n_train_steps must be 1 or more.")
        self._path, self._every = Path(path), every_n_train_steps
        self._saved = 0  # steps
        self._due = False
        self._started = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """From here on there is a state worth keeping: what the run goes on from has been read."""
        self._started = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Every so many steps."""
        if trainer.global_step % self._every or trainer.global_step == self._saved:
            return
        if trainer.is_last_batch and _validates(trainer):
            self._due = True
        else:
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """What had to wait for validation."""
        if self._due:
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """The last steps."""
        if trainer.global_step != self._saved:
            self._save(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        """What :class:`BestCheckpoint` refuses after a validation must not cost the steps before it."""
        if isinstance(exception, ConfigError) and self._started and trainer.global_step != self._saved:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        """The file is replaced when the new one is whole."""
        partial = self._path.with_suffix(".partial")
        trainer.save_checkpoint(partial, weights_only=False)  # in all processes
        if trainer.is_global_zero:
            os.replace(partial, self._path)
        self._saved, self._due = trainer.global_step, False


def _validates(trainer: pl.Trainer) -> bool:
    """Whether validation follows the epoch that ends."""
    every, batches = trainer.check_val_every_n_epoch, trainer.val_check_batch
    if not trainer.enable_validation or batches is None:  # None: by the clock, as nobody can foresee
        return False
    if every is None:  # by batches, however many an epoch has
        return (trainer.fit_loop.total_batch_idx + 1) % batches == 0
    return (trainer.current_epoch + 1) % every == 0
