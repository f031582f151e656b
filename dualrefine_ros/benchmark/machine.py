"""On which machine, and with what, a figure was measured: without that it means nothing."""

from __future__ import annotations

import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from dualrefine_ros import __version__
from dualrefine_ros.model.sampling import choose


def describe_machine() -> dict[str, Any]:
    """What JSON can hold about this machine."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_1min": round(os.getloadavg()[0], 2),
        "gpus": gpus,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sampler_cpu": choose("auto", torch.device("cpu")).name,
        "dualrefine_ros": __version__,
    }


def _cpu_name() -> str:
    """As Linux names it; elsewhere as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor() or platform.machine()
