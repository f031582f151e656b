"""Two processes learn what one would learn from both their batches."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from socket import socket
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parent))
from training_helpers import TINY, batch_of, trainer, write_drive

from dualrefine_ros.model import random_model
from dualrefine_ros.training.batch import TripletBatch
from dualrefine_ros.training.checkpoints import BestCheckpoint, LatestCheckpoint
from dualrefine_ros.training.datamodule import Recording, TripletData
from dualrefine_ros.training.initialisation import InitialWeights
from dualrefine_ros.training.module import DualRefineTraining, ScheduleConfig
from dualrefine_ros.training.recipe import Phase, RecipeConfig
from dualrefine_ros.training.reduction import masked_mean
from dualrefine_ros.training.step import training_step
from dualrefine_ros.training.validation import ValidationConfig

PROCESSES = 2
PER_PROCESS = 2
# a batch of another size rounds differently, which flips single pixels of 24,576 in the auto-mask
LOSS_TOLERANCE = 3e-4
NO_NOISE = RecipeConfig(tie_noise=0.0)


class TeacherLoss(nn.Module):
    """The teacher's losses as a module, for DDP."""

    def __init__(self) -> None:
        super().__init__()
        self.model = random_model(TINY)

    def forward(self, batch: TripletBatch) -> dict[str, Tensor]:
        losses = training_step(self.model.eval(), batch, NO_NOISE, Phase.TEACHER).losses
        return losses.terms | {"total": losses.total}


def whole_batch() -> TripletBatch:
    """Unequal halves: in the second the camera hardly moves, and the auto-mask keeps a smaller share."""
    batch = batch_of(PROCESSES * PER_PROCESS)
    images = batch.images.clone()
    images[PER_PROCESS:, 0] = images[PER_PROCESS:, 1].roll(1, -1)
    return TripletBatch(images, images, batch.intrinsics)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {
        key.removeprefix("module."): p.grad
        for key, p in module.named_parameters()
        if p.grad is not None and p.grad.abs().max() > 0
    }


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES
    )
    own = slice(rank * PER_PROCESS, (rank + 1) * PER_PROCESS)
    batch = TripletBatch(*(tensor[own] for tensor in whole_batch()))
    module = DistributedDataParallel(TeacherLoss(), find_unused_parameters=True)
    terms = module(batch)
    terms["total"].backward()
    torch.save(({k: v.detach() for k, v in terms.items()}, gradients(module)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Terms and gradients of both processes."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(_process, (str(folder),), PROCESSES)
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.fixture(scope="module")
def one() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Terms and gradients of one process with the whole batch."""
    module = TeacherLoss()
    terms = module(whole_batch())
    terms["total"].backward()
    return terms, gradients(module)


def test_reprojection_losses_are_those_of_the_whole_batch(one, two) -> None:
    for name in ("teacher_reproj_0", "teacher_reproj_2", "teacher_reproj_3"):
        for terms, _ in two:
            torch.testing.assert_close(terms[name], one[0][name].detach(), rtol=LOSS_TOLERANCE, atol=0)


def test_total_averages_to_that_of_the_whole_batch(one, two) -> None:
    mean = torch.stack([terms["total"] for terms, _ in two]).mean()
    torch.testing.assert_close(mean, one[0]["total"].detach(), rtol=LOSS_TOLERANCE, atol=0)


def test_gradients_are_those_of_the_whole_batch(one, two) -> None:
    for _, found in two:
        assert found.keys() == one[1].keys()
        for key, expected in one[1].items():
            scale = float(expected.abs().max())
            torch.testing.assert_close(found[key], expected, rtol=0, atol=2e-4 * scale + 1e-9, msg=key)


def test_the_halves_weigh_unequally(one) -> None:
    """Else the mean of the processes' means would have passed as well."""
    module = TeacherLoss()
    batch = whole_batch()
    halves = [
        module(TripletBatch(*(tensor[own] for tensor in batch)))["teacher_reproj_0"].detach()
        for own in (slice(0, PER_PROCESS), slice(PER_PROCESS, None))
    ]
    naive = torch.stack(halves).mean()
    assert abs(float(naive / one[0]["teacher_reproj_0"].detach()) - 1) > 10 * LOSS_TOLERANCE


def test_masked_mean_of_one_process() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, float("nan")], requires_grad=True)
    mean = masked_mean(values, torch.tensor([True, False, True, False]))
    mean.backward()
    assert mean.item() == 2.0
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.tensor([0.5, 0.0, 0.5, 0.0]))


def test_masked_mean_of_nothing_is_zero() -> None:
    assert float(masked_mean(torch.ones(3), torch.zeros(3, dtype=torch.bool))) == 0.0


class RankSpoiler(pl.Callback):
    """One process's loss is NaN in some steps; each process writes down what it became."""

    def __init__(self, folder: Path, steps: tuple[int, ...] = ()) -> None:
        self._folder, self._steps = folder, steps
        self._frozen: dict[str, Tensor] = {}

    def on_before_backward(self, trainer: pl.Trainer, pl_module: Any, loss: Tensor) -> None:
        if trainer.global_rank == 1 and trainer.global_step in self._steps:
            loss.register_hook(lambda gradient: gradient * float("nan"))

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if pl_module.phase is Phase.FROZEN and not self._frozen:
            self._frozen = weights(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        state = {"weights": weights(pl_module), "frozen": self._frozen, "failed": pl_module.failed_in_all}
        torch.save(state, self._folder / f"rank_{trainer.global_rank}.pt")


def weights(run: DualRefineTraining) -> dict[str, Tensor]:
    return {key: p.detach().clone() for key, p in run.model.named_parameters()}


def lightning_run(folder: Path, steps: tuple[int, ...], **schedule: Any) -> None:
    """A run of an epoch of each phase by Lightning in two processes, as torchrun starts them."""
    write_drive(folder / "wall", frames=10)
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_lightning_process, (folder, port, steps, schedule), PROCESSES)


def _lightning_process(
    rank: int, folder: Path, port: int, steps: tuple[int, ...], schedule: dict[str, Any]
) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(PROCESSES),
        "LOCAL_WORLD_SIZE": str(PROCESSES),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
    }
    drive = folder / "wall"
    module = DualRefineTraining(
        TINY,
        initial=InitialWeights(imagenet=False),
        validation=ValidationConfig(iterations=1),
        schedule=ScheduleConfig(teacher_until_epoch=1, frozen_from_epoch=2, **schedule),
    )
    data = TripletData(
        train=[Recording(drive)],
        validate=[Recording(drive)],
        height=TINY.height,
        width=TINY.width,
        batch_size=2,
        workers=0,
        cache=folder / "cache",
    )
    callbacks = (
        RankSpoiler(folder, steps),
        BestCheckpoint(folder, "best", monitor="val/ate_percent", save_on_train_epoch_end=False),
        LatestCheckpoint(folder / "latest.ckpt", every_n_train_steps=1),
    )
    ddp = {"devices": PROCESSES, "strategy": "ddp_find_unused_parameters_true"}
    trainer(folder, *callbacks, limit_val_batches=1.0, **ddp).fit(module, data)


@pytest.fixture(scope="module")
def lightning_states(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("lightning")
    lightning_run(folder, steps=(0, 3))
    states = [torch.load(folder / f"rank_{rank}.pt") for rank in range(PROCESSES)]
    for name in ("best", "latest"):
        states[0][name] = torch.load(folder / f"{name}.ckpt", weights_only=True)
    return states


def test_lightning_keeps_the_processes_together_through_all_phases(lightning_states) -> None:
    """What was fixed in the teacher's phase and is trained afterwards is averaged too."""
    first, second = (state["weights"] for state in lightning_states)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(key.startswith("refiner.update_block.gru") for key in first)


def test_lightning_leaves_frozen_teachers_alone(lightning_states) -> None:
    state = lightning_states[0]
    moved = {key for key, value in state["frozen"].items() if not torch.equal(value, state["weights"][key])}
    assert any(key.startswith("refiner.update_block.gru") for key in moved)
    assert not any(key.startswith(("depth_backbone.", "depth_decoder.", "pose_teacher.")) for key in moved)


def test_lightning_keeps_one_best_and_one_latest(lightning_states) -> None:
    state = lightning_states[0]
    steps_an_epoch = state["latest"]["global_step"] // 3
    assert state["best"]["global_step"] in (2 * steps_an_epoch, 3 * steps_an_epoch)
    for key, value in state["weights"].items():
        assert torch.equal(state["latest"]["state_dict"][f"model.{key}"], value)


def test_a_step_that_failed_in_one_process_failed_in_all(lightning_states) -> None:
    assert [state["failed"] for state in lightning_states] == [2, 2]
    assert all(torch.isfinite(value).all() for value in lightning_states[0]["weights"].values())


def test_all_processes_stop_together(tmp_path: Path) -> None:
    with pytest.raises(mp.ProcessRaisedException, match="2 steps in a row"):
        lightning_run(tmp_path, steps=(1, 2), max_failed_in_a_row=2)
