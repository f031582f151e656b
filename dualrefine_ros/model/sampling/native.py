"""The sampler in C++, for the CPU; compiled on first use and kept in the user's cache.

Where there is no compiler, nothing breaks: :func:`available` says no and the plain sampler serves.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dualrefine_ros.model.precision import full_precision
from dualrefine_ros.model.sampling import plain

SOURCE = Path(__file__).with_name("sampling.cpp")
# sums over channels may be reordered, which is what lets the compiler use vectors; NaN keeps its meaning
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-fassociative-math", "-fno-signed-zeros",
         "-fno-trapping-math")  # fmt: skip
TUNING = (("-march=native", "-mprefer-vector-width=512"), ("-march=native",), ("-mcpu=native",), ())

_lock = threading.Lock()
_library: ctypes.CDLL | None = None
_reason = ""
_log = logging.getLogger(__name__)


def available() -> bool:
    """Whether the library is loaded, compiling it at the first call."""
    global _library, _reason
    with _lock:
        if _library is None and not _reason:
            try:
                _library = ctypes.CDLL(str(_compiled()))
            except (OSError, subprocess.SubprocessError) as error:
                _reason = str(error).strip().split("\n")[0] or type(error).__name__
                _log.warning("Iterations will be several times slower: no native sampler (%s).", _reason)
    return _library is not None


def reason() -> str:
    """Why it is not available."""
    return _reason


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "dualrefine_ros"


def _processor() -> str:
    """What the binary was tuned for: a home folder may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return platform.machine() + "".join(
        sorted({line for line in lines if line.startswith(("flags", "Features", "model name", "CPU part"))})
    )


def _compiled() -> Path:
    """The library, compiled where the cache has none for this source, compiler and processor.

    Raises:
        OSError: no compiler, or the cache cannot be written.
        subprocess.SubprocessError: the compiler fails.
    """
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        raise OSError("there is no C++ compiler; install g++")
    key = hashlib.sha256("\0".join((SOURCE.read_text(), compiler, *FLAGS, _processor())).encode()).hexdigest()
    library = _cache_folder() / f"sampling-{key[:16]}.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / library.name
        for tuning in TUNING:
            command = [*compiler.split(), *FLAGS, *tuning, str(SOURCE), "-o", str(built)]
            result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            if result.returncode == 0:
                break
        else:
            raise OSError(f"{compiler} failed: {result.stderr.strip().splitlines()[:1]}")
        os.replace(built, library)
    return library


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _channels_last(features: Tensor) -> Tensor:
    """(B, C, h, w) with the channels of a pixel side by side in memory; no copy where they are already."""
    return features.contiguous(memory_format=torch.channels_last)


def _size(cur: Tensor, prev: Tensor, candidates: int) -> Any:
    (B, C, h, w), (ph, pw) = cur.shape, prev.shape[-2:]
    return (ctypes.c_int * 7)(B, candidates, h, w, C, ph, pw)


class _LevelCost(torch.autograd.Function):
    """:func:`plain.matching_cost` of one level."""

    @staticmethod
    def forward(ctx: Any, cur: Tensor, prev: Tensor, pixels: Tensor) -> Tensor:
        cur, prev, pixels = _channels_last(cur), _channels_last(prev), pixels.contiguous()
        B, _, N, h, w = pixels.shape
        cost = cur.new_empty(B, N, h, w)
        assert _library is not None
        _library.epipolar_cost_forward(
            _size(cur, prev, N), _pointer(cur), _pointer(prev), _pointer(pixels), _pointer(cost),
            ctypes.c_int64(N * h * w), torch.get_num_threads(),
        )  # fmt: skip
        ctx.save_for_backward(cur, prev, pixels)
        return cost

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cur, prev, pixels = ctx.saved_tensors
        N, h, w = pixels.shape[2:]
        grad = grad.contiguous()
        grad_cur, grad_prev, grad_pixels = (torch.zeros_like(t) for t in (cur, prev, pixels))
        assert _library is not None
        _library.epipolar_cost_backward(
            _size(cur, prev, N), _pointer(cur), _pointer(prev), _pointer(pixels), _pointer(grad),
            ctypes.c_int64(N * h * w), _pointer(grad_cur), _pointer(grad_prev), _pointer(grad_pixels),
            torch.get_num_threads(),
        )  # fmt: skip
        return grad_cur, grad_prev, grad_pixels


@full_precision
def epipolar_cost(match_cur: Tensor, match_prev_levels: list[Tensor], pixels: Tensor) -> Tensor:
    """See :func:`plain.epipolar_cost`, which also serves double precision."""
    if match_cur.dtype != torch.float32:
        return plain.epipolar_cost(match_cur, match_prev_levels, pixels)
    per_level = pixels.chunk(len(match_prev_levels), 2)
    costs: list[Tensor] = [
        _LevelCost.apply(match_cur, features, at)
        for features, at in zip(match_prev_levels, per_level, strict=True)
    ]
    return torch.cat(costs, 1)


@full_precision
def alignment_moments(match_cur: Tensor, match_prev: Tensor, pixels: Tensor) -> Tensor:
    """See :func:`plain.alignment_moments`, which also serves gradients and double precision."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in (match_cur, match_prev, pixels)):
        return plain.alignment_moments(match_cur, match_prev, pixels)
    if match_cur.dtype != torch.float32:
        return plain.alignment_moments(match_cur, match_prev, pixels)
    cur, prev, pixels = _channels_last(match_cur), _channels_last(match_prev), pixels.contiguous()
    B, _, h, w = pixels.shape
    out = cur.new_empty(B, 6, h, w)
    assert _library is not None
    _library.alignment_moments(
        _size(cur, prev, 1), _pointer(cur), _pointer(prev), _pointer(pixels), _pointer(out),
        torch.get_num_threads(),
    )  # fmt: skip
    return out
