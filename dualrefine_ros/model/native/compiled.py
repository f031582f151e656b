"""Compiles the C++ of this folder into one library, kept in a cache, and loads it."""

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
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from dualrefine_ros.model.cache import cache_folder, writable_cache

HERE = Path(__file__).parent
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
                _log.warning("Iterations will be several times slower: no compiled code (%s).", _reason)
    return _library is not None


def reason() -> str:
    """Why it is not available."""
    return _reason


def library() -> ctypes.CDLL:
    """The library; to be called where it is available."""
    assert _library is not None
    return _library


def packed_size(out: int, channels: int) -> int:
    """Numbers that a 3x3 convolution's packed weights consist of."""
    size = library().convolution_packed_size
    size.restype = ctypes.c_int64
    return int(size(out, channels))


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where a tensor's numbers lie; null for none."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


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
        OSError: no compiler, or nothing can be written.
        subprocess.SubprocessError: the compiler fails.
    """
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        raise OSError("there is no C++ compiler; install g++")
    sources = sorted(HERE.glob("*.cpp"))
    text = [path.read_text() for path in (*sources, *sorted(HERE.glob("*.h")))]
    key = hashlib.sha256("\0".join((*text, compiler, *FLAGS, _processor())).encode()).hexdigest()
    name = f"native-{key[:16]}"
    with suppress(OSError):  # a folder that we may not even look into
        for path in cache_folder().glob(f"{name}.*.so"):
            if path.name == f"{name}.{path.stat().st_size}.so":  # else it was cut off, and loading it crashes
                return path
    cache = writable_cache()
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        built = Path(folder) / "native.so"
        for tuning in TUNING:
            command = [*compiler.split(), *FLAGS, *tuning, *map(str, sources), "-o", str(built)]
            result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            if result.returncode == 0:
                break
        else:
            raise OSError(f"{compiler} failed: {result.stderr.strip().splitlines()[:1]}")
        target = cache / f"{name}.{built.stat().st_size}.so"
        os.replace(built, target)
    return target
