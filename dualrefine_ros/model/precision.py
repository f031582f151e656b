"""Keep geometry in float32 where the networks around it run in a shorter type."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


def _widen(value: Any) -> Any:
    if isinstance(value, list):
        return [_widen(item) for item in value]
    short = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if short else value


def full_precision(function: Callable[..., Result]) -> Callable[..., Result]:
    """Run ``function`` outside autocast, its half-precision tensor arguments widened to float32.

    Coordinates of several hundred pixels need more than the 8 or 11 significant bits of bf16 and fp16.
    """

    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Result:
        device = next(a.device for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        with torch.autocast(device.type, enabled=False):
            return function(*map(_widen, args), **{k: _widen(v) for k, v in kwargs.items()})

    return wrapper
