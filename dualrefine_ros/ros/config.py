"""Every parameter of ``vo_node``."""

from __future__ import annotations

from dataclasses import dataclass

from dualrefine_ros.covariance import CovarianceConfig
from dualrefine_ros.gates import ImageGate, MotionLimits, StillGate
from dualrefine_ros.ros.parameters import parameter


@dataclass(frozen=True)
class NodeConfig:
    """The node's parameters: default, description, range (``ros2 param describe`` shows the same)."""

    autostart: bool = parameter(
        True, "Configure and activate at once; false: a lifecycle manager does, or `ros2 lifecycle set`."
    )
    # The network
    checkpoint: str = parameter(
        "", "Path of the weights (.safetensors); empty: those that ship with the package."
    )
    random_network: str = parameter(
        "none",
        "A network to be given random weights where checkpoint is empty; its numbers mean nothing.",
        choices=("none", "small", "published"),
    )
    device: str = parameter(
        "auto", "Where the network runs: auto (CUDA if present, else the CPU), cpu, cuda or cuda:N."
    )
    on_device_error: str = parameter(
        "retry",
        "When the device fails (memory spent, driver lost): retry once and then refuse the image, go on on "
        "the cpu, or fail at once.",
        choices=("retry", "cpu", "fail"),
        run_time=True,
    )
    backend: str = parameter(
        "torch",
        "What runs the network: torch, or onnx (onnxruntime on the CPU, in float32; needs the extra 'onnx').",
        choices=("torch", "onnx"),
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
        0.0,
        "Stop iterating once the relative residual is below this; 0: never.",
        minimum=0.0,
        maximum=1.0,
        run_time=True,
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
    publish_tf: bool = parameter(
        True, "Send odom_frame -> base_frame to TF, unless somebody else moves that frame.", run_time=True
    )
    invert_tf: bool = parameter(
        False,
        "Send base_frame -> odom_frame instead, for a TF tree in which base_frame has a parent already. Not "
        "while running: listeners keep what was sent before, and both ways are a loop.",
    )
    # Topics
    image_topic: str = parameter("image", "Images (sensor_msgs/Image, or see image_transport).")
    image_transport: str = parameter(
        "raw",
        "raw: sensor_msgs/Image; compressed: sensor_msgs/CompressedImage on image_topic/compressed.",
        choices=("raw", "compressed"),
    )
    rectify: str = parameter(
        "auto",
        "Whether images need rectification by their camera_info: always, never, or auto (unless the last "
        "part of the image topic, after remapping, has a word that begins with 'rect', as image_rect).",
        choices=("auto", "always", "never"),
    )
    camera_info_topic: str = parameter("camera_info", "Their calibration (sensor_msgs/CameraInfo).")
    depth_topic: str = parameter(
        "depth/image", "Depth images, 32FC1 in metres; their calibration goes to camera_info beside them."
    )
    publish_depth_16u: bool = parameter(
        False, "Also send depth as 16UC1 in millimetres (REP-118), on image_16u beside.", run_time=True
    )
    points_topic: str = parameter("depth/points", "Coloured, organised clouds (sensor_msgs/PointCloud2).")
    points_stride: int = parameter(
        1,
        "Every so manieth row and column of the depth becomes points.",
        minimum=1,
        maximum=32,
        run_time=True,
    )
    confidence_topic: str = parameter("confidence", "Weight of each pixel in the pose, 32FC1 from 0 to 1.")
    odometry_topic: str = parameter("odometry", "Odometry of base_frame in odom_frame (nav_msgs/Odometry).")
    path_topic: str = parameter("path", "The latest poses of base_frame in odom_frame (nav_msgs/Path).")
    path_length: int = parameter(
        2000, "Poses that the path keeps; older ones are forgotten.", minimum=1, maximum=100_000
    )
    status_topic: str = parameter(
        "status",
        "How each image that was worked on went, answered or not (diagnostic_msgs/DiagnosticStatus).",
    )
    set_pose_topic: str = parameter(
        "set_pose", "Says where the robot is (geometry_msgs/PoseWithCovarianceStamped in odom_frame)."
    )
    image_qos: str = parameter(
        "auto",
        "How images and calibration are received: auto (as their publisher offers), reliable (nothing is "
        "lost on the way; a best-effort publisher is not heard) or sensor_data (best effort; fits every "
        "publisher, but large images get lost).",
        choices=("auto", "reliable", "sensor_data"),
    )
    # Which images
    max_rate: float = parameter(
        0.0, "Most images a second that are worked on; 0: all.", minimum=0.0, maximum=1000.0, run_time=True
    )
    min_flow: float = parameter(
        0.0,
        "Pixels (of the network's input) that the image must have moved before another one is matched with; "
        "for fast cameras. 0: always.",
        minimum=0.0,
        maximum=100.0,
        run_time=True,
    )
    max_gap: float = parameter(
        1.0,
        "Seconds without a usable image, after which a new pair begins instead of a wild match.",
        minimum=0.01,
        maximum=3600.0,
        run_time=True,
    )
    image_timeout: float = parameter(
        5.0,
        "Seconds without an image that diagnostics call an error.",
        minimum=0.1,
        maximum=3600.0,
        run_time=True,
    )
    min_contrast: float = parameter(
        ImageGate.min_contrast,
        "Gray levels between the dark and bright parts of an image, below which it shows nothing.",
        minimum=0.0,
        maximum=255.0,
        run_time=True,
    )
    refuse_frozen: bool = parameter(
        ImageGate.refuse_frozen,
        "Call an image lost that equals the one before bit by bit; false for simulators, which repeat them.",
        run_time=True,
    )
    # What is believed
    max_speed: float = parameter(
        MotionLimits.max_speed,
        "Metres a second; a faster motion is not believed.",
        minimum=0.01,
        maximum=1e4,
        run_time=True,
    )
    max_rotation_rate: float = parameter(
        MotionLimits.max_rotation_rate,
        "Radians a second; a faster turn is not believed.",
        minimum=0.01,
        maximum=1e3,
        run_time=True,
    )
    min_agreement: float = parameter(
        MotionLimits.min_agreement,
        "Correlation of two images through a motion, below which it is not believed; -1: always is.",
        minimum=-1.0,
        maximum=0.99,
        run_time=True,
    )
    max_agreement_loss: float = parameter(
        MotionLimits.max_agreement_loss,
        "How much less two images may agree through the motion than without any; 2: any amount.",
        minimum=0.001,
        maximum=2.0,
        run_time=True,
    )
    still_enter: float = parameter(
        StillGate.enter,
        "Pixels of image motion (of the network's input) below which the camera stands still; 0: never.",
        minimum=0.0,
        maximum=100.0,
        run_time=True,
    )
    still_leave: float = parameter(
        StillGate.leave,
        "Pixels of image motion above which it moves again.",
        minimum=0.0,
        maximum=100.0,
        run_time=True,
    )
    covariance_factor: float = parameter(
        CovarianceConfig.factor,
        "Factor of the covariance that the image alignment gives; dualrefine evaluate covariance finds it.",
        minimum=1e-6,
        maximum=1e9,
        run_time=True,
    )
    covariance_step_correlation: float = parameter(
        CovarianceConfig.step_correlation,
        "Correlation of the errors of consecutive motions: the larger, the faster the pose's grows.",
        minimum=0.0,
        maximum=0.99,
        run_time=True,
    )
    # Scale
    scale_mode: str = parameter(
        "fixed",
        "Where metres come from: fixed (scale.factor), camera_height (the ground seen in the depth) or "
        "external (a speedometer).",
        choices=("fixed", "camera_height", "external"),
        name="scale.mode",
    )
    scale_factor: float = parameter(
        1.0,
        "Factor of the network's lengths; in the other modes, until they know better.",
        minimum=1e-6,
        maximum=1e6,
        run_time=True,
        name="scale.factor",
    )
    scale_camera_height: float = parameter(
        0.0,
        "Metres from the ground to the camera, for scale.mode camera_height.",
        minimum=0.0,
        maximum=1000.0,
        run_time=True,
        name="scale.camera_height",
    )
    scale_topic: str = parameter("speed", "Topic of the speed, for scale.mode external.", name="scale.topic")
    scale_topic_type: str = parameter(
        "odometry",
        "Its type: odometry (nav_msgs/Odometry) or twist (geometry_msgs/TwistStamped).",
        choices=("odometry", "twist"),
        name="scale.topic_type",
    )
    # What is kept
    trajectory_file: str = parameter(
        "",
        "Where the service save_trajectory writes (.txt or .tum, TUM format); its folder must exist.",
        run_time=True,
    )
    trajectory_length: int = parameter(
        100_000, "Poses that it keeps at most; older ones are forgotten.", minimum=1, maximum=10_000_000
    )

    @property
    def has_random_weights(self) -> bool:
        """Whether the network is not a trained one."""
        return not self.checkpoint and self.random_network != "none"
