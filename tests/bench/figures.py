# SPDX-License-Identifier: Apache-2.0
"""What a benchmark gives: figures, each with the limit it is held to; and the one table of all of them."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass

HEADINGS = ("figure", "measured", "limit", "verdict")


class BenchmarkError(Exception):
    """A benchmark cannot be run here; the text says why."""


@dataclass(frozen=True)
class Figure:
    """`name` stays the same for ever, for comparison over time; `text` is for people. Smaller is better unless `at_least`."""

    name: str
    text: str
    measured: float
    unit: str = ""
    limit: float | None = None
    at_least: bool = False
    detail: str = ""

    @property
    def verdict(self) -> str:
        if self.limit is None:
            return "-"
        held = self.measured >= self.limit if self.at_least else self.measured <= self.limit
        return "ok" if held else "MISSED"


def row(figure: Figure) -> tuple[str, str, str, str]:
    bound = "at least" if figure.at_least else "at most"
    limit = "" if figure.limit is None else f"{bound} {number(figure.limit)} {figure.unit}".rstrip()
    return figure.text, f"{number(figure.measured)} {figure.unit}".rstrip(), limit, figure.verdict


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.2f}".rstrip("0").rstrip(".")


def table(figures: list[Figure]) -> str:
    rows = [HEADINGS, *map(row, figures)]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(HEADINGS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def as_json(figures: list[Figure]) -> str:
    machine = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "kernel": platform.release(),
    }
    rows = [{**asdict(figure), "verdict": figure.verdict} for figure in figures]
    return json.dumps({**machine, "cpus": os.cpu_count(), "figures": rows}, indent=2) + "\n"
