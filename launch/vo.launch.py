"""Start the visual odometry node; ``--show-args`` lists what can be set.

    ros2 launch dualrefine_ros vo.launch.py image:=/camera/image_rect camera_info:=/camera/camera_info \
        checkpoint:=/path/to/weights.safetensors
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription

PARAMETERS_FILE = Path(get_package_share_directory("dualrefine_ros"), "config", "vo.yaml")

# Arguments that set the parameter of the same name; an empty one leaves it to the parameters file.
PARAMETER_ARGUMENTS = {
    "checkpoint": "Path of the weights (.safetensors).",
    "device": "Where the network runs: auto, cpu, cuda or cuda:N.",
    "base_frame": "The robot's frame, whose motion is published.",
    "odom_frame": "The fixed frame that odometry begins in.",
    "camera_frame": "The camera's optical frame, where the images do not name it.",
}


def generate_launch_description() -> LaunchDescription:
    """Declare every argument, then start the node from their values."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("namespace", default_value="", description="Namespace of node and topics."),
            DeclareLaunchArgument(
                "image", default_value="image", description="Topic of the rectified images."
            ),
            DeclareLaunchArgument(
                "camera_info", default_value="camera_info", description="Topic of their calibration."
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
                "use_sim_time",
                default_value="false",
                choices=["true", "false"],
                description="Take time from /clock, as when a bag is played with --clock.",
            ),
            DeclareLaunchArgument(
                "log_level",
                default_value="info",
                choices=["debug", "info", "warn", "error", "fatal"],
                description="What the node logs at least.",
            ),
            OpaqueFunction(function=start_node),
        ]
    )


def start_node(context: LaunchContext) -> list[Node]:
    """The node, with the arguments that were given over the parameters file."""
    given = {name: context.launch_configurations[name] for name in PARAMETER_ARGUMENTS}
    return [
        Node(
            package="dualrefine_ros",
            executable="vo_node",
            name="vo_node",
            namespace=LaunchConfiguration("namespace"),
            output="screen",
            emulate_tty=True,
            parameters=[
                LaunchConfiguration("params_file"),
                {
                    "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
                    **{name: ParameterValue(v, value_type=str) for name, v in given.items() if v},
                },
            ],
            remappings=[
                ("image", LaunchConfiguration("image")),
                ("camera_info", LaunchConfiguration("camera_info")),
            ],
            arguments=["--ros-args", "--log-level", ["vo_node:=", LaunchConfiguration("log_level")]],
        )
    ]
