"""How long threads wait awake is set before PyTorch is there, and the user's choice stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dualrefine_ros import waiting

PRINT = "import os, sys; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"


def after(what: str, **environment: str) -> list[str]:
    """GOMP_SPINCOUNT and whether PyTorch is imported, in a fresh process after it has run something."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    program = f"{what}\n{PRINT}"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.splitlines()[-1].split()


@pytest.mark.parametrize(
    "program",
    [
        "from dualrefine_ros.tools.main import main\nmain(['splits', 'eigen_test'])",
        "import dualrefine_ros.ros.node as node\nnode.main(['--ros-args', '-p', 'iterations:=-1'])",
    ],
    ids=["command line", "node"],
)
def test_programs_let_threads_sleep(program: str) -> None:
    assert after(program)[0] == waiting.AWAKE
    assert after(program, GOMP_SPINCOUNT="7")[0] == "7"
    assert after(program, OMP_WAIT_POLICY="ACTIVE")[0] == "None"


def test_the_programs_do_not_import_pytorch_before() -> None:
    assert after("import dualrefine_ros.tools.main, dualrefine_ros.ros.node")[1] == "False"
