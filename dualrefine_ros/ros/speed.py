"""A speedometer for ``scale.mode`` external: speed from an odometry or twist topic."""

from __future__ import annotations

import math
from collections.abc import Callable

from geometry_msgs.msg import Twist, TwistStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from std_msgs.msg import Header

from dualrefine_ros.ros.conversions import stamp_to_ns


class SpeedInput:
    """Hands on each speed with its stamp.

    Args:
        node: to subscribe on.
        topic: of the speed.
        kind: odometry (nav_msgs/Odometry) or twist (geometry_msgs/TwistStamped).
        hand_on: called with nanoseconds and metres a second.
    """

    def __init__(self, node: Node, topic: str, kind: str, hand_on: Callable[[int, float], None]) -> None:
        self._node = node
        self._hand_on = hand_on
        message_type, callback = {
            "odometry": (Odometry, self._on_odometry),
            "twist": (TwistStamped, self._on_twist),
        }[kind]
        self._subscription = node.create_subscription(message_type, topic, callback, qos_profile_sensor_data)

    def close(self) -> None:
        """Stop listening."""
        self._node.destroy_subscription(self._subscription)

    def _on_odometry(self, message: Odometry) -> None:
        self._see(message.header, message.twist.twist)

    def _on_twist(self, message: TwistStamped) -> None:
        self._see(message.header, message.twist)

    def _see(self, header: Header, twist: Twist) -> None:
        v = twist.linear
        self._hand_on(stamp_to_ns(header.stamp), math.sqrt(v.x * v.x + v.y * v.y + v.z * v.z))
