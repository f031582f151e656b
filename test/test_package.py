"""The package as ROS 2 and pip see it: metadata that agree, files that are installed, pins for all."""

from __future__ import annotations

import ast
import configparser
import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import setuptools
from catkin_pkg.package import Package, parse_package
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import dualrefine_ros

ROOT = Path(__file__).parents[1]
NAME = "dualrefine_ros"
DISTRIBUTIONS = {  # of imports with another name; triton comes with torch, where there is one
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "rerun": "rerun-sdk",
    "triton": "torch",
    "yaml": "pyyaml",
}


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> dict:
    """The arguments setup.py gives to setuptools."""
    arguments: dict = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(setuptools, "setup", arguments.update)
    runpy.run_path("setup.py")
    return arguments


@pytest.fixture
def manifest() -> Package:
    """package.xml, validated by ROS's own parser."""
    warnings: list[str] = []
    package = parse_package(str(ROOT / "package.xml"), warnings=warnings)
    assert warnings == []
    return package


def test_package_xml_and_setup_py_say_the_same(setup, manifest):
    assert manifest.package_format == 3
    assert manifest.get_build_type() == "ament_python"
    assert manifest.name == setup["name"] == NAME
    assert manifest.version == setup["version"] == dualrefine_ros.__version__
    assert manifest.description == setup["description"]
    (maintainer,) = manifest.maintainers
    assert (maintainer.name, maintainer.email) == (setup["maintainer"], setup["maintainer_email"])
    code, data = manifest.licenses
    assert str(code) == setup["license"] == "Apache-2.0"
    assert str(data) == "CC-BY-NC-SA-3.0"


def test_licences_point_at_their_texts(manifest):
    code, data = (ROOT / licence.file for licence in manifest.licenses)
    assert "Apache License" in code.read_text()
    assert "CC BY-NC-SA 3.0" in data.read_text()
    assert "KITTI" in data.read_text()
    assert len(list(data.parent.glob("image_2/*.jpg"))) == 108


def test_changelog_is_of_this_package():
    text = (ROOT / "CHANGELOG.rst").read_text()
    assert f"Changelog for package {NAME}" in text
    assert re.search(rf"^(Forthcoming|{re.escape(dualrefine_ros.__version__)} \(.*\))\n-+$", text, re.M)


def test_every_console_script_resolves(setup):
    scripts = dict(line.split(" = ") for line in setup["entry_points"]["console_scripts"])
    assert {"dualrefine", "vo_node"} <= scripts.keys()
    for target in scripts.values():
        module, function = target.split(":")
        assert callable(getattr(import_module(module), function))


def test_launch_config_and_resource_files_are_installed(setup):
    installed = {file: folder for folder, files in setup["data_files"] for file in files}
    assert installed["package.xml"] == f"share/{NAME}"
    assert installed[f"resource/{NAME}"] == "share/ament_index/resource_index/packages"
    for folder in ("launch", "config"):
        for path in (ROOT / folder).glob("*"):
            if path.is_file():
                assert installed.get(f"{folder}/{path.name}") == f"share/{NAME}/{folder}", path


def test_only_the_package_itself_is_packaged(setup):
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / NAME).rglob("__init__.py")}
    assert set(setup["packages"]) == {".".join(folder.parts) for folder in folders}
    assert not any("tf2" in package or "pypi_ros" in package for package in setup["packages"])
    assert (ROOT / "pypi_ros" / "COLCON_IGNORE").exists()
    code = {path.parent.relative_to(ROOT) for path in (ROOT / NAME).rglob("*.py")}
    assert code == folders, "a folder without __init__.py would be left out"


def test_ros2_run_finds_the_programs():
    """It looks in lib/<package>, where setuptools puts nothing unless setup.cfg says so."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["develop"]["script_dir"] == f"$base/lib/{NAME}"
    assert config["install"]["install_scripts"] == f"$base/lib/{NAME}"


def test_installs_as_colcon_installs(tmp_path):
    """The command behind `colcon build`, on a copy: an editable installation would hide what is missing."""
    source, prefix = tmp_path / "source", tmp_path / "install"
    ignored = shutil.ignore_patterns(".*", "clips", "*.egg-info", "__pycache__", "out", "runs", "build")
    shutil.copytree(ROOT, source, ignore=ignored)
    install = ["install", "--single-version-externally-managed", "--prefix", prefix, "--record", "record.txt"]
    run = subprocess.run([sys.executable, "setup.py", *install], cwd=source, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert (prefix / f"share/ament_index/resource_index/packages/{NAME}").is_file()
    assert (prefix / f"share/{NAME}/package.xml").is_file()
    assert os.access(prefix / f"lib/{NAME}/vo_node", os.X_OK)
    assert os.access(prefix / f"lib/{NAME}/dualrefine", os.X_OK)
    (copy,) = prefix.rglob(f"{NAME}/__init__.py")
    assert _files(copy.parent) == _files(ROOT / NAME)
    assert not list(prefix.rglob("tf2_ros*"))


def _files(folder: Path) -> set[Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(folder) for path in files}


def requirements(setup: dict) -> dict[str, Requirement]:
    lines = [
        *setup["install_requires"],
        *(line for extra in setup["extras_require"].values() for line in extra),
    ]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def test_every_requirement_is_pinned(setup):
    pins = [
        Requirement(line)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    pinned = {
        canonicalize_name(pin.name): str(pin.specifier)
        for pin in pins
        if not pin.marker or pin.marker.evaluate()
    }
    ros = [
        line.split("#")[0].strip()
        for line in (ROOT / "pypi_ros" / "requirements.txt").read_text().splitlines()
    ]
    wanted = {*requirements(setup), *(canonicalize_name(Requirement(line).name) for line in ros if line)}
    assert {name for name in wanted if not pinned.get(name, "").startswith("==")} == set()


def test_pytorch_is_recent_enough_wherever_it_is_installed_by_hand(setup):
    """2.6: earlier ones lack `torch.nn.utils.get_total_norm`."""
    bound = requirements(setup)["torch"].specifier
    assert str(bound) == ">=2.6"
    files = ("README.md", "docs/robot.md", "Dockerfile", ".github/workflows/ros.yml")
    for name in files:
        lines = re.findall(r"pip install.*\btorch\b.*", (ROOT / name).read_text())
        assert lines, name
        assert all(f"'torch{bound}'" in line for line in lines), name


def test_every_import_is_declared(setup, manifest):
    """In setup.py, or for ROS in package.xml; what comes along with something else today may not tomorrow."""
    declared = set(requirements(setup))
    from_ros = {dependency.name for dependency in manifest.exec_depends}
    missing = set()
    for path in (ROOT / NAME).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            for name in (name.split(".")[0] for name in names):
                known = sys.stdlib_module_names | from_ros | {NAME}
                if name not in known and canonicalize_name(DISTRIBUTIONS.get(name, name)) not in declared:
                    missing.add(f"{name} ({path.relative_to(ROOT)})")
    assert missing == set()
