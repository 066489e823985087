# SPDX-License-Identifier: Apache-2.0
"""What the layer changes in recipes of others: nothing when it is only added, and with pycm.inc what each switch says."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from layer_support import LAYER, RECIPE, RELEASES

from pycm.config.types import DefaultBridge
from pycm.network.conf import needed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from layer_support import Built, Release

INCLUDE = ("conf/distro/include/pycm.inc",)
KIRKSTONE = RELEASES[0]
APPENDS = {re.sub(r"_%$", "", path.stem): path for path in sorted(LAYER.rglob("*.bbappend"))}
"""By the name of the recipe."""
SWITCHED = {
    "PYCM_PROVIDER": {"packagegroup-sdv-core", "sdv-image-full", "sdv-image-minimal"},
    "PYCM_CGROUP2": {"systemd"},
    "PYCM_KERNEL": {"linux-yocto", "linux-raspberrypi", "rpi-cmdline"},
}
"""The recipes that a switch changes."""
STAND_IN = """
SUMMARY = "stands for one"
LICENSE = "MIT"
PACKAGES = "${PN}"
PACKAGECONFIG = "zlib"
PACKAGECONFIG[zlib] = ",,"
PACKAGECONFIG[cgroupv2] = ",,"
CMDLINE = "console=tty1"
FILESEXTRAPATHS = ""
SRC_URI = ""
IMAGE_INSTALL = "packagegroup-core-boot"
RDEPENDS:${PN} = "container-management kanto-auto-deployer"
"""


@pytest.fixture
def appended(read: Callable[..., Built], tmp_path: Path) -> Callable[..., Built]:
    """Read a recipe of *name* with the layer's bbappend for it, if any."""

    def reader(
        name: str, *get: str, release: Release = KIRKSTONE, text: str = STAND_IN, **options: object
    ) -> Built:
        recipe = tmp_path / f"{name}_1.bb"
        recipe.write_text(text)
        options.setdefault("appends", (APPENDS[name],) if name in APPENDS else ())
        return read(release, recipe, *get, **options)

    return reader


def off(*but: str) -> dict[str, str]:
    return {name: "1" if name in but else "0" for name in SWITCHED}


def test_every_bbappend_is_of_a_layer_that_is_there_when_it_is_read() -> None:
    conf = (LAYER / "conf/layer.conf").read_text()
    for path in APPENDS.values():
        parts = path.relative_to(LAYER).parts
        if parts[0] == "dynamic-layers":
            assert f"{parts[1]}:${{LAYERDIR}}/dynamic-layers/{parts[1]}/recipes-*/*/*.bbappend" in conf, path
        else:
            assert path.name in {"systemd_%.bbappend", "linux-yocto_%.bbappend"}, (
                f"{path}: not of openembedded-core"
            )


@pytest.mark.parametrize("name", APPENDS)
def test_adding_the_layer_leaves_every_variable_of_the_recipe_as_it_is(
    name: str, appended: Callable[..., Built]
) -> None:
    without = appended(name, appends=())
    assert json.loads(without["unexpanded"])
    assert json.loads(appended(name)["unexpanded"]) == json.loads(without["unexpanded"])


@pytest.mark.parametrize("switch", [None, *SWITCHED])
@pytest.mark.parametrize("name", [name for name in APPENDS if name != "cni"])
def test_switch_changes_its_recipes_and_no_others(
    name: str, switch: str | None, appended: Callable[..., Built]
) -> None:
    variables = off(*([switch] if switch else []))
    without = appended(name, appends=(), include=INCLUDE, variables=variables)
    changed = appended(name, include=INCLUDE, variables=variables)["unexpanded"] != without["unexpanded"]
    assert changed == (switch is not None and name in SWITCHED[switch])


def test_layers_page_names_the_recipes_of_each_switch() -> None:
    page = (LAYER / "README.md").read_text()
    rows = {
        line.split("`")[1]: line.split(" | ")[-1] for line in page.splitlines() if line.startswith("| `PYCM_")
    }
    for switch, recipes in SWITCHED.items():
        assert set(re.findall(r"[a-z]+(?:-[a-z]+)*", re.sub(r"\(.*\)", "", rows[switch]))) == recipes
    changed_by_packages = set(APPENDS) - set().union(*SWITCHED.values())
    assert all(f"the recipe {name} " in page for name in changed_by_packages)


def test_cgroup_switch_makes_version_2_the_only_hierarchy(appended: Callable[..., Built]) -> None:
    variables = off("PYCM_CGROUP2")
    assert appended("systemd", "PACKAGECONFIG", variables=variables).words("PACKAGECONFIG") == [
        "zlib",
        "cgroupv2",
    ]
    newer = STAND_IN.replace('PACKAGECONFIG[cgroupv2] = ",,"\n', "")
    assert appended("systemd", "PACKAGECONFIG", variables=variables, text=newer).words("PACKAGECONFIG") == [
        "zlib"
    ]


@pytest.mark.parametrize("name", ["linux-yocto", "linux-raspberrypi"])
def test_kernel_switch_adds_a_fragment_that_the_fetcher_finds(
    name: str, appended: Callable[..., Built]
) -> None:
    found = appended(name, "FILESEXTRAPATHS", variables=off("PYCM_KERNEL"))
    assert found.words("SRC_URI") == ["file://pycm.cfg"]
    assert found["FILESEXTRAPATHS"] == f"{LAYER}/recipes-kernel/linux/files:"
    assert (LAYER / "recipes-kernel/linux/files/pycm.cfg").is_file()


def test_kernel_switch_enables_the_memory_controller_of_a_raspberry_pi(
    appended: Callable[..., Built],
) -> None:
    found = appended("rpi-cmdline", "CMDLINE", variables=off("PYCM_KERNEL"))
    assert found.words("CMDLINE") == ["console=tty1", "cgroup_enable=memory", "cgroup_memory=1"]


@pytest.mark.parametrize("provider", ["1", "0"])
def test_provider_switch_chooses_pycm_and_leaves_the_other_deployer_out(
    provider: str, appended: Callable[..., Built]
) -> None:
    found = appended(
        "packagegroup-sdv-core", "PREFERRED_RPROVIDER_container-management", "RDEPENDS:packagegroup-sdv-core",
        include=INCLUDE, variables={"PYCM_PROVIDER": provider},
    )  # fmt: skip
    assert found["PREFERRED_RPROVIDER_container-management"] == ("pycm" if provider == "1" else "")
    assert ("kanto-auto-deployer" in found.words("RDEPENDS:packagegroup-sdv-core")) == (provider == "0")
    assert "container-management" in found.words("RDEPENDS:packagegroup-sdv-core")


@pytest.mark.parametrize("provider", ["1", "0"])
@pytest.mark.parametrize("image", ["sdv-image-full", "sdv-image-minimal", "sdv-image-rescue"])
def test_ledas_own_images_with_pycm_keep_the_state_over_updates(
    image: str, provider: str, appended: Callable[..., Built]
) -> None:
    found = appended(image, "IMAGE_INSTALL", include=INCLUDE, variables={"PYCM_PROVIDER": provider})
    # rescue has no container-management
    expected = provider == "1" and image != "sdv-image-rescue"
    assert ("pycm-leda-data" in found.words("IMAGE_INSTALL")) == expected


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
@pytest.mark.parametrize("leda", [True, False])
def test_include_has_defaults_for_the_release_and_for_leda(
    leda: bool, release: Release, read: Callable[..., Built]
) -> None:
    found = read(
        release, RECIPE, *SWITCHED, "RDEPENDS:pycm", "RRECOMMENDS:pycm", "DISTRO_FEATURES",
        variables={
            "LAYERSERIES_CORENAMES": release.name,
            "BBFILE_COLLECTIONS": "core meta-leda-distro" if leda else "core",
        },
        include=INCLUDE,
    )  # fmt: skip
    on = {name for name in SWITCHED if found[name] == "1"}
    assert on == ({*SWITCHED} if release.name == "kirkstone" else {*SWITCHED} - {"PYCM_CGROUP2"})
    assert "cni-pycm" in found.words("RDEPENDS:pycm")
    assert ("pycm-leda-conf" if leda else "pycm-conf") in found.words("RRECOMMENDS:pycm")
    assert "virtualization" in found.words("DISTRO_FEATURES")


def test_package_of_plugins_has_those_that_are_called(appended: Callable[..., Built]) -> None:
    found = appended("cni", "FILES:cni-pycm", "RDEPENDS:cni", include=INCLUDE)
    assert found.words("PACKAGES")[0] == "cni-pycm"
    assert "cni-pycm" in found.words("RDEPENDS:cni")
    packaged = [
        path.rpartition("/")[2]
        for path in found.words("FILES:cni-pycm")
        if path.startswith("/usr/libexec/cni/")
    ]
    assert sorted(packaged) == sorted(needed(DefaultBridge(), publishes=True))
    assert appended("cni", include=INCLUDE, variables={"PYCM_CNI": "cni"}).words("PACKAGES") == ["cni"]
