"""The command line of training: every field of every configuration, printed and overridable."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from jsonargparse import ArgumentError
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins import TorchSyncBatchNorm
from timm.layers import convert_sync_batchnorm
from torch import nn

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.training.checkpoints import BestCheckpoint, LatestCheckpoint
from dualrefine_ros.training.curves import RunCurves
from dualrefine_ros.training.datamodule import TripletData
from dualrefine_ros.training.export import check_run
from dualrefine_ros.training.module import DualRefineTraining
from dualrefine_ros.training.pictures import TrainingPictures


class SyncBatchNorms(TorchSyncBatchNorm):
    """Lightning's plugin of this name would lose the activations that timm's batch norms carry."""

    def apply(self, model: nn.Module) -> nn.Module:
        """A network whose batch statistics are those of all processes."""
        return convert_sync_batchnorm(model)


class TrainingCLI(LightningCLI):
    """LightningCLI with our defaults."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """What there is to do, and the arguments of Lightning's that nobody needs."""
        every = LightningCLI.subcommands()
        return {name: every[name] for name in ("fit", "validate")}

    def _parse_ckpt_path(self) -> None:
        """Lightning would look for hyperparameters in it: ours are in the configuration."""

    def before_fit(self) -> None:
        """Refuse a checkpoint that training cannot go on from."""
        path = self.config[self.config.subcommand].ckpt_path
        if path is not None:
            check_run(Path(path), self.model.model)

    before_validate = before_fit

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What belongs to the run rather than to network or data."""
        parser.add_argument("--out", type=Path, default=Path("runs/train"), help="folder of the run")
        parser.add_argument(
            "--init", type=Path | None, default=None, help="exported checkpoint to start from"
        )
        parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0 takes all")
        parser.add_lightning_class_args(BestCheckpoint, "best")
        parser.add_lightning_class_args(LatestCheckpoint, "latest")  # after best, whose state it keeps
        parser.add_lightning_class_args(TrainingPictures, "pictures")
        parser.set_defaults(
            {
                "best.filename": "best",
                "best.enable_version_counter": False,
                "best.save_on_train_epoch_end": False,
            }
        )
        parser.link_arguments("out", "best.dirpath", compute_fn=checkpoint_folder)
        parser.link_arguments("out", "latest.path", compute_fn=latest_checkpoint)
        parser.link_arguments("init", "model.initial.checkpoint")
        parser.link_arguments("model.network.height", "data.height")
        parser.link_arguments("model.network.width", "data.width")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer, with its folder and loggers where ``--out`` says."""
        config = self.config[self.config.subcommand]
        if config.threads:
            torch.set_num_threads(config.threads)
        kwargs["default_root_dir"] = str(config.out)
        if config.trainer.logger is None:
            kwargs["logger"] = [
                TensorBoardLogger(config.out, name="logs"),
                CSVLogger(config.out, name="csv"),
            ]
        if config.trainer.sync_batchnorm:
            given = self.config_init[self.config_init.subcommand].trainer.plugins or []
            kwargs["plugins"] = [*(given if isinstance(given, list) else [given]), SyncBatchNorms()]
        return super().instantiate_trainer(**kwargs)


def checkpoint_folder(out: Path) -> str:
    """Where the checkpoints of a run lie."""
    return str(Path(out) / "checkpoints")


def latest_checkpoint(out: Path) -> Path:
    """What a run that was interrupted goes on from."""
    return Path(checkpoint_folder(out)) / "latest.ckpt"


def main(arguments: Sequence[str]) -> None:
    """Run ``fit`` or ``validate``.

    Raises:
        ConfigError: an argument or a configuration file is wrong.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # batches are a function of epoch and position, which the checkpoint holds
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    warnings.filterwarnings("ignore", message=".*You have overridden `transfer_batch_to_device`.*")
    for logger in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch"):
        logging.getLogger(logger).addFilter(_no_advertisement)
    try:
        _run(list(arguments))
    except ArgumentError as error:
        raise ConfigError(
            f"{' '.join(str(error).split())} ('dualrefine train fit --help' lists all)."
        ) from error


def _no_advertisement(record: logging.LogRecord) -> bool:
    """Lightning recommends services of its makers."""
    return "Tip: For seamless" not in record.getMessage()


def _run(arguments: list[str]) -> None:
    TrainingCLI(
        DualRefineTraining,
        TripletData,
        args=arguments,
        parser_kwargs={"exit_on_error": False},
        seed_everything_default=0,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={
            "gradient_clip_val": 0.1,
            "max_epochs": 25,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "reload_dataloaders_every_n_epochs": 1,
            "callbacks": [RichProgressBar(), RunCurves()],
        },
    )
