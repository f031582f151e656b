"""The node's ears: image and calibration topics, received as reliably as their publishers allow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

DEPTH = 5  # messages waiting for the executor
LOOK_PERIOD = 0.5  # seconds between looks at the publishers
POLICIES = {"reliable": ReliabilityPolicy.RELIABLE, "sensor_data": ReliabilityPolicy.BEST_EFFORT}


class Input:
    """A subscription that can follow the reliability of its publishers.

    A best-effort subscription fits every publisher, but loses most large images even on one machine; a
    reliable one loses nothing, but never hears a best-effort publisher. ``auto`` is reliable until a
    best-effort publisher appears.

    Args:
        node: to subscribe on.
        message_type, topic, callback: of the subscription.
        qos: auto, reliable or sensor_data (best effort).
    """

    def __init__(
        self, node: Node, message_type: type, topic: str, callback: Callable[[Any], None], qos: str
    ) -> None:
        self._node = node
        self._arguments = (message_type, topic, callback)
        self._reliability = POLICIES.get(qos, ReliabilityPolicy.RELIABLE)
        self._subscription = self._subscribe()
        if qos == "auto":
            # Steady: the publishers are there or not, whatever a simulated clock says
            node.create_timer(LOOK_PERIOD, self._follow, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _subscribe(self) -> Subscription:
        profile = QoSProfile(depth=DEPTH, reliability=self._reliability)
        return self._node.create_subscription(*self._arguments, profile)

    def _follow(self) -> None:
        publishers = self._node.get_publishers_info_by_topic(self._subscription.topic_name)
        offered = {publisher.qos_profile.reliability for publisher in publishers}
        best_effort = ReliabilityPolicy.BEST_EFFORT in offered
        fitting = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
        if not offered or fitting is self._reliability:
            return
        self._reliability = fitting
        self._node.destroy_subscription(self._subscription)
        self._subscription = self._subscribe()
        self._node.get_logger().info(
            f"Receiving {self._subscription.topic_name} as {fitting.name.lower().replace('_', ' ')}, "
            "like its publisher."
        )
