"""What the node says about itself: once a second on ``/diagnostics``, and a line for each image."""

from __future__ import annotations

import math
import resource
import time
from collections import Counter
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType

from dualrefine_ros.frame import NANOSECONDS, Estimate, Status
from dualrefine_ros.ros.statistics import ENDS

PERIOD = 1.0  # seconds
RECENT = 5.0  # seconds for which a trouble counts as present
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
_LEVELS = {Status.LOST: ERROR, Status.DEGRADED: WARN}


class Diagnostics:
    """Looks at the node once a second; levels come with the likely cause.

    Args:
        node: a :class:`dualrefine_ros.ros.node.VoNode`.
    """

    def __init__(self, node: Any) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # Steady: a simulated clock that stands still is worth a diagnosis, too
        self._timer = node.create_timer(PERIOD, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._before: tuple[float, Counter[str]] = (time.monotonic(), Counter())
        self._active_since = time.monotonic()

    def close(self) -> None:
        """Fall silent."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)

    def activated(self) -> None:
        """Images are expected from now on."""
        self._active_since = time.monotonic()

    def _look(self) -> None:
        now = time.monotonic()
        counts, statuses = self._node.statistics.snapshot()
        elapsed, earlier = now - self._before[0], self._before[1]
        rates = {key: (counts[key] - earlier[key]) / elapsed for key in ("received", "answered", "dropped")}
        self._before = (now, counts)
        message = DiagnosticArray(
            status=[self._input(now, counts, rates), self._odometry(now, statuses, rates)]
        )
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def _input(self, now: float, counts: Counter[str], rates: dict[str, float]) -> DiagnosticStatus:
        level, text = self._judge_input(now, rates)
        values = {"input rate [Hz]": rates["received"], "received": counts["received"]}
        return self._status("input", level, text, values | {end: counts[end] for end in ENDS})

    def _judge_input(self, now: float, rates: dict[str, float]) -> tuple[bytes, str]:
        node, intake, statistics = self._node, self._node.intake, self._node.statistics
        if intake is None:
            return OK, "inactive"
        timeout = node.config.image_timeout
        since = max(statistics.last_received or self._active_since, self._active_since)
        if now - since > timeout:
            return (
                ERROR,
                f"no image on {intake.images.topic} for {now - since:.0f} s; {intake.images.why_silent()}",
            )
        if bad := self._recent(now, "calibration"):
            return ERROR, bad
        if intake.camera_info is None and now - self._active_since > timeout:
            return ERROR, f"no calibration on {intake.infos.topic}; {intake.infos.why_silent()}"
        if node.paused:
            return WARN, "paused: call the service ~/pause with false to go on"
        if trouble := self._recent(now, "failed", "waiting", "refused"):
            return ERROR, trouble
        if rates["dropped"] > rates["answered"]:
            return WARN, (
                f"{rates['dropped']:.1f} of {rates['received']:.1f} images a second are dropped: the "
                "network is too slow; use fewer iterations, a GPU, or set max_rate"
            )
        return OK, "images arrive"

    def _odometry(self, now: float, statuses: Counter[str], rates: dict[str, float]) -> DiagnosticStatus:
        node, statistics = self._node, self._node.statistics
        level, text = OK, "tracking"
        if node.intake is None:
            text = "inactive"
        elif lost := self._recent(now, "lost"):
            level, text = ERROR, f"lost: {lost}"
        elif degraded := self._recent(now, "degraded"):
            level, text = WARN, f"degraded: {degraded}"
        elif withheld := self._recent(now, "tf"):
            level, text = WARN, withheld
        elif node.config.has_random_weights:
            level, text = WARN, "random weights, the numbers mean nothing: leave random_network at none"
        elif node.config.scale_mode != "fixed" and statistics.scale_confidence == 0:
            level, text = (
                WARN,
                f"the scale is not measured (mode {node.config.scale_mode}): the last one stands",
            )
        values: dict[str, object] = {"processed rate [Hz]": rates["answered"]}
        values |= {f"latency {name} [ms]": 1000 * value for name, value in statistics.latency().items()}
        values |= {f"stage {name} [ms]": 1000 * value for name, value in statistics.stages.items()}
        values |= {"iterations": statistics.iterations}
        values |= {"scale": statistics.scale, "scale confidence": statistics.scale_confidence}
        values |= {status.value: statuses[status.value] for status in Status}
        return self._status("odometry", level, text, values | self._resources())

    def _resources(self) -> dict[str, object]:
        engine = self._node.engine
        values: dict[str, object] = {
            "device": str(engine.device) if engine is not None else "none",
            "peak memory [MiB]": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        if str(values["device"]).startswith("cuda"):
            import torch

            values["device memory [MiB]"] = torch.cuda.memory_allocated(engine.device) / 2**20
            values["device memory reserved [MiB]"] = torch.cuda.memory_reserved(engine.device) / 2**20
        return values

    def _recent(self, now: float, *kinds: str) -> str:
        """The latest trouble of these kinds, if it is not over."""
        said = [
            self._node.statistics.problems[kind] for kind in kinds if kind in self._node.statistics.problems
        ]
        when, sentence = max(said, default=(-math.inf, ""))
        return sentence if now - when < RECENT else ""

    def _status(self, part: str, level: bytes, text: str, values: dict[str, Any]) -> DiagnosticStatus:
        name = self._node.get_fully_qualified_name()
        return DiagnosticStatus(
            name=f"{name}: {part}", hardware_id=name, level=level, message=text, values=_key_values(values)
        )


def frame_status(name: str, estimate: Estimate, latency: float, engine_seconds: float) -> DiagnosticStatus:
    """How one image went.

    Args:
        name: of the node.
        estimate: the engine's answer.
        latency: seconds from exposure to publishing; NaN where the stamps are of another clock.
        engine_seconds: of that, in the engine: its stages and the little between and after them.
    """
    norms = estimate.pose_update_norms
    values = {
        "latency [ms]": 1000 * latency,
        "engine [ms]": 1000 * engine_seconds,
        "scale": estimate.scale,
        "scale confidence": estimate.scale_confidence,
        "iterations": int((norms == norms).sum()),
    }
    values |= {f"stage {stage} [ms]": 1000 * seconds for stage, seconds in estimate.timings.items()}
    level = _LEVELS.get(estimate.status, OK)
    return _image_status(name, estimate.stamp_ns, level, estimate.status.value, estimate.cause, values)


def trouble_status(name: str, stamp_ns: int, end: str, cause: str) -> DiagnosticStatus:
    """How one image went that has no answer.

    Args:
        name: of the node.
        stamp_ns: of the image.
        end: where it ended, one of :data:`~dualrefine_ros.ros.statistics.ENDS`.
        cause: a sentence.
    """
    return _image_status(name, stamp_ns, ERROR, end, cause, {})


def _image_status(
    name: str, stamp_ns: int, level: bytes, what: str, cause: str, values: dict[str, Any]
) -> DiagnosticStatus:
    stamp = f"{stamp_ns // NANOSECONDS}.{stamp_ns % NANOSECONDS:09d}"
    return DiagnosticStatus(
        name=name,
        hardware_id=name,
        level=level,
        message=what + (f": {cause}" if cause else ""),
        values=_key_values({"stamp": stamp, **values}),
    )


def _key_values(values: dict[str, Any]) -> list[KeyValue]:
    return [
        KeyValue(key=key, value=f"{value:.3f}" if isinstance(value, float) else str(value))
        for key, value in values.items()
    ]
