"""Publishes transforms that never change."""

from __future__ import annotations

from collections.abc import Iterable

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage


class StaticTransformBroadcaster:
    """Publishes on ``/tf_static``, latched: who comes later receives the last message.

    Send all transforms of a node in one call: as in the real package, a second call's message takes the
    place of the first for those who come later.

    Args:
        node: that publishes.
        qos: of the publisher; reliable, transient local, depth 1 if None.
    """

    def __init__(self, node: Node, qos: QoSProfile | int | None = None) -> None:
        qos = qos or QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.pub_tf = node.create_publisher(TFMessage, "/tf_static", qos)

    def sendTransform(self, transform: TransformStamped | Iterable[TransformStamped]) -> None:
        """Publish one transform, or several in one message."""
        transforms = [transform] if isinstance(transform, TransformStamped) else list(transform)
        self.pub_tf.publish(TFMessage(transforms=transforms))
