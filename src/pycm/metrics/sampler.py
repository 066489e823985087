# SPDX-License-Identifier: Apache-2.0
"""The Metrics port: opens the files of containers that run, and samples them all in one sweep."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from pycm.errors import shorten
from pycm.metrics import cgroup1
from pycm.metrics.files import GONE, Descriptors
from pycm.metrics.formulas import cpu_utilization
from pycm.metrics.proc import Proc
from pycm.metrics.reader import Reader
from pycm.model.measurements import CPU_UTILIZATION, STANDARD_IDS
from pycm.ports import ContainerMeasurements, Measurement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pycm.metrics.files import Probe
    from pycm.metrics.formulas import CpuTimes
    from pycm.metrics.host import Host
    from pycm.metrics.locate import Places
    from pycm.metrics.parse import Pair
    from pycm.ports import HostMeasurements

LOG = logging.getLogger("pycm.metrics")


class Sampler:
    """Implements `pycm.ports.Metrics`. *proc*: where the machine's /proc is; cgroups are found through its mountinfo.

    One thread uses it: the loop's. Six or seven descriptors a container are kept from `open` to `close`.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._descriptors = Descriptors()
        self._proc = Proc(proc, self._descriptors)
        self._readers: dict[str, Reader] = {}
        self._host: Host | None = None
        self._host_possible = True

    def open(self, container_id: str, pid: int) -> None:
        """The container runs: find its cgroup and open its files. One that has ended meanwhile is skipped."""
        self.close(container_id)
        try:
            where = self._proc.places(container_id, pid)
            where = replace(where, controllers=cgroup1.present(where.controllers))
            if not where.unified and not where.controllers:
                LOG.warning(
                    "container %s: not measured: process %d has no cgroup of its own", container_id, pid
                )
                return
            self._readers[container_id] = self._reader(container_id, pid, where)
        except OSError as error:
            if error.errno not in GONE:
                LOG.warning("container %s: not measured: %s", container_id, error)
        except ValueError as error:
            LOG.warning("container %s: not measured: /proc: %s", container_id, shorten(str(error)))

    def _reader(self, container_id: str, pid: int, where: Places) -> Reader:
        host = self._proc.shares_network(pid)
        network: Probe[Pair] | None = None if host else self._proc.network(pid)
        reader = Reader(container_id, where, network, self._descriptors, host_network=host)
        reader.read_limit(self._proc.memory())
        return reader

    def close(self, container_id: str) -> None:
        """The container has ended: release its files, and with them its network namespace."""
        reader = self._readers.pop(container_id, None)
        if reader:
            reader.close()
            self._descriptors.spent = False

    def close_all(self) -> None:
        for container_id in list(self._readers):
            self.close(container_id)
        self._proc.close()

    def limits_changed(self, container_id: str) -> None:
        reader = self._readers.get(container_id)
        if reader:
            reader.read_limit(self._proc.memory())

    def oom_kills(self, container_id: str) -> int:
        """Asked after an exit and before the task is deleted, since that removes the cgroup. 0 if not known."""
        reader = self._readers.get(container_id)
        return reader.oom_kills() if reader else 0

    def baseline(self, container_ids: Iterable[str]) -> None:
        """Remember CPU times, so that the next sample of these has a utilization."""
        readers = [self._readers[name] for name in container_ids if name in self._readers]
        if readers:
            system_time = self._proc.system_time()
            for reader in readers:
                reader.remember_cpu(system_time)

    def sample(self, wanted: Mapping[str, Callable[[str], bool] | None]) -> Sequence[ContainerMeasurements]:
        """One sweep over *wanted*, in its order; what is not open or gives nothing is left out.

        A predicate is asked once for each of `pycm.model.measurements.ALL_IDS` and its answers are kept for as long as the same
        object comes with the container, so it must not change its mind: make one for each request. None: the standard ones.
        """
        readers = [
            (name, self._readers[name], test) for name, test in wanted.items() if name in self._readers
        ]
        # No short circuit: each reader has to make its plan.
        needed = [reader.needs_system_time(test) for _, reader, test in readers]
        system_time = self._proc.system_time() if any(needed) else 0
        result = []
        for name, reader, _ in readers:
            values = reader.sample(system_time)
            if values:
                result.append(ContainerMeasurements(name, tuple(values)))
        return result

    # ── the machine ──

    def _the_host(self) -> Host | None:
        """None where the image was built without psutil: containers are measured on."""
        if self._host is None and self._host_possible:
            try:
                from pycm.metrics.host import Host  # and with it psutil, for those who ask
            except ImportError as error:
                self._host_possible = False
                LOG.warning("no figures of the machine: %s; install psutil", error)
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
    """Implements `pycm.ports.Meter`: CPU times of its own, so that several consumers do not shorten each other's spans."""

    def __init__(self, readers: Mapping[str, Reader], proc: Proc) -> None:
        self._readers = readers
        self._proc = proc
        self._before: dict[str, CpuTimes] = {}

    def sample(self, container_ids: Iterable[str]) -> Sequence[ContainerMeasurements]:
        readers = [(name, self._readers[name]) for name in container_ids if name in self._readers]
        system_time = self._proc.system_time() if readers else 0
        times: dict[str, CpuTimes] = {}
        result = []
        for name, reader in readers:
            now = reader.cpu_times(system_time)
            reader.needs_system_time(_all_but_cpu)
            values = reader.sample(system_time)
            if now is not None:
                times[name] = now
                share = cpu_utilization(self._before.get(name), now)
                if share is not None:
                    values = [Measurement(CPU_UTILIZATION, share), *values]
            result.append(ContainerMeasurements(name, tuple(values)))
        self._before = times
        return result


def _all_but_cpu(measurement_id: str) -> bool:
    return measurement_id in STANDARD_IDS and measurement_id != CPU_UTILIZATION
