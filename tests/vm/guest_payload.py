# SPDX-License-Identifier: Apache-2.0
"""What the guest test carries into the guest: pycm and its dependencies for arm64, a container image, the program that plays.

The guest has Debian's Python 3.11 and neither pip nor network, so both come from recipe_files.py, as a Yocto image has them.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import recipe_files
from guest_machine import HERE, cache_dir, content_key, run

REPOSITORY = HERE.parent.parent


def dependencies() -> Path:
    """Directory with everything that pycm imports, for the guest; from the cache while its sources are the same."""
    wanted = cache_dir() / "vm-site" / content_key(*recipe_files.library_sources())
    if not wanted.is_dir():
        wanted.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=wanted.parent, prefix="building-") as work:
            recipe_files.install_libraries(Path(work, "site"))
            os.rename(f"{work}/site", wanted)
    os.utime(wanted)
    return wanted


def install_pycm(tree: Path) -> None:
    """pycm as its recipe installs it from the repository as it is now, below *tree*."""
    with tempfile.TemporaryDirectory(prefix="pycm-recipe-") as work:
        recipe_files.install_pycm(tree, Path(work))


def payload(tree: Path, image_dir: Path, reference: str) -> None:
    """Fill *tree* with all that the guest gets."""
    shutil.copytree(dependencies(), tree / "site")
    with tempfile.TemporaryDirectory(prefix="pycm-tree-") as root:
        install_pycm(Path(root))
        shutil.copytree(root + recipe_files.SITE, tree / "site", dirs_exist_ok=True)
    for name in ("run", "play.py"):
        shutil.copy(HERE / "guest" / name, tree / name)
    maker = REPOSITORY / "scripts/lib/busybox_image.py"
    run(
        [sys.executable, str(maker), str(image_dir / "busybox"), "arm64", reference, str(tree / "image.tar")],
        timeout=60,
    )
