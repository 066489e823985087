# SPDX-License-Identifier: Apache-2.0
"""What the tests of the layer share: places, releases, and a recipe as BitBake read it."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMATS = ("deb", "rpm", "ipk")
HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
LAYER = REPOSITORY / "meta-leda-pycm"
RECIPE = min(LAYER.glob("recipes-containers/pycm/pycm_*.bb"))
TASKS = ("do_fetch", "do_unpack", "do_compile", "do_install", "do_install_ptest", "pycm_command_line")


@dataclass(frozen=True)
class Release:
    name: str
    python: str
    flit: str
    pytest: str
    pytest_asyncio: str


RELEASES = (
    Release("kirkstone", "3.10", "3.7.1", "7.1.1", "0.16.0"),
    Release("scarthgap", "3.12", "3.9.0", "8.0.2", "0.23.6"),
    Release("wrynose", "3.14", "3.12.0", "9.0.2", "1.3.0"),
)


def run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def make_tools() -> Path:
    """The bin directory of an environment with requirements.txt; beside it are flit-VERSION and pytest-VERSION, as each release has them.

    Kept in the user's cache under the hash of what it is made of.
    """
    wanted = (HERE / "requirements.txt").read_bytes() + repr(RELEASES).encode() + sys.version.encode()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = base / "pycm" / "yocto" / hashlib.sha256(wanted).hexdigest()[:12]
    if not (place / "ready").exists():
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        run(sys.executable, "-m", "venv", place)
        pip = (place / "bin/python", "-m", "pip", "--disable-pip-version-check", "-q", "install", "--retries", "5")  # fmt: skip
        run(*pip, "-r", HERE / "requirements.txt")
        for release in RELEASES:
            run(*pip, "--target", place / f"flit-{release.flit}", f"flit_core=={release.flit}")
            tests = (f"pytest=={release.pytest}", f"pytest-asyncio=={release.pytest_asyncio}")
            run(*pip, "--target", place / f"pytest-{release.pytest}", *tests)
        (place / "ready").touch()
    os.utime(place)
    return place / "bin"


def prepare(top: Path, tools: Path, flit: str, python: str | Path) -> None:
    """What a recipe's tasks find in the build directory *top*: `nativepython3`, which is *python*, and the licence's text."""
    (top / "bin").mkdir()
    native = top / "bin/nativepython3"
    # what the tools' environment has (installer) is pure Python, and serves another version, too
    libraries = next(tools.parent.glob("lib/python3*/site-packages"))
    native.write_text(
        f"#!/bin/sh\nexport PYTHONPATH={tools.parent}/flit-{flit}:{libraries}\n"
        f'exec {python} -W ignore {HERE}/nativepython3.py "$@"\n'
    )
    native.chmod(0o755)
    (top / "licenses").mkdir()
    shutil.copy2(REPOSITORY / "LICENSE", top / "licenses/Apache-2.0")


def git(*words: str, cwd: Path) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", f"safe.directory={cwd}")
    return run("git", *identity, *words, cwd=cwd)


def as_repository(place: Path) -> str:
    """Makes all files in *place* one commit there, on top of those it has, and returns it."""
    if not (place / ".git").exists():
        git("init", "-q", "-b", "main", cwd=place)
    git("add", "--all", "--force", cwd=place)
    git("commit", "-q", "-m", "work tree", cwd=place)
    return git("rev-parse", "HEAD", cwd=place).strip()


@dataclass
class Built:
    """A recipe that was read, and perhaps built."""

    release: Release
    top: Path
    values: dict[str, str | None]

    @property
    def image(self) -> Path:
        return Path(self["D"])

    @property
    def work(self) -> Path:
        return Path(self["WORKDIR"])

    def module(self, name: str) -> Path:
        return self.image / f"usr/lib/python{self.release.python}/site-packages" / name

    def __getitem__(self, name: str) -> str:
        return self.values[name] or ""

    def words(self, name: str) -> list[str]:
        return self[name].split()

    def installed(self) -> set[str]:
        """Every file and link, from the root directory on."""
        paths = (path for path in self.image.rglob("*") if path.is_symlink() or not path.is_dir())
        return {str(path.relative_to(self.image)) for path in paths}

    def package_of(self, name: str) -> str:
        """As do_package does it: the first package, in the order of PACKAGES, one of whose patterns matches."""
        path = f"/{name}"
        for package in self.words("PACKAGES"):
            for pattern in (self.values.get(f"FILES:{package}") or "").split():
                if fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(path, pattern.rstrip("/") + "/*"):
                    return package
        return "none"

    def files_of(self, package: str) -> list[str]:
        return sorted(name for name in self.installed() if self.package_of(name) == package)
