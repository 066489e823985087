# SPDX-License-Identifier: Apache-2.0
"""The commit that the recipe pins: it is of this history, and this recipe builds it and names all that it imports.

All other tests build the work tree, which the recipe gets only when the pin is moved. A clone without history cannot know the commit:
there these tests fail, and say what to do.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from layer_support import RECIPE, RELEASES, REPOSITORY, TASKS, as_repository, git, run
from python_imports import needed

if TYPE_CHECKING:
    from collections.abc import Callable

    from layer_support import Built


def pinned(recipe: Path) -> str:
    found = re.search(r'^SRCREV = "([0-9a-f]{40})"$', recipe.read_text(), re.MULTILINE)
    assert found, f"{recipe.name} has no SRCREV of 40 hexadecimal digits"
    return found[1]


def fault(commit: str, repository: Path) -> str:
    """Why *commit* cannot be a pin in *repository*; empty if it can."""
    known = ["git", "-c", f"safe.directory={repository}", "cat-file", "-e", f"{commit}^{{commit}}"]
    if subprocess.run(known, cwd=repository, capture_output=True, check=False).returncode:
        if git("rev-parse", "--is-shallow-repository", cwd=repository).strip() == "true":
            return f"this clone is shallow and lacks {commit}: git fetch --unshallow"
        return f"no such commit here: {commit}"
    shared = git("rev-list", "--max-count=1", commit, "^HEAD", cwd=repository)
    return f"not in the history of HEAD: {commit}" if shared else ""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as it is at the pinned commit, as a git repository with this one commit."""
    commit = pinned(RECIPE)
    assert fault(commit, REPOSITORY) == ""
    place = tmp_path_factory.mktemp("pinned")
    git("archive", "--format=tar", f"--output={place}/source.tar", commit, cwd=REPOSITORY)
    (place / "pycm").mkdir()
    run("tar", "-C", place / "pycm", "-xf", place / "source.tar")
    as_repository(place / "pycm")
    return place / "pycm"


@pytest.fixture(scope="module")
def built_pin(source: Path, read: Callable[..., Built]) -> Built:
    return read(
        RELEASES[0], RECIPE,
        tasks=TASKS,
        variables={
            "PYCM_GIT_URI": f"git://{source};protocol=file",
            "SRCREV:pn-pycm": git("rev-parse", "HEAD", cwd=source).strip(),
        },
    )  # fmt: skip


def test_the_pinned_commit_is_one_of_this_history() -> None:
    assert fault(pinned(RECIPE), REPOSITORY) == ""


def test_a_commit_that_is_no_pin_is_told_with_the_reason(tmp_path: Path) -> None:
    full, shallow = tmp_path / "full", tmp_path / "shallow"
    full.mkdir()
    (full / "file").write_text("1")
    first = as_repository(full)
    (full / "file").write_text("2")
    second = as_repository(full)
    assert fault(first, full) == fault(second, full) == ""
    assert fault("0" * 40, full) == f"no such commit here: {'0' * 40}"
    git("reset", "-q", "--hard", first, cwd=full)
    assert fault(second, full) == f"not in the history of HEAD: {second}"
    git("reset", "-q", "--hard", second, cwd=full)
    git("clone", "-q", "--depth=1", f"file://{full}", str(shallow), cwd=tmp_path)
    assert fault(second, shallow) == ""
    assert fault(first, shallow) == f"this clone is shallow and lacks {first}: git fetch --unshallow"


def test_the_recipe_names_all_that_the_pinned_commit_imports(built: Built, source: Path) -> None:
    named = set(built.words("RDEPENDS:pycm"))
    assert sorted(needed(built.release, source / "src") - named) == []


def test_the_recipe_builds_the_pinned_commit(built_pin: Built, source: Path) -> None:
    compiled = {
        str(path.relative_to(built_pin.module("")).with_suffix(".py"))
        for path in built_pin.module("pycm").rglob("*.pyc")
    }
    assert compiled == {str(path.relative_to(source / "src")) for path in source.glob("src/pycm/**/*.py")}
    for program in ("pycm", "kanto-cm", "container-management"):
        assert (built_pin.image / "usr/bin" / program).is_file()


def test_recipe_fetches_its_pin_from_the_repository_that_the_layer_lies_in(
    read: Callable[..., Built],
) -> None:
    found = read(RELEASES[0], RECIPE, "PYCM_GIT_URI", "S", tasks=("do_fetch", "do_unpack"))
    assert found["PYCM_GIT_URI"] == f"git://{REPOSITORY};protocol=file"
    assert git("rev-parse", "HEAD", cwd=Path(found["S"])).strip() == pinned(RECIPE)
