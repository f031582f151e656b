"""What every test runs under: a ROS 2 of its own, few threads, no window, no deadlines."""

import os

# Set before anything imports torch, matplotlib or rclpy; processes that tests start inherit it.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)  # not that of a robot, or of another run
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["OMP_NUM_THREADS"] = "2"
os.environ["MPLBACKEND"] = "Agg"

import pytest
from hypothesis import settings

settings.register_profile("dualrefine_ros", deadline=None, derandomize=True)  # the same on every machine
settings.load_profile("dualrefine_ros")


@pytest.fixture(scope="session", autouse=True)
def _ros_logs(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["ROS_LOG_DIR"] = str(tmp_path_factory.mktemp("ros_logs"))
