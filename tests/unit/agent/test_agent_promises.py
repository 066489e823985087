# SPDX-License-Identifier: Apache-2.0
"""The page of promises names tests that there are, and each row has one."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
PAGE = (REPOSITORY / "docs" / "promises.md").read_text()


def test_every_test_that_the_page_names_is_there() -> None:
    files: dict[str, str] = {}
    for test in (REPOSITORY / "tests").rglob("test_*.py"):
        files[test.stem] = files.get(test.stem, "") + test.read_text()
    named, file = 0, ""
    for where, name in re.findall(r"`(test_\w+)?::(\w+)`", PAGE):
        file = where or file
        assert file in files, f"there is no {file}.py"
        assert f"def test_{name}(" in files[file], f"{file}.py has no test_{name}"
        named += 1
    assert named > 100


def test_every_row_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.endswith("| tests |")]
    assert [row for row in rows if "::" not in row] == []
