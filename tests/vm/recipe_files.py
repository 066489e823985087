# SPDX-License-Identifier: Apache-2.0
"""pycm for the guest, file by file what the layer's recipe installs: the recipe's own tasks make it, run by BitBake's library.

The packages pycm, pycm-cli, pycm-kanto and pycm-conf are taken: byte code of the guest's Python without source, programs, Kanto's names
as links, unit and configuration. Libraries come in scarthgap's versions (Python 3.12), the release nearest to the guest's Python 3.11
for which there are wheels: kirkstone's protobuf has none for 3.11. They are packaged as the layer does it: byte code without source.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from guest_machine import HERE

REPOSITORY = HERE.parent.parent
sys.path.append(str(REPOSITORY / "tests/yocto"))

import layer_support  # noqa: E402
import size  # noqa: E402

PYTHON = "/usr/bin/python3.11"
"""Of the guest's version: it makes the byte code."""
SITE = "/usr/lib/python3/dist-packages"
"""Where Debian's Python looks; Yocto's site-packages is not on its path."""
RELEASE = "scarthgap"
FLIT = next(release.flit for release in layer_support.RELEASES if release.name == RELEASE)
NEAREST = {"psutil": "psutil==6.0.0"}
"""scarthgap's psutil, 5.9.8, has no wheel for arm64: this is the next version that has one."""
PARTS = ("pyproject.toml", "README.md", "LICENSE", "src", "conf")
"""Of the repository, all that the recipe's tasks read; what it fetches is not compared here (tests/yocto does)."""


def sources() -> list[Path]:
    """Files that decide what is installed, beside those of pycm itself."""
    layer = [path for path in layer_support.LAYER.rglob("*") if path.suffix in {".bb", ".bbclass", ".inc"}]
    stubs = [path for path in (layer_support.HERE / "stubs").rglob("*") if path.is_file()]
    helpers = [
        layer_support.HERE / name for name in ("bitbake_run.py", "nativepython3.py", "layer_support.py")
    ]
    return sorted([*layer, *stubs, *helpers, *library_sources()])


def library_sources() -> list[Path]:
    return [Path(size.__file__), size.pins(RELEASE), Path(__file__)]


def install_pycm(tree: Path, work: Path) -> None:
    """Put the recipe's packages into *tree*, the root of the guest's file system."""
    tools = layer_support.make_tools()
    source = work / "source"
    source.mkdir()
    for name in PARTS:
        part = REPOSITORY / name
        if part.is_dir():
            shutil.copytree(part, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(part, source / name)
    layer_support.prepare(work, tools, FLIT, PYTHON)
    request = {
        "top": str(work),
        "path": [str(layer_support.HERE / "stubs"), str(layer_support.LAYER)],
        "recipe": str(layer_support.RECIPE),
        "set": {"PYTHON_BASEVERSION": "3.11", "PYTHON_SITEPACKAGES_DIR": SITE, "S": str(source)},
        "tasks": ["do_compile", "do_install"],
        "get": ["D", "PYTHON_SOURCES"],
    }
    command = [str(tools / "python"), "-W", "ignore", str(layer_support.HERE / "bitbake_run.py")]
    found = json.loads(layer_support.run(*command, input=json.dumps(request)))
    shutil.rmtree(found["D"] + found["PYTHON_SOURCES"])  # the package pycm-source, which images leave out
    shutil.copytree(found["D"], tree, symlinks=True, dirs_exist_ok=True)


def install_libraries(site: Path) -> None:
    """Put the libraries into *site* as the layer packages them."""
    for name in size.libraries(RELEASE):
        size.install(name, RELEASE, site, python="3.11", version=NEAREST.get(name, ""))
    size.drop_tools(site)
    size.compile_sourceless(site, PYTHON)
