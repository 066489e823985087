# SPDX-License-Identifier: Apache-2.0
"""cgroup v1, for hosts whose controllers are still there: which file of which controller says what.

Whether a container has a controller, and its limit, is asked once a start through cgroupspy, whose interface descriptors know the
files of v1. They are used on a Node made for the one cgroup; cgroupspy's trees scan the whole hierarchy and can even create cgroups
while reading. What is read in every sweep goes through kept descriptors, as everywhere.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from pycm.metrics import parse
from pycm.metrics.files import Source
from pycm.model import measurements as ids

if TYPE_CHECKING:
    from collections.abc import Callable

#: Figure to controller, file and parser; of several lines for a figure the first that the kernel has counts.
FILES: tuple[tuple[str, str, str, Callable[[bytes], Any]], ...] = (
    ("cpu", "cpuacct", "cpuacct.usage", int),
    ("memory", "memory", "memory.usage_in_bytes", int),
    ("cache", "memory", "memory.stat", parse.keyed("total_inactive_file")),
    ("io", "blkio", "blkio.throttle.io_service_bytes_recursive", parse.io_service_bytes),
    ("io", "blkio", "blkio.bfq.io_service_bytes_recursive", parse.io_service_bytes),
    ("io", "blkio", "blkio.io_service_bytes_recursive", parse.io_service_bytes),
    ("pids", "pids", "pids.current", int),
    (ids.CPU_THROTTLED, "cpu", "cpu.stat", parse.scaled(parse.keyed("throttled_time"), 1e-9)),
    (ids.MEMORY_OOM_KILLS, "memory", "memory.oom_control", parse.keyed("oom_kill")),
)
CONTROLLERS = frozenset(controller for _, controller, _, _ in FILES)


def sources(directories: dict[str, str], figure: str) -> list[Source[Any]]:
    return [
        Source(f"{directories[controller]}/{name}", parser)
        for wanted, controller, name, parser in FILES
        if wanted == figure and controller in directories
    ]


def present(directories: dict[str, str]) -> dict[str, str]:
    """Those of the directories that are a live cgroup of a controller that is used here."""
    return {name: path for name, path in directories.items() if name in CONTROLLERS and _answers(path)}


def _answers(directory: str) -> bool:
    from cgroupspy.controllers import Controller
    from cgroupspy.nodes import Node

    try:
        # A flag of every v1 cgroup: its name does not exist in v2.
        _ = Controller(Node(directory)).clone_children
    except ValueError:
        return False
    except OSError as error:
        # Without a descriptor to spare nothing can be asked: the kept files fall back too, so let them try.
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return True


def memory_limit(directory: str) -> int | None:
    """Bytes; no limit is a number beyond any machine's memory. Raises OSError and ValueError."""
    from cgroupspy.controllers import MemoryController
    from cgroupspy.nodes import Node

    limit: int | None = MemoryController(Node(directory)).limit_in_bytes
    return limit
