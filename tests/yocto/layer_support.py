# SPDX-License-Identifier: Apache-2.0
"""What the tests of the layer share: places, releases, and a recipe as BitBake read it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


RELEASES = (
    Release("kirkstone", "3.10", "3.7.1"),
    Release("scarthgap", "3.12", "3.9.0"),
    Release("wrynose", "3.14", "3.12.0"),
)


def run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


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
