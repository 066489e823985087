# SPDX-License-Identifier: Apache-2.0
"""Every place at which the agent may be killed is one at which some test kills it: a new one needs its test."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

from pycm.network import conf

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[3]
#: What stands for the part of a name that is known only when the agent runs: a CNI plugin.
PLUGINS = (conf.BRIDGE, conf.PORTS, conf.FIREWALL)


def trees(directory: str) -> Iterator[ast.AST]:
    for file in sorted((REPOSITORY / directory).rglob("*.py")):
        yield ast.parse(file.read_text())


def names(argument: ast.expr) -> list[str]:
    if isinstance(argument, ast.Constant):
        return [str(argument.value)]
    assert isinstance(argument, ast.JoinedStr), "a fail point has a name that can be found"
    return [
        "".join(str(part.value) if isinstance(part, ast.Constant) else plugin for part in argument.values)
        for plugin in PLUGINS
    ]


def fail_points() -> set[str]:
    """The names in the source."""
    found: set[str] = set()
    for tree in trees("src/pycm"):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "fail_point":
                found.update(names(node.args[0]))
    return found


def killed_at() -> set[str]:
    """The texts in tests; those that name a fail point say at which time, or do not."""
    return {
        node.value.partition(":")[0]
        for tree in trees("tests")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_some_test_kills_the_agent_at_every_fail_point() -> None:
    points = fail_points()
    assert len(points) > 40
    assert {f"network.added-{name}" for name in PLUGINS} <= points
    assert points - killed_at() == set()
