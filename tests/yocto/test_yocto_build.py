# SPDX-License-Identifier: Apache-2.0
"""Packages from a release's own BitBake and classes, where the trees are at hand: PYCM_OE_TREES names a directory that holds
{kirkstone,scarthgap,wrynose}/{openembedded-core,bitbake}. They come from no package registry, so elsewhere the test says so.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from layer_support import RELEASES, Release, git, run
from oe_build import build

TREES = os.environ.get("PYCM_OE_TREES")


@pytest.mark.skipif(
    not TREES, reason="PYCM_OE_TREES is not set: no openembedded-core and bitbake to build with"
)
@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_real_bitbake_makes_the_packages(release: Release, snapshot: Path) -> None:
    assert TREES
    # not below pytest's directory, which only its owner may enter
    work = Path(tempfile.mkdtemp(prefix=f"pycm-{release.name}-"))
    try:
        work.chmod(0o755)
        shutil.copytree(snapshot, work / "source")
        variables = {
            "PYCM_GIT_URI": f"git://{work}/source;protocol=file",
            "SRCREV:pn-pycm": git("rev-parse", "HEAD", cwd=snapshot).strip(),
        }
        packages = {
            path.name.split("_")[0]: path for path in build(release, Path(TREES), work, variables, "pycm")
        }
        assert {"pycm", "pycm-cli", "pycm-conf", "pycm-kanto"} <= set(packages)
        files = run("dpkg-deb", "-c", packages["pycm"])
        assert f"/usr/lib/python{release.python}/site-packages/pycm/agent.py" in files
        assert "/usr/lib/systemd/system/pycm.service" in files
        assert "./usr/bin/kanto-cm -> pycm" in run("dpkg-deb", "-c", packages["pycm-kanto"])
        fields = run("dpkg-deb", "-f", packages["pycm-kanto"], "Provides", "Conflicts", "Replaces")
        assert fields.count("container-management") >= 3
        assert "python3-asyncio" in run("dpkg-deb", "-f", packages["pycm"], "Depends")
    finally:
        shutil.rmtree(work)
