# SPDX-License-Identifier: Apache-2.0
"""Remove everything that a demo made: processes, mounts, control groups, runtime state, its directory.

One random name is the demo's directory, its containerd namespace, and a word on the command line of each of its
processes. The name is enough to clean up, for the demo itself and, if it was killed, for the next one. Things that are
already gone are not an error.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO

PREFIX = "pycm-demo-"
PROGRAMS = ("containerd", "containerd-shim-runc-v2", "mosquitto", "runc", "python")
"""Only these are ended; an editor or `tail` that somebody opened on the demo's files is not."""
SHIM_SOCKETS = Path("/run/containerd/s")
RUNC_STATE = Path("/run/containerd/runc")
END_LIMIT = 5.0
"""Seconds until a process that does not end is killed."""


def make() -> tuple[Path, IO[bytes]]:
    """A new demo's directory and its lock, held while the demo lives: the kernel frees it however the demo ends.

    The directory gets its name when the lock is held, so that no other demo takes it for a dead one's.
    """
    place = Path(tempfile.mkdtemp(prefix="new-" + PREFIX))
    lock = (place / "lock").open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    named = place.with_name(PREFIX + os.urandom(4).hex())
    os.rename(place, named)
    return named, lock


def clean_dead() -> list[str]:
    """Clean up after killed demos of this user, and return their names."""
    dead = []
    for place in sorted(Path(tempfile.gettempdir()).glob(PREFIX + "*")):
        with contextlib.suppress(OSError), (place / "lock").open("rb") as lock:
            if place.stat().st_uid != os.getuid() or place.is_symlink():
                continue
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            clean(place)
            dead.append(place.name)
    return dead


def clean(place: Path) -> None:
    """Remove everything of the demo with this directory, beginning with programs that could make new things."""
    name = place.name
    for programs in (("python",), ("containerd", "mosquitto")):
        end(
            [
                pid
                for pid in processes(name)
                if program(pid).startswith(programs) and "shim" not in program(pid)
            ]
        )
    sockets = shim_sockets(place)
    end(contained(name), signal.SIGKILL)
    end(processes(name), signal.SIGKILL)
    end(keepers(place), signal.SIGKILL)
    unmount(place)
    remove_cgroups(name)
    shutil.rmtree(RUNC_STATE / name, ignore_errors=True)
    for socket in sockets:
        socket.unlink(missing_ok=True)
    shutil.rmtree(place, ignore_errors=True)


def keepers(place: Path) -> list[int]:
    """Return the processes that hold the demo's FIFOs open (src/pycm/logs/fifos.py): descriptor 3 is below *place*."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/fd/3"):
        with contextlib.suppress(OSError):
            if os.readlink(entry).startswith(f"{place}/") and program(int(entry.parts[2])) == "sleep":
                found.append(int(entry.parts[2]))
    return found


def processes(name: str) -> list[int]:
    """Return our processes with the demo's name on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and name.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid() and program(pid).startswith(PROGRAMS)]


def program(pid: int) -> str:
    """Return the name of a process's program, "" if it has ended."""
    try:
        return os.path.basename(
            Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
        )
    except OSError:
        return ""


def contained(name: str) -> list[int]:
    """Return the processes in the demo's containers: their control group is below the namespace's."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"/{name}/" in (entry / "cgroup").read_text():
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]


def end(pids: list[int], number: int = signal.SIGTERM) -> None:
    """Signal processes and wait until they end; kill them after the limit."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    limit = time.monotonic() + END_LIMIT
    while alive := [pid for pid in pids if is_alive(pid)]:
        if time.monotonic() > limit:
            if number == signal.SIGKILL:
                return
            end(alive, signal.SIGKILL)
            return
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Return whether it runs. A zombie counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except OSError:
        return False


def shim_sockets(place: Path) -> list[Path]:
    """Sockets of the demo's shims, which containerd puts into a directory shared by all: their addresses are in its
    state.
    """
    found = []
    for file in place.glob("containerd/state/io.containerd.runtime.v2.task/*/*/address"):
        with contextlib.suppress(OSError):
            found.append(Path(file.read_text().strip().removeprefix("unix://")))
    return [path for path in found if path.parent == SHIM_SOCKETS]


def unmount(place: Path) -> None:
    """Unmount everything below *place*, the latest first."""
    with open("/proc/self/mountinfo") as file:
        targets = [line.split()[4] for line in file]
    for target in reversed(targets):
        if target.startswith(f"{place}/"):
            subprocess.run(["umount", "--lazy", target], capture_output=True, check=False)


def remove_cgroups(name: str) -> None:
    """Remove the namespace's empty control groups: at the top of the tree (v2), of each controller's (v1), of the
    hybrid's v2 tree.
    """
    root = Path("/sys/fs/cgroup")
    for top in (root / name, *root.glob(f"*/{name}")):
        for directory in sorted((path for path in top.glob("**/") if path.is_dir()), reverse=True):
            with contextlib.suppress(OSError):
                directory.rmdir()
