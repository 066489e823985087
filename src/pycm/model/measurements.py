# SPDX-License-Identifier: Apache-2.0
"""The ids of the measurements, in the order in which they are reported.

Standard measurements of a container are Kanto's. Extra measurements are pycm's own; they are sent only if a filter
spells them out, so that a client of Kanto never gets an id that it does not know. System metrics are those of Kanto's
system-metrics component.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

STANDARD_IDS = (
    CPU_UTILIZATION := "cpu.utilization",
    MEMORY_TOTAL := "memory.total",
    MEMORY_USED := "memory.used",
    MEMORY_UTILIZATION := "memory.utilization",
    IO_READ_BYTES := "io.readBytes",
    IO_WRITE_BYTES := "io.writeBytes",
    NET_READ_BYTES := "net.readBytes",
    NET_WRITE_BYTES := "net.writeBytes",
    PIDS := "pids",
)
#: The file of each one is a row of `pycm.metrics.cgroups.FILES`.
EXTRA_IDS = (
    CPU_THROTTLED := "cpu.throttled",
    MEMORY_PRESSURE := "memory.pressure",
    CPU_PRESSURE := "cpu.pressure",
    IO_PRESSURE := "io.pressure",
    MEMORY_OOM_KILLS := "memory.oomKills",
)
ALL_IDS = STANDARD_IDS + EXTRA_IDS
_EXTRA = frozenset(EXTRA_IDS)

#: The originator that means the machine itself. Others are containers (`Container:<id>`) or names of processes.
SYSTEM = "SYSTEM"
CPU_LOADS = ("cpu.load1", "cpu.load5", "cpu.load15")
SYSTEM_IDS = (
    CPU_UTILIZATION,
    *CPU_LOADS,
    MEMORY_TOTAL,
    MEMORY_AVAILABLE := "memory.available",
    MEMORY_USED,
    MEMORY_UTILIZATION,
)
PROCESS_IDS = (CPU_UTILIZATION, MEMORY_UTILIZATION, IO_READ_BYTES, IO_WRITE_BYTES)


def matches(measurement_id: str, text: str) -> bool:
    """Whether one text of a filter's id list selects a measurement of a container.

    The text without the stars at its ends is a prefix of a standard id, or equal to an extra id.
    """
    bare = text.strip("*")
    return measurement_id == bare if measurement_id in _EXTRA else measurement_id.startswith(bare)


#: Groups of system metrics that are measured only if a text begins literally with one of the prefixes, stars included.
_GROUPS = (
    ("memory.", ("memory.",)),
    ("cpu.load", ("cpu.load", "cpu.*")),
    ("io.", ("io.",)),
)


def host_matches(measurement_id: str, texts: Sequence[str]) -> bool:
    """Whether a filter's id list selects a measurement of the machine or of a process. An empty list selects all."""
    if not texts:
        return True
    if not any(measurement_id.startswith(text.strip("*")) for text in texts):
        return False
    group = next((prefixes for begin, prefixes in _GROUPS if measurement_id.startswith(begin)), None)
    return group is None or any(text.startswith(group) for text in texts)


def host_ids(originator: str, texts: Sequence[str]) -> frozenset[str]:
    """The ids that the *texts* of a filter select for *originator*: the machine, or a process."""
    available = SYSTEM_IDS if originator == SYSTEM else PROCESS_IDS
    return frozenset(name for name in available if host_matches(name, texts))
