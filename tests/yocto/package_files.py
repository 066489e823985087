# SPDX-License-Identifier: Apache-2.0
"""Packages made from what a recipe computes: its file lists and fields, as package_deb, package_rpm and package_ipk write them.

The releases' own classes make the packages where their trees are given (oe_build.py); here it is done without them.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from layer_support import run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from layer_support import Built


@dataclass(frozen=True)
class Package:
    """tree: a directory with its files; the lists are those of RDEPENDS and so on."""

    name: str
    version: str
    tree: Path
    architecture: str = "all"
    depends: Sequence[str] = ()
    provides: Sequence[str] = ()
    conflicts: Sequence[str] = ()
    replaces: Sequence[str] = ()
    conffiles: Sequence[str] = ()
    files: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        found = (path for path in self.tree.rglob("*") if path.is_symlink() or not path.is_dir())
        object.__setattr__(self, "files", tuple(sorted(f"/{path.relative_to(self.tree)}" for path in found)))


def from_recipe(built: Built, name: str, place: Path) -> Package:
    """The package *name* of a recipe that was built, its files copied to *place*."""
    tree = place / name
    tree.mkdir(parents=True)
    for path in built.files_of(name):
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(built.image / path, target, follow_symlinks=False)
    words = {
        kind.lower(): tuple(built.words(f"R{kind}:{name}"))
        for kind in ("DEPENDS", "PROVIDES", "CONFLICTS", "REPLACES")
    }
    return Package(name, "0.1.0-r0", tree, conffiles=tuple(built.words(f"CONFFILES:{name}")), **words)


def build(package: Package, kind: str, place: Path) -> Path:
    place.mkdir(parents=True, exist_ok=True)
    return _rpm(package, place) if kind == "rpm" else _archive(package, kind, place)


def needs(file: Path, kind: str) -> set[str]:
    """The names that a package file depends on."""
    if kind == "rpm":
        lines = run("rpm", "--query", "--package", "--requires", file).splitlines()
        return {line.split()[0] for line in lines if not line.startswith(("rpmlib(", "config("))}
    found = re.search("^Depends: (.*)$", control(file), re.MULTILINE)
    return {word.split()[0] for word in found[1].split(",")} if found else set()


def control(file: Path) -> str:
    """Of a deb or an ipk; dpkg-deb would not print an ipk's."""
    return run("sh", "-c", f"dpkg-deb --ctrl-tarfile '{file}' | tar -xO ./control")


def _archive(package: Package, kind: str, place: Path) -> Path:
    """deb and ipk are the same container: an ar archive with control.tar.gz and data.tar.gz."""
    tree = shutil.copytree(package.tree, place / f"{package.name}.tree", symlinks=True)
    lists = {
        "Depends": package.depends,
        "Provides": package.provides,
        "Conflicts": package.conflicts,
        "Replaces": package.replaces,
    }
    lines = [
        f"Package: {package.name}",
        f"Version: {package.version}",
        f"Architecture: {package.architecture}",
        "Maintainer: nobody <nobody@example.org>",
        "Description: made by a test",
        *(f"{name}: {', '.join(_names(words, kind))}" for name, words in lists.items() if words),
    ]
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text("\n".join([*lines, ""]))
    if package.conffiles:
        (tree / "DEBIAN/conffiles").write_text("\n".join([*package.conffiles, ""]))
    out = place / f"{package.name}_{package.version}_{package.architecture}.{kind}"
    # opkg knows names with a slash
    run("dpkg-deb", "--root-owner-group", "--nocheck", "-Zgzip", "--build", tree, out)
    shutil.rmtree(tree)
    return out


def _names(words: Sequence[str], kind: str) -> list[str]:
    """Debian's names have no slash: package_deb puts two underscores there."""
    return [re.sub("[(:)/]", "__", word) for word in words] if kind == "deb" else list(words)


def _rpm(package: Package, place: Path) -> Path:
    """RREPLACES is Obsoletes, and Provides too."""
    version, _, release = package.version.rpartition("-")
    lists = {
        "Requires": package.depends,
        "Provides": (*package.provides, *package.replaces),
        "Conflicts": package.conflicts,
        "Obsoletes": package.replaces,
    }
    marks = dict.fromkeys(package.conffiles, "%config ")
    spec = place / f"{package.name}.spec"
    spec.write_text(
        "\n".join(
            [
                f"Name: {package.name}",
                f"Version: {version.replace('-', '+')}",
                f"Release: {release}",
                "Summary: made by a test",
                "License: none",
                "BuildArch: noarch",
                "AutoReqProv: no",
                *(f"{name}: {' '.join(words)}" for name, words in lists.items() if words),
                "%description",
                "made by a test",
                "%files",
                *(f'{marks.get(path, "")}"{path}"' for path in package.files),
                "",
            ]
        )
    )
    tree = shutil.copytree(package.tree, place / f"{package.name}.tree", symlinks=True)
    macros = {
        "_topdir": place / "rpmbuild",
        "_rpmdir": place,
        "_build_name_fmt": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
        "__os_install_post": "%{nil}",
        "_build_id_links": "none",
    }
    options = [word for name, value in macros.items() for word in ("--define", f"{name} {value}")]
    run("rpmbuild", "--quiet", "-bb", "--buildroot", tree, *options, spec)
    return min(place.glob(f"{package.name}-{version.replace('-', '+')}-*.rpm"))
