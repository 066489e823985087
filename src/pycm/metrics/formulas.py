# SPDX-License-Identifier: Apache-2.0
"""From kernel counters to the values that are reported: pure arithmetic, None where a value has to be left out."""

from __future__ import annotations

from typing import NamedTuple


class CpuTimes(NamedTuple):
    """CPU time of a container and of the whole machine at one moment, both in the same unit."""

    container: int
    system: int


def cpu_utilization(before: CpuTimes | None, now: CpuTimes) -> float | None:
    """Percent of all cores; None without an earlier sample or if the machine's clock did not advance."""
    if before is None or now.system <= before.system:
        return None
    return _percent(now.container - before.container, now.system - before.system)


def memory_total(limit: int | None, machine: int) -> int:
    """A container's memory is its limit, but never more than the machine has; 0 if neither is known."""
    if limit is None:
        return machine
    return min(limit, machine) if machine else limit


def memory_used(usage: int, inactive_file: int) -> int:
    """Without the file cache that the kernel gives back first; the two are read one after the other, so never below 0."""
    return max(usage - inactive_file, 0)


def memory_utilization(used: int, total: int) -> float | None:
    return _percent(used, total) if total > 0 else None


def _percent(part: int, whole: int) -> float:
    return min(max(part / whole * 100, 0.0), 100.0)
