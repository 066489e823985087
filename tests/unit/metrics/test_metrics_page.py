# SPDX-License-Identifier: Apache-2.0
"""docs/metrics.md against the tables in the code: a measurement, or a file, that the page forgets fails here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pycm.metrics.cgroups import FILES, V2
from pycm.metrics.reader import GROUPS
from pycm.model import measurements as ids

DOCS = Path(__file__).parents[3] / "docs"
CODE = re.compile(r"`([^`]+)`")
#: Files that are read, but not in every sweep or not of a cgroup.
LIMITS = {V2: {"memory.max"}, "v1": {"memory.limit_in_bytes"}}
NETWORK = "/proc/PID/net/dev"


def table(heading: str) -> list[dict[str, str]]:
    """The rows of the table in the section *heading* of the page, by the names of the columns."""
    section = (DOCS / "metrics.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    names = [name.strip() for name in lines[0]]
    return [dict(zip(names, (cell.strip() for cell in cells), strict=True)) for cells in lines[2:]]


def ids_of(rows: list[dict[str, str]]) -> tuple[str, ...]:
    return tuple(name for row in rows for name in CODE.findall(row["id"]))


def files_of(figures: set[str], hierarchy: str) -> set[str]:
    return {name for figure, of, name, _ in FILES if figure in figures and (of == V2) == (hierarchy == V2)}


@pytest.mark.parametrize(
    ("heading", "wanted"),
    [("Standard measurements", ids.STANDARD_IDS), ("Extra measurements", ids.EXTRA_IDS)],
)
def test_page_lists_all_measurements_in_order(heading, wanted):
    assert ids_of(table(heading)) == wanted


def test_page_lists_all_system_metrics_in_order():
    rows = table("System metrics")
    process = next(number for number, row in enumerate(rows) if row["originator"] == "name of a process")
    assert sorted(ids_of(rows[:process])) == sorted(ids.SYSTEM_IDS)
    assert ids_of(rows[process:]) == ids.PROCESS_IDS


@pytest.mark.parametrize(("hierarchy", "column"), [(V2, "cgroup v2"), ("v1", "cgroup v1")])
def test_page_names_the_files_of_standard_measurements(hierarchy, column):
    rows = table("Standard measurements")
    found = {name for row in rows for name in CODE.findall(row[column])}
    figures = {figure for _, group in GROUPS.values() for figure in group}
    assert found == files_of(figures, hierarchy) | LIMITS[hierarchy] | {NETWORK}


@pytest.mark.parametrize(("hierarchy", "column"), [(V2, "cgroup v2"), ("v1", "cgroup v1")])
def test_page_names_the_files_of_extra_measurements(hierarchy, column):
    for row in table("Extra measurements"):
        assert set(CODE.findall(row[column])) == files_of(set(ids_of([row])), hierarchy)


def test_every_extra_measurement_has_a_file():
    assert {figure for figure, _, _, _ in FILES} >= set(ids.EXTRA_IDS)


def test_no_other_page_lists_extra_measurements():
    others = [page for page in DOCS.glob("**/*.md") if page.name != "metrics.md"]
    assert not [page.name for page in others if set(CODE.findall(page.read_text())) & set(ids.EXTRA_IDS)]
