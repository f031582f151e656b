"""The node's ears: a subscription that is received as reliably as its publisher allows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from dualrefine_ros.ros.parameters import qos_of

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble has it elsewhere
    from rclpy.qos_event import SubscriptionEventCallbacks

DEPTH = 5  # messages waiting for the executor
LOOK_PERIOD = 0.5  # seconds between looks at the publishers
# Seconds unheard, at first and at most, before subscribing anew. Fast DDS may take 2.4 s by itself, or twice
# that, until its next heartbeat: to subscribe anew before would only start that over.
SILENCE, LONGEST_SILENCE = 6.0, 60.0
POLICIES = {"reliable": ReliabilityPolicy.RELIABLE, "sensor_data": ReliabilityPolicy.BEST_EFFORT}


class Input:
    """A subscription that can follow the reliability and durability of its publishers.

    A best-effort subscription fits every publisher, but loses most large images even on one machine; a
    reliable one loses nothing, but never hears a best-effort publisher. ``auto`` is reliable until a
    best-effort publisher appears. What is latched (published once, and kept for whoever comes later) only a
    transient local subscription hears, which in turn never hears another publisher: it is one where all are.

    Args:
        node: to subscribe on.
        message_type, topic, callback: of the subscription.
        qos: auto, reliable or sensor_data (best effort).
        latched: whether to hear what was said before. Not for images: an old one is no news.
    """

    def __init__(
        self,
        node: Node,
        message_type: type,
        topic: str,
        callback: Callable[[Any], None],
        qos: str,
        latched: bool = False,
    ) -> None:
        self._node = node
        self._arguments = (message_type, topic, self._hear)
        self._callback = callback
        self._publishers: frozenset[bytes] = frozenset()  # that were there at the last look
        self._patience = SILENCE
        self._deaf_since: float | None  # monotonic time; None: what is published arrives
        self._type_name = f"{message_type.__module__.split('.')[0]}/msg/{message_type.__name__}"
        self._qos, self._latched = qos, latched
        self._reliability = POLICIES.get(qos, ReliabilityPolicy.RELIABLE)
        self._durability = DurabilityPolicy.VOLATILE
        self._subscription = self._subscribe()
        # Steady: the publishers are there or not, whatever a simulated clock says
        self._timer = node.create_timer(
            LOOK_PERIOD, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    @property
    def topic(self) -> str:
        """The full name, after remapping."""
        return self._subscription.topic_name

    def close(self) -> None:
        """Stop listening."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_subscription(self._subscription)

    def why_silent(self) -> str:
        """The likely cause of hearing nothing, as the end of a sentence."""
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        if not publishers:
            return "nobody publishes there: start the camera driver, or remap the topic"
        kinds = {publisher.topic_type for publisher in publishers}
        if self._type_name not in kinds:
            return (
                f"what is published there is {', '.join(sorted(kinds))} and not {self._type_name}: "
                "set image_transport, or remap the topic"
            )
        offered = {publisher.qos_profile.reliability for publisher in publishers}
        if self._reliability is ReliabilityPolicy.RELIABLE and offered == {ReliabilityPolicy.BEST_EFFORT}:
            return (
                f"its publisher is best-effort and image_qos is {self._qos}: they never match, "
                "set image_qos to auto or sensor_data"
            )
        return f"its publisher ({publishers[0].node_name}) is there but sends nothing that arrives"

    def _hear(self, message: Any) -> None:
        self._deaf_since = None
        self._callback(message)

    def _subscribe(self) -> Subscription:
        self._deaf_since = time.monotonic()
        with qos_of(self._node, self._arguments[1]):
            return self._node.create_subscription(
                *self._arguments,
                QoSProfile(depth=DEPTH, reliability=self._reliability, durability=self._durability),
                event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible_qos),
                # Reliability is the parameter image_qos: an override of ROS's could not follow the publisher
                qos_overriding_options=QoSOverridingOptions((QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH)),
            )

    def _on_incompatible_qos(self, _: Any) -> None:
        if self._qos != "auto":  # which is about to follow
            self._node.get_logger().warning(f"Nothing is received on {self.topic}: {self.why_silent()}.")

    def _look(self) -> None:
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        if publishers:
            self._follow([publisher.qos_profile for publisher in publishers])
        now, identities = time.monotonic(), frozenset(bytes(one.endpoint_gid) for one in publishers)
        if identities != self._publishers:
            if self._publishers or self._deaf_since is not None:  # else the newcomers were heard already
                self._deaf_since = now
            self._publishers, self._patience = identities, SILENCE
        # Fast DDS sometimes matches a new subscription or publisher on one side only: ask again. What was
        # heard once is matched, however long it is silent.
        if publishers and self._deaf_since is not None and now - self._deaf_since > self._patience:
            self._patience = min(2 * self._patience, LONGEST_SILENCE)
            self._renew()
            self._node.get_logger().info(
                f"Nothing arrives on {self.topic} from {publishers[0].node_name}: subscribed anew."
            )

    def _renew(self) -> None:
        self._node.destroy_subscription(self._subscription)
        self._subscription = self._subscribe()

    def _follow(self, offered: list[QoSProfile]) -> None:
        """Ask for what all publishers offer, and for no more: that would not match."""
        reliability, durability = self._reliability, DurabilityPolicy.VOLATILE
        if self._qos == "auto":
            best_effort = any(one.reliability is ReliabilityPolicy.BEST_EFFORT for one in offered)
            reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
        if self._latched and all(one.durability is DurabilityPolicy.TRANSIENT_LOCAL for one in offered):
            durability = DurabilityPolicy.TRANSIENT_LOCAL
        if (reliability, durability) == (self._reliability, self._durability):
            return
        self._reliability, self._durability = reliability, durability
        self._renew()
        names = f"{reliability.name} and {durability.name}".lower().replace("_", " ")
        self._node.get_logger().info(f"Receiving {self.topic} as {names}, like its publisher.")
