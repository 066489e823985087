# SPDX-License-Identifier: Apache-2.0
"""What a program can check of docs/style.md: the words, the length of lines and sentences, the documents that are named.

One room or page: `pytest tests/test_style.py -k 'twin'`. A room that is not rewritten yet is in NOT_YET.
"""

from __future__ import annotations

import re
import subprocess
from functools import lru_cache
from pathlib import Path

import pytest

from support import prose

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "src/pycm"


@lru_cache
def tracked() -> tuple[Path, ...]:
    command = ["git", "-c", f"safe.directory={REPOSITORY}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]  # fmt: skip
    out = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True, text=True).stdout
    return tuple(sorted({path for name in out.split("\0") if name and (path := REPOSITORY / name).is_file()}))


def room_of(path: Path) -> str:
    """The room of a source, "scripts", or the name of a page; "" for what the guide's test does not read."""
    if PACKAGE in path.parents and path.suffix == ".py":
        return "" if "_pb2" in path.name else path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    name = path.relative_to(REPOSITORY)
    if name.parts[0] == "scripts":
        return "scripts" if path.suffix in {"", ".py", ".sh"} else ""
    return (
        name.as_posix()
        if (name.parts[0] == "docs" and path.suffix == ".md") or name.as_posix() in PAGES
        else ""
    )


PAGES = ("README.md", "CONTRIBUTING.md")
ROOMS = sorted({room for path in tracked() if (room := room_of(path))})
NOT_YET: set[str] = {
    "docs/promises.md",
}
"""Rooms and pages that are still in the old words. A room that passes has to leave this set: its test fails then."""


@lru_cache
def known() -> set[str]:
    """Each path of the repository and each tail of it, as prose names files: storage/files.py, files.py."""
    parts = [path.relative_to(REPOSITORY).parts for path in tracked()]
    return {"/".join(names[start:]) for names in parts for start in range(len(names))}


def rooms() -> list[object]:
    late = pytest.mark.xfail(reason="not rewritten yet", strict=True)
    return [pytest.param(room, marks=late if room in NOT_YET else ()) for room in ROOMS]


@pytest.mark.parametrize("room", rooms())
def test_prose_keeps_to_the_guide(room: str) -> None:
    found = []
    for path in tracked():
        if room_of(path) == room:
            texts = prose.texts_of(path)
            faults = [(t.line, fault) for t in texts for fault in judge(t)]
            faults += [
                (line, f"longer than {prose.WIDTH} characters") for line in prose.long_lines(path, texts)
            ]
            found += [f"{path.relative_to(REPOSITORY)}:{line}: {fault}" for line, fault in sorted(faults)]
    assert not found, f"{len(found)} places, see docs/style.md:\n" + "\n".join(found)


def judge(text: prose.Text) -> list[str]:
    return [*prose.dialect(text), *prose.long_sentences(text), *prose.unknown_documents(text, known())]


def anchors(page: Path) -> set[str]:
    """Headings of a page and their anchors, as GitHub makes them."""
    titles = re.findall(r"(?m)^#+ (.+)$", page.read_text(encoding="utf-8"))
    return {*titles, *(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles)}


def test_links_of_pages_lead_somewhere() -> None:
    wrong = []
    for page in [path for path in tracked() if path.suffix == ".md" and room_of(path)]:
        text = re.sub(r"(?s)^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for target in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", text):
            name, _, anchor = target.partition("#")
            goal = page.parent / name if name else page
            if not goal.exists() or (anchor and anchor not in anchors(goal)):
                wrong.append(f"{page.relative_to(REPOSITORY)}: {target}")
    assert wrong == []


def test_sections_that_sources_name_exist() -> None:
    wrong = []
    for path in [path for path in tracked() if path.suffix == ".py"]:
        text = path.read_text(encoding="utf-8")
        for name, title in re.findall(r'(docs/[\w/-]+\.md),\s+"([^"{}\n]+)"', text):
            if not (REPOSITORY / name).is_file() or title not in anchors(REPOSITORY / name):
                wrong.append(f"{path.relative_to(REPOSITORY)}: {name}, {title!r}")
    assert wrong == []


def test_not_yet_names_rooms_that_exist() -> None:
    assert set(ROOMS) >= NOT_YET
