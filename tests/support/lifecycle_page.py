# SPDX-License-Identifier: Apache-2.0
"""The life-cycle in `docs/containers.md`, drawn from the table in `pycm.model.states`.

Run this file to write the page again: PYTHONPATH=src python tests/support/lifecycle_page.py
"""

from __future__ import annotations

from pathlib import Path

from pycm.model.states import ROWS, Effect, Row, Status

PAGE = Path(__file__).resolve().parents[2] / "docs" / "containers.md"
BEGIN, END = "<!-- generated from pycm.model.states -->", "<!-- end of the generated part -->"


def _states(statuses: frozenset[Status]) -> str:
    return ", ".join(status.word for status in sorted(statuses))


def _arrows() -> list[str]:
    """One arrow for all triggers that lead from one status to another."""
    arrows: dict[tuple[Status, Status], list[str]] = {}
    for row in ROWS:
        for status in sorted(row.before):
            arrows.setdefault((status, row.after), []).append(row.trigger.value)
    return [f"    {a.word} --> {b.word}: {', '.join(texts)}" for (a, b), texts in sorted(arrows.items())]


def _line(row: Row) -> str:
    effects = ", ".join(f"`{effect.name}`" for effect in row.effects)
    return f"| {row.trigger.value} | {_states(row.before)} | {row.after.word} | `{row.action.value}` | {effects} |"


def generate() -> str:
    """The part of the page between the two marks."""
    lines = [
        BEGIN,
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> Creating",
        *_arrows(),
        "    Dead --> [*]",
        "```",
        "",
        "| what happens | in status | new status | event | effects, in this order |",
        "|---|---|---|---|---|",
        *map(_line, ROWS),
        "",
        "| effect | what the agent does |",
        "|---|---|",
        *(f"| `{effect.name}` | {effect.value} |" for effect in Effect),
        END,
    ]
    return "\n".join(lines)


def written() -> str:
    """That part as it stands in the page; "" if it is not there."""
    _, _, rest = PAGE.read_text().partition(BEGIN)
    body, mark, _ = rest.partition(END)
    return BEGIN + body + END if mark else ""


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text().replace(written(), generate()))
