"""How a demonstration or a measurement uses DDS: in a domain of its own, with room for images."""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

from dualrefine_ros.installed_files import find_installed

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
    if (profile := find_installed(PROFILE)) is not None:
        os.environ[PROFILE_VARIABLES[0]] = str(profile)


def _is_free(domain: int) -> bool:
    """Whether no participant is there: its port for discovery is known (DDSI-RTPS 2.5, 9.6.1)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", 7410 + 250 * domain))
        except OSError:
            return False
    return True
