"""Where the network runs, and what counts as that place failing."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import TypeVar

import torch

from dualrefine_ros.errors import ConfigError

ON_DEVICE_ERROR = ("retry", "cpu", "fail")
Result = TypeVar("Result")
_SIGNS = ("cuda", "cudnn", "cublas", "out of memory", "hip error", "device-side")


def resolve_device(requested: str, cuda_available: bool) -> torch.device:
    """The device for a request: ``auto`` takes CUDA where there is one.

    Raises:
        ConfigError: the request names no device, or one that is not there.
    """
    if requested == "auto":
        return torch.device("cuda" if cuda_available else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError as error:
        raise ConfigError(f"There is no device '{requested}': use auto, cpu or cuda.") from error
    if device.type == "cuda" and not cuda_available:
        raise ConfigError(f"Device '{requested}' was asked for, but PyTorch sees no CUDA: use auto or cpu.")
    return device


def why_slow(device: torch.device, precision: str) -> str:
    """A sentence where a precision surely costs time, as on x86 without AVX-512; else empty."""
    if device.type != "cpu" or precision == "float32" or platform.machine() not in ("x86_64", "AMD64"):
        return ""
    extensions = torch.backends.cpu.get_cpu_capability()
    if extensions not in ("DEFAULT", "AVX2"):
        return ""
    return (
        f"{precision} is slower than float32 on this CPU, which has no instructions for it ({extensions}): "
        "leave precision at float32."
    )


def is_device_failure(error: BaseException) -> bool:
    """Whether an error is the device's (memory spent, driver or device lost) and not the program's."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, getattr(torch, "AcceleratorError", ())):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def free_cache(device: torch.device) -> None:
    """Give back the memory that PyTorch keeps for later; never fails, even on a lost device."""
    if device.type == "cuda":
        try:
            torch.cuda.empty_cache()
        except RuntimeError:
            return


def attempt(function: Callable[[], Result]) -> tuple[Result | None, str]:
    """The function's result, or None and why the device failed; other errors pass through.

    The error itself ends here: its traceback holds the very tensors that fill the memory.
    """
    try:
        return function(), ""
    except (RuntimeError, MemoryError) as error:
        if not is_device_failure(error):
            raise
        return None, (str(error).strip() or type(error).__name__).split("\n")[0]
