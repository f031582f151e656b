"""REP-103: a robot's base is x forward, y left, z up; a camera's optical frame x right, y down, z forward."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# pose of a camera at the base's origin that looks along the base's x axis
T_BASE_OPTICAL: npt.NDArray[np.float64] = np.array(
    [[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)
