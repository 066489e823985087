# SPDX-License-Identifier: Apache-2.0
"""Draw the rooms of src/pycm and who imports whom: scripts/architecture [--print]

Rows come from the contracts in pyproject.toml, arrows from the import statements, lazy ones too. Imports of the ground
are words in a box, because each room has many. The picture is written to docs/architecture.svg; a test compares it with
the code.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "src/pycm"
PICTURE = REPOSITORY / "docs/architecture.svg"
BOX, GAP, MARGIN, LEFT = (128, 58), (24, 44), 40, 130
WIDEST = 7
"""Rooms in a row of the ground. Of two rooms of the ground the earlier one may import the later one."""
COLOURS = ("#e8eef7", "#dbe9d8", "#f7ead2", "#f3dede", "#ececec")


def contracts() -> dict[str, list[str]]:
    """Return the modules of each import-linter contract by its type; of the layers one string for each layer, from the
    top.
    """
    listed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    found = {entry["type"]: entry.get("layers") or entry.get("modules", []) for entry in reversed(listed)}
    return {kind: [name.replace("pycm.", "") for name in names] for kind, names in found.items()}


def rows() -> list[tuple[str, list[str]]]:
    """Return name and rooms of each row of the picture, from the top."""
    known = contracts()
    cli, agent, fronts, core, *ground = [layer.split(" | ") for layer in known["layers"]]
    below = [room for layer in ground for room in layer]
    return [
        ("entries", [*cli, *agent]),
        ("fronts", fronts),
        ("core", core),
        ("outside systems", sorted([*known["independence"], "registry"])),
        *(("ground", below[at : at + WIDEST]) for at in range(0, len(below), WIDEST)),
    ]


def rooms() -> set[str]:
    names = {
        path.name if path.is_dir() else path.stem for path in PACKAGE.iterdir() if path.suffix in {"", ".py"}
    }
    return {name for name in names if not name.startswith("_")}


def imports() -> dict[str, set[str]]:
    """Return the rooms that each room imports, wherever the statement is."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            if names == ["pycm"] and isinstance(node, ast.ImportFrom):
                names = [f"pycm.{alias.name}" for alias in node.names]
            found[room] |= {name.split(".")[1] for name in names if name.startswith("pycm.")}
    return {room: (used & rooms()) - {room} for room, used in found.items()}


def draw() -> str:
    layout, used = rows(), imports()
    width = LEFT + max(len(row) for _, row in layout) * (BOX[0] + GAP[0]) + MARGIN
    height = len(layout) * (BOX[1] + GAP[1]) + MARGIN
    ground = {room for name, row in layout if name == "ground" for room in row}
    places: dict[str, tuple[int, int]] = {}
    for line, (_, row) in enumerate(layout):
        begin = LEFT + (width - LEFT - len(row) * (BOX[0] + GAP[0])) // 2
        for column, room in enumerate(row):
            places[room] = (begin + column * (BOX[0] + GAP[0]), MARGIN + line * (BOX[1] + GAP[1]))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        "<!-- SPDX-License-Identifier: Apache-2.0; made by scripts/architecture -->",
        (
            '<defs><marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>'
        ),
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for room, place in places.items():
        arrows = sorted(used.get(room, set()) - ground, key=list(places).index)
        parts += [arrow(place, places[goal], builds=room == "agent") for goal in arrows]
    titles = [name for name, _ in layout]
    for line, (name, row) in enumerate(layout):
        if line == titles.index(name):
            parts.append(
                f'<text x="{MARGIN}" y="{MARGIN + line * (BOX[1] + GAP[1]) + 34}" fill="#555">{name}</text>'
            )
        colour = COLOURS[list(dict.fromkeys(titles)).index(name)]
        parts += [box(room, places[room], colour, sorted(used.get(room, set()) & ground)) for room in row]
    return "\n".join([*parts, "</svg>", ""])


def arrow(start: tuple[int, int], goal: tuple[int, int], *, builds: bool) -> str:
    """Draw from the bottom of a box to the top of one below, or in an arc above the row between two boxes of it."""
    x1, y1, x2, y2 = start[0] + BOX[0] // 2, start[1] + BOX[1], goal[0] + BOX[0] // 2, goal[1]
    path = f"M{x1} {y1}L{x2} {y2}"
    if start[1] == goal[1]:
        path = f"M{x1} {start[1]}C{x1} {y2 - 40} {x2} {y2 - 40} {x2} {y2}"
    style = 'stroke="#aaa" stroke-dasharray="4 3"' if builds else 'stroke="#333"'
    return f'<path d="{path}" fill="none" {style} marker-end="url(#a)"/>'


def box(room: str, place: tuple[int, int], colour: str, ground: list[str]) -> str:
    """Draw a room with the names of the ground rooms that it imports."""
    x, y = place
    lines = [""]
    for name in ground:
        lines[-1:] = [f"{lines[-1]} {name}"] if len(f"{lines[-1]} {name}") <= 26 else [lines[-1], f" {name}"]
    rows = [
        f'<text x="{x + 6}" y="{y + 30 + 11 * n}" font-size="9" fill="#555">{line.strip()}</text>'
        for n, line in enumerate(lines)
        if line
    ]
    return (
        f'<rect x="{x}" y="{y}" width="{BOX[0]}" height="{BOX[1]}" rx="4" fill="{colour}" stroke="#777"/>'
        f'<text x="{x + 6}" y="{y + 17}" font-weight="bold">{room}</text>{"".join(rows)}'
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["--print"]:
        print(draw(), end="")
    else:
        PICTURE.write_text(draw())
