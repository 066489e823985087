# SPDX-License-Identifier: Apache-2.0
"""Packages from a release's own BitBake and classes, where the trees are at hand: PYCM_OE_TREES names a directory that holds
{kirkstone,scarthgap,wrynose}/{openembedded-core,bitbake}. They come from no package registry, so elsewhere the test says so.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from layer_support import FORMATS, Release, run

if TYPE_CHECKING:
    from pathlib import Path

    from layer_support import Built

PACKAGES = {"pycm", "pycm-cli", "pycm-conf", "pycm-kanto", "pycm-ptest", "packagegroup-pycm"}
LEDA = {"pycm-leda-conf", "pycm-leda-data"}


@pytest.mark.skipif(
    not os.environ.get("PYCM_OE_TREES"),
    reason="PYCM_OE_TREES is not set: no openembedded-core and bitbake to build with",
)
def test_real_bitbake_makes_the_packages(
    release: Release, deployed: dict[str, dict[str, Path]], built: Built
) -> None:
    for kind in FORMATS:
        assert set(deployed[kind]) >= PACKAGES | (LEDA if release.name == "kirkstone" else set())
    packages = deployed["deb"]
    files = run("dpkg-deb", "-c", packages["pycm"])
    assert f"/usr/lib/python{release.python}/site-packages/pycm/agent.py" in files
    assert "/usr/lib/systemd/system/pycm.service" in files
    for name in ("pycm-cli", "pycm-conf", "pycm-kanto"):
        listed = {
            line.split()[5].removeprefix("./") for line in run("dpkg-deb", "-c", packages[name]).splitlines()
        }
        assert {path for path in listed if path and not path.endswith("/")} == set(built.files_of(name))
    assert "python3-asyncio" in run("dpkg-deb", "-f", packages["pycm"], "Depends")
    assert "./usr/lib/pycm/ptest/run-ptest" in run("dpkg-deb", "-c", packages["pycm-ptest"])
