"""What the node publishes about one image; everything carries the image's stamp."""

from __future__ import annotations

from collections import deque
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped, TransformStamped
from nav_msgs.msg import Odometry, Path
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from tf2_ros import TransformBroadcaster

from dualrefine_ros.frame import Estimate, Frame
from dualrefine_ros.ros.base_odometry import BaseMotion, Matrix, inverse
from dualrefine_ros.ros.camera import Camera
from dualrefine_ros.ros.config import NodeConfig
from dualrefine_ros.ros.conversions import pose_message, transform_message, twist_message
from dualrefine_ros.ros.depth_messages import confidence_image, depth_image, depth_image_16u, point_cloud
from dualrefine_ros.ros.extrinsics import WatchingBuffer
from dualrefine_ros.ros.parameters import qos_of

OVERRIDABLE = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
)


class Outputs:
    """The publishers. Messages that may be large are made only when someone listens.

    Args:
        node: to publish from.
        config: gives the topics.
        buffer: that hears who else moves the robot's frame.
    """

    def __init__(self, node: Node, config: NodeConfig, buffer: WatchingBuffer) -> None:
        self._node = node
        self._buffer = buffer
        self._rivals_named: set[str] = set()
        self._transforms = TransformBroadcaster(node)
        self._publishers: list[Publisher] = []
        self._odometry = self._publisher(Odometry, config.odometry_topic)
        self._path = self._publisher(Path, config.path_topic)
        self._status = self._publisher(DiagnosticStatus, config.status_topic)
        self._depth = self._publisher(Image, config.depth_topic)
        beside = config.depth_topic.rpartition("/")[0]
        self._depth_info = self._publisher(
            CameraInfo, f"{beside}/camera_info" if beside else "depth_camera_info"
        )
        self._depth_16u = self._publisher(Image, f"{beside}/image_16u" if beside else "image_16u")
        self._points = self._publisher(PointCloud2, config.points_topic)
        self._confidence = self._publisher(Image, config.confidence_topic)
        self._poses: deque[PoseStamped] = deque(maxlen=config.path_length)

    def _publisher(self, kind: type, topic: str) -> Any:
        overriding = QoSOverridingOptions(OVERRIDABLE)
        with qos_of(self._node, topic):
            publisher = self._node.create_publisher(
                kind, topic, QoSProfile(depth=10), qos_overriding_options=overriding
            )
        self._publishers.append(publisher)
        return publisher

    def close(self) -> None:
        """Publish no more."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
        self._node.destroy_publisher(self._transforms.pub_tf)

    def forget_path(self) -> None:
        """Begin an empty path."""
        self._poses.clear()

    def publish_motion(self, header: Header, motion: BaseMotion, config: NodeConfig) -> None:
        """Odometry and path at the image with this header."""
        odom = Header(stamp=header.stamp, frame_id=config.odom_frame)
        odometry = Odometry(header=odom, child_frame_id=config.base_frame)
        odometry.pose.pose = pose_message(motion.T_odom_base)
        odometry.pose.covariance = motion.pose_covariance.ravel()
        odometry.twist.twist = twist_message(motion.twist)
        odometry.twist.covariance = motion.twist_covariance.ravel()
        self._odometry.publish(odometry)
        self._poses.append(PoseStamped(header=odom, pose=odometry.pose.pose))
        if self._path.get_subscription_count():
            self._path.publish(Path(header=odom, poses=list(self._poses)))

    def publish_depth(
        self, header: Header, frame: Frame, estimate: Estimate, camera: Camera, config: NodeConfig
    ) -> None:
        """What was seen in the image with this header: each message where somebody listens."""
        depth = estimate.depth
        if self._depth.get_subscription_count():
            self._depth.publish(depth_image(depth, header))
        if config.publish_depth_16u and self._depth_16u.get_subscription_count():
            self._depth_16u.publish(depth_image_16u(depth, header))
        if self._depth_info.get_subscription_count():
            self._depth_info.publish(camera.rectified_info(header))
        if self._points.get_subscription_count():
            self._points.publish(point_cloud(depth, frame, header, config.points_stride))
        if estimate.confidence is not None and self._confidence.get_subscription_count():
            self._confidence.publish(confidence_image(estimate.confidence, header))

    def publish_status(self, status: DiagnosticStatus) -> None:
        """How the image went."""
        if self._status.get_subscription_count():
            self._status.publish(status)

    def publish_transform(self, header: Header, T_odom_base: Matrix, config: NodeConfig) -> str:
        """TF at the image with this header; returns why it is withheld, if so.

        After what was seen and how the robot moved: it comes back to this node, whose executor then takes the
        interpreter from whatever is still to be published.
        """
        if not config.publish_tf:
            return ""
        parent, child = config.odom_frame, config.base_frame
        if config.invert_tf:
            parent, child = child, parent
        withheld = self._why_withheld(child)  # two parents would tear the tree apart for everybody
        if withheld:
            if child not in self._rivals_named:
                self._rivals_named.add(child)
                self._node.get_logger().warning(withheld)
            return withheld
        transform = TransformStamped(header=Header(stamp=header.stamp, frame_id=parent), child_frame_id=child)
        transform.transform = transform_message(inverse(T_odom_base) if config.invert_tf else T_odom_base)
        self._buffer.sending(transform)
        self._transforms.sendTransform(transform)
        return ""

    def _why_withheld(self, child: str) -> str:
        rival = self._buffer.rival(child)
        if rival is None:
            return ""
        return (
            f"Somebody else gives '{child}' the parent '{rival}' in TF, so no transform is sent: stop that "
            "publisher and start this node anew, set publish_tf to false, or start it with invert_tf."
        )
