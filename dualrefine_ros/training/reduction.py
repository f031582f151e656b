"""Means over the pixels of all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask`` holds, over the batches of all processes; 0 where it holds nowhere.

    Sum and count are added up across processes: the mean of each process's own mean would weigh their
    pixels unequally. DDP averages gradients over W processes, so the gradient of the own sum is scaled by
    W: after averaging it is that of one process with the whole batch.

    Args:
        values, mask: of one shape; the mask is boolean.
    """
    total = torch.where(mask, values, 0).sum()
    sums = torch.stack((total.detach(), mask.sum().to(total.dtype)))
    processes = 1
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)
        processes = dist.get_world_size()
    total_everywhere, count = sums[0], sums[1].clamp(min=1)
    own = total * (processes / count)
    return own + (total_everywhere / count - own).detach()
