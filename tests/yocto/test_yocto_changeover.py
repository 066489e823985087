# SPDX-License-Identifier: Apache-2.0
"""From Kanto's package to pycm's and back, by dpkg, rpm and opkg in a root directory of their own.

pycm's packages are those of the recipe, Kanto's is a stub with the files and fields of meta-kanto's recipe. Where PYCM_OE_TREES is set
(test_yocto_build.py), the same is done with the packages that BitBake makes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from layer_support import FORMATS, LAYER, RELEASES, run
from package_files import Package, build, from_recipe, needs
from package_managers import Manager, RefusedError, manager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from layer_support import Built, Release

LEDA = LAYER / "dynamic-layers/meta-leda-distro/recipes-containers/pycm-leda/pycm-leda_1.0.bb"
KANTO = (
    "etc/container-management/config.json",
    "usr/bin/container-management",
    "usr/bin/kanto-cm",
    "usr/lib/systemd/system/container-management.service",
)
# Leda's release; the fields are the same in all.
pytestmark = pytest.mark.parametrize("release", RELEASES[:1], ids=lambda release: release.name, indirect=True)
STATE = "var/lib/container-management/containers/one/config.json"
CONFIGURATIONS = {"pycm-conf": "config.toml", "pycm-leda-conf": "config.json"}
Shelf = dict[str, dict[str, Path]]
"""Format to name to file."""


def stub(
    place: Path,
    name: str,
    files: tuple[str, ...] = (),
    architecture: str = "all",
    **lists: tuple[str, ...],
) -> Package:
    tree = place / name
    tree.mkdir(parents=True)
    for path in files:
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(f"{name}'s {path}\n")
    return Package(name, "1.0.0-gitAUTOINC+0-r0", tree, architecture, **lists)


def stubs(place: Path, needed: set[str], architecture: str) -> Iterator[Package]:
    """Kanto's package, one that depends on it as Leda's kantocm-zeroconf does, and the rest of the image."""
    yield stub(place, "container-management", KANTO, architecture, provides=("kanto/container-management",))
    yield stub(
        place, "kantocm-zeroconf", ("usr/bin/zeroconf",), architecture, depends=("container-management",)
    )
    yield stub(place, "image", (), architecture, provides=tuple(sorted(needed)))


@pytest.fixture(scope="module")
def leda(built: Built, read: Callable[..., Built]) -> Built:
    kinds = ("FILES", "RDEPENDS", "RPROVIDES", "RCONFLICTS", "RREPLACES", "CONFFILES")
    names = (f"{kind}:pycm-leda-{part}" for kind in kinds for part in ("conf", "data"))
    return read(built.release, LEDA, *names, tasks=("do_fetch", "do_unpack", "do_install"))


@pytest.fixture(scope="module")
def computed(built: Built, leda: Built, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Made from what BitBake's library computes of the recipes."""
    place = tmp_path_factory.mktemp("computed")
    recipes = {
        "pycm": built,
        "pycm-cli": built,
        "pycm-kanto": built,
        "pycm-conf": built,
        "pycm-leda-conf": leda,
    }
    ours = [from_recipe(recipe, name, place / "trees") for name, recipe in recipes.items()]
    return {kind: {package.name: build(package, kind, place / kind) for package in ours} for kind in FORMATS}


@pytest.fixture(
    scope="module", params=["computed", *(["deployed"] if os.environ.get("PYCM_OE_TREES") else [])]
)
def shelf(
    request: pytest.FixtureRequest, release: Release, tmp_path_factory: pytest.TempPathFactory
) -> Shelf:
    """pycm's packages, and stubs of those around them."""
    found: Shelf = request.getfixturevalue(request.param)
    place = tmp_path_factory.mktemp("stubs")
    shelves = {}
    for kind, packages in found.items():
        names = {"pycm-kanto", "pycm", "pycm-cli", *CONFIGURATIONS}
        needed = set().union(*(needs(packages[name], kind) for name in names)) - names
        # for dpkg, a package for all is one for this machine
        architecture = (
            run("dpkg-deb", "-f", packages["pycm"], "Architecture").strip() if kind == "deb" else "all"
        )
        made = {
            package.name: build(package, kind, place / kind)
            for package in stubs(place / f"{kind}-trees", needed, architecture)
        }
        shelves[kind] = {**packages, **made}
    return shelves


@pytest.fixture(params=FORMATS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def device(kind: str, shelf: Shelf, tmp_path: Path) -> Manager:
    """A root directory with the image's other packages."""
    if kind == "rpm" and "packagegroup-pycm" in shelf[kind]:
        pytest.skip(
            "Debian's rpmbuild, unlike OE's, makes packages of a short-circuited build that cannot be installed"
        )
    assert os.getuid() == 0, "package managers change their root directory: run this as root"
    made = manager(kind, tmp_path / "root")
    made.install(shelf[kind]["image"])
    return made


def ours(conf: str) -> list[str]:
    return ["pycm-kanto", "pycm", "pycm-cli", conf]


@pytest.mark.parametrize("conf", CONFIGURATIONS)
def test_change_over_replaces_kanto_in_one_step(kind: str, shelf: Shelf, device: Manager, conf: str) -> None:
    device.install(shelf[kind]["container-management"], shelf[kind]["kantocm-zeroconf"])
    (device.root / STATE).parent.mkdir(parents=True)
    (device.root / STATE).write_text("{}")
    device.install(*(shelf[kind][name] for name in ours(conf)))
    assert device.installed() == {"image", "kantocm-zeroconf", *ours(conf)}
    assert os.readlink(device.root / "usr/bin/container-management") == "pycmd"
    assert os.readlink(device.root / "usr/bin/kanto-cm") == "pycm"
    assert os.readlink(device.root / "usr/lib/systemd/system/container-management.service") == "pycm.service"
    assert sorted(os.listdir(device.root / "etc/container-management")) == [CONFIGURATIONS[conf]]
    shown = (device.root / "etc/container-management" / CONFIGURATIONS[conf]).read_text()
    assert not shown.startswith("container-management's")
    assert (device.root / STATE).read_text() == "{}"


@pytest.mark.parametrize("conf", CONFIGURATIONS)
@pytest.mark.parametrize("backwards", [False, True])
def test_change_over_works_in_any_order(
    kind: str, shelf: Shelf, device: Manager, conf: str, backwards: bool
) -> None:
    device.install(shelf[kind]["container-management"])
    names = sorted(ours(conf), reverse=backwards)
    if kind == "deb":  # dpkg takes one after the other: Kanto's package goes when pycm-kanto comes
        names.sort(key=lambda name: name != "pycm-kanto")
    device.install(*(shelf[kind][name] for name in names))
    assert device.installed() == {"image", *ours(conf)}
    assert os.listdir(device.root / "etc/container-management") == [CONFIGURATIONS[conf]]


@pytest.mark.parametrize("name", ["pycm-kanto", *CONFIGURATIONS])
def test_kanto_is_refused_beside_each_package_that_has_its_names_or_files(
    kind: str, shelf: Shelf, device: Manager, name: str
) -> None:
    names = ["pycm-kanto", "pycm", "pycm-cli"] if name == "pycm-kanto" else [name]
    device.install(*(shelf[kind][word] for word in names))
    if (kind, name) == ("ipk", "pycm-kanto"):  # opkg replaces what provides the same name
        device.install(shelf[kind]["container-management"])
        assert device.installed() == {"image", "container-management", "pycm", "pycm-cli"}
        return
    with pytest.raises(RefusedError, match="conflict"):
        device.install(shelf[kind]["container-management"])
    assert device.installed() == {"image", *names}


@pytest.mark.parametrize("conf", CONFIGURATIONS)
def test_the_way_back_is_to_remove_names_and_configuration(
    kind: str, shelf: Shelf, device: Manager, conf: str
) -> None:
    device.install(*(shelf[kind][name] for name in ours(conf)))
    device.remove("pycm-kanto", conf)
    device.install(shelf[kind]["container-management"], shelf[kind]["kantocm-zeroconf"])
    assert device.installed() == {"image", "container-management", "kantocm-zeroconf", "pycm", "pycm-cli"}
    for name in KANTO:
        assert (device.root / name).read_text() == f"container-management's {name}\n"
    for name in ("usr/bin/pycm", "usr/bin/pycmd", "usr/lib/systemd/system/pycm.service"):
        assert (device.root / name).is_file()
