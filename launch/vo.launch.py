"""Start the visual odometry node; ``--show-args`` lists what can be set.

    ros2 launch dualrefine_ros vo.launch.py image:=/camera/image_rect camera_info:=/camera/camera_info \
        checkpoint:=/path/to/weights.safetensors
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.utilities import prefix_namespace

from launch import LaunchContext, LaunchDescription

SHARE = Path(get_package_share_directory("dualrefine_ros"))
PARAMETERS_FILE = SHARE / "config" / "vo.yaml"
RVIZ_FILE = SHARE / "config" / "rviz" / "vo.rviz"

# Arguments that set the parameter of the same name; an empty one leaves it to the parameters file.
PARAMETER_ARGUMENTS = {
    "checkpoint": "Path of the weights (.safetensors).",
    "device": "Where the network runs: auto, cpu, cuda or cuda:N.",
    "base_frame": "The robot's frame, whose motion is published.",
    "odom_frame": "The fixed frame that odometry begins in.",
    "camera_frame": "The camera's optical frame, where the images do not name it.",
    "image_transport": "raw or compressed.",
    "trajectory_file": "Where the service save_trajectory writes (.txt or .tum).",
}
# Topics that the node publishes, by the argument that renames them.
OUTPUTS = {
    "odometry": "Odometry (nav_msgs/Odometry).",
    "path": "The latest poses (nav_msgs/Path).",
    "depth/image": "Depth images (sensor_msgs/Image).",
    "depth/points": "Coloured clouds (sensor_msgs/PointCloud2).",
}


def generate_launch_description() -> LaunchDescription:
    """Declare every argument, then start the node from their values."""
    switch = {"choices": ["true", "false"]}
    return LaunchDescription(
        [
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of node and topics."),
            DeclareLaunchArgument("image", default_value="image", description="Topic of the images."),
            DeclareLaunchArgument(
                "camera_info", default_value="camera_info", description="Topic of their calibration."
            ),
            *(
                DeclareLaunchArgument(
                    topic.replace("/", "_"), default_value=topic, description=f"Topic: {description}"
                )
                for topic, description in OUTPUTS.items()
            ),
            DeclareLaunchArgument(
                "params_file", default_value=str(PARAMETERS_FILE), description="YAML file of parameters."
            ),
            *(
                DeclareLaunchArgument(
                    name, default_value="", description=f"{description} Empty: as in params_file."
                )
                for name, description in PARAMETER_ARGUMENTS.items()
            ),
            DeclareLaunchArgument(
                "autostart",
                default_value="true",
                description="Configure and activate at once; false: a lifecycle manager does.",
                **switch,
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="false",
                description="Take time from /clock, as when a bag is played with --clock.",
                **switch,
            ),
            DeclareLaunchArgument(
                "rviz", default_value="false", description="Show everything in RViz.", **switch
            ),
            DeclareLaunchArgument(
                "log_level",
                default_value="info",
                choices=["debug", "info", "warn", "error", "fatal"],
                description="What the node logs at least.",
            ),
            OpaqueFunction(function=start_nodes),
        ]
    )


def start_nodes(context: LaunchContext) -> list[Node]:
    """The node, with the arguments that were given over the parameters file, and RViz."""
    given = {name: context.launch_configurations[name] for name in PARAMETER_ARGUMENTS}
    sim_time = ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)
    # RViz shows what the node hears and says, under the same names
    remappings = [
        ("image", LaunchConfiguration("image")),
        ("image/compressed", [LaunchConfiguration("image"), "/compressed"]),
        ("camera_info", LaunchConfiguration("camera_info")),
        *((topic, LaunchConfiguration(topic.replace("/", "_"))) for topic in OUTPUTS),
    ]
    log_level = f"{logger_name(context)}:={context.launch_configurations['log_level']}"
    vo_node = Node(
        package="dualrefine_ros",
        executable="vo_node",
        name="vo_node",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        emulate_tty=True,
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "use_sim_time": sim_time,
                "autostart": ParameterValue(LaunchConfiguration("autostart"), value_type=bool),
                **{name: ParameterValue(v, value_type=str) for name, v in given.items() if v},
            },
        ],
        remappings=remappings,
        arguments=["--ros-args", "--log-level", log_level],
    )
    fixed_frame = ["-f", given["odom_frame"]] if given["odom_frame"] else []
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        name="rviz",
        namespace=LaunchConfiguration("namespace"),
        arguments=["-d", str(RVIZ_FILE), *fixed_frame],
        parameters=[{"use_sim_time": sim_time}],
        remappings=remappings,
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    return [vo_node, rviz]


def logger_name(context: LaunchContext) -> str:
    """Of the node, to which the namespaces belong: its own, and those of whoever includes this file."""
    values = context.launch_configurations
    namespace = prefix_namespace(values.get("ros_namespace"), values["namespace"] or None)
    return ".".join(part for part in [*(namespace or "").split("/"), "vo_node"] if part)
