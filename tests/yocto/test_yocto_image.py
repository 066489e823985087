# SPDX-License-Identifier: Apache-2.0
"""The image feature python-bytecode, and leda-image-pycm as far as it can be read without openembedded-core."""

from __future__ import annotations

import marshal
import sys
from typing import TYPE_CHECKING

import pytest
from layer_support import LAYER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from layer_support import Built, Release

INCLUDE = ("conf/distro/include/pycm.inc",)
IMAGE = LAYER / "dynamic-layers/meta-leda-distro/recipes-images/images/leda-image-pycm.bb"
SITE = "usr/lib/python{}/site-packages"
OTHER = """
SUMMARY = "stands for one"
LICENSE = "MIT"
IMAGE_FEATURES = "{}"
inherit core-image
"""


def with_feature(read: Callable[..., Built], release: Release, place: Path, features: str) -> Built:
    """An image whose root file system is *place*/rootfs, after what it asks for has run over it."""
    recipe = place / "some-image_1.bb"
    recipe.write_text(OTHER.format(features))
    tools = place / "tools/python3-native"
    tools.mkdir(parents=True)
    (tools / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tools / "python3").chmod(0o755)
    variables = {"IMAGE_ROOTFS": str(place / "rootfs"), "STAGING_BINDIR_NATIVE": str(place / "tools")}
    return read(release, recipe, "do_rootfs", tasks=("do_rootfs",), variables=variables, include=INCLUDE)


@pytest.fixture
def rootfs(release: Release, tmp_path: Path) -> Path:
    site = tmp_path / "rootfs" / SITE.format(release.python)
    (site / "part/__pycache__").mkdir(parents=True)
    (site / "part/__init__.py").write_text("PLACE = __file__\n")
    (site / "part/old.py").write_text("print 'Python 2'\n")
    (site / "part/data.txt").write_text("data")
    (site / "part/__pycache__/__init__.cpython-310.pyc").write_text("stale")
    (site.parent / "argparse.py").write_text("OWN = 1\n")
    return tmp_path / "rootfs"


def files(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}


def test_feature_replaces_the_source_of_libraries_by_byte_code(
    rootfs: Path, release: Release, read: Callable[..., Built]
) -> None:
    with_feature(read, release, rootfs.parent, "python-bytecode")
    site = SITE.format(release.python)
    assert files(rootfs) == {
        f"{site}/part/__init__.pyc",
        f"{site}/part/data.txt",
        f"{site}/part/old.py",  # does not compile: kept
        f"{site.rpartition('/')[0]}/argparse.py",  # Python's own
    }
    content = (rootfs / site / "part/__init__.pyc").read_bytes()
    assert int.from_bytes(content[4:8], "little") == 1, "identified by a hash, the same at each build"
    assert marshal.loads(content[16:]).co_filename == f"/{site}/part/__init__.py"


def test_image_without_the_feature_keeps_its_libraries(
    rootfs: Path, release: Release, read: Callable[..., Built]
) -> None:
    before = files(rootfs)
    with_feature(read, release, rootfs.parent, "read-only-rootfs")
    assert files(rootfs) == before


def test_feature_is_unknown_without_the_include(
    read: Callable[..., Built], release: Release, tmp_path: Path
) -> None:
    recipe = tmp_path / "some-image_1.bb"
    recipe.write_text(OTHER.format("python-bytecode"))
    with pytest.raises(AssertionError, match="python-bytecode"):
        read(release, recipe)


def test_image_has_no_way_in_without_a_password(read: Callable[..., Built], release: Release) -> None:
    found = read(release, IMAGE, "IMAGE_FEATURES", "IMAGE_INSTALL", include=INCLUDE)
    assert set(found.words("IMAGE_FEATURES")) == {"python-bytecode", "read-only-rootfs"}
    assert {"packagegroup-sdv-core", "packagegroup-pycm", "pycm-leda-data"} <= set(
        found.words("IMAGE_INSTALL")
    )


def test_overlay_can_add_what_testimage_needs(read: Callable[..., Built], release: Release) -> None:
    debug = {"allow-empty-password", "empty-root-password", "allow-root-login"}
    found = read(
        release,
        IMAGE,
        "IMAGE_FEATURES",
        include=INCLUDE,
        variables={"EXTRA_IMAGE_FEATURES": " ".join(sorted(debug))},
    )
    assert debug < set(found.words("IMAGE_FEATURES"))


def test_image_without_the_include_is_skipped_with_its_reason(
    read: Callable[..., Built], release: Release
) -> None:
    assert read(release, IMAGE, "__SKIPPED", include=INCLUDE).values["__SKIPPED"] is None
    assert "require conf/distro/include/pycm.inc" in read(release, IMAGE, "__SKIPPED")["__SKIPPED"]
