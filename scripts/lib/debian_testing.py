# SPDX-License-Identifier: Apache-2.0
"""A chroot of Debian testing: the unit tests with the newest Python and libraries that a distribution packages.

mmdebstrap makes it, as root, from the mirror of this machine, into the cache. pip is not used in it: a library that
Debian does not package and that is pure Python comes from an environment of this machine.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import environment
from debian_containerd import mirror
from environment import REPOSITORY, SetupError

LIBRARIES = (
    "python3-grpclib", "python3-h11", "python3-hypothesis", "python3-paho-mqtt", "python3-protobuf", "python3-psutil",
    "python3-pytest", "python3-pytest-asyncio", "python3-rich",
)  # fmt: skip
PROGRAMS = (
    "bmap-tools", "fdisk", "git", "iproute2", "libprotobuf-dev", "procps", "protobuf-compiler", "python3-venv", "systemd", "zstd",
)  # fmt: skip
NOT_IN_DEBIAN = ("cgroupspy",)
OPTIONS = (
    '--aptopt=APT::Install-Recommends "false"', '--aptopt=Acquire::Languages "none"', '--aptopt=APT::Sandbox::User "root"',
    '--aptopt=Acquire::Check-Valid-Until "false"',  # a mirror may be behind; its signature is checked all the same
    "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
)  # fmt: skip
PROTOBUF_WARNS = "ignore:datetime.datetime.utcfromtimestamp:DeprecationWarning"
"""Debian's protobuf calls it at import; our tests turn warnings into errors."""
INSIDE = """
set -e
mount --make-rprivate /
mount --rbind /dev "$1/dev"
mount --rbind /sys "$1/sys"
mount -t proc proc "$1/proc"
mount -t tmpfs tmpfs "$1/tmp"
mkdir -p "$1$2"
mount --bind "$2" "$1$2"
shift 2
exec chroot "$@"
"""


def tree() -> Path:
    """Return the root of the chroot, made unless it is in the cache."""
    key = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    place = environment.cache_dir() / "chroot" / f"testing-{key}"
    if not place.exists():
        new = place.with_name(f".new-{os.getpid()}")
        packages = f"--include={','.join((*LIBRARIES, *PROGRAMS))}"
        words = [
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--variant=apt",
            packages,
            *OPTIONS,
            "testing",
            str(new),
            mirror(),
        ]
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SetupError(f"mmdebstrap: {done.stderr[-2000:]}")
            new.rename(place)
        except OSError as error:
            raise SetupError(f"cannot run mmdebstrap: {error.strerror}") from None
        finally:
            shutil.rmtree(new, ignore_errors=True)
    os.utime(place)
    return place


def command(arguments: list[str]) -> list[str]:
    """Return the command that runs pytest in the chroot, in a mount namespace of its own."""
    root = tree()
    packages = environment.environment(environment.newest(), "dev") / "lib"
    for name in NOT_IN_DEBIAN:
        (found,) = packages.glob(f"*/site-packages/{name}")
        shutil.copytree(found, root / "usr/lib/python3/dist-packages" / name, dirs_exist_ok=True)
    inside = [
        "env",
        "-C",
        str(REPOSITORY),
        f"PYTHONPATH={REPOSITORY}/src",
        "HOME=/root",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
    ]
    pytest = ["python3", "-m", "pytest", "-p", "no:cacheprovider", "-W", PROTOBUF_WARNS, *arguments]
    return [
        "unshare",
        "--mount",
        "sh",
        "-c",
        INSIDE,
        "sh",
        str(root),
        str(REPOSITORY),
        str(root),
        *inside,
        *pytest,
    ]
