"""The peak memory of one side, in a process of its own: in a shared one, each side sees the other's."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from dualrefine_ros.benchmark.cases import Case, moving_frames
from dualrefine_ros.benchmark.reference_engine import ReferenceEngine
from dualrefine_ros.errors import DualRefineError
from dualrefine_ros.odometry import VisualOdometry, resolve_device

SIDES = ("engine", "reference")
_FRAMES = 3
_MIB = 2**20


def peak_memory_mib(case: Case, side: str) -> float:
    """What a process that imports PyTorch and then runs one side needs at most, MiB; on CUDA, of the device.

    Raises:
        DualRefineError: the process fails; its last words are the message.
    """
    command = [sys.executable, "-m", __name__, json.dumps(asdict(case)), side, str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DualRefineError(f"The memory cannot be measured: {done.stderr.strip().splitlines()[-1:]}")
    return float(done.stdout.split()[-1])


def _run(case: Case, side: str) -> float:
    device = resolve_device(case.device, torch.cuda.is_available())
    if side == "engine":
        engine = VisualOdometry(case.model(), case.odometry())
        for frame in moving_frames(_FRAMES):
            engine.process(frame)
    else:
        plain = ReferenceEngine(case.model(), case.iterations, device)
        for frame in moving_frames(_FRAMES):
            plain.process(frame)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MIB
    return _peak_resident_mib()


def _peak_resident_mib() -> float:
    """Linux's own figure: getrusage would count what the parent process held when it made this one."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB
    return next(float(line.split()[1]) * 1024 / _MIB for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    print(_run(Case(**json.loads(sys.argv[1])), sys.argv[2]))
