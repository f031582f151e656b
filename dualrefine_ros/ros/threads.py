"""Which thread computes.

PyTorch's parallel loops run on libgomp, which gives every thread that computes helpers of its own. As soon
as all of them are more than there are cores, helpers no longer wait awake between two operations, and the
network takes half as long again or twice as long. So one thread has helpers: that which works on images.
"""

from __future__ import annotations


def compute_alone() -> int:
    """From now on the calling thread computes without helpers; how many threads it had."""
    import torch  # takes seconds: a wrong parameter is answered before that

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    return threads


def compute_with(threads: int) -> None:
    """From now on the calling thread computes with so many threads."""
    import torch

    torch.set_num_threads(threads)
