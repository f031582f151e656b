"""How a demonstration or a measurement uses DDS: in a domain of its own, with room for images."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

from ament_index_python.packages import get_package_share_directory

DOMAINS = range(1, 102)  # those whose ports are not Linux's own (ROS 2 documentation, "The ROS_DOMAIN_ID")
PROFILE = Path("config/fastdds.xml")
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")


def set_up_dds() -> str:
    """Set the environment for this process and those it starts, before the first participant.

    What the user has set stays. Returns the domain.
    """
    make_room_for_images()
    return take_own_domain()


def take_own_domain() -> str:
    """Set ``ROS_DOMAIN_ID`` to one that nobody on this machine uses: we neither hear a robot nor move it."""
    if "ROS_DOMAIN_ID" not in os.environ:
        free = [domain for domain in random.sample(DOMAINS, len(DOMAINS)) if _is_free(domain)]
        os.environ["ROS_DOMAIN_ID"] = str(free[0] if free else random.choice(DOMAINS))
    return os.environ["ROS_DOMAIN_ID"]


def make_room_for_images() -> None:
    """Name the Fast DDS profile that holds whole images in shared memory, where it is installed."""
    if any(variable in os.environ for variable in PROFILE_VARIABLES):
        return
    for folder in (Path(__file__).resolve().parents[2], _share()):
        if folder is not None and (folder / PROFILE).is_file():
            os.environ[PROFILE_VARIABLES[0]] = str(folder / PROFILE)
            return


def _share() -> Path | None:
    try:
        return Path(get_package_share_directory("dualrefine_ros"))
    except (LookupError, OSError):  # not installed by colcon; no ROS environment
        return None


def _is_free(domain: int) -> bool:
    """Whether no participant is there: its port for discovery is known (DDSI-RTPS 2.5, 9.6.1)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", 7410 + 250 * domain))
        except OSError:
            return False
    return True
