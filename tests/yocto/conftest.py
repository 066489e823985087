# SPDX-License-Identifier: Apache-2.0
"""What the tests of the layer share: tools in an environment of their own, the work tree as a git repository, the recipe built."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from layer_support import (
    HERE,
    LAYER,
    RECIPE,
    RELEASES,
    REPOSITORY,
    TASKS,
    Built,
    Release,
    as_repository,
    git,
    make_tools,
    prepare,
    run,
)
from oe_build import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def tools() -> Path:
    return make_tools()


@pytest.fixture(scope="session")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work tree as it is now, as a git repository with one commit: what BitBake's fetcher gets."""
    place = tmp_path_factory.mktemp("source") / "pycm"
    for name in git("ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=REPOSITORY).split(
        "\0"
    ):
        if name and (REPOSITORY / name).is_file():
            target = place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, target)
    as_repository(place)
    return place


@pytest.fixture(scope="session")
def read(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Built]:
    """Read a recipe with BitBake's library as *release* would, run tasks, and get variables."""

    def reader(
        release: Release,
        recipe: Path,
        *get: str,
        tasks: tuple[str, ...] = (),
        variables: dict[str, str] | None = None,
        include: tuple[str, ...] = (),
        appends: tuple[Path, ...] = (),
    ) -> Built:
        top = tmp_path_factory.mktemp(release.name)
        prepare(top, tools, release.flit, tools / "python")
        request = {
            "top": str(top),
            "path": [str(HERE / "stubs"), str(LAYER)],
            "recipe": str(recipe),
            "set": {"PYTHON_BASEVERSION": release.python, **(variables or {})},
            "include": include,
            "appends": [str(path) for path in appends],
            "tasks": tasks,
            "get": ["D", "WORKDIR", "PN", "PACKAGES", "SRC_URI", "SRCREV", *get],
        }
        out = run(tools / "python", "-W", "ignore", HERE / "bitbake_run.py", input=json.dumps(request))
        return Built(release, top, json.loads(out))

    return reader


@pytest.fixture(scope="session", params=RELEASES, ids=lambda release: release.name)
def release(request: pytest.FixtureRequest) -> Release:
    return request.param


@pytest.fixture(scope="session")
def deployed(release: Release, snapshot: Path) -> Iterator[dict[str, dict[str, Path]]]:
    """Packages of the work tree from the release's own BitBake and classes: format to name to file."""
    trees = os.environ["PYCM_OE_TREES"]
    # not below pytest's directory, which only its owner may enter
    work = Path(tempfile.mkdtemp(prefix=f"pycm-{release.name}-"))
    try:
        work.chmod(0o755)
        shutil.copytree(snapshot, work / "source")
        variables = {
            "PYCM_GIT_URI": f"git://{work}/source;protocol=file",
            "SRCREV:pn-pycm": git("rev-parse", "HEAD", cwd=snapshot).strip(),
        }
        # Leda is kirkstone's. Debian's rpm 4.18 does not read the file name with a backslash as newer classes write it, for rpm 4.19.
        leda = ["pycm-leda"] if release.name == "kirkstone" else []
        yield build(release, Path(trees), work, variables, "pycm", "packagegroup-pycm", *leda)
    finally:
        shutil.rmtree(work)


@pytest.fixture(scope="session")
def built(release: Release, read: Callable[..., Built], snapshot: Path) -> Built:
    """The recipe built from the work tree with the release's flit_core."""
    packages = ("pycm", *(f"pycm-{part}" for part in ("cli", "conf", "kanto", "ptest", "source")))
    kinds = ("FILES", "RDEPENDS", "RRECOMMENDS", "RPROVIDES", "RCONFLICTS", "RREPLACES", "CONFFILES")
    return read(
        release,
        RECIPE,
        *(f"{kind}:{package}" for kind in kinds for package in packages),
        "SYSTEMD_SERVICE:pycm",
        "CVE_PRODUCT",
        tasks=TASKS,
        variables={
            "PYCM_GIT_URI": f"git://{snapshot};protocol=file",
            "SRCREV:pn-pycm": git("rev-parse", "HEAD", cwd=snapshot).strip(),
        },
    )
