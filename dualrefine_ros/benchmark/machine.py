"""On which machine, and with what, a figure was measured: without that it means nothing."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
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
        "cpu": _cpuinfo("model name", "Model") or platform.processor() or platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),  # what PyTorch's own code uses
        "cpu_vectors": re.findall(r"\b(?:avx|amx|fma|sve|asimd|neon)\w*", _cpuinfo("flags", "Features")),
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


def machine_line(machine: Mapping[str, Any]) -> str:
    """What every table of figures begins with."""
    return (
        f"{machine['cpu']} ({machine['cpu_capability']}), {machine['threads']} threads, "
        f"torch {machine['torch']}, {machine['date']}"
    )


def _cpuinfo(*keys: str) -> str:
    """What Linux says of the first processor under one of these keys; elsewhere nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    values = (
        value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() in keys
    )
    return next(values, "")
