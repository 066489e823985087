# SPDX-License-Identifier: Apache-2.0
"""The table of `list`: cells and tabs as Go's tabwriter sets them."""

import re
from pathlib import Path
from typing import Any

import pytest

from pycm.cli import list as command
from pycm.cli.choose import STATUS_WORDS, status_of
from pycm.errors import InvalidInputError
from pycm.model.states import Status

RECORDING = Path(__file__).parents[2] / "vectors" / "recorded" / "kanto-cm.txt"


def container(
    identifier="id", name="name", image="image", status="Running", finished="", code=0
) -> dict[str, Any]:
    state = {"status": STATUS_WORDS.index(status), "finished_at": finished, "exit_code": code}
    return {"container_id": identifier, "container_name": name, "image": {"name": image}, "state": state}


def test_status_words_are_those_of_the_model() -> None:
    assert list(STATUS_WORDS) == [status.word for status in Status]
    assert status_of({"state": None}) == "Creating"
    assert status_of({"state": {"status": 99}}) == "Unknown"


def test_every_recorded_table_is_reproduced_from_its_own_cells() -> None:
    tables = re.findall(r"^\n(ID .*\n-.*\n((?:.+\n)+))\n", RECORDING.read_text(), flags=re.MULTILINE)
    assert len(tables) == 3
    for text, rows in tables:
        cells = [[cell.strip() for cell in row.split("|")[:-1]] for row in rows.splitlines()]
        containers = [container(*row[:5], int(row[5])) for row in cells]
        assert command.table(containers) == f"\n{text}\n"


def test_a_wide_image_gives_the_other_cells_of_its_column_more_tabs() -> None:
    lines = command.table([container(image="i" * 79), container(image="short")]).splitlines()
    assert "|" + "i" * 79 + "\t|" in lines[3]
    assert "|short" + " " * 55 + "\t\t\t|" in lines[4]
    assert "|Image" + " " * 55 + "\t\t\t|" in lines[1]


@pytest.mark.parametrize(("length", "tabs"), [(39, 1), (40, 0), (41, 1), (48, 0)])
def test_a_cell_ends_at_a_multiple_of_eight(length: int, tabs: int) -> None:
    line = command.table([container(identifier="x" * length)]).splitlines()[3]
    assert line.startswith("x" * length + "\t" * tabs + "|")


def test_width_counts_characters_not_bytes() -> None:
    line = command.table([container(name="ä" * 37)]).splitlines()[3]
    assert "|" + "ä" * 37 + "\t|" in line


def test_cells_are_never_cut() -> None:
    assert "n" * 500 in command.table([container(name="n" * 500)])


def test_own_table_tells_a_container_that_never_started_from_a_stopped_one() -> None:
    stopped = [
        container("a", status="Stopped"),
        container("b", status="Stopped", code=143),
        container("c", status="Stopped"),
        container("d", status="Stopped"),
        container("e", status="Exited"),
    ]
    stopped[2]["state"]["error"] = "no such program (never started)"
    stopped[3]["state"]["error"] = "no such program (did not start again)"
    stopped[4]["state"]["error"] = "no such program (never started)"

    def shown(text: str) -> list[tuple[str, str]]:
        rows = [line.split("|") for line in text.splitlines()[3:-1]]
        return [(row[3].strip(), row[5].strip()) for row in rows]

    assert shown(command.table(stopped, own=True)) == [
        ("Stopped", "0"),
        ("Stopped", "143"),
        ("Never started", "-"),
        ("Not started", "-"),
        ("Exited", "0"),
    ]
    assert {status for status, _ in shown(command.table(stopped))} == {"Stopped", "Exited"}


def test_ids_stand_on_one_line_and_no_ids_are_no_output() -> None:
    assert command.ids([container("a"), container("b")]) == "a b\n"
    assert command.ids([]) == ""


def kept(*filters: str, name: str = "") -> list[str]:
    wanted = command._filter(name, filters)
    found = [
        container("1", status="Running", image="x:1"),
        container("2", "two", status="Exited", image="X:1", code=3),
        container("3", "two", status="Exited", image="y:1"),
    ]
    return [c["container_id"] for c in found if wanted(c)]


def test_filters_ignore_case_and_all_must_hold() -> None:
    assert kept("status=EXITED") == ["2", "3"]
    assert kept("status=exited", "image=x:1") == ["2"]
    assert kept("exitcode=3") == ["2"]
    assert kept(name="two") == ["2", "3"]
    assert kept("exitcode=0", name="two") == ["3"]


def test_of_the_same_filter_the_last_one_counts_and_minus_one_is_any_exit_code() -> None:
    assert kept("status=running", "status=exited") == ["2", "3"]
    assert kept("exitcode=-1") == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ("foo=1", "no filter: foo"),
        ("exitcode=x", 'strconv.Atoi: parsing "x": invalid syntax'),
        ("status", "the filter status needs a value: status=<value>"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused(item: str, text: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^{re.escape(text)}$"):
        kept(item)
