# SPDX-License-Identifier: Apache-2.0
"""What Python files import, and which package of a release has it.

python_packages.json says which of Python's split packages a module is in, for kirkstone, scarthgap and wrynose; what it does not name is
in python3-core. It was made from openembedded-core's python3-manifest.json of the three.
"""

from __future__ import annotations

import ast
import json
import sys
from typing import TYPE_CHECKING

from layer_support import HERE, RELEASES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from layer_support import Release

SPLIT = json.loads((HERE / "python_packages.json").read_text())
LIBRARIES = {
    "cgroupspy": "python3-cgroupspy",
    "google": "python3-protobuf",
    "grpclib": "python3-grpclib",
    "h11": "python3-h11",
    "h2": "python3-h2",
    "paho": "python3-paho-mqtt",
    "psutil": "python3-psutil",
}
PROGRAMS = {"virtual-containerd", "virtual-runc", "cni", "iptables"}
"""Not imported but called."""


def guarded(node: ast.AST) -> bool:
    """`if TYPE_CHECKING:` is never run."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def walk(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if guarded(child):
            assert isinstance(child, ast.If)
            for other in child.orelse:
                yield from walk(other)
            continue
        yield child
        yield from walk(child)


def imports(path: Path) -> set[str]:
    found = set()
    for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module)
    return found


def imported(sources: Path) -> set[str]:
    """The modules that the package below *sources* imports of others."""
    files = sorted((sources / "pycm").rglob("*.py"))
    assert files, f"no source in {sources}"
    modules = set().union(*(imports(path) for path in files))
    return {module for module in modules if module.partition(".")[0] != "pycm"}


def package_of(module: str, release: Release) -> str:
    """The package that has *module*; KeyError for one that nobody has a package for."""
    top = module.partition(".")[0]
    if top in {"tomllib", "tomli"}:
        # one or the other, as the code asks for them: part of Python from 3.11 on
        return "python3-tomli" if release.python == "3.10" else "python3-core"
    if top not in sys.stdlib_module_names:
        return LIBRARIES[top]
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        packages = SPLIT.get(".".join(parts[:length]))
        if packages:
            return f"python3-{packages[RELEASES.index(release)]}"
    return "python3-core"


def needed(release: Release, sources: Path) -> set[str]:
    """The packages that the package below *sources* needs to be imported and to do its work."""
    return {package_of(module, release) for module in imported(sources)} | {"python3-core"} | PROGRAMS
