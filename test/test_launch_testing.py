"""``vo.launch.py`` under launch_testing: up, asked, shut down. Skipped where there is no full ROS 2."""

from __future__ import annotations

import unittest
from pathlib import Path

import pytest

pytest.importorskip("launch_testing", reason="no full ROS 2 here: launch_testing is missing")
pytest.importorskip("launch_ros", reason="no full ROS 2 here: launch_ros is missing")

import launch_testing
import launch_testing.actions
import launch_testing.asserts
import rclpy
from ament_index_python.packages import get_package_share_directory
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from node_harness import PATIENCE, Robot
from std_srvs.srv import Trigger

from launch import LaunchDescription


@pytest.mark.launch_test
def generate_test_description() -> LaunchDescription:
    file = Path(get_package_share_directory("dualrefine_ros"), "launch", "vo.launch.py")
    arguments = {"namespace": "tested", "device": "cpu", "log_level": "info"}
    vo = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(file)), launch_arguments=arguments.items()
    )
    return LaunchDescription([vo, launch_testing.actions.ReadyToTest()])


class TestTheLaunchedNode(unittest.TestCase):
    def test_it_runs_and_answers_services(self, proc_output) -> None:
        proc_output.assertWaitFor("Running the weights that ship on cpu", timeout=PATIENCE)
        rclpy.init()
        robot = Robot("tested")
        try:
            answer = robot.call("vo_node/save_trajectory", Trigger)
            assert (answer.success, answer.message) == (False, "There is no pose to save yet.")
        finally:
            robot.close()
            rclpy.shutdown()


@launch_testing.post_shutdown_test()
class TestAfterwards(unittest.TestCase):
    def test_it_ended_cleanly(self, proc_info, proc_output) -> None:
        launch_testing.asserts.assertExitCodes(proc_info)
        launch_testing.asserts.assertInStderr(
            proc_output, "0 images answered", "vo_node-1", strict_proc_matching=False
        )
