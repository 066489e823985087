# SPDX-License-Identifier: Apache-2.0
"""scripts/size: the budget holds, and its packages are those of the recipe."""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from layer_support import RELEASES, REPOSITORY
from test_yocto_recipe import installed

if TYPE_CHECKING:
    from layer_support import Built

KIRKSTONE = next(release for release in RELEASES if release.name == "kirkstone")


@cache
def size() -> Any:
    sys.path.append(str(REPOSITORY / "scripts/lib"))
    import size

    return size


@cache
def measured() -> tuple[dict[str, Any], dict[str, int]]:
    return size().measure("kirkstone")


@pytest.mark.parametrize("what", ["pycm with its libraries", "pycm-cli"])
def test_size_is_within_the_budget(what: str) -> None:
    sizes, sums = measured()
    table = "\n".join(f"{name} {found.kib} KiB" for name, found in sizes.items())
    assert sums[what] <= size().LIMITS[what], table


def test_size_has_a_limit_for_each_sum() -> None:
    assert size().LIMITS == {"pycm with its libraries": 8192, "pycm-cli": 600}
    sizes, sums = measured()
    assert list(sums) == list(size().LIMITS)
    assert sums["pycm with its libraries"] == sum(
        found.kib for name, found in sizes.items() if name not in {"pycm-cli", "pycm-conf"}
    )
    assert all(found.kib for found in sizes.values()), sizes


@pytest.mark.parametrize(("spare", "code"), [(0, 0), (-1, 1)])
def test_size_command_ends_with_1_above_a_limit(
    spare: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sums = measured()[1]
    monkeypatch.setattr(size(), "LIMITS", {**sums, "pycm-cli": sums["pycm-cli"] + spare})
    monkeypatch.setattr(size(), "measure", lambda _: measured())
    monkeypatch.setattr(sys, "argv", ["size", "kirkstone"])
    assert size().main() == code
    printed = capsys.readouterr().out
    assert ("TOO MUCH" in printed) == bool(code)
    assert "beside it: libprotobuf" in printed


@pytest.mark.parametrize("release", [KIRKSTONE], indirect=True, ids=["kirkstone"])
def test_size_splits_packages_as_the_recipe_does(built: Built) -> None:
    site = f"usr/lib/python{built.release.python}/site-packages/"
    code = {path for path in installed(built) if path.endswith(".pyc")}
    assert code
    assert {path: size().package_of(path.removeprefix(site)) for path in code} == {
        path: built.package_of(path) for path in code
    }


@pytest.mark.parametrize("release", [KIRKSTONE], indirect=True, ids=["kirkstone"])
def test_size_counts_every_file_beside_the_code(built: Built) -> None:
    found: dict[str, set[str]] = {}
    for path in installed(built):
        beside = "/site-packages/" not in path and not path.startswith("usr/src/")
        if beside and not (built.image / path).is_symlink():
            found.setdefault(built.package_of(path), set()).add(path.rpartition("/")[2])
    assert found == {
        "pycm": {*size().BESIDE_CODE["pycm"], "pycmd"},
        "pycm-cli": {"pycm"},
        "pycm-conf": set(size().BESIDE_CODE["pycm-conf"]),
    }
