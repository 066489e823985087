# SPDX-License-Identifier: Apache-2.0
"""The layer as yocto-check-layer and oelint-adv look at it, and checksums and pins."""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING

import pytest
from layer_support import HERE, LAYER, RECIPE, RELEASES, REPOSITORY, git, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from layer_support import Built, Release

RECIPES = sorted(LAYER.rglob("*.bb"))


def script(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def layer_conf(name: str) -> str:
    found = re.search(rf'^{name}\S* \+?= "(.*)"$', (LAYER / "conf/layer.conf").read_text(), re.MULTILINE)
    assert found, name
    return found[1]


def test_the_layer_says_which_releases_and_layers_it_goes_with() -> None:
    assert layer_conf("LAYERSERIES_COMPAT").split() == [release.name for release in RELEASES]
    assert "core" in layer_conf("LAYERDEPENDS").split()
    assert layer_conf("LAYERVERSION")


def test_layer_conf_sets_only_what_describes_the_layer() -> None:
    text = (LAYER / "conf/layer.conf").read_text()
    assert set(re.findall(r"^([A-Z]+)", text, re.MULTILINE)) <= {
        "BBPATH", "BBFILES", "BBFILE", "LAYERVERSION", "LAYERSERIES", "LAYERDEPENDS",
    }  # fmt: skip


def test_layer_has_no_directory_that_wrynose_refuses() -> None:
    # its sanity check: files/wic is the place
    assert not (LAYER / "wic").exists()


def test_the_readme_says_what_the_compatible_programme_asks_for() -> None:
    text = (LAYER / "README.md").read_text().lower()
    assert "maintainer" in text
    assert "patch" in text
    assert re.search(r"[\w.-]+@[\w.-]+\.\w+", text)
    for name in ("SECURITY.md", "CONTRIBUTING.md", "NOTICE"):
        assert f"({name})" in (LAYER / "README.md").read_text()
        assert (LAYER / name).is_file()
    assert (LAYER / "LICENSE").read_bytes() == (REPOSITORY / "LICENSE").read_bytes()


def test_check_layer_script_checks_this_layer_only(tmp_path: Path) -> None:
    # Without --no-auto-dependency the Yocto Project's tool also checks each dependency, and fails with it.
    names = ("meta-oe", "meta-python", "meta-networking", "meta-filesystems")
    dependencies = [
        *(tmp_path / "meta-openembedded" / name for name in names),
        tmp_path / "meta-virtualization",
    ]
    for directory in (tmp_path / "openembedded-core", tmp_path / "bin"):
        directory.mkdir()
    script(tmp_path / "bin/id", "echo 1000")
    script(tmp_path / "bin/yocto-check-layer", 'printf "%s\\n" "$@"')
    (tmp_path / "openembedded-core/oe-init-build-env").write_text("")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    arguments = run(REPOSITORY / "scripts/yocto-check-layer", tmp_path, env={**os.environ, "PATH": path})
    wanted = ["--no-auto-dependency", LAYER, "--dependency", *dependencies]
    assert arguments.splitlines() == [str(argument) for argument in wanted]


def test_layer_gives_no_address_of_another_project_as_its_own() -> None:
    authors = set(git("log", "--format=%ae", cwd=REPOSITORY).split())
    for path in (*LAYER.rglob("*.md"), LAYER / "NOTICE"):
        assert set(re.findall(r"[\w.+-]+@[\w.-]+\.\w+", path.read_text())) <= authors, path
    for path in RECIPES:
        assert not re.search(r"eclipse[^ ]*/pycm", path.read_text()), path


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_oelint_finds_nothing(release: Release, tools: Path) -> None:
    files = [
        *RECIPES,
        *LAYER.rglob("*.bbappend"),
        *LAYER.rglob("*.bbclass"),
        *LAYER.rglob("*.inc"),
        LAYER / "conf/layer.conf",
    ]
    left_out = {
        "oelint.vars.homepageping": "asks web servers",
        "oelint.vars.noncoreoverride": "wants a bbappend to change nothing: test_yocto_switches.py proves it of what BitBake makes of it",
        "oelint.spaces.lineend": "takes a require of a name that is empty for a line that ends with a space",
    }
    known = ("--constantmods", f"+{HERE / 'oelint_constants.json'}")  # variables of other layers' classes
    suppressed = [word for rule in left_out for word in ("--suppress", rule)]
    options = ("--quiet", "--mode=all", f"--release={release.name}", *known, *suppressed)
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
