# SPDX-License-Identifier: Apache-2.0
"""Virtual environments for the scripts, in the user's cache, named by what they are made of: a second run finds them
ready.

environment.py [EXTRA]    prints the path of an environment with this package, made with the newest Python there is

Needs nothing but a Python; runs before anything is installed.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
MINORS = (10, 11, 12, 13, 14)
KEEP_DAYS = 30
"""Entries of the cache that were unused for so long are removed."""


class SetupError(Exception):
    """Something that the scripts need is unavailable; the text is for the user."""


@dataclass(frozen=True)
class Python:
    """An interpreter found on this machine."""

    minor: int
    path: str

    def __str__(self) -> str:
        return f"3.{self.minor}"


def cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "pycm"


def candidates(minor: int) -> list[str]:
    """Return paths at which Python 3.*minor* may be: pyenv's, newest patch first, then the system's."""
    root = Path(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv"))
    try:
        built = list(root.glob(f"versions/3.{minor}.*/bin/python3.{minor}"))
    except OSError:  # somebody else's
        built = []
    newest_first = sorted(
        built, key=lambda path: [int(n) for n in re.findall(r"\d+", path.parts[-3])], reverse=True
    )
    return [*map(str, newest_first), f"/usr/bin/python3.{minor}", f"/usr/local/bin/python3.{minor}"]


def usable(path: str) -> bool:
    """Return whether it exists and can make environments (Debian's needs python3-venv)."""
    if not os.access(path, os.X_OK):
        return False
    return (
        subprocess.run([path, "-c", "import ensurepip, venv"], capture_output=True, check=False).returncode
        == 0
    )


def pythons() -> list[Python]:
    """Return one interpreter for each supported version that the machine has, oldest first."""
    found = []
    for minor in MINORS:
        path = next(filter(usable, candidates(minor)), None)
        if path:
            found.append(Python(minor, path))
    return found


def newest() -> Python:
    found = pythons()
    if not found:
        raise SetupError(
            "no Python 3.10 to 3.14 found under ~/.pyenv/versions, /usr/bin or /usr/local/bin: install python3 and python3-venv"
        )
    return found[-1]


def environment(python: Python, extra: str = "", pins: str = "") -> Path:
    """An environment with this package (editable) and its *extra*; *pins* names one of the pins-*.txt files beside this
    one.

    The place of the repository is part of the name: an editable install belongs to one checkout.
    """
    constraints = Path(__file__).with_name(f"pins-{pins}.txt") if pins else None
    made_of = [
        Path(__file__).read_bytes(),
        packaging(),
        str(REPOSITORY).encode(),
    ]
    made_of += [
        os.path.realpath(python.path).encode(),
        extra.encode(),
        constraints.read_bytes() if constraints else b"",
    ]
    key = hashlib.sha256(b"\0".join(made_of)).hexdigest()[:12]
    place = cache_dir() / "venv" / f"{python}-{pins or 'newest'}-{key}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{place}.lock", "w") as lock:  # two scripts at once: the second waits, then finds it ready
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "ready").exists():
            build(place, python, extra, constraints)
        os.utime(place)
    return place


def packaging() -> bytes:
    """Return the part of pyproject.toml that decides what is installed: everything before the settings of tools."""
    return (REPOSITORY / "pyproject.toml").read_bytes().partition(b"\n[tool.")[0]


def build(place: Path, python: Python, extra: str, constraints: Path | None) -> None:
    print(f"Making a virtual environment with Python {python}: {place}", file=sys.stderr, flush=True)
    shutil.rmtree(place, ignore_errors=True)
    run([python.path, "-m", "venv", str(place)])
    package = f"{REPOSITORY}[{extra}]" if extra else str(REPOSITORY)
    pip = [
        str(place / "bin/python"),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "-q",
        "install",
        "--retries",
        "5",
    ]
    run([*pip, *(("-c", str(constraints)) if constraints else ()), "-e", package])
    (place / "ready").touch()


def run(command: list[str]) -> None:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        tail = done.stdout.decode(errors="replace")[-3000:]
        raise SetupError(f"{' '.join(command)} ended with {done.returncode}:\n{tail}")


def prune() -> None:
    """Remove unused entries from the cache."""
    limit = time.time() - KEEP_DAYS * 86400
    for path in cache_dir().glob("*/*"):
        if path.is_dir() and path.stat().st_mtime < limit:
            shutil.rmtree(path, ignore_errors=True)
            Path(f"{path}.lock").unlink(missing_ok=True)


def main(words: list[str]) -> int:
    try:
        print(environment(newest(), *words[:1]))
    except (SetupError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
