# SPDX-License-Identifier: Apache-2.0
"""What /proc says: the machine's CPU time and memory, a container's network counters, and where its cgroup is."""

from __future__ import annotations

import logging
import os

from pycm.errors import shorten
from pycm.metrics import parse
from pycm.metrics.files import Descriptors, PagedProbe, Probe, Source, open_probe, read_once
from pycm.metrics.locate import Mounts, Places, parse_mounts, places

LOG = logging.getLogger("pycm.metrics")
NANOSECONDS = 1_000_000_000


class Proc:
    """The /proc of one machine, at *root*."""

    def __init__(self, root: str, descriptors: Descriptors) -> None:
        self._root = root
        self._descriptors = descriptors
        self._tick = NANOSECONDS // os.sysconf("SC_CLK_TCK")
        self._stat: Probe[int] | None = None
        self._memory: int | None = None
        self._mounts: Mounts | None = None

    def system_time(self) -> int:
        """CPU time of all cores since the machine's start in nanoseconds, idle time included; 0 if it cannot be read."""
        if self._stat is None:
            source = Source(f"{self._root}/stat", parse.system_ticks)
            self._stat = open_probe([source], self._descriptors)
        try:
            return self._stat.value() * self._tick if self._stat else 0
        except (OSError, *parse.MALFORMED) as error:
            LOG.warning("%s/stat: %s; this sweep has no CPU utilization", self._root, shorten(str(error)))
            return 0

    def memory(self) -> int:
        """The machine's memory in bytes, read once; 0 if it cannot be read."""
        if self._memory is None:
            try:
                self._memory = parse.memory_of_machine(read_once(f"{self._root}/meminfo"))
            except (OSError, *parse.MALFORMED) as error:
                LOG.warning("%s/meminfo: %s; memory counts as unlimited", self._root, shorten(str(error)))
                self._memory = 0
        return self._memory

    def places(self, container_id: str, pid: int) -> Places:
        """Where the process's cgroup is. Raises OSError if the process has ended, ValueError for a text that is not the kernel's."""
        if self._mounts is None:
            self._mounts = parse_mounts(os.fsdecode(read_once(f"{self._root}/self/mountinfo")))
        return places(self._mounts, os.fsdecode(read_once(f"{self._root}/{pid}/cgroup")), container_id)

    def shares_network(self, pid: int) -> bool:
        """Whether the process is in the network namespace of the agent, that is, of the host."""
        own, other = os.stat(f"{self._root}/self/ns/net"), os.stat(f"{self._root}/{pid}/ns/net")
        return (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino)

    def network(self, pid: int) -> Probe[parse.Pair] | None:
        """The counters of the process's network namespace, which lives as long as this is open."""
        source = Source(f"{self._root}/{pid}/net/dev", parse.net_dev)
        return open_probe([source], self._descriptors, PagedProbe)

    def close(self) -> None:
        if self._stat:
            self._stat.close()
            self._stat = None
