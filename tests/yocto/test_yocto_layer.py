# SPDX-License-Identifier: Apache-2.0
"""The layer as yocto-check-layer and oelint-adv look at it, and checksums and pins."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import pytest
from layer_support import LAYER, RECIPE, RELEASES, REPOSITORY, run

from pycm.config.types import DefaultBridge
from pycm.network.conf import needed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from layer_support import Built, Release

RECIPES = sorted(LAYER.rglob("*.bb"))


def layer_conf(name: str) -> str:
    found = re.search(rf'^{name}\S* \+?= "(.*)"$', (LAYER / "conf/layer.conf").read_text(), re.MULTILINE)
    assert found, name
    return found[1]


def test_the_layer_says_which_releases_and_layers_it_goes_with() -> None:
    assert layer_conf("LAYERSERIES_COMPAT").split() == [release.name for release in RELEASES]
    assert "core" in layer_conf("LAYERDEPENDS").split()
    assert layer_conf("LAYERVERSION")


def test_adding_the_layer_changes_no_recipe_of_others() -> None:
    assert list(LAYER.rglob("*.bbappend")) == []
    text = (LAYER / "conf/layer.conf").read_text()
    assert set(re.findall(r"^([A-Z]+)", text, re.MULTILINE)) <= {
        "BBPATH", "BBFILES", "BBFILE", "LAYERVERSION", "LAYERSERIES", "LAYERDEPENDS",
    }  # fmt: skip


def test_the_readme_says_what_the_compatible_programme_asks_for() -> None:
    text = (LAYER / "README.md").read_text().lower()
    assert "maintainer" in text
    assert "patch" in text
    assert re.search(r"[\w.-]+@[\w.-]+\.\w+", text)
    assert (LAYER / "SECURITY.md").is_file()
    assert (LAYER / "LICENSE").read_bytes() == (REPOSITORY / "LICENSE").read_bytes()


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_oelint_finds_nothing(release: Release, tools: Path) -> None:
    files = [*RECIPES, *LAYER.rglob("*.bbclass"), *LAYER.rglob("*.inc"), LAYER / "conf/layer.conf"]
    # the rule that is left out asks web servers
    options = ("--quiet", "--mode=all", f"--release={release.name}", "--suppress", "oelint.vars.homepageping")
    run(tools / "python", tools / "oelint-adv", *options, *files)


@pytest.mark.parametrize(
    "recipe", [path for path in RECIPES if "images" not in path.parts], ids=lambda path: path.stem
)
@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_bitbake_reads_every_recipe(recipe: Path, release: Release, read: Callable[..., Built]) -> None:
    found = read(release, recipe, "SUMMARY", "LICENSE", "LIC_FILES_CHKSUM")
    assert found["SUMMARY"]
    assert found["LICENSE"]


def test_the_licences_checksum_is_that_of_the_file() -> None:
    digest = hashlib.md5((REPOSITORY / "LICENSE").read_bytes(), usedforsecurity=False).hexdigest()
    assert f"file://LICENSE;md5={digest}" in RECIPE.read_text()


def test_the_source_is_pinned_to_a_commit_and_can_be_had_from_elsewhere() -> None:
    text = RECIPE.read_text()
    assert re.search(r'^SRCREV = "[0-9a-f]{40}"$', text, re.MULTILINE)
    assert "AUTOREV" not in text
    assert not re.search(r"^do_\w+\[network\]", text, re.MULTILINE)
    assert re.search(r"^PYCM_GIT_URI \?= ", text, re.MULTILINE)


def test_libraries_are_pinned_by_their_sha256() -> None:
    for path in LAYER.glob("recipes-devtools/python/*.bb"):
        assert re.search(r'^SRC_URI\[sha256sum\] = "[0-9a-f]{64}"$', path.read_text(), re.MULTILINE), path


def test_the_include_makes_an_image_take_pycm_and_sets_cgroup_v2_where_it_is_not_the_default(
    release: Release, read: Callable[..., Built]
) -> None:
    found = read(
        release, RECIPE, "PREFERRED_RPROVIDER_container-management", "PYCM_CGROUP2", "RDEPENDS:pycm", "RRECOMMENDS:pycm",
        variables={"LAYERSERIES_CORENAMES": release.name},
        include=("conf/distro/include/pycm.inc",),
    )  # fmt: skip
    assert found["PREFERRED_RPROVIDER_container-management"] == "pycm"
    assert found["PYCM_CGROUP2"] == ("cgroupv2" if release.name == "kirkstone" else "")
    assert "cni-pycm" in found.words("RDEPENDS:pycm")
    assert "pycm-conf" in found.words("RRECOMMENDS:pycm")


def test_the_package_of_plugins_has_those_that_are_called() -> None:
    called = needed(DefaultBridge(), publishes=True)
    packaged = re.findall(r"\$\{libexecdir\}/cni/(\S+)", (LAYER / "conf/distro/include/pycm.inc").read_text())
    assert sorted(packaged) == sorted(called)
