# SPDX-License-Identifier: Apache-2.0
"""The names of the figures that pycm measures of a container, in the order in which they are reported.

The standard ones are Kanto's, those of the machine its system-metrics component's. The extra ones are pycm's own and are measured only when a request's filter spells them out, so that a
client of Kanto never meets an id that it does not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

CPU_UTILIZATION = "cpu.utilization"
MEMORY_TOTAL = "memory.total"
MEMORY_USED = "memory.used"
MEMORY_UTILIZATION = "memory.utilization"
IO_READ_BYTES = "io.readBytes"
IO_WRITE_BYTES = "io.writeBytes"
NET_READ_BYTES = "net.readBytes"
NET_WRITE_BYTES = "net.writeBytes"
PIDS = "pids"

CPU_THROTTLED = "cpu.throttled"
MEMORY_PRESSURE = "memory.pressure"
CPU_PRESSURE = "cpu.pressure"
IO_PRESSURE = "io.pressure"
MEMORY_OOM_KILLS = "memory.oomKills"

#: The originator that stands for the machine itself; others are containers (`Container:<id>`) or names of processes.
SYSTEM = "SYSTEM"
CPU_LOADS = ("cpu.load1", "cpu.load5", "cpu.load15")
MEMORY_AVAILABLE = "memory.available"

SYSTEM_IDS = (
    CPU_UTILIZATION,
    *CPU_LOADS,
    MEMORY_TOTAL,
    MEMORY_AVAILABLE,
    MEMORY_USED,
    MEMORY_UTILIZATION,
)
PROCESS_IDS = (CPU_UTILIZATION, MEMORY_UTILIZATION, IO_READ_BYTES, IO_WRITE_BYTES)

STANDARD_IDS = (
    CPU_UTILIZATION,
    MEMORY_TOTAL,
    MEMORY_USED,
    MEMORY_UTILIZATION,
    IO_READ_BYTES,
    IO_WRITE_BYTES,
    NET_READ_BYTES,
    NET_WRITE_BYTES,
    PIDS,
)
EXTRA_IDS = (CPU_THROTTLED, MEMORY_PRESSURE, CPU_PRESSURE, IO_PRESSURE, MEMORY_OOM_KILLS)
ALL_IDS = STANDARD_IDS + EXTRA_IDS

_EXTRA = frozenset(EXTRA_IDS)


def matches(measurement_id: str, text: str) -> bool:
    """Whether one text of a filter's id list selects a measurement.

    The text, stars at its ends dropped, is a prefix of a standard id; an extra id it has to spell out.
    """
    bare = text.strip("*")
    return measurement_id == bare if measurement_id in _EXTRA else measurement_id.startswith(bare)


#: Groups of the machine's figures that are measured only if a text begins literally so, stars included.
_GROUPS = (
    ("memory.", ("memory.",)),
    ("cpu.load", ("cpu.load", "cpu.*")),
    ("io.", ("io.",)),
)


def host_matches(measurement_id: str, texts: Sequence[str]) -> bool:
    """Whether a filter's id list selects a measurement of the machine or of a process; an empty one selects all."""
    if not texts:
        return True
    if not any(measurement_id.startswith(text.strip("*")) for text in texts):
        return False
    group = next((prefixes for begin, prefixes in _GROUPS if measurement_id.startswith(begin)), None)
    return group is None or any(text.startswith(group) for text in texts)


def host_ids(originator: str, texts: Sequence[str]) -> frozenset[str]:
    available = SYSTEM_IDS if originator == SYSTEM else PROCESS_IDS
    return frozenset(name for name in available if host_matches(name, texts))
