# SPDX-License-Identifier: Apache-2.0
"""What the guest test carries into the guest: pycm and its dependencies for arm64, a container image, the program that plays.

The guest has Debian's Python 3.11 and neither pip nor network, so wheels are unpacked here, by the pip of the running Python, into a
directory that becomes the guest's PYTHONPATH, with bytecode made by the machine's own Python 3.11.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from guest_machine import HERE, cache_dir, content_key, run

REPOSITORY = HERE.parent.parent
ONLY_AS_SOURCE = ("cgroupspy",)
"""Dependencies that PyPI has no wheel of; they are pure Python, so a wheel built here serves arm64 too."""
PIP = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
FOR_GUEST = [
    "--platform", "manylinux2014_aarch64", "--platform", "manylinux_2_28_aarch64",
    "--implementation", "cp", "--python-version", "3.11", "--only-binary=:all:",
]  # fmt: skip


def compile_all(tree: Path) -> None:
    """Bytecode that is valid whatever the clock and the times of files in the guest are."""
    run(
        ["/usr/bin/python3.11", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(tree)],
        timeout=300,
    )


def dependencies() -> Path:
    """Directory with everything that pycm imports, for the guest; from the cache while pyproject.toml is the same."""
    key = content_key(REPOSITORY / "pyproject.toml", Path(__file__))
    wanted = cache_dir() / "vm-site" / key
    if not wanted.is_dir():
        wanted.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=wanted.parent, prefix="building-") as work:
            install_dependencies(Path(work), Path(work, "site"))
            os.rename(f"{work}/site", wanted)
    os.utime(wanted)
    return wanted


def install_dependencies(work: Path, site: Path) -> None:
    wheels = work / "wheels"
    run([*PIP, "wheel", "--no-deps", "-w", str(wheels), *ONLY_AS_SOURCE], timeout=300)
    run([*PIP, "wheel", "--no-deps", "-w", str(wheels), str(REPOSITORY)], timeout=300)
    pycm = next(wheels.glob("pycm-*.whl"))
    run(
        [
            *PIP,
            "install",
            *FOR_GUEST,
            "--find-links",
            str(wheels),
            "--no-compile",
            "-t",
            str(site),
            str(pycm),
        ],
        timeout=600,
    )
    for own in (*site.glob("pycm"), *site.glob("pycm-*")):
        shutil.rmtree(own)
    compile_all(site)


def install_pycm(site: Path) -> None:
    """pycm as it would be installed: from a wheel, made from the repository as it is now."""
    with tempfile.TemporaryDirectory(prefix="pycm-wheel-") as work:
        run([*PIP, "wheel", "--no-deps", "-w", work, str(REPOSITORY)], timeout=300)
        wheel = next(Path(work).glob("pycm-*.whl"))
        run(
            [*PIP, "install", *FOR_GUEST, "--no-deps", "--no-compile", "-t", str(site), str(wheel)],
            timeout=300,
        )
    compile_all(site / "pycm")


def payload(tree: Path, image_dir: Path, reference: str) -> None:
    """Fill *tree* with all that the guest gets."""
    shutil.copytree(dependencies(), tree / "site")
    install_pycm(tree / "site")
    for name in ("run", "play.py"):
        shutil.copy(HERE / "guest" / name, tree / name)
    maker = REPOSITORY / "scripts/lib/busybox_image.py"
    run(
        [sys.executable, str(maker), str(image_dir / "busybox"), "arm64", reference, str(tree / "image.tar")],
        timeout=60,
    )
