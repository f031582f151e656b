"""Two processes learn what one would learn from both their batches."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parent))
from training_helpers import TINY, batch_of

from dualrefine_ros.model import random_model
from dualrefine_ros.training.batch import TripletBatch
from dualrefine_ros.training.recipe import Phase, RecipeConfig
from dualrefine_ros.training.reduction import masked_mean
from dualrefine_ros.training.step import training_step

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
