# SPDX-License-Identifier: Apache-2.0
"""scripts/yocto-build: which kas file it gives to kas, and where it works, with a stand-in for kas that prints them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from layer_support import REPOSITORY
from oe_build import USER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KAS = """#!/bin/sh
echo "$@"
echo "machine=$KAS_MACHINE work=$KAS_WORK_DIR"
echo "downloads=$DL_DIR state=$SSTATE_DIR"
if [ "$MAKES_IMAGES" ]; then
    mkdir -p "$KAS_WORK_DIR/build/tmp-glibc/deploy/images/qemuarm64"
fi
"""


@pytest.fixture
def build() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run a copy of the script as an ordinary user."""
    # not below pytest's directory, which only its owner may enter
    with tempfile.TemporaryDirectory(prefix="pycm-yocto-build-") as name:
        top = Path(name)
        (top / "bin").mkdir()
        (top / "bin/kas").write_text(KAS)
        (top / "bin/kas").chmod(0o755)
        (top / "scripts/lib").mkdir(parents=True)
        shutil.copy2(REPOSITORY / "scripts/yocto-build", top / "scripts")
        shutil.copy2(REPOSITORY / "scripts/lib/debian.sh", top / "scripts/lib")
        (top / "build").mkdir(mode=0o777)
        (top / "build").chmod(0o777)
        top.chmod(0o755)
        identity: dict[str, Any] = (
            {"user": USER, "group": USER, "extra_groups": []} if os.getuid() == 0 else {}
        )

        def builder(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
            done = subprocess.run(
                [top / "scripts/yocto-build", *words], cwd=top, **identity,
                env={"PATH": f"{top}/bin:/usr/bin:/bin", **environ}, capture_output=True, text=True, check=False,
            )  # fmt: skip
            done.stdout = done.stdout.replace(str(top), "TOP")
            return done

        yield builder


@pytest.mark.parametrize(
    ("words", "command", "machine", "work"),
    [
        ((), "build TOP/kas.yml", "", "build/yocto"),
        (("raspberrypi4-64",), "build TOP/kas-raspberrypi.yml", "", "build/yocto"),
        (("qemuarm64", "pycm", "cni"), "build --target pycm --target cni TOP/kas.yml", "", "build/yocto"),
        (("--release", "scarthgap"), "build TOP/kas-scarthgap.yml", "qemuarm64", "build/yocto/scarthgap"),
        (
            ("--release", "wrynose", "raspberrypi4-64"),
            "build TOP/kas-wrynose.yml",
            "raspberrypi4-64",
            "build/yocto/wrynose",
        ),
    ],
)
def test_yocto_build_runs_kas_with_the_file_of_release_and_machine(
    build: Callable[..., subprocess.CompletedProcess[str]],
    words: tuple[str, ...], command: str, machine: str, work: str,
) -> None:  # fmt: skip
    done = build(*words)
    assert done.stdout.splitlines()[:2] == [command, f"machine={machine} work=TOP/{work}"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--release", "dunfell"), "no such release: dunfell"),
        (("--release",), "no such release: "),
        (("qemuarm",), "no such machine: qemuarm"),
        (("--relaese",), "no such option: --relaese"),
        (("qemuarm64", "--release", "scarthgap"), "options go before the machine: --release"),
        (("--release", "scarthgap", "--help"), "options go before the machine: --help"),
    ],
)
def test_yocto_build_refuses_what_it_does_not_know(
    build: Callable[..., subprocess.CompletedProcess[str]], words: tuple[str, ...], error: str
) -> None:
    done = build(*words)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {error}")
    assert done.stdout == ""


def test_yocto_build_hands_on_whole_paths(build: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = build(YOCTO_DIR="build/here", SSTATE_DIR="/srv/state")
    assert "work=TOP/build/here\ndownloads=TOP/build/here/downloads state=/srv/state\n" in done.stdout
    assert "downloads=TOP/downloads state=TOP/build/yocto/sstate" in build(DL_DIR="downloads").stdout


def test_yocto_build_names_the_images_where_there_are_some(
    build: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    packages = build("qemuarm64", "pycm")
    assert (packages.returncode, "images:" in packages.stdout) == (0, False)
    assert "cannot access" not in packages.stderr
    images = build(MAKES_IMAGES="1")
    assert images.stdout.endswith("images: TOP/build/yocto/build/tmp-glibc/deploy/images/qemuarm64\n")
