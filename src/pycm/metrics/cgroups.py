# SPDX-License-Identifier: Apache-2.0
"""Cgroups: which file holds which figure, and which directories belong to a container.

Three kinds of host exist: cgroup v2 alone; v1 alone, with one mount point for each controller; and hybrid, where v1 has
some controllers and a v2 tree beside it has the others and the pressure figures. Everywhere here a hierarchy is known
by the name of its v1 controller. The v2 tree has the name "" (`V2`), as in /proc/PID/cgroup.

Whether a v1 controller is alive and what its limit is, is asked once for each start through cgroupspy, whose
descriptors know the files of v1. They are used on a Node for the one cgroup: the trees of cgroupspy scan the whole
hierarchy, and can create cgroups while they read. Every sweep reads through kept descriptors.
"""

from __future__ import annotations

import errno
import re
from posixpath import basename, normpath
from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.metrics import counters
from pycm.metrics.files import Source, read_once
from pycm.model import measurements as ids

if TYPE_CHECKING:
    from collections.abc import Callable

V2 = ""
# fmt: off
#: Figure, hierarchy, file and parser. Of several rows for a figure, the first one whose file this machine has is used:
# v1 before
#: v2, because on a hybrid host a controller is in one of them only. CPU time is in nanoseconds in both.
FILES: tuple[tuple[str, str, str, Callable[[bytes], Any]], ...] = (
    ("cpu",                "cpuacct", "cpuacct.usage",    int),
    ("cpu",                V2,        "cpu.stat",         counters.usage_nanoseconds),
    ("memory",             "memory",  "memory.usage_in_bytes", int),
    ("memory",             V2,        "memory.current",   int),
    ("cache",              "memory",  "memory.stat",      counters.keyed("total_inactive_file")),
    ("cache",              V2,        "memory.stat",      counters.keyed("inactive_file")),
    ("io",                 "blkio",   "blkio.throttle.io_service_bytes_recursive", counters.io_service_bytes),
    ("io",                 "blkio",   "blkio.bfq.io_service_bytes_recursive", counters.io_service_bytes),
    ("io",                 "blkio",   "blkio.io_service_bytes_recursive", counters.io_service_bytes),
    ("io",                 V2,        "io.stat",          counters.io_stat),
    ("pids",               "pids",    "pids.current",     int),
    ("pids",               V2,        "pids.current",     int),
    (ids.CPU_THROTTLED,    "cpu",     "cpu.stat",         counters.scaled(counters.keyed("throttled_time"), 1e-9)),
    (ids.CPU_THROTTLED,    V2,        "cpu.stat",         counters.scaled(counters.keyed("throttled_usec"), 1e-6)),
    (ids.MEMORY_PRESSURE,  V2,        "memory.pressure",  counters.pressure),
    (ids.CPU_PRESSURE,     V2,        "cpu.pressure",     counters.pressure),
    (ids.IO_PRESSURE,      V2,        "io.pressure",      counters.pressure),
    (ids.MEMORY_OOM_KILLS, "memory",  "memory.oom_control", counters.keyed("oom_kill")),
    (ids.MEMORY_OOM_KILLS, V2,        "memory.events",    counters.keyed("oom_kill")),
)
# fmt: on
CONTROLLERS = frozenset(hierarchy for _, hierarchy, _, _ in FILES if hierarchy)
_ESCAPE = re.compile(r"\\([0-7]{3})")


def find_sources(directories: dict[str, str], figure: str) -> list[Source[Any]]:
    """The files in *directories* (hierarchy to path) that may hold *figure*, in order of preference."""
    return [
        Source(f"{directories[hierarchy]}/{name}", parser)
        for wanted, hierarchy, name, parser in FILES
        if wanted == figure and hierarchy in directories
    ]


def select_alive(directories: dict[str, str]) -> dict[str, str]:
    """*directories* without the v1 hierarchies that are not used here, or whose cgroup does not exist."""
    return {
        name: path
        for name, path in directories.items()
        if name == V2 or (name in CONTROLLERS and _is_alive(path))
    }


def _is_alive(directory: str) -> bool:
    from cgroupspy.controllers import Controller
    from cgroupspy.nodes import Node

    try:
        _ = Controller(Node(directory)).clone_children  # a flag that every v1 cgroup has, and no v2 cgroup
    except ValueError:
        return False
    except OSError as error:
        # Without a free descriptor nothing can be asked. The kept files have a fallback for this, so they may try.
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return True


def read_memory_limit(directories: dict[str, str]) -> int | None:
    """Bytes, or None without a limit (in v1, a number beyond any machine's memory). Errors: OSError, ValueError."""
    if "memory" in directories:
        from cgroupspy.controllers import MemoryController
        from cgroupspy.nodes import Node

        limit: int | None = MemoryController(Node(directories["memory"])).limit_in_bytes
        return limit
    return counters.limit(read_once(f"{directories[V2]}/memory.max")) if V2 in directories else None


# ── which directories a container has (pure) ────────────────────────────────────────────────────────────────────────


class Mount(NamedTuple):
    """A cgroup hierarchy: where it is mounted, and which part of it (`root`) is visible there."""

    point: str
    root: str

    def directory(self, path: str) -> str | None:
        """The directory of cgroup *path*. None for the top, which is the whole machine, and outside of the mount."""
        if self.root != "/" and (path == self.root or path.startswith(f"{self.root}/")):
            path = path[len(self.root) :]
        parts = path.split("/")
        return None if not path.strip("/") or ".." in parts else normpath(f"{self.point}/{path}")


def parse_mounts(text: str) -> dict[str, Mount]:
    """The cgroup mounts of a mountinfo by hierarchy. The first mount of a hierarchy is used."""
    mounts: dict[str, Mount] = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(" "), (*after.split(" "), "", "")[:3]
        names = {"cgroup2": [V2], "cgroup": options.split(",")}.get(kind, ())
        for name in names:
            mounts.setdefault(name, Mount(_unescape(fields[4]), _unescape(fields[3])))
    return mounts


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def find_directories(mounts: dict[str, Mount], proc_cgroup: str, container_id: str) -> dict[str, str]:
    """The directories of the container whose first process has *proc_cgroup* as its /proc/PID/cgroup, by hierarchy."""
    found = {}
    for line in proc_cgroup.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            directory = mounts[name].directory(_own_part(path, container_id)) if name in mounts else None
            if directory:
                found[name] = directory
    # On a hybrid host, an older runc leaves the v2 directory where containerd is: then it is not the container's own.
    own = {basename(path) for name, path in found.items() if name != V2}
    if own and V2 in found and basename(found[V2]) not in own:
        del found[V2]
    return found


def _own_part(path: str, container_id: str) -> str:
    """*path* up to the container's own cgroup: a service manager in a container moves itself further down."""
    parts = path.split("/")
    named = [index for index, part in enumerate(parts) if container_id in part]
    return "/".join(parts[: named[-1] + 1]) if named else path
