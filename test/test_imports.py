"""Imports point downwards only, ROS stays in its two rooms, and nothing depends on a machine."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "dualrefine_ros"

# From the ground up. What shares a line must not import each other.
LAYERS = (
    {"errors", "installed_files", "waiting"},
    {"frame"},
    {"geometry"},
    {"model", "network_io", "image_motion", "covariance", "devices", "gates", "ground"},
    {"observation", "scale"},
    {"odometry_config"},
    {"judgement"},
    {"memory"},
    {"odometry", "data"},
    {"evaluation"},
    {"benchmark", "ros", "training"},
    {"tools"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

ROS_ROOMS = {"ros", "tools"}
ROS_MODULES = re.compile(
    r"(rclpy|tf2_\w+|cv_bridge|message_filters|launch\w*|ament_\w+|rosidl_\w+|\w+_(msgs|srvs|interfaces))$"
)


def modules() -> dict[str, ast.Module]:
    """Dotted name of every module of the package, and its syntax tree."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text(), str(path))
        for path in sorted((ROOT / PACKAGE).rglob("*.py"))
    }


def imports(name: str, tree: ast.Module) -> list[str]:
    """Dotted names of all that a module imports, wherever in it; relative imports resolved."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # Of `a.b.c`, level 1 is `a.b`; an __init__ counts as a module of its package here as well.
            base = ".".join(name.split(".")[: -node.level]) if node.level else ""
            origin = ".".join(filter(None, [base, node.module]))
            found += [f"{origin}.{alias.name}" for alias in node.names]
    return found


def room(dotted: str) -> str | None:
    """`geometry` of `dualrefine_ros.geometry.camera.project`; None for what is not in a room."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 and parts[1] in RANK else None


def violations(name: str, tree: ast.Module) -> list[str]:
    """Imports of a module that its place in the house forbids."""
    own = room(name)
    if own is None:
        return []
    found = []
    for imported in imports(name, tree):
        other = room(imported)
        if other not in (None, own) and RANK[other] >= RANK[own]:
            found.append(f"{name} imports {imported}: {own} must not know {other}")
        if ROS_MODULES.match(imported.split(".")[0]) and own not in ROS_ROOMS:
            found.append(f"{name} imports {imported}: ROS stays in {sorted(ROS_ROOMS)}")
    return found


def test_every_module_has_its_place():
    names = {name.split(".")[1] for name in modules()} - {"__init__"}
    assert names == set(RANK), "a new module or folder needs a line in LAYERS"


def test_imports_point_downwards_and_ros_stays_in_its_rooms():
    assert [line for name, tree in modules().items() for line in violations(name, tree)] == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("model.layers", "from dualrefine_ros.odometry import VisualOdometry"),
        ("model.layers", "import dualrefine_ros.evaluation.replay"),
        ("model.layers", "from dualrefine_ros import odometry"),
        ("model.layers", "from ..data import kitti"),
        ("data.kitti", "from dualrefine_ros.odometry import VisualOdometry"),
        ("training.run", "def f():\n    import dualrefine_ros.ros.node"),
        ("odometry", "import rclpy"),
        ("evaluation.replay", "from sensor_msgs.msg import Image"),
        ("data.rosbag", "import tf2_ros"),
    ],
)
def test_the_rule_finds_what_it_forbids(name, source):
    assert len(violations(f"{PACKAGE}.{name}", ast.parse(source))) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("ros.node", "import rclpy\nfrom dualrefine_ros.odometry import VisualOdometry"),
        ("tools.demo", "from nav_msgs.msg import Odometry\nimport dualrefine_ros.ros.node"),
        ("model.layers", "from . import epipolar\nfrom ..geometry import camera\nimport torch"),
    ],
)
def test_the_rule_allows_the_rest(name, source):
    assert violations(f"{PACKAGE}.{name}", ast.parse(source)) == []


def test_the_package_imports_no_tests():
    top_level = {
        imported.split(".")[0] for name, tree in modules().items() for imported in imports(name, tree)
    }
    assert not top_level & {"test", "tests", "conftest", "pytest", "hypothesis", "scipy"}


def test_no_file_names_a_folder_of_one_machine():
    """Paths of the machine that something was written on fail on every other one."""
    machine_path = re.compile(r"(?<![\w.~-])/(work|root|home|Users)/|\.\./shared\b")
    try:
        listed = subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        files = [ROOT / line for line in listed.splitlines()]
    except (OSError, subprocess.CalledProcessError):  # an exported tree, not a checkout
        files = [
            path for folder in (PACKAGE, "test", "launch", "config") for path in (ROOT / folder).rglob("*")
        ]
    text = {".py", ".md", ".xml", ".yaml", ".toml", ".cfg", ".txt", ".rst", ".rviz", ""}
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in files
        if path.is_file() and path.suffix in text and path != Path(__file__)
        for match in machine_path.finditer(path.read_text(errors="ignore"))
    ]
    assert found == []
