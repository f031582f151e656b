"""Every parameter of ``vo_node``."""

from __future__ import annotations

from dataclasses import dataclass

from dualrefine_ros.ros.parameters import parameter


@dataclass(frozen=True)
class NodeConfig:
    """The node's parameters: default, description, range (``ros2 param describe`` shows the same)."""

    # The network
    checkpoint: str = parameter(
        "", "Path of the weights (.safetensors); empty: random weights, whose numbers mean nothing."
    )
    random_network: str = parameter(
        "small",
        "The network that is given random weights where checkpoint is empty.",
        choices=("small", "published"),
    )
    device: str = parameter(
        "auto", "Where the network runs: auto (CUDA if present, else the CPU), cpu, cuda or cuda:N."
    )
    precision: str = parameter(
        "float32",
        "Number type of the network; the shorter ones are faster on a GPU.",
        choices=("float32", "bfloat16", "float16"),
    )
    iterations: int = parameter(
        6,
        "Refinement iterations for each frame; 0: the teacher's depth and pose only.",
        minimum=0,
        maximum=100,
        run_time=True,
    )
    solver_tolerance: float = parameter(
        0.0, "Stop iterating once the relative residual is below this; 0: never.", minimum=0.0, maximum=1.0
    )
    # Frames
    base_frame: str = parameter("base_link", "The robot's frame, whose motion is published.")
    odom_frame: str = parameter("odom", "The fixed frame: base_frame at the first image.")
    camera_frame: str = parameter("", "The camera's optical frame; empty: the frame_id of each image.")
    assume_optical_at_base: bool = parameter(
        False,
        "Ask TF for nothing: the camera sits at base_frame's origin and looks along its x axis, with "
        "optical axes (REP-103).",
    )
    # Topics
    image_topic: str = parameter("image", "Rectified images (sensor_msgs/Image).")
    camera_info_topic: str = parameter("camera_info", "Their calibration (sensor_msgs/CameraInfo).")
    depth_topic: str = parameter(
        "depth/image", "Depth images, 32FC1 in metres; their calibration goes to camera_info beside them."
    )
    odometry_topic: str = parameter("odometry", "Odometry of base_frame in odom_frame (nav_msgs/Odometry).")
    path_topic: str = parameter("path", "The latest poses of base_frame in odom_frame (nav_msgs/Path).")
    path_length: int = parameter(
        2000, "Poses that the path keeps; older ones are forgotten.", minimum=1, maximum=100_000
    )
    image_qos: str = parameter(
        "auto",
        "How images and calibration are received: auto (as their publisher offers), reliable (nothing is "
        "lost on the way; a best-effort publisher is not heard) or sensor_data (best effort; fits every "
        "publisher, but large images get lost).",
        choices=("auto", "reliable", "sensor_data"),
    )
