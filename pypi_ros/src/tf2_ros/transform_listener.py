"""Fills a buffer from the topics."""

from __future__ import annotations

import threading
from contextlib import suppress

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from tf2_msgs.msg import TFMessage

from tf2_ros.buffer import Buffer


class TransformListener:
    """Subscribes ``/tf`` and ``/tf_static`` and stores what arrives.

    Args:
        buffer: to fill.
        node: that subscribes.
        spin_thread: spin the node in a thread of its own; otherwise the caller spins it.
        qos: of the subscription to ``/tf``; reliable, depth 100 if None.
        static_qos: of that to ``/tf_static``; the same, and transient local, if None.
    """

    def __init__(
        self,
        buffer: Buffer,
        node: Node,
        *,
        spin_thread: bool = False,
        qos: QoSProfile | int | None = None,
        static_qos: QoSProfile | int | None = None,
    ) -> None:
        self.buffer = buffer
        self.node = node
        qos = qos or QoSProfile(depth=100)
        static_qos = static_qos or QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        # A callback of the node's default group may wait for a transform: ours must run meanwhile.
        group = ReentrantCallbackGroup()
        self.tf_sub = node.create_subscription(TFMessage, "/tf", self.callback, qos, callback_group=group)
        self.tf_static_sub = node.create_subscription(
            TFMessage, "/tf_static", self.static_callback, static_qos, callback_group=group
        )
        self.executor: SingleThreadedExecutor | None = None
        if spin_thread:
            self.executor = SingleThreadedExecutor(context=node.context)
            self.executor.add_node(node)
            threading.Thread(target=_spin, args=(self.executor,), daemon=True).start()

    def callback(self, data: TFMessage) -> None:
        """Store transforms that change."""
        for transform in data.transforms:
            self.buffer.set_transform(transform, "default_authority")

    def static_callback(self, data: TFMessage) -> None:
        """Store transforms that never change."""
        for transform in data.transforms:
            self.buffer.set_transform_static(transform, "default_authority")

    def unregister(self) -> None:
        """Stop listening."""
        if self.executor is not None:
            self.executor.shutdown()
        self.node.destroy_subscription(self.tf_sub)
        self.node.destroy_subscription(self.tf_static_sub)


def _spin(executor: SingleThreadedExecutor) -> None:
    with suppress(ExternalShutdownException):  # rclpy was shut down: nothing more will arrive
        executor.spin()
