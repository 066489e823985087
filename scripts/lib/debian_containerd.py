# SPDX-License-Identifier: Apache-2.0
"""containerd of another Debian release, for tests: downloaded with apt's checks of signatures, unpacked into the cache,
not installed.

debian_containerd.py SUITE...    prints for each suite (trixie, testing) the directory that has containerd, its shim and
ctr

What is in the cache is used as it is. apt works in a directory of its own, so neither the machine's sources nor its
lists change.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import environment
from environment import SetupError

PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SOURCE = """\
Types: deb
URIs: {mirror}
Suites: {suite}
Components: main
Signed-By: {keyring}
"""


def containerd(suite: str) -> Path:
    """Return `<cache>/containerd/<suite>-<version>` with the programs; fetch them unless they are cached."""
    base = environment.cache_dir() / "containerd"
    base.mkdir(parents=True, exist_ok=True)
    ready = sorted(base.glob(f"{suite}-*"))
    if not ready:
        with tempfile.TemporaryDirectory(dir=base, prefix=".new-") as directory:
            ready = [fetch(suite, Path(directory), base)]
    os.utime(ready[-1])
    return ready[-1]


def fetch(suite: str, work: Path, base: Path) -> Path:
    (work / "lists/partial").mkdir(parents=True)
    (work / "archives/partial").mkdir(parents=True)
    (work / "debian.sources").write_text(SOURCE.format(mirror=mirror(), suite=suite, keyring=KEYRING))
    apt(work, "update")
    apt(work, "download", "containerd")
    (package,) = work.glob("containerd_*.deb")
    run(["dpkg-deb", "--extract", str(package), str(work / "tree")])
    (work / "bin").mkdir()
    for program in PROGRAMS:
        (work / "tree/usr/bin" / program).rename(work / "bin" / program)
    run([str(work / "bin/containerd"), "--version"])  # needs a libc that this machine may not have
    target = base / f"{suite}-{package.name.split('_')[1]}"
    shutil.rmtree(target, ignore_errors=True)
    (work / "bin").rename(target)
    return target


def mirror() -> str:
    """Return the mirror that this machine's own apt uses."""
    format_ = "$(REPO_URI)"
    listed = run(["apt-get", "indextargets", "--format", format_, "Created-By: Packages"]).split()
    found = [uri for uri in listed if uri.rstrip("/").endswith("/debian")]
    if not found:
        raise SetupError(f"no Debian mirror among apt's sources: {', '.join(listed) or 'there are none'}")
    return found[0]


def apt(work: Path, *arguments: str) -> None:
    options = {
        "Dir::Etc::SourceList": work / "debian.sources",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": work / "lists",
        "Dir::State::Status": "/dev/null",
        "Dir::Cache": work,
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "APT::Sandbox::User": "root",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    run(["apt-get", "--quiet", *words, *arguments], cwd=work)


def run(command: list[str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SetupError(f"cannot run {command[0]}: {error.strerror}") from None
    if done.returncode:
        raise SetupError(f"{' '.join(command)}: {(done.stderr or done.stdout)[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    try:
        for name in sys.argv[1:]:
            print(containerd(name))
    except SetupError as error:
        sys.exit(f"error: {error}")
