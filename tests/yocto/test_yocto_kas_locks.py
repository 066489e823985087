# SPDX-License-Identifier: Apache-2.0
"""scripts/kas-locks with the real kas, against local repositories."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from layer_support import REPOSITORY, as_repository, git

if TYPE_CHECKING:
    from pathlib import Path

SPDX = "# SPDX-License-Identifier: Apache-2.0\n"


def commit(place: Path, text: str) -> str:
    (place / "file").write_text(text)
    git("add", "file", cwd=place) if (place / ".git").exists() else as_repository(place)
    git("commit", "-q", "--allow-empty", "-m", text, cwd=place)
    return git("rev-parse", "HEAD", cwd=place).strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Two kas files, one including the other, that pin the first commit of a repository each."""
    top = tmp_path / "project"
    top.mkdir()
    for file, name, header in (("kas", "one", ""), ("kas-more", "two", ", includes: [kas.yml]")):
        (tmp_path / name).mkdir()
        first = commit(tmp_path / name, "first")
        (top / f"{file}.yml").write_text(
            f"header: {{version: 14{header}}}\nrepos:\n  {name}: {{url: 'file://{tmp_path}/{name}', branch: main}}\n"
        )
        (top / f"{file}.lock.yml").write_text(
            f"{SPDX}header:\n  version: 14\noverrides:\n  repos:\n    {name}:\n      commit: {first}\n"
        )
    as_repository(top)
    return top


def kas_locks(project: Path, tools: Path, *files: str) -> subprocess.CompletedProcess[str]:
    environ = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "KAS_WORK_DIR": str(project.parent / "work"),
    }
    command = [REPOSITORY / "scripts/kas-locks", *(project / name for name in files)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def test_kas_locks_moves_pins_and_shows_the_commits(project: Path, tools: Path) -> None:
    old = git("rev-parse", "HEAD", cwd=project.parent / "one").strip()
    commit(project.parent / "one", "change 1")
    new = commit(project.parent / "one", "change 2")
    done = kas_locks(project, tools, "kas-more.yml")
    assert done.returncode == 0, done.stderr
    assert "change 2" in done.stdout
    assert done.stdout.endswith(f" change 1\nkas.lock.yml:\n  one: {old[:12]} -> {new[:12]}\n")
    assert "two" not in done.stdout
    text = (project / "kas.lock.yml").read_text()
    assert text.startswith(SPDX + "header:")
    assert text.count(SPDX) == 1
    assert f"commit: {new}" in text


def test_kas_locks_leaves_files_alone_when_nothing_moved(project: Path, tools: Path) -> None:
    before = {path.name: path.read_text() for path in project.glob("*.lock.yml")}
    done = kas_locks(project, tools, "kas-more.yml")
    assert (done.returncode, done.stdout) == (0, "")
    assert {path.name: path.read_text() for path in project.glob("*.lock.yml")} == before


def test_kas_locks_makes_a_lock_file_that_is_missing(project: Path, tools: Path) -> None:
    (project / "kas-more.lock.yml").unlink()
    two = git("rev-parse", "HEAD", cwd=project.parent / "two").strip()
    done = kas_locks(project, tools, "kas-more.yml")
    assert done.stdout.endswith(f"kas-more.lock.yml:\n  two: new -> {two[:12]}\n")
    assert (project / "kas-more.lock.yml").read_text().startswith(SPDX)


def test_kas_locks_fails_when_kas_does(project: Path, tools: Path) -> None:
    os.rename(project.parent / "two", project.parent / "gone")
    done = kas_locks(project, tools, "kas.yml", "kas-more.yml")
    assert done.returncode == 1
    assert done.stderr.endswith("error: kas failed for kas-more.yml\n")
