"""What the node publishes about one image; everything carries the image's stamp."""

from __future__ import annotations

import copy
from collections import deque

from geometry_msgs.msg import PoseStamped, TransformStamped
from nav_msgs.msg import Odometry, Path
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tf2_ros import TransformBroadcaster

from dualrefine_ros.frame import Estimate
from dualrefine_ros.ros.base_odometry import BaseMotion
from dualrefine_ros.ros.config import NodeConfig
from dualrefine_ros.ros.conversions import depth_image, pose_message, transform_message, twist_message

RELIABLE = QoSProfile(depth=10)


class Outputs:
    """The publishers. Messages that may be large are made only when someone listens."""

    def __init__(self, node: Node, config: NodeConfig) -> None:
        self._config = config
        self._transforms = TransformBroadcaster(node)
        self._odometry = node.create_publisher(Odometry, config.odometry_topic, RELIABLE)
        self._path = node.create_publisher(Path, config.path_topic, RELIABLE)
        self._depth = node.create_publisher(Image, config.depth_topic, RELIABLE)
        beside = config.depth_topic.rpartition("/")[0]
        self._depth_info = node.create_publisher(
            CameraInfo, f"{beside}/camera_info" if beside else "depth_camera_info", RELIABLE
        )
        self._poses: deque[PoseStamped] = deque(maxlen=config.path_length)

    def publish(
        self, header: Header, camera_info: CameraInfo, estimate: Estimate, motion: BaseMotion
    ) -> None:
        """Publish the answer to the image with this header and calibration."""
        odom = Header(stamp=header.stamp, frame_id=self._config.odom_frame)
        self._publish_motion(odom, motion)
        self._publish_path(odom, motion)
        if self._depth.get_subscription_count():
            self._depth.publish(depth_image(estimate.depth, header))
        if self._depth_info.get_subscription_count():
            info = copy.copy(camera_info)
            info.header = header
            self._depth_info.publish(info)

    def forget_path(self) -> None:
        """Begin an empty path."""
        self._poses.clear()

    def _publish_motion(self, odom: Header, motion: BaseMotion) -> None:
        transform = TransformStamped(header=odom, child_frame_id=self._config.base_frame)
        transform.transform = transform_message(motion.T_odom_base)
        self._transforms.sendTransform(transform)
        odometry = Odometry(header=odom, child_frame_id=self._config.base_frame)
        odometry.pose.pose = pose_message(motion.T_odom_base)
        odometry.twist.twist = twist_message(motion.twist)
        self._odometry.publish(odometry)

    def _publish_path(self, odom: Header, motion: BaseMotion) -> None:
        self._poses.append(PoseStamped(header=odom, pose=pose_message(motion.T_odom_base)))
        if self._path.get_subscription_count():
            self._path.publish(Path(header=odom, poses=list(self._poses)))
