# SPDX-License-Identifier: Apache-2.0
"""Figures of the machine and its processes, as Kanto's system-metrics measures them. Imported with psutil by the first
request.

The machine's CPU utilization covers the time since the last sample of the same reader, so that two requests do not
disturb each other.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

import psutil

from pycm.errors import shorten
from pycm.model import measurements as ids
from pycm.ports import HostMeasurements, Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

LOG = logging.getLogger("pycm.metrics")

#: Seconds until a process name that was not found is searched again: a search reads all processes.
LOOK_AGAIN = 10.0
#: Process names of a request that are searched, found or not.
MAX_NAMES = 1024
#: Bytes of a process name that the kernel keeps.
_COMM = 15
_GONE = (psutil.Error, OSError, ValueError)


class Host:
    """*proc* is where the search for process names looks (psutil always reads the real /proc)."""

    def __init__(self, proc: str = "/proc", clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._clock = clock
        self._times: dict[str, tuple[float, float]] = {}
        self._processes: dict[str, psutil.Process] = {}
        self._missing: dict[str, float] = {}

    def baseline(self, reader: str) -> None:
        """Read CPU times now, so that the reader's next sample has a utilization."""
        self._times[reader] = _cpu_times()

    def sample(self, wanted: Mapping[str, frozenset[str]], reader: str) -> list[HostMeasurements]:
        """*wanted* maps originators to ids. Figures that do not exist or cannot be read are left out."""
        self._find_processes([name for name in wanted if name != ids.SYSTEM])
        result = []
        for originator, accepted in wanted.items():
            figures = self._system(reader) if originator == ids.SYSTEM else self._process(originator)
            try:
                found = tuple(Measurement(name, value) for name, value in figures if name in accepted)
            except _GONE as error:
                LOG.debug("system metrics: cannot measure process %s: %s", shorten(originator), error)
                self._processes.pop(originator, None)
                continue
            if found:
                result.append(HostMeasurements(originator, found))
        return result

    # ── the machine ──

    def _system(self, reader: str) -> Iterator[tuple[str, float]]:
        utilization = self._cpu(reader)
        if utilization is not None:
            yield ids.CPU_UTILIZATION, utilization
        yield from zip(ids.CPU_LOADS, os.getloadavg(), strict=True)
        memory = psutil.virtual_memory()
        used = memory.total - memory.free - memory.buffers - memory.cached
        yield ids.MEMORY_TOTAL, memory.total
        yield ids.MEMORY_AVAILABLE, memory.available
        yield ids.MEMORY_USED, used
        yield ids.MEMORY_UTILIZATION, 100 * used / memory.total if memory.total else 0

    def _cpu(self, reader: str) -> float | None:
        before, now = self._times.get(reader), _cpu_times()
        self._times[reader] = now
        if before is None or now[1] <= before[1]:
            return None
        return min(100.0, max(0.0, 100 * (now[0] - before[0]) / (now[1] - before[1])))

    # ── a process ──

    def _process(self, name: str) -> Iterator[tuple[str, float]]:
        process = self._processes.get(name)
        if process is None:
            return
        with process.oneshot():
            times = process.cpu_times()
            age = time.time() - process.create_time()
            if age > 0:
                yield ids.CPU_UTILIZATION, 100 * (times.user + times.system) / age
            yield ids.MEMORY_UTILIZATION, process.memory_percent()
            io = process.io_counters()
            yield ids.IO_READ_BYTES, io.read_bytes
            yield ids.IO_WRITE_BYTES, io.write_bytes

    def _find_processes(self, names: list[str]) -> None:
        """Find the first process of each name. A process that was found is used as long as it lives."""
        self._processes = {name: found for name, found in self._processes.items() if found.is_running()}
        now = self._clock()
        wanted = {
            name
            for name in names[:MAX_NAMES]
            if name not in self._processes and self._missing.get(name, now) <= now
        }
        if not wanted:
            return
        by_comm = {name.encode()[:_COMM] for name in wanted}
        for pid in sorted(int(entry) for entry in os.listdir(self._proc) if entry.isdigit()):
            if wanted and self._comm(pid) in by_comm:
                self._take(pid, wanted)
        self._missing = dict.fromkeys(wanted, now + LOOK_AGAIN)

    def _comm(self, pid: int) -> bytes:
        try:
            with open(f"{self._proc}/{pid}/comm", "rb") as file:
                return file.read(64).rstrip(b"\n")
        except OSError:
            return b""

    def _take(self, pid: int, wanted: set[str]) -> None:
        try:
            process = psutil.Process(pid)
            name = process.name()
        except _GONE:
            return
        if name in wanted:
            wanted.discard(name)
            self._processes[name] = process


def _cpu_times() -> tuple[float, float]:
    """(busy, all) seconds of all cores since the machine's start. User time includes the time of guests."""
    times = psutil.cpu_times()
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - times.idle - getattr(times, "iowait", 0.0), total
