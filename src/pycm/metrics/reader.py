# SPDX-License-Identifier: Apache-2.0
"""One running container: its open files, and a sample of them.

A sample is a list of steps, one for each group of files. The list is made once for the predicate that selects the
measurements, so that files with no wanted figure are not read. Each step appends its measurements. A step that fails is
dropped; the others continue.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from pycm.errors import shorten
from pycm.metrics import counters
from pycm.metrics.cgroups import find_sources, read_memory_limit
from pycm.metrics.counters import MALFORMED, Pair
from pycm.metrics.files import GONE, Descriptors, Probe, open_probe
from pycm.model import measurements as ids
from pycm.ports import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable

LOG = logging.getLogger("pycm.metrics")

# fmt: off
#: The groups of Kanto's measurements in the order of output, and the figures that each one reads.
GROUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cpu":    ((ids.CPU_UTILIZATION,), ("cpu",)),
    "memory": ((ids.MEMORY_TOTAL, ids.MEMORY_USED, ids.MEMORY_UTILIZATION), ("memory", "cache")),
    "io":     ((ids.IO_READ_BYTES, ids.IO_WRITE_BYTES), ("io",)),
    "net":    ((ids.NET_READ_BYTES, ids.NET_WRITE_BYTES), ()),
    "pids":   ((ids.PIDS,), ("pids",)),
}
# fmt: on
#: A container in the host's network has no traffic of its own.
_NO_TRAFFIC: Pair = (0, 0)


class Reader:
    """The files of one container's cgroup (*directories*, by hierarchy) and network."""

    def __init__(
        self,
        container_id: str,
        directories: dict[str, str],
        network: Probe[Pair] | None,
        descriptors: Descriptors,
        *,
        host_network: bool = False,
    ) -> None:
        self._id = container_id
        self._directories = directories
        self._descriptors = descriptors
        self._probes: dict[str, Probe[Any] | None] = {}
        self._read: dict[str, Callable[[], Any]] = {}  # the values of the probes
        self._network = network
        self._host_network = host_network
        self._memory_bytes = 0
        self._memory_total = Measurement(ids.MEMORY_TOTAL, 0)
        self._times: counters.CpuTimes | None = None
        self._broken: set[str] = set()
        self._closed = False
        self._predicate: Any = self  # no plan yet; None is a predicate
        self._steps: list[tuple[str, Callable[[list[Measurement], int], None]]] = []
        self._only: frozenset[str] | None = None
        self._needs_cpu = False
        for _, figures in GROUPS.values():
            for figure in figures:
                self._probe(figure)
        if descriptors.spent:  # the agent needs some for itself
            self._release()

    # ── the plan ──

    def plan(self, predicate: Callable[[str], bool] | None) -> bool:
        """Ask *predicate* once for each id, and prepare `sample`. Return whether it needs the system time."""
        if predicate != self._predicate:  # not "is not": a bound method is a new object each time
            self._make_steps(predicate)
        return self._needs_cpu

    def _make_steps(self, predicate: Callable[[str], bool] | None) -> None:
        self._predicate = predicate
        wanted = set(ids.STANDARD_IDS if predicate is None else filter(predicate, ids.ALL_IDS))
        self._steps = [
            (group, getattr(self, f"_{group}"))
            for group, (names, _) in GROUPS.items()
            if wanted.intersection(names) and self._is_available(group)
        ]
        covered = {name for group, _ in self._steps for name in GROUPS[group][0]}
        self._only = None if covered <= wanted else frozenset(wanted)
        self._needs_cpu = any(group == "cpu" for group, _ in self._steps)
        self._steps += [
            (extra, partial(self._extra, extra))
            for extra in ids.EXTRA_IDS
            if extra in wanted and self._is_available(extra)
        ]

    def _is_available(self, name: str) -> bool:
        if self._closed or name in self._broken:
            return False
        if name == "net":
            return self._host_network or self._network is not None
        figures = GROUPS[name][1] if name in GROUPS else (name,)
        return all(self._probe(figure) for figure in figures)

    def _probe(self, figure: str) -> Probe[Any] | None:
        """The open file of *figure*, opened on first use. None if this machine does not have it."""
        if figure not in self._probes:
            probe = open_probe(find_sources(self._directories, figure), self._descriptors)
            self._probes[figure] = probe
            if probe:
                self._read[figure] = probe.value
        return self._probes[figure]

    # ── the sample ──

    def sample(self, system_time: int) -> list[Measurement]:
        """The measurements that the last `plan` selected."""
        out: list[Measurement] = []
        for name, step in self._steps:
            try:
                step(out, system_time)
            except (OSError, *MALFORMED) as error:
                self._drop(name, error)
                if self._closed:
                    return []
        only = self._only
        return out if only is None else [item for item in out if item.id in only]

    def _drop(self, name: str, error: Exception) -> None:
        """Stop measuring *name*. If the cgroup is gone, the container has ended: stop everything without a warning."""
        gone = isinstance(error, OSError) and error.errno in GONE
        if gone and not any(map(os.path.isdir, self._directories.values())):
            LOG.debug("container %s: cgroup is gone", self._id)
            self.close()
            return
        level = logging.DEBUG if gone else logging.WARNING
        text = "container %s: cannot read %s: %s (not measured until the container restarts)"
        LOG.log(level, text, self._id, name, shorten(str(error)))
        self._broken.add(name)
        self._predicate = self  # the next sweep makes a new plan

    def remember_cpu(self, system_time: int) -> None:
        """Read the CPU times that the next sample is compared with."""
        self._times = self.cpu_times(system_time) or self._times

    def cpu_times(self, system_time: int) -> counters.CpuTimes | None:
        """For a consumer that compares by itself. None if they cannot be read."""
        if not system_time or not self._is_available("cpu"):
            return None
        try:
            return counters.CpuTimes(self._read["cpu"](), system_time)
        except (OSError, *MALFORMED) as error:
            self._drop("cpu", error)
            return None

    def _cpu(self, out: list[Measurement], system_time: int) -> None:
        if system_time:
            before, self._times = self._times, counters.CpuTimes(self._read["cpu"](), system_time)
            value = counters.cpu_utilization(before, self._times)
            if value is not None:
                out.append(Measurement(ids.CPU_UTILIZATION, value))

    def _memory(self, out: list[Measurement], _: int) -> None:
        used = counters.memory_used(self._read["memory"](), self._read["cache"]() or 0)
        out.append(self._memory_total)
        out.append(Measurement(ids.MEMORY_USED, used))
        share = counters.memory_utilization(used, self._memory_bytes)
        if share is not None:
            out.append(Measurement(ids.MEMORY_UTILIZATION, share))

    def _io(self, out: list[Measurement], _: int) -> None:
        sums = self._read["io"]()
        if sums is not None:
            out.append(Measurement(ids.IO_READ_BYTES, sums[0]))
            out.append(Measurement(ids.IO_WRITE_BYTES, sums[1]))

    def _net(self, out: list[Measurement], _: int) -> None:
        received, sent = self._network.value() if self._network else _NO_TRAFFIC
        out.append(Measurement(ids.NET_READ_BYTES, received))
        out.append(Measurement(ids.NET_WRITE_BYTES, sent))

    def _pids(self, out: list[Measurement], _: int) -> None:
        count = self._read["pids"]()
        if count:
            out.append(Measurement(ids.PIDS, count))

    def _extra(self, name: str, out: list[Measurement], _: int) -> None:
        value = self._read[name]()
        if value is not None:
            out.append(Measurement(name, value))

    # ── outside a sweep ──

    def read_limit(self, machine: int) -> None:
        """Read the container's memory limit. It counts only below *machine*, the bytes that the machine has."""
        try:
            limit = read_memory_limit(self._directories)
        except (OSError, *MALFORMED) as error:
            LOG.debug("container %s: cannot read the memory limit: %s", self._id, error)
            limit = None
        self._memory_bytes = counters.memory_total(limit, machine)
        self._memory_total = Measurement(ids.MEMORY_TOTAL, self._memory_bytes)

    def oom_kills(self) -> int:
        """Number of OOM kills in the container's cgroup, 0 if unknown."""
        probe = None if self._closed else self._probe(ids.MEMORY_OOM_KILLS)
        try:
            return (probe.value() or 0) if probe else 0
        except (OSError, *MALFORMED) as error:
            LOG.debug("container %s: cannot read the OOM kills: %s", self._id, error)
            return 0

    def close(self) -> None:
        """Release all files. Later samples are empty."""
        self._release()
        self._closed = True
        self._steps = []

    def _release(self) -> None:
        for probe in (*self._probes.values(), self._network):
            if probe:
                probe.close()
