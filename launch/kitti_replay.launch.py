"""Play a bag of KITTI through the node: bag, node and RViz on the bag's own time.

dualrefine kitti-to-bag ... && ros2 launch dualrefine_ros kitti_replay.launch.py bag:=/path/to/bag
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchContext, LaunchDescription

VO_LAUNCH = Path(get_package_share_directory("dualrefine_ros"), "launch", "vo.launch.py")
# Arguments that vo.launch.py has as well.
PASSED_ON = ("image", "camera_info", "image_transport", "rviz", "checkpoint", "device", "base_frame")


def generate_launch_description() -> LaunchDescription:
    """Declare every argument, then start the player beside the node."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="The bag, as dualrefine kitti-to-bag writes it."),
            DeclareLaunchArgument("rate", default_value="1.0", description="Speed of playing; 0.5 is half."),
            DeclareLaunchArgument(
                "loop",
                default_value="false",
                choices=["true", "false"],
                description="Play over and over; odometry goes on from the last pose.",
            ),
            DeclareLaunchArgument(
                "image", default_value="/camera/image_rect", description="Topic of the images in the bag."
            ),
            DeclareLaunchArgument(
                "camera_info",
                default_value="/camera/camera_info",
                description="Topic of their calibration in the bag.",
            ),
            DeclareLaunchArgument(
                "rviz", default_value="true", choices=["true", "false"], description="Show it in RViz."
            ),
            DeclareLaunchArgument(
                "image_transport",
                default_value="raw",
                choices=["raw", "compressed"],
                description="How the bag holds the images (compressed: kitti-to-bag --images jpeg).",
            ),
            DeclareLaunchArgument("checkpoint", default_value="", description="Path of the weights."),
            DeclareLaunchArgument("device", default_value="", description="auto, cpu, cuda or cuda:N."),
            DeclareLaunchArgument("base_frame", default_value="", description="The robot's frame."),
            OpaqueFunction(function=play),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(VO_LAUNCH)),
                launch_arguments={
                    "use_sim_time": "true",
                    **{name: LaunchConfiguration(name) for name in PASSED_ON},
                }.items(),
            ),
        ]
    )


def play(context: LaunchContext) -> list[ExecuteProcess]:
    """``ros2 bag play`` with the bag's clock."""
    values = context.launch_configurations
    loop = ["--loop"] if values["loop"] == "true" else []
    command = ["ros2", "bag", "play", values["bag"], "--clock", "--rate", values["rate"], *loop]
    return [ExecuteProcess(cmd=command, output="screen")]
