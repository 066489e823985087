# SPDX-License-Identifier: Apache-2.0
"""One running container: its open files, and a sample of them.

A sample is a list of steps, one a group of files, made once for the predicate that says which measurements are wanted: files whose
figures nobody wants are not read. Each step appends its measurements; one that fails is taken out and the others go on.
"""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from pycm.errors import shorten
from pycm.metrics import cgroup1, cgroup2, formulas
from pycm.metrics.files import GONE, Descriptors, Probe, Source, open_probe
from pycm.metrics.parse import MALFORMED, Pair
from pycm.model import measurements as ids
from pycm.ports import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.metrics.locate import Places

LOG = logging.getLogger("pycm.metrics")

#: The groups of standard measurements in the order of output, and the figures each reads.
GROUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "cpu": ((ids.CPU_UTILIZATION,), ("cpu",)),
    "memory": ((ids.MEMORY_TOTAL, ids.MEMORY_USED, ids.MEMORY_UTILIZATION), ("memory", "cache")),
    "io": ((ids.IO_READ_BYTES, ids.IO_WRITE_BYTES), ("io",)),
    "net": ((ids.NET_READ_BYTES, ids.NET_WRITE_BYTES), ()),
    "pids": ((ids.PIDS,), ("pids",)),
}
#: A container in the host's network has no traffic of its own.
_NO_TRAFFIC: Pair = (0, 0)


class Reader:
    """The files of one container's cgroup and network."""

    def __init__(
        self,
        container_id: str,
        where: Places,
        network: Probe[Pair] | None,
        descriptors: Descriptors,
        *,
        host_network: bool = False,
    ) -> None:
        self._id = container_id
        self._where = where
        self._descriptors = descriptors
        self._probes: dict[str, Probe[Any] | None] = {}
        self._network = network
        self._host_network = host_network
        self._memory_bytes = 0
        self._memory_total = Measurement(ids.MEMORY_TOTAL, 0)
        self._times: formulas.CpuTimes | None = None
        self._broken: set[str] = set()
        self._closed = False
        self._predicate: Any = self  # nothing planned yet; None is a predicate
        self._steps: list[tuple[str, Callable[[list[Measurement], int], None]]] = []
        self._only: frozenset[str] | None = None
        self._needs_cpu = False
        for _, figures in GROUPS.values():
            for figure in figures:
                self._probe(figure)
        if descriptors.spent:  # the agent needs some for itself
            self._release()

    # ── what is measured ────────────────────────────────────────────────────────────────────────────────────────────

    def needs_system_time(self, predicate: Callable[[str], bool] | None) -> bool:
        """Make ready for a sample with this predicate, which is asked once an id and then kept; True if CPU time is wanted."""
        if predicate != self._predicate:  # not "is not": a bound method is a new object each time
            self._plan(predicate)
        return self._needs_cpu

    def _plan(self, predicate: Callable[[str], bool] | None) -> None:
        self._predicate = predicate
        wanted = set(ids.STANDARD_IDS if predicate is None else filter(predicate, ids.ALL_IDS))
        self._steps = [
            (group, getattr(self, f"_{group}"))
            for group, (names, _) in GROUPS.items()
            if wanted.intersection(names) and self._available(group)
        ]
        covered = {name for group, _ in self._steps for name in GROUPS[group][0]}
        self._only = None if covered <= wanted else frozenset(wanted)
        self._needs_cpu = any(group == "cpu" for group, _ in self._steps)
        self._steps += [
            (extra, partial(self._extra, extra))
            for extra in ids.EXTRA_IDS
            if extra in wanted and self._available(extra)
        ]

    def _available(self, name: str) -> bool:
        if self._closed or name in self._broken:
            return False
        if name == "net":
            return self._host_network or self._network is not None
        figures = GROUPS[name][1] if name in GROUPS else (name,)
        return all(self._probe(figure) for figure in figures)

    def _probe(self, figure: str) -> Probe[Any] | None:
        """The figure's open file, opened the first time it is asked for; None if this machine does not have it."""
        if figure not in self._probes:
            self._probes[figure] = open_probe(self._sources(figure), self._descriptors)
        return self._probes[figure]

    def _sources(self, figure: str) -> list[Source[Any]]:
        """Where v1 has the controller, it counts; v2 beside it only adds what v1 does not know."""
        unified = self._where.unified
        first = cgroup1.sources(self._where.controllers, figure)
        return first + (cgroup2.sources(unified, figure) if unified else [])

    # ── the sample ──────────────────────────────────────────────────────────────────────────────────────────────────

    def sample(self, system_time: int) -> list[Measurement]:
        """The measurements that the last `needs_system_time` made ready."""
        out: list[Measurement] = []
        for name, step in self._steps:
            try:
                step(out, system_time)
            except (OSError, *MALFORMED) as error:
                self._lost(name, error)
                if self._closed:
                    return []
        only = self._only
        return out if only is None else [item for item in out if item.id in only]

    def _lost(self, name: str, error: Exception) -> None:
        """A step failed: quietly end everything if the cgroup has vanished, else say what is broken and go on with the rest."""
        gone = isinstance(error, OSError) and error.errno in GONE
        if gone and not self._exists():
            LOG.debug("container %s: its cgroup has ended", self._id)
            self.close()
            return
        level = logging.DEBUG if gone else logging.WARNING
        LOG.log(level, "container %s: no %s from now on: %s", self._id, name, shorten(str(error)))
        self._broken.add(name)
        self._predicate = self  # plan anew at the next sweep

    def _exists(self) -> bool:
        directories = (self._where.unified, *self._where.controllers.values())
        return any(directory and os.path.isdir(directory) for directory in directories)

    def remember_cpu(self, system_time: int) -> None:
        """Take the CPU times that the next sample compares with."""
        self._times = self.cpu_times(system_time) or self._times

    def cpu_times(self, system_time: int) -> formulas.CpuTimes | None:
        """For a consumer that compares on its own account; None if they cannot be read."""
        probe = self._probes.get("cpu")
        if probe is None or not system_time or not self._available("cpu"):
            return None
        try:
            return formulas.CpuTimes(probe.value(), system_time)
        except (OSError, *MALFORMED) as error:
            self._lost("cpu", error)
            return None

    def _cpu(self, out: list[Measurement], system_time: int) -> None:
        probe = self._probes["cpu"]
        assert probe
        if system_time:
            before, self._times = self._times, formulas.CpuTimes(probe.value(), system_time)
            value = formulas.cpu_utilization(before, self._times)
            if value is not None:
                out.append(Measurement(ids.CPU_UTILIZATION, value))

    def _memory(self, out: list[Measurement], _: int) -> None:
        usage, cache = self._probes["memory"], self._probes["cache"]
        assert usage
        assert cache
        used = formulas.memory_used(usage.value(), cache.value() or 0)
        out.append(self._memory_total)
        out.append(Measurement(ids.MEMORY_USED, used))
        share = formulas.memory_utilization(used, self._memory_bytes)
        if share is not None:
            out.append(Measurement(ids.MEMORY_UTILIZATION, share))

    def _io(self, out: list[Measurement], _: int) -> None:
        probe = self._probes["io"]
        assert probe
        sums = probe.value()
        if sums is not None:
            out.append(Measurement(ids.IO_READ_BYTES, sums[0]))
            out.append(Measurement(ids.IO_WRITE_BYTES, sums[1]))

    def _net(self, out: list[Measurement], _: int) -> None:
        received, sent = self._network.value() if self._network else _NO_TRAFFIC
        out.append(Measurement(ids.NET_READ_BYTES, received))
        out.append(Measurement(ids.NET_WRITE_BYTES, sent))

    def _pids(self, out: list[Measurement], _: int) -> None:
        probe = self._probes["pids"]
        assert probe
        count = probe.value()
        if count:
            out.append(Measurement(ids.PIDS, count))

    def _extra(self, name: str, out: list[Measurement], _: int) -> None:
        probe = self._probes[name]
        assert probe
        value = probe.value()
        if value is not None:
            out.append(Measurement(name, value))

    # ── what is asked once ──────────────────────────────────────────────────────────────────────────────────────────

    def read_limit(self, machine: int) -> None:
        """The container's memory: its limit, but not more than the machine has."""
        self._memory_bytes = formulas.memory_total(self._limit(), machine)
        self._memory_total = Measurement(ids.MEMORY_TOTAL, self._memory_bytes)

    def _limit(self) -> int | None:
        unified, first = self._where.unified, self._where.controllers.get("memory")
        try:
            if first:
                return cgroup1.memory_limit(first)
            return cgroup2.memory_limit(unified) if unified else None
        except (OSError, *MALFORMED) as error:
            LOG.debug("container %s: memory limit not known: %s", self._id, error)
            return None

    def oom_kills(self) -> int:
        probe = None if self._closed else self._probe(ids.MEMORY_OOM_KILLS)
        try:
            return (probe.value() or 0) if probe else 0
        except (OSError, *MALFORMED) as error:
            LOG.debug("container %s: OOM kills not known: %s", self._id, error)
            return 0

    def close(self) -> None:
        """Nothing is measured from here on."""
        self._release()
        self._closed = True
        self._steps = []

    def _release(self) -> None:
        for probe in (*self._probes.values(), self._network):
            if probe:
                probe.close()
