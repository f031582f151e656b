"""Training as Lightning runs it: phases, learning rate, steps that fail, what is logged."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Adam, Optimizer

from dualrefine_ros.data.source import Source
from dualrefine_ros.errors import ConfigError, DualRefineError
from dualrefine_ros.model import DualRefine
from dualrefine_ros.model.config import ModelConfig
from dualrefine_ros.training.batch import TripletBatch
from dualrefine_ros.training.initialisation import InitialWeights, initialise
from dualrefine_ros.training.recipe import Phase, RecipeConfig, set_phase
from dualrefine_ros.training.step import StepResult, training_step
from dualrefine_ros.training.validation import ValidationConfig, validate

log = logging.getLogger(__name__)


class TrainingFailed(DualRefineError):
    """Too many steps in a row gave no usable gradient."""


@dataclass(frozen=True)
class ScheduleConfig:
    """When what is trained, and how fast; the number of epochs is the trainer's ``max_epochs``.

    Raises:
        ConfigError: a number is out of range.
    """

    learning_rate: float = 1e-4  # of Adam
    warmup_steps: int = 0  # over which the learning rate rises from 0
    teacher_until_epoch: int = 0  # before it, the teachers are trained alone
    frozen_from_epoch: int = 15  # from it, the teachers are fixed
    frozen_factor: float = 0.1  # of the learning rate from then on
    max_failed_in_a_row: int = 20  # steps without a usable gradient that stop the run

    def __post_init__(self) -> None:
        if not 0 <= self.teacher_until_epoch <= self.frozen_from_epoch:
            raise ConfigError("The phases must follow each other: teacher_until_epoch <= frozen_from_epoch.")
        if self.learning_rate <= 0 or self.warmup_steps < 0 or self.max_failed_in_a_row < 1:
            raise ConfigError(
                "learning_rate and max_failed_in_a_row must be positive, warmup_steps not negative."
            )

    def phase(self, epoch: int) -> Phase:
        """What an epoch trains."""
        if epoch < self.teacher_until_epoch:
            return Phase.TEACHER
        return Phase.JOINT if epoch < self.frozen_from_epoch else Phase.FROZEN

    def rate(self, epoch: int, step: int) -> float:
        """The learning rate of a step."""
        rise = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return self.learning_rate * rise * (self.frozen_factor if epoch >= self.frozen_from_epoch else 1.0)


class DualRefineTraining(pl.LightningModule):
    """DualRefine in training.

    Args:
        network: what is trained.
        recipe: losses and gradients.
        schedule: phases and learning rate.
        initial: where the first weights come from.
        validation: how validation recordings are driven through.
        licence: under which the weights may be used; goes into exported files.
        seed: of the first weights and of the noise that breaks ties.
    """

    def __init__(
        self,
        network: ModelConfig = ModelConfig(),
        recipe: RecipeConfig = RecipeConfig(),
        schedule: ScheduleConfig = ScheduleConfig(),
        initial: InitialWeights = InitialWeights(),
        validation: ValidationConfig = ValidationConfig(),
        licence: str = "unknown",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.recipe, self.schedule, self.validation = recipe, schedule, validation
        self.licence, self.seed = licence, seed
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = DualRefine(network)
        self.initial_weights = initialise(self.model, initial)
        # a fifth less CPU time a step: depthwise convolutions are several times faster backwards
        self.model.to(memory_format=torch.channels_last)
        self.failed_in_a_row = self.failed_in_all = 0
        self.latest: tuple[TripletBatch, StepResult] | None = None  # for whoever wants to look
        self._entered: Phase | None = None
        self._failed = False
        self._statistics: list[Tensor] = []  # of the batch norms before this step

    @property
    def phase(self) -> Phase:
        """What the current epoch trains; everything, outside of a training run."""
        fitting = self.trainer.state.fn is TrainerFn.FITTING
        return self.schedule.phase(self.current_epoch) if fitting else Phase.JOINT

    def train(self, mode: bool = True) -> DualRefineTraining:
        """As usual, but what the phase does not train keeps its batch statistics."""
        super().train(mode)
        if mode and self._trainer is not None:
            self._enter_phase()
        return self

    def _enter_phase(self) -> None:
        self._entered = self.phase
        set_phase(self.model, self.phase)

    def training_step(self, batch: TripletBatch, batch_idx: int) -> Tensor:
        """The total loss of a batch."""
        generator = torch.Generator(self.device)
        generator.manual_seed((self.seed * 1_000_003 + self.global_step) * 1_009 + self.global_rank)
        result = training_step(self.model, batch, self.recipe, self.phase, generator)
        self.trainer.datamodule.position = (self.current_epoch, batch_idx + 1)  # type: ignore[attr-defined]
        self.latest = (batch, result)
        self._failed |= result.failed
        total = result.losses.total
        self.log("loss", total, prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in result.losses.terms.items()})
        if result.refined is not None and result.refined.fixed_point_change is not None:
            self.log("train/fixed_point_change", result.refined.fixed_point_change)
        return total

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients; or drop them where the step failed, which then changes nothing."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        failed = self._any_process(self._failed or not bool(torch.isfinite(norm)))
        self._failed = False
        self.log("train/gradient_norm", norm)
        self._count(failed)
        if failed:
            optimizer.zero_grad()
            for buffer, before in zip(self.model.buffers(), self._statistics, strict=True):
                buffer.copy_(before)
        self._statistics = []

    def _any_process(self, decision: bool) -> bool:
        """Whether it is so in any of the processes: all of them then do the same."""
        return self.trainer.strategy.reduce_boolean_decision(decision, all=False)

    def _count(self, failed: bool) -> None:
        self.failed_in_a_row = self.failed_in_a_row + 1 if failed else 0
        self.failed_in_all += failed
        self.log("train/failed_steps", float(self.failed_in_all))
        if failed:
            log.warning(
                "Step %d left out: its loss is not finite or a pose could not be solved.", self.global_step
            )
        if self.failed_in_a_row >= self.schedule.max_failed_in_a_row:
            raise TrainingFailed(
                f"{self.failed_in_a_row} steps in a row gave no usable gradient: go on from an earlier "
                "checkpoint with a lower learning rate."
            )

    def configure_optimizers(self) -> Optimizer:
        """Adam; :meth:`on_train_batch_start` sets its rate."""
        return Adam(self.model.parameters(), self.schedule.learning_rate)

    def on_train_batch_start(self, batch: TripletBatch, batch_idx: int) -> None:
        """Phase and learning rate of this step: functions of epoch and step, so nothing of them is saved.

        What a step that fails would leave behind in the batch statistics is kept from before it.
        """
        if self._entered is not self.phase:  # Lightning starts no epoch when it goes on within one
            self._enter_phase()
        if not self._statistics:  # batches whose gradients are accumulated are one step
            self._statistics = [buffer.clone() for buffer in self.model.buffers()]
        rate = self.schedule.rate(self.current_epoch, self.global_step)
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = rate
        self.log("train/learning_rate", rate)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Recordings stay where they are."""
        if isinstance(batch, Source):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def validation_step(self, batch: Source, batch_idx: int) -> None:
        """Drive through one recording."""
        figures = validate(self.model, batch, self.validation, self.phase, str(self.device))
        for name, value in figures.items():
            self._figures.setdefault(name, []).append(value)
            self.log(f"{batch.name}/{name}", value, batch_size=1, sync_dist=True)

    def on_validation_epoch_start(self) -> None:
        """Start new means."""
        self._figures: dict[str, list[float]] = {}

    def on_validation_epoch_end(self) -> None:
        """The mean of each figure over the recordings that have it."""
        for name, values in self._figures.items():
            mean = sum(values) / len(values)
            self.log(f"val/{name}", mean, prog_bar=name in self.validation.shown, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What it takes to export the network without this run's configuration."""
        checkpoint["dualrefine"] = {
            "network": asdict(self.model.config),
            "licence": self.licence,
            "training": {
                "recipe": {k: getattr(v, "value", v) for k, v in asdict(self.recipe).items()},
                "schedule": asdict(self.schedule),
                "initial_weights": self.initial_weights,
                "epochs": self.current_epoch,
                "steps": self.global_step,
            },
            "failed_steps": self.failed_in_all,
            "failed_in_a_row": self.failed_in_a_row,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting."""
        self.failed_in_all = checkpoint["dualrefine"]["failed_steps"]
        self.failed_in_a_row = checkpoint["dualrefine"].get("failed_in_a_row", 0)
