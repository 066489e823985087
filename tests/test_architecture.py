# SPDX-License-Identifier: Apache-2.0
"""docs/architecture.md and its picture against the code."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs/architecture.md"


def test_picture_shows_the_imports_of_today() -> None:
    sys.path.insert(0, str(REPOSITORY / "scripts/lib"))
    try:
        import architecture
    finally:
        del sys.path[0]
    assert architecture.draw() == architecture.PICTURE.read_text(), "run scripts/architecture"


def definitions(path: Path) -> set[str]:
    """Functions, methods as Class.method, and classes of a source file."""
    found = set()

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(prefix + child.name)
                visit(child, f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix)

    visit(ast.parse(path.read_text()), "")
    return found


def test_each_hop_of_the_walks_exists() -> None:
    hops = re.findall(r"(?m)^\| \d+ \| `([\w/]+\.py)` \| `([\w.]+)` \|", PAGE.read_text())
    missing = [
        f"{file}: {name}"
        for file, name in hops
        if not (REPOSITORY / "src/pycm" / file).is_file()
        or name not in definitions(REPOSITORY / "src/pycm" / file)
    ]
    assert missing == []
    titles = re.findall(r"(?m)^### (.+)$", PAGE.read_text())
    counts = [
        len(re.findall(r"(?m)^\| \d+ \|", part)) for part in re.split(r"(?m)^### ", PAGE.read_text())[1:]
    ]
    walks = dict(zip(titles, counts, strict=True))
    assert walks["A request for metrics, to its first data message"] <= 24
    assert walks["A dying container, to its restart"] <= 18
    assert len(walks) == 4
