"""A DDS domain of one's own, so that a demonstration neither hears a robot nor moves it."""

from __future__ import annotations

import os
import random
import socket

DOMAINS = range(1, 102)  # those whose ports are not Linux's own (ROS 2 documentation, "The ROS_DOMAIN_ID")


def take_own_domain() -> str:
    """Set ``ROS_DOMAIN_ID`` to one that nobody on this machine uses, unless the user has set it.

    Call it before the first participant and before processes that should share the domain are started.
    """
    if "ROS_DOMAIN_ID" not in os.environ:
        free = [domain for domain in random.sample(DOMAINS, len(DOMAINS)) if _is_free(domain)]
        os.environ["ROS_DOMAIN_ID"] = str(free[0] if free else random.choice(DOMAINS))
    return os.environ["ROS_DOMAIN_ID"]


def _is_free(domain: int) -> bool:
    """Whether no participant is there: its port for discovery is known (DDSI-RTPS 2.5, 9.6.1)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", 7410 + 250 * domain))
        except OSError:
            return False
    return True
