# SPDX-License-Identifier: Apache-2.0
"""The texts of cgroup and /proc files as counters, and counters as the values that are reported (pure).

The parsers run once for each container and sweep: they search in the bytes of the kernel instead of splitting whole
files. A parser returns None where the file does not contain the figure, and raises ValueError or IndexError
(`MALFORMED`) for a text that the kernel does not write. A formula returns None where the value has to be left out.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

Pair = tuple[int, int]
MALFORMED = (ValueError, IndexError)

_USAGE = b"usage_usec "
_PSI_START = b"some avg10="
_IO_DEVICES = re.compile(rb" rbytes=(\d+) wbytes=(\d+) ").findall
_NET_HEADER_LINES = 2
_NET_SENT = 8  # column of the bytes sent; the bytes received are column 0
_NET_FIELDS = 9
_STAT_FIELDS = 8  # user nice system idle iowait irq softirq steal; guest time is within user and nice


def keyed(key: str) -> Callable[[bytes], int | None]:
    """A parser for the number after *key* in a file of "key value" lines."""
    needle = f"\n{key} ".encode()
    first, length = needle[1:], len(needle)

    def parse(data: bytes) -> int | None:
        if data.startswith(first):
            start = length - 1
        else:
            found = data.find(needle)
            if found < 0:
                return None
            start = found + length
        return int(data[start : data.index(b"\n", start)])

    return parse


def usage_nanoseconds(data: bytes) -> int:
    """CPU time from a cgroup v2 cpu.stat, whose first line counts it in microseconds."""
    if not data.startswith(_USAGE):
        raise ValueError("the first line is not usage_usec")
    return int(data[len(_USAGE) : data.index(b"\n")]) * 1000


def scaled(parse: Callable[[bytes], int | None], factor: float) -> Callable[[bytes], float | None]:
    """A parser that multiplies the number of *parse* by *factor*."""

    def convert(data: bytes) -> float | None:
        value = parse(data)
        return None if value is None else value * factor

    return convert


def limit(data: bytes) -> int | None:
    """A cgroup v2 limit: None for "max"."""
    return None if data.startswith(b"max") else int(data)


def io_stat(data: bytes) -> Pair | None:
    """Bytes read and written on all devices of a cgroup v2 io.stat. None if no device has an entry."""
    devices = _IO_DEVICES(data)
    if not devices:
        return None
    read = written = 0
    for device_read, device_written in devices:
        read += int(device_read)
        written += int(device_written)
    return read, written


def io_service_bytes(data: bytes) -> Pair | None:
    """Bytes read and written on all devices of a cgroup v1 blkio file, whose lines are like "8:0 Read 4096"."""
    read = written = 0
    found = False
    for line in data.splitlines():
        fields = line.split()
        if len(fields) == 3:
            operation = fields[1].lower()
            if operation == b"read":
                read += int(fields[2])
            elif operation == b"write":
                written += int(fields[2])
            found = True
    return (read, written) if found else None


def net_dev(data: bytes) -> Pair:
    """Bytes received and sent over all interfaces except the loopback, from /proc/PID/net/dev."""
    received = sent = 0
    for line in data.split(b"\n")[_NET_HEADER_LINES:]:
        name, colon, counters = line.partition(b":")
        if colon and name.strip() != b"lo":
            fields = counters.split(None, _NET_FIELDS)
            received += int(fields[0])
            sent += int(fields[_NET_SENT])
    return received, sent


def pressure(data: bytes) -> float | None:
    """Percentage of the last ten seconds in which at least one task waited, from a PSI file."""
    if not data.startswith(_PSI_START):
        return None
    return float(data[len(_PSI_START) : data.index(b" ", len(_PSI_START))])


def system_ticks(data: bytes) -> int:
    """CPU time of the whole machine in clock ticks since its start, idle time included, from /proc/stat."""
    fields = data[: data.index(b"\n")].split()
    if fields[0] != b"cpu":
        raise ValueError("the first line does not begin with cpu")
    return sum(map(int, fields[1 : _STAT_FIELDS + 1]))


def memory_of_machine(data: bytes) -> int:
    """MemTotal of /proc/meminfo in bytes."""
    for line in data.splitlines():
        if line.startswith(b"MemTotal:"):
            return int(line.split()[1]) * 1024
    raise ValueError("no MemTotal line")


# ── from counters to values ─────────────────────────────────────────────────────────────────────────────────────────


class CpuTimes(NamedTuple):
    """CPU time of a container and of the whole machine at one moment, both in the same unit."""

    container: int
    system: int


def cpu_utilization(before: CpuTimes | None, now: CpuTimes) -> float | None:
    """Percentage of all cores. None without an earlier sample, or if the machine's CPU time did not advance."""
    if before is None or now.system <= before.system:
        return None
    return _percent(now.container - before.container, now.system - before.system)


def memory_total(limit: int | None, machine: int) -> int:
    """A container's memory: its limit, at most the memory of the *machine*. 0 if neither is known."""
    if limit is None:
        return machine
    return min(limit, machine) if machine else limit


def memory_used(usage: int, inactive_file: int) -> int:
    """Usage without the file cache that is reclaimed first. They are not read at one moment: the minimum is 0."""
    return max(usage - inactive_file, 0)


def memory_utilization(used: int, total: int) -> float | None:
    return _percent(used, total) if total > 0 else None


def _percent(part: int, whole: int) -> float:
    return min(max(part / whole * 100, 0.0), 100.0)
