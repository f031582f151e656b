"""The list of what a robot may rely on names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_of_the_list_exists() -> None:
    tests = {
        node.name
        for path in (ROOT / "test").glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/acceptance.md").read_text()))
    assert len(named) > 80
    assert named <= tests, named - tests
