# SPDX-License-Identifier: Apache-2.0
"""cgroup v2: which file of a container's cgroup says what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pycm.metrics import parse
from pycm.metrics.files import Source, read_once
from pycm.model import measurements as ids

if TYPE_CHECKING:
    from collections.abc import Callable

#: Figure to file and parser. CPU time in microseconds is reported in nanoseconds, as cgroup v1 counts.
FILES: dict[str, tuple[str, Callable[[bytes], Any]]] = {
    "cpu": ("cpu.stat", parse.usage_nanoseconds),
    "memory": ("memory.current", int),
    "cache": ("memory.stat", parse.keyed("inactive_file")),
    "io": ("io.stat", parse.io_stat),
    "pids": ("pids.current", int),
    ids.CPU_THROTTLED: ("cpu.stat", parse.scaled(parse.keyed("throttled_usec"), 1e-6)),
    ids.MEMORY_PRESSURE: ("memory.pressure", parse.pressure),
    ids.CPU_PRESSURE: ("cpu.pressure", parse.pressure),
    ids.IO_PRESSURE: ("io.pressure", parse.pressure),
    ids.MEMORY_OOM_KILLS: ("memory.events", parse.keyed("oom_kill")),
}


def sources(directory: str, figure: str) -> list[Source[Any]]:
    if figure not in FILES:
        return []
    name, parser = FILES[figure]
    return [Source(f"{directory}/{name}", parser)]


def memory_limit(directory: str) -> int | None:
    """Bytes; None without a limit. Raises OSError if the memory controller is not on, ValueError for a foreign text."""
    return parse.limit(read_once(f"{directory}/memory.max"))
