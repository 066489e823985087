# SPDX-License-Identifier: Apache-2.0
"""The test image's files are those of the recipe's packages: looked at in the file system that is booted."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path

import boot_image
import pytest
import recipe_files
import size

pytestmark = pytest.mark.vm
SOURCES = recipe_files.REPOSITORY / "src"
KANTO = {
    "usr/bin/kanto-cm": "pycm",
    "usr/bin/container-management": "pycmd",
    "usr/lib/systemd/system/container-management.service": "pycm.service",
}
DIRECTORIES = ("usr/bin", "usr/lib/systemd/system", "usr/lib/python3", "etc/container-management", "usr/share/pycm", "etc/systemd")  # fmt: skip


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts of the image's file system."""
    place = tmp_path_factory.mktemp("root")
    disk = boot_image.image() / "root.ext4"
    for name in DIRECTORIES:
        target = place / Path(name).parent
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["debugfs", "-R", f"rdump /{name} {target}", disk], capture_output=True, check=True)
        assert (place / name).is_dir()
    return place


@pytest.fixture
def site(tree: Path) -> Path:
    return tree / recipe_files.SITE[1:]


def test_image_has_byte_code_only(site: Path) -> None:
    suffixes = {path.suffix for path in site.rglob("*") if path.is_file()}
    assert not suffixes & set(size.SOURCE)
    assert list(site.rglob("__pycache__")) == []


def test_image_has_byte_code_of_every_module_for_the_guest(site: Path) -> None:
    modules = {path.relative_to(SOURCES) for path in SOURCES.rglob("*.py")}
    code = {path.relative_to(site).with_suffix(".py") for path in (site / "pycm").rglob("*.pyc")}
    assert code == modules
    magic = subprocess.run(
        [recipe_files.PYTHON, "-c", "import importlib.util as u; print(u.MAGIC_NUMBER.hex())"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    for path in site.rglob("*.pyc"):
        assert path.read_bytes()[:4].hex() == magic, path
    assert len(magic) == 2 * len(importlib.util.MAGIC_NUMBER)


def test_image_has_kanto_names_as_links(tree: Path) -> None:
    assert {name: os.readlink(tree / name) for name in KANTO} == KANTO
    for name in ("pycm", "pycmd"):
        assert (tree / "usr/bin" / name).read_text().startswith("#!/usr/bin/env python3\n")
        assert os.access(tree / "usr/bin" / name, os.X_OK)


def test_image_has_unit_and_configuration_of_the_repository(tree: Path) -> None:
    conf = recipe_files.REPOSITORY / "conf"
    unit = "usr/lib/systemd/system/pycm.service"
    assert (tree / unit).read_bytes() == (conf / "pycm.service").read_bytes()
    for name in ("etc/container-management/config.toml", "usr/share/pycm/mosquitto.conf"):
        assert (tree / name).read_bytes() == (conf / Path(name).name).read_bytes()
    assert (tree / "etc/systemd/system/multi-user.target.wants/pycm.service").is_symlink()


def test_image_has_the_libraries_of_a_release(site: Path) -> None:
    pins = dict(re.findall(r"(?m)^([\w-]+)==(\S+)$", size.pins(recipe_files.RELEASE).read_text()))
    pins |= dict(name.split("==") for name in recipe_files.NEAREST.values())
    found = dict(re.fullmatch(r"(.+)-([^-]+)\.dist-info", path.name).groups() for path in site.glob("*.dist-info"))  # fmt: skip
    found = {name.replace("_", "-"): version for name, version in found.items()}
    assert {name: found.get(name) for name in pins} == pins
    assert set(found) - set(pins) <= {"pycm", "leda-pycm", "cgroupspy"}
