# SPDX-License-Identifier: Apache-2.0
"""The test package: what run-ptest prints and how it ends, with each release's pytest, and the tests as they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from layer_support import RECIPE, RELEASES, REPOSITORY

if TYPE_CHECKING:
    from layer_support import Built, Release

SAMPLE = """\
import asyncio
import pytest

@pytest.fixture
def broken():
    raise RuntimeError("set-up")

@pytest.fixture
def ends_badly():
    yield
    raise RuntimeError("tear-down")

@pytest.fixture
async def value():
    return 7

def test_passes(): pass
def test_fails(): assert 1 == 2
def test_fails_and_ends_badly(ends_badly): assert 1 == 2
def test_errors(broken): pass
def test_ends_badly(ends_badly): pass
@pytest.mark.skip(reason="not today")
def test_is_skipped(): pass
@pytest.mark.parametrize("word", ["one", "two - three"])
def test_takes(word): pass
class TestGroup:
    async def test_coroutine(self, value): assert await asyncio.sleep(0, value) == 7
async def test_coroutine_fails(): assert await asyncio.sleep(0)
"""
LINES = {
    "PASS: tests/unit/room/test_sample.py::test_passes",
    "FAIL: tests/unit/room/test_sample.py::test_fails",
    "FAIL: tests/unit/room/test_sample.py::test_fails_and_ends_badly",
    "FAIL: tests/unit/room/test_sample.py::test_errors",
    "FAIL: tests/unit/room/test_sample.py::test_ends_badly",
    "SKIP: tests/unit/room/test_sample.py::test_is_skipped",
    "PASS: tests/unit/room/test_sample.py::test_takes[one]",
    "PASS: tests/unit/room/test_sample.py::test_takes[two - three]",
    "PASS: tests/unit/room/test_sample.py::TestGroup::test_coroutine",
    "FAIL: tests/unit/room/test_sample.py::test_coroutine_fails",
    "FAIL: tests/unit/room/test_unreadable.py",
}


class Package:
    """The installed test package, with tests of our own in the place of pycm's."""

    def __init__(self, place: Path, python: Path, path: str) -> None:
        self.place = place
        (place / "bin").mkdir(parents=True)
        program = place / "bin/python3"
        program.write_text(f'#!/bin/sh\nexec {python} "$@"\n')
        program.chmod(0o755)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
            "PATH": f"{place}/bin:{os.environ['PATH']}",
            "PYTHONPATH": path,
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def run(self) -> tuple[int, str]:
        shutil.copy2(RECIPE.parent / "pycm/run-ptest", self.place)
        done = subprocess.run(
            ["/bin/sh", self.place / "run-ptest"],
            env=self.environment, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    def lines(self) -> tuple[int, list[str]]:
        status, output = self.run()
        found = [line for line in output.splitlines() if line.startswith(("PASS: ", "FAIL: ", "SKIP: "))]
        assert found, output
        return status, found


@pytest.fixture
def package(release: Release, tools: Path, tmp_path: Path) -> Package:
    made = Package(tmp_path / "ptest", tools / "python", str(tools.parent / f"pytest-{release.pytest}"))
    shutil.copytree(REPOSITORY / "tests/support", made.place / "tests/support")
    (made.place / "tests/unit/room").mkdir(parents=True)
    return made


def test_run_ptest_names_every_outcome_and_ends_with_1(package: Package) -> None:
    room = package.place / "tests/unit/room"
    (room / "test_sample.py").write_text(SAMPLE)
    (room / "test_unreadable.py").write_text("import pycm_has_no_such_module\n")
    status, lines = package.lines()
    assert sorted(lines) == sorted(LINES)
    assert status == 1


def test_run_ptest_shows_why_a_test_failed(package: Package) -> None:
    (package.place / "tests/unit/room/test_sample.py").write_text(SAMPLE)
    _, output = package.run()
    before, _, _ = output.partition("FAIL: tests/unit/room/test_sample.py::test_fails\n")
    assert "assert 1 == 2" in before
    assert "RuntimeError: set-up" in output


@pytest.mark.parametrize("body", ["pass", "import pytest; pytest.skip('not here')"])
def test_run_ptest_ends_with_0_if_nothing_failed(package: Package, body: str) -> None:
    (package.place / "tests/unit/room/test_sample.py").write_text(f"def test_it():\n    {body}\n")
    status, lines = package.lines()
    word = "PASS" if body == "pass" else "SKIP"
    assert (status, lines) == (0, [f"{word}: tests/unit/room/test_sample.py::test_it"])


def test_run_ptest_that_cannot_run_is_not_a_success(package: Package) -> None:
    shutil.rmtree(package.place / "tests/unit")
    assert package.run()[0] != 0


@pytest.mark.parametrize("release", RELEASES[:1], ids=lambda release: release.name, indirect=True)
def test_installed_tests_pass_outside_of_the_repository(built: Built, tmp_path: Path) -> None:
    """All of them, with the byte code that the recipe installs: no test may need a file that is not packaged."""
    assert built.package_of("usr/lib/pycm/ptest/tests/unit") == "pycm-ptest"
    installed = Package(tmp_path / "ptest", Path(sys.executable), str(built.module("")))
    shutil.copytree(built.image / "usr/lib/pycm/ptest", installed.place, dirs_exist_ok=True)
    status, lines = installed.lines()
    assert [line for line in lines if line.startswith("FAIL: ")] == []
    assert status == 0
    assert len(lines) > 3000
