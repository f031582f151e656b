"""Demonstrations and measurements keep to a domain of their own, and large images arrive there."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dualrefine_ros.tools.dds import PROFILE, PROFILE_VARIABLES, make_room_for_images, take_own_domain

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0


def test_a_domain_of_its_own_unless_one_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    assert take_own_domain() == "7"
    monkeypatch.delenv("ROS_DOMAIN_ID")
    monkeypatch.setattr("dualrefine_ros.tools.dds.DOMAINS", range(40, 42))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(("", 7410 + 250 * 40))
        assert take_own_domain() == "41"
    assert os.environ["ROS_DOMAIN_ID"] == "41"


def test_images_get_room_unless_the_user_has_a_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in PROFILE_VARIABLES:
        monkeypatch.setenv(variable, "mine.xml")
        make_room_for_images()
        assert os.environ[variable] == "mine.xml"
        monkeypatch.delenv(variable)
    make_room_for_images()
    (chosen,) = [os.environ[v] for v in PROFILE_VARIABLES if v in os.environ]
    monkeypatch.delenv(PROFILE_VARIABLES[0])
    ns = "{http://www.eprosima.com}"
    transports = ElementTree.parse(chosen).iter(f"{ns}transport_descriptor")
    sizes = {t.findtext(f"{ns}type"): int(t.findtext(f"{ns}segment_size") or 0) for t in transports}
    assert set(sizes) == {"SHM", "UDPv4"}  # as many as without: nobody who was heard goes unheard
    assert sizes["SHM"] > 10 * 1242 * 375 * 4  # several depth images


def test_docker_has_room_for_the_profile() -> None:
    """Its own /dev/shm has 64 MiB, and is another one than the host's."""
    segment = int(ElementTree.parse(ROOT / PROFILE).findtext(".//{*}segment_size") or 0)
    text = (ROOT / "docs" / "robot.md").read_text()
    runs = re.findall(r"docker run[^`]*", text)
    assert runs
    assert all("--network host --ipc host" in run for run in runs)
    (room,) = re.findall(r"--shm-size (\d+)m", text)
    assert int(room) << 20 > 4 * segment  # driver, node and two to look at them


def test_large_images_arrive_by_best_effort() -> None:
    """With Fast DDS's own settings one or two of forty did."""
    listen = """
import sys, rclpy, time
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from dualrefine_ros.tools.dds import make_room_for_images
make_room_for_images()
rclpy.init()
node = rclpy.create_node(sys.argv[1])
if sys.argv[1] == "camera":
    publisher = node.create_publisher(Image, "large", qos_profile_sensor_data)
    while not publisher.get_subscription_count():
        time.sleep(0.05)
    message = Image(height=375, width=1242, encoding="rgb8", step=3726, data=bytes(375 * 3726))
    time.sleep(0.5)
    for _ in range(40):
        publisher.publish(message)
        time.sleep(0.1)
else:
    heard = []
    node.create_subscription(Image, "large", heard.append, qos_profile_sensor_data)
    end = time.monotonic() + float(sys.argv[2])
    while len(heard) < 30 and time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)
    print(len(heard))
"""
    ear = subprocess.Popen(
        [sys.executable, "-c", listen, "ear", str(PATIENCE)], stdout=subprocess.PIPE, text=True
    )
    camera = subprocess.Popen([sys.executable, "-c", listen, "camera"])
    try:
        said, _ = ear.communicate(timeout=2 * PATIENCE)
    finally:
        camera.kill()
    assert int(said) >= 30
