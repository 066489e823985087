# SPDX-License-Identifier: Apache-2.0
"""kas.yml builds the checkout that it lies in: BitBake's own fetcher gets its last commit, and changes beside it are warned about."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kas_support import merged
from layer_support import LAYER, RECIPE, RELEASES, REPOSITORY, Built, as_repository, git

if TYPE_CHECKING:
    from collections.abc import Callable

KIRKSTONE = RELEASES[0]


@pytest.fixture(scope="module")
def pycm_conf(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with what kas.yml writes to local.conf about pycm."""
    file = tmp_path_factory.mktemp("conf") / "pycm.conf"
    file.write_text(merged(tools, REPOSITORY / "kas.yml")["local_conf_header"]["pycm"])
    return file


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with the files that BitBake wants of it, and a commit that the recipe does not pin."""
    place = tmp_path / "pycm"
    place.mkdir()
    shutil.copy(REPOSITORY / "LICENSE", place)
    as_repository(place)
    (place / "mark").write_text("second")
    as_repository(place)
    return place


@pytest.fixture
def fetch(read: Callable[..., Built], pycm_conf: Path, tmp_path: Path) -> Callable[[Path], Built]:
    def fetcher(place: Path, *tasks: str) -> Built:
        return read(
            KIRKSTONE, RECIPE, "S", "PYCM_CHECKOUT",
            tasks=tasks or ("do_fetch", "do_unpack"),
            variables={"PYCM_CHECKOUT": str(place), "DL_DIR": str(tmp_path / "downloads")},
            include=(str(pycm_conf),),
        )  # fmt: skip

    return fetcher


def fetched_commit(built: Built) -> str:
    return git("rev-parse", "HEAD", cwd=Path(built["S"])).strip()


def test_checkout_is_where_the_layer_lies(read: Callable[..., Built], pycm_conf: Path) -> None:
    found = read(KIRKSTONE, RECIPE, "PYCM_CHECKOUT", include=(str(pycm_conf),))
    assert found["PYCM_CHECKOUT"] == str(REPOSITORY)


def test_checkout_is_fetched_at_its_last_commit(checkout: Path, fetch: Callable[[Path], Built]) -> None:
    head = git("rev-parse", "HEAD", cwd=checkout).strip()
    (checkout / "mark").write_text("not committed")
    built = fetch(checkout)
    assert fetched_commit(built) == head
    assert Path(built["S"], "mark").read_text() == "second"


@pytest.mark.parametrize("kind", ["worktree", "clone", "other branch", "detached"])
def test_checkout_of_any_kind_is_fetched(checkout: Path, fetch: Callable[[Path], Built], kind: str) -> None:
    place = checkout.parent / "place"
    if kind == "worktree":
        git("worktree", "add", "-q", "-b", "topic", str(place), cwd=checkout)
        (place / "mark").write_text("third")
        as_repository(place)
    elif kind == "clone":
        git("clone", "-q", str(checkout), str(place), cwd=checkout)
    else:
        place = checkout
        git("checkout", "-q", *(["--detach"] if kind == "detached" else ["-b", "topic"]), cwd=checkout)
        (checkout / "mark").write_text("third")
        as_repository(checkout)
    head = git("rev-parse", "HEAD", cwd=place).strip()
    assert fetched_commit(fetch(place)) == head


def test_checkout_with_changes_is_warned_about(checkout: Path, fetch: Callable[..., Built]) -> None:
    clean = fetch(checkout, "pycm_checkout_changes")
    assert clean["WARNINGS"] == ""
    (checkout / "mark").write_text("changed")
    (checkout / "new").write_text("")
    warned = fetch(checkout, "pycm_checkout_changes")["WARNINGS"]
    assert "changes that are not committed and are not built" in warned
    assert " M mark" in warned
    assert "?? new" in warned


def test_checkout_that_git_cannot_read_stops_the_build(
    tmp_path: Path, read: Callable[..., Built], pycm_conf: Path
) -> None:
    recipe = LAYER / "recipes-containers/packagegroups/packagegroup-pycm.bb"
    with pytest.raises(AssertionError, match=f"pycm: git cannot read {tmp_path}: "):
        read(
            KIRKSTONE, recipe,
            tasks=("pycm_checkout_changes",),
            variables={"PYCM_CHECKOUT": str(tmp_path)},
            include=(str(pycm_conf),),
        )  # fmt: skip


def test_checkout_is_fetched_again_when_it_has_a_new_commit(
    checkout: Path, fetch: Callable[[Path], Built]
) -> None:
    fetch(checkout)
    (checkout / "mark").write_text("third")
    head = as_repository(checkout)
    assert fetched_commit(fetch(checkout)) == head


def test_checkout_on_no_branch_is_warned_about(checkout: Path, fetch: Callable[..., Built]) -> None:
    """The fetcher gets such a commit when it clones, but not when it updates its clone."""
    git("checkout", "-q", "--detach", cwd=checkout)
    assert fetch(checkout, "pycm_checkout_changes")["WARNINGS"] == ""
    (checkout / "mark").write_text("third")
    as_repository(checkout)
    assert "is on no branch" in fetch(checkout, "pycm_checkout_changes")["WARNINGS"]
