# SPDX-License-Identifier: Apache-2.0
"""docs/yocto.md explains every variable that it, the kas files and pycm.inc name, and names every kas file and script."""

from __future__ import annotations

import re

import pytest
from kas_support import BUILT_BY_USERS, FRAGMENTS, OVERLAYS
from layer_support import LAYER, REPOSITORY

PAGE = (REPOSITORY / "docs/yocto.md").read_text()
NAME = r"[A-Z][A-Z0-9]*_[A-Z0-9_]+(?<!_)(?:_container-management)?"
SINGLE = ("AUTOREV", "BBMASK", "DISTRO", "INHERIT", "MACHINE", "PACKAGECONFIG", "SRCREV", "TOPDIR")
"""Names of variables that are one word; other such words are placeholders, formats or abbreviations."""
VARIABLE = re.compile(rf"(?<![\w-])(?:{NAME}|{'|'.join(SINGLE)})(?![A-Za-z0-9_-])")
NOT_VARIABLES = {
    # files, and what programs print
    "KAS_FILE",
}


def explained() -> set[str]:
    """Return the variables of the first column of the page's table of variables."""
    table = PAGE[PAGE.index("\n## Variables\n") :].split("\n## ")[1]
    rows = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}


def code(text: str) -> str:
    """Return the code spans and blocks of a page."""
    blocks = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    return "\n".join(
        [
            *blocks,
            *re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)),
        ]
    )


def without_comments(text: str) -> str:
    return re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize(
    "name",
    ["docs/yocto.md", *BUILT_BY_USERS, *OVERLAYS, *FRAGMENTS, "meta-leda-pycm/conf/distro/include/pycm.inc"],
)
def test_page_explains_every_variable(name: str) -> None:
    text = (REPOSITORY / name).read_text()
    text = code(text) if name.endswith(".md") else without_comments(text)
    assert sorted(set(VARIABLE.findall(text)) - explained() - NOT_VARIABLES) == []


def test_page_explains_no_variable_that_nothing_names() -> None:
    files = [
        REPOSITORY / "scripts/yocto-build",
        *LAYER.rglob("*.inc"),
        *LAYER.rglob("*.bb"),
        *LAYER.rglob("*.bbclass"),
    ]
    files += [*REPOSITORY.glob("kas*.yml"), *REPOSITORY.glob("kas/*.yml")]
    start = PAGE.index("\n## Variables\n")
    named = (
        PAGE[:start] + PAGE[start + 1 :].split("\n## ", 1)[1] + "".join(path.read_text() for path in files)
    )
    assert sorted(name for name in explained() if name not in named) == []


def test_page_has_every_kas_file_and_script() -> None:
    wanted = [
        *BUILT_BY_USERS,
        *OVERLAYS,
        *FRAGMENTS,
        *(f"scripts/{name}" for name in ("yocto-build", "kas-locks", "yocto-check-layer")),
    ]
    assert [name for name in wanted if f"`{name}" not in PAGE and f"\n{name}" not in PAGE] == []


def test_page_has_a_row_with_date_and_commit_for_each_thing_tried() -> None:
    table = PAGE[PAGE.index("\n## What was tried\n") :].split("\n## ")[1]
    rows = [
        line.strip("| ").split(" | ") for line in table.splitlines() if re.match(r"\| .*\| 20\d\d-", line)
    ]
    assert rows
    for row in rows:
        command, _result, date, commit = row
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", date), command
        assert re.fullmatch(r"[0-9a-f]{7}", commit), command
