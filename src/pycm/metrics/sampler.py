# SPDX-License-Identifier: Apache-2.0
"""The Metrics port: opens the files of running containers and samples them all in one sweep."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from pycm.errors import shorten
from pycm.metrics import cgroups, counters
from pycm.metrics.files import GONE, Descriptors, PagedProbe, Probe, Source, open_probe, read_once
from pycm.metrics.reader import Reader
from pycm.model.measurements import CPU_UTILIZATION, STANDARD_IDS
from pycm.ports import ContainerMeasurements, Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pycm.metrics.host import Host
    from pycm.ports import HostMeasurements

LOG = logging.getLogger("pycm.metrics")
NANOSECONDS = 1_000_000_000


class Proc:
    """The /proc of one machine, at *root*: CPU time and memory of the machine, and what belongs to a process."""

    def __init__(self, root: str, descriptors: Descriptors) -> None:
        self._root = root
        self._descriptors = descriptors
        self._tick = NANOSECONDS // os.sysconf("SC_CLK_TCK")
        self._stat: Probe[int] | None = None
        self._memory: int | None = None
        self._mounts: dict[str, cgroups.Mount] | None = None

    def system_time(self) -> int:
        """CPU time of all cores since the machine's start in ns, idle time included. 0 if it cannot be read."""
        if self._stat is None:
            source = Source(f"{self._root}/stat", counters.system_ticks)
            self._stat = open_probe([source], self._descriptors)
        try:
            return self._stat.value() * self._tick if self._stat else 0
        except (OSError, *counters.MALFORMED) as error:
            text = "%s/stat: cannot read the CPU time: %s (this sweep has no CPU utilization)"
            LOG.warning(text, self._root, shorten(str(error)))
            return 0

    def memory(self) -> int:
        """The machine's memory in bytes, read once. 0 if it cannot be read."""
        if self._memory is None:
            try:
                self._memory = counters.memory_of_machine(read_once(f"{self._root}/meminfo"))
            except (OSError, *counters.MALFORMED) as error:
                text = "%s/meminfo: cannot read the memory size: %s (memory counts as unlimited)"
                LOG.warning(text, self._root, shorten(str(error)))
                self._memory = 0
        return self._memory

    def find_cgroups(self, container_id: str, pid: int) -> dict[str, str]:
        """The container's cgroup directories. OSError if the process has ended, ValueError for malformed files."""
        if self._mounts is None:
            self._mounts = cgroups.parse_mounts(os.fsdecode(read_once(f"{self._root}/self/mountinfo")))
        text = os.fsdecode(read_once(f"{self._root}/{pid}/cgroup"))
        return cgroups.select_alive(cgroups.find_directories(self._mounts, text, container_id))

    def shares_network(self, pid: int) -> bool:
        """Whether the process is in the agent's network namespace, which is the host's."""
        own, other = os.stat(f"{self._root}/self/ns/net"), os.stat(f"{self._root}/{pid}/ns/net")
        return (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino)

    def network(self, pid: int) -> Probe[counters.Pair] | None:
        """The counters of the process's network namespace, which exists as long as this is open."""
        source = Source(f"{self._root}/{pid}/net/dev", counters.net_dev)
        return open_probe([source], self._descriptors, PagedProbe)

    def close(self) -> None:
        if self._stat:
            self._stat.close()
            self._stat = None


class Sampler:
    """Implements `pycm.ports.Metrics`. *proc* is where the machine's /proc is; its mountinfo says where the cgroups
    are.

    Only the loop's thread uses it. Six or seven descriptors for each container stay open from `open` to `close`.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._descriptors = Descriptors()
        self._proc = Proc(proc, self._descriptors)
        self._readers: dict[str, Reader] = {}
        self._host: Host | None = None
        self._can_measure_host = True

    def open(self, container_id: str, pid: int) -> None:
        """The container runs: find its cgroup and open its files. A process that has ended is skipped."""
        self.close(container_id)
        try:
            directories = self._proc.find_cgroups(container_id, pid)
            if directories:
                self._readers[container_id] = self._reader(container_id, pid, directories)
            else:
                LOG.warning(
                    "container %s: process %d has no cgroup of its own (not measured)", container_id, pid
                )
        except OSError as error:
            if error.errno not in GONE:
                LOG.warning("container %s: cannot open its counters: %s (not measured)", container_id, error)
        except ValueError as error:
            text = "container %s: malformed file in /proc: %s (not measured)"
            LOG.warning(text, container_id, shorten(str(error)))

    def _reader(self, container_id: str, pid: int, directories: dict[str, str]) -> Reader:
        host = self._proc.shares_network(pid)
        network = None if host else self._proc.network(pid)
        reader = Reader(container_id, directories, network, self._descriptors, host_network=host)
        reader.read_limit(self._proc.memory())
        return reader

    def close(self, container_id: str) -> int:
        """Release the container's files, and with them its network namespace. Return the OOM kills in its cgroup, 0 if
        unknown.
        """
        reader = self._readers.pop(container_id, None)
        if reader is None:
            return 0
        kills = reader.oom_kills()
        reader.close()
        self._descriptors.spent = False
        return kills

    def close_all(self) -> None:
        for container_id in list(self._readers):
            self.close(container_id)
        self._proc.close()

    def limits_changed(self, container_id: str) -> None:
        reader = self._readers.get(container_id)
        if reader:
            reader.read_limit(self._proc.memory())

    def baseline(self, container_ids: Iterable[str]) -> None:
        """Read CPU times now, so that the next sample of these containers has a utilization."""
        readers = [self._readers[name] for name in container_ids if name in self._readers]
        if readers:
            system_time = self._proc.system_time()
            for reader in readers:
                reader.remember_cpu(system_time)

    def sample(self, wanted: Mapping[str, Callable[[str], bool] | None]) -> Sequence[ContainerMeasurements]:
        """Sweep once over *wanted*, in its order. Containers that are not open or give nothing are left out.

        A predicate is called once for each of `pycm.model.measurements.ALL_IDS`. Its answers are kept for as long as
        the same object comes with the container, so use a new predicate for each request. None selects Kanto's
        measurements.
        """
        readers = [
            (name, self._readers[name], test) for name, test in wanted.items() if name in self._readers
        ]
        needed = [reader.plan(test) for _, reader, test in readers]  # a list: every reader has to plan
        system_time = self._proc.system_time() if any(needed) else 0
        result = []
        for name, reader, _ in readers:
            values = reader.sample(system_time)
            if values:
                result.append(ContainerMeasurements(name, tuple(values)))
        return result

    # ── the machine ──

    def _the_host(self) -> Host | None:
        """None where the image was built without psutil. Containers are measured without it."""
        if self._host is None and self._can_measure_host:
            try:
                from pycm.metrics.host import Host  # imports psutil, which few requests need
            except ImportError as error:
                self._can_measure_host = False
                LOG.warning("system metrics: unavailable: %s (install psutil)", error)
            else:
                self._host = Host()
        return self._host

    def host_baseline(self, reader: str) -> None:
        if host := self._the_host():
            host.baseline(reader)

    def host(self, wanted: Mapping[str, frozenset[str]], reader: str) -> Sequence[HostMeasurements]:
        host = self._the_host()
        return host.sample(wanted, reader) if host else ()

    def meter(self) -> Meter:
        return Meter(self._readers, self._proc)


class Meter:
    """Implements `pycm.ports.Meter` with CPU times of its own, so that consumers do not share intervals."""

    def __init__(self, readers: Mapping[str, Reader], proc: Proc) -> None:
        self._readers = readers
        self._proc = proc
        self._before: dict[str, counters.CpuTimes] = {}

    def sample(self, container_ids: Iterable[str]) -> Sequence[ContainerMeasurements]:
        readers = [(name, self._readers[name]) for name in container_ids if name in self._readers]
        system_time = self._proc.system_time() if readers else 0
        times: dict[str, counters.CpuTimes] = {}
        result = []
        for name, reader in readers:
            now = reader.cpu_times(system_time)
            reader.plan(_is_standard_but_cpu)
            values = reader.sample(system_time)
            if now is not None:
                times[name] = now
                share = counters.cpu_utilization(self._before.get(name), now)
                if share is not None:
                    values = [Measurement(CPU_UTILIZATION, share), *values]
            result.append(ContainerMeasurements(name, tuple(values)))
        self._before = times
        return result


def _is_standard_but_cpu(measurement_id: str) -> bool:
    return measurement_id in STANDARD_IDS and measurement_id != CPU_UTILIZATION
