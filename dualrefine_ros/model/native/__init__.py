"""The parts of the network that are written in C++, for the CPU; compiled on first use.

Where there is no compiler, nothing breaks: :func:`available` says no and PyTorch does the same, slower.
"""

from dualrefine_ros.model.native.compiled import available, library, packed_size, pointer, reason

__all__ = ["available", "library", "packed_size", "pointer", "reason"]
