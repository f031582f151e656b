"""Metres: the factor between the network's lengths and the world's, from what is known about the robot.

One camera sees no scale, and a network only remembers that of its training. ``fixed`` trusts a factor,
``camera_height`` measures the camera's height above the ground in the network's depth, ``external``
compares the network's way with a speedometer's.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.frame import NANOSECONDS
from dualrefine_ros.ground import GroundConfig, fit_ground

Matrix = npt.NDArray[np.float64]
MODES = ("fixed", "camera_height", "external")


@dataclass(frozen=True)
class ScaleConfig:
    """Where the scale comes from.

    Raises:
        ConfigError: a value is out of range or missing.
    """

    mode: str = "fixed"  # fixed, camera_height or external
    factor: float = 1.0  # of the network's lengths; in the other modes, until they know better
    deviation: float = 0.1  # of that factor, relative, one standard deviation: goes into the covariance
    camera_height: float = 0.0  # metres from the ground to the camera; needed by camera_height
    window: float = 3.0  # seconds over which measurements are pooled (their weighted median counts)
    min_confidence: float = 0.2  # below it, the last good scale stands
    min_speed: float = 0.3  # metres a second, below which a speedometer says nothing about scale
    max_rotation_rate: float = 0.3  # radians a second, above which the camera's way is not the robot's
    ground: GroundConfig = field(default_factory=GroundConfig)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"scale.mode must be one of {', '.join(MODES)}, not '{self.mode}'.")
        if self.mode == "camera_height" and not 0 < self.camera_height < math.inf:
            raise ConfigError(
                "scale.mode camera_height needs the height of the camera above the ground in metres: set "
                f"scale.camera_height (now {self.camera_height:g})."
            )
        for name in ("factor", "deviation", "window", "min_speed", "max_rotation_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"scale.{name} must be positive and finite, not {getattr(self, name)}.")


@dataclass(frozen=True)
class Scale:
    """The scale of one frame.

    Args:
        factor: of the network's lengths.
        confidence: in [0, 1], of the measurements behind it; 1 for a fixed one, 0 while it is a fallback.
        deviation: relative, one standard deviation.
    """

    factor: float
    confidence: float
    deviation: float


@dataclass(frozen=True)
class _Measurement:
    stamp_ns: int
    log_factor: float
    weight: float  # in (0, 1]


class ScaleEstimator:
    """Follows the scale from frame to frame; speeds may be added from another thread.

    The scale is the weighted median of the measurements of the last seconds, in the logarithm: a scale
    twice too large and one twice too small are equally wrong.
    """

    def __init__(self, config: ScaleConfig) -> None:
        self.config = config
        self._measurements: deque[_Measurement] = deque()
        self._speeds: deque[tuple[int, float]] = deque(maxlen=1000)
        self.current = Scale(config.factor, 1.0 if config.mode == "fixed" else 0.0, config.deviation)

    def forget(self) -> None:
        """Start anew from the fixed factor."""
        self.__init__(self.config)  # type: ignore[misc]

    def add_speed(self, stamp_ns: int, metres_per_second: float) -> None:
        """A speedometer's reading; the sign is ignored, and so is a reading that is not finite."""
        if math.isfinite(metres_per_second):
            self._speeds.append((stamp_ns, abs(metres_per_second)))

    def see_depth(self, stamp_ns: int, depth: npt.NDArray[np.float32], K: Matrix, down: Matrix) -> None:
        """Measure the camera's height in a depth map; does nothing in the other modes.

        Args:
            stamp_ns: of the frame.
            depth: (h, w), in the network's lengths.
            K: (3, 3) camera matrix at the map's size.
            down: (3,) unit vector towards the ground, in the camera's axes.
        """
        if self.config.mode != "camera_height":
            return
        ground = fit_ground(depth, K, down, self.config.ground)
        if ground is not None:
            log_factor = math.log(self.config.camera_height / ground.height)
            self._measurements.append(_Measurement(stamp_ns, log_factor, ground.confidence))

    def see_motion(self, stamp_prev_ns: int, stamp_ns: int, distance: float, angle: float) -> None:
        """Compare a motion with the speedometer; does nothing in the other modes.

        Args:
            stamp_prev_ns, stamp_ns: when it began and ended.
            distance: of the camera, in the network's lengths.
            angle: that it turned, radians.
        """
        seconds = (stamp_ns - stamp_prev_ns) / NANOSECONDS
        if self.config.mode != "external" or seconds <= 0 or distance <= 0:
            return
        speed = self._mean_speed(stamp_prev_ns, stamp_ns)
        slow = speed is None or speed < self.config.min_speed
        if speed is None or slow or angle / seconds > self.config.max_rotation_rate:
            return
        self._measurements.append(_Measurement(stamp_ns, math.log(speed * seconds / distance), 1.0))

    def update(self, stamp_ns: int) -> Scale:
        """The scale at this time; the last good one where there is too little to go by."""
        if self.config.mode == "fixed":
            return self.current
        oldest = stamp_ns - round(self.config.window * NANOSECONDS)
        while self._measurements and self._measurements[0].stamp_ns < oldest:
            self._measurements.popleft()
        measured = pooled(
            np.array([m.log_factor for m in self._measurements]),
            np.array([m.weight for m in self._measurements]),
        )
        if measured.confidence >= self.config.min_confidence:
            self.current = measured
        else:  # what was good stays, but is no longer measured
            self.current = Scale(self.current.factor, 0.0, self.current.deviation)
        return self.current

    def _mean_speed(self, start_ns: int, end_ns: int) -> float | None:
        """Mean speed between two times; None where no reading lies within a sampling period of them."""
        readings = sorted(self._speeds.copy())
        if len(readings) < 2:
            return None
        stamps = np.array([stamp for stamp, _ in readings], np.int64)
        slack = int(np.median(np.diff(stamps)))
        if stamps[0] > start_ns + slack or stamps[-1] < end_ns - slack:
            return None
        at = np.linspace(0, end_ns - start_ns, 9)
        return float(np.interp(at, (stamps - start_ns).astype(float), [v for _, v in readings]).mean())


_ENOUGH = 5  # measurements, for full confidence
_SPREAD = 0.2  # of the measurements' logarithms, at which confidence has fallen to a third


def pooled(log_factors: Matrix, weights: Matrix) -> Scale:
    """One scale from several measurements: weighted median, and how well they agree.

    The deviation is that of a single measurement, from their median absolute deviation: their errors have
    common causes (the road's slope, the network's habit), so more of them do not make it smaller.
    """
    if not len(log_factors):
        return Scale(1.0, 0.0, math.inf)
    median = weighted_median(log_factors, weights)
    spread = 1.4826 * weighted_median(np.abs(log_factors - median), weights)
    share = min(1.0, len(log_factors) / _ENOUGH)
    confidence = float(weights.mean()) * share * math.exp(-spread / _SPREAD)
    return Scale(math.exp(median), confidence, max(spread, 0.01))


def weighted_median(values: Matrix, weights: Matrix) -> float:
    """The value that half of the weight lies below."""
    order = np.argsort(values)
    cumulative = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(cumulative, cumulative[-1] / 2)])
