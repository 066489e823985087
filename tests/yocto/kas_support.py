# SPDX-License-Identifier: Apache-2.0
"""What the tests of kas files share: kas files as kas merges them, and what BitBake makes of their local.conf."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

from layer_support import HERE, REPOSITORY, run
from oe_build import USER

if TYPE_CHECKING:
    from pathlib import Path

ASSIGNMENT = re.compile(r'^(\w[\w:.+\-${}/]*)\s*(\?\?=|\?=|\+=|=\+|\.=|:=|=)\s*"(.*)"$', re.MULTILINE)
BUILT_BY_USERS = ("kas.yml", "kas-raspberrypi.yml", "kas-scarthgap.yml", "kas-wrynose.yml")
"""Kas files that need no other one beside them."""
OVERLAYS = ("kas-testimage.yml", "kas-pycm-overlay.yml")
"""Kas files that go on top of another one."""
FRAGMENTS = tuple(sorted(f"kas/{path.name}" for path in (REPOSITORY / "kas").glob("*.yml")))


def merged(tools: Path, *files: Path) -> dict[str, Any]:
    """Merge *files* and what they include, as kas does."""
    names = ":".join(map(str, files))
    loaded = json.loads(run(tools / "python", HERE / "kas_config.py", names, f"pycm={REPOSITORY}"))
    assert isinstance(loaded, dict)
    return loaded


def local_conf(config: dict[str, Any]) -> str:
    """Return what kas writes to local.conf for *config*."""
    headers = [f"# {name}\n{text}\n" for name, text in sorted(config["local_conf_header"].items())]
    return "\n".join([*headers, f'MACHINE ??= "{config["machine"]}"', f'DISTRO ??= "{config["distro"]}"', ""])


def assigned(text: str) -> dict[str, str]:
    """Return the variables that *text* assigns, with their last value as written."""
    return {name: value for name, _, value in ASSIGNMENT.findall(text)}


def layers(config: dict[str, Any], trees: Path, own: dict[str, Path]) -> list[Path]:
    """Return the layers of *config* that are below *trees*; *own* has the places of other repositories."""
    found = []
    for name, repo in config["repos"].items():
        top = own.get(name, trees / name)
        wanted = [layer for layer, use in (repo.get("layers") or {".": None}).items() if use != "disabled"]
        found += [top / layer for layer in wanted if (top / layer / "conf/layer.conf").is_file()]
    return found


def environment(config: dict[str, Any], trees: Path, work: Path, own: dict[str, Path]) -> dict[str, str]:
    """Return the global variables that poky's BitBake computes in *work* for *config*; reads no recipe."""
    conf = work / "build/conf"
    conf.mkdir(parents=True)
    listed = " ".join(map(str, layers(config, trees, own)))
    (conf / "bblayers.conf").write_text(
        f'LCONF_VERSION = "7"\nBBPATH = "${{TOPDIR}}"\nBBFILES ?= ""\nBBLAYERS = "{listed}"\n'
    )
    (conf / "local.conf").write_text(local_conf(config))
    (work / ".gitconfig").write_text("[safe]\n\tdirectory = *\n")
    work.chmod(0o755)
    as_root = os.getuid() == 0
    if as_root:
        run("chown", "-R", f"{USER}:{USER}", work)
    environ = {
        "HOME": str(work),
        "LANG": "en_US.UTF-8",
        "PATH": f"{trees}/poky/scripts:{trees}/poky/bitbake/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "BBPATH": str(work / "build"),
        "BUILDDIR": str(work / "build"),
    }
    identity: dict[str, Any] = {"user": USER, "group": USER, "extra_groups": []} if as_root else {}
    done = subprocess.run(
        ["bitbake", "-e"], cwd=work / "build", env=environ, **identity,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return {
        name: value.replace(f"{work}/build", "${TOPDIR}")
        for name, value in re.findall(r'^(?:export )?(\w+)="(.*)"$', done.stdout, re.MULTILINE)
    }
