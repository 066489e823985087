# SPDX-License-Identifier: Apache-2.0
"""A machine made of plain files: a /proc and cgroup trees as the sampler reads them, v2, v1 or hybrid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CPU_STAT = """\
usage_usec {usage}
user_usec 177147119
system_usec 93389146
nice_usec 0
core_sched.force_idle_usec 0
nr_periods 12
nr_throttled 3
throttled_usec 2500000
nr_bursts 0
burst_usec 0
"""
#: Keys of a memory.stat of Linux 6.x up to the one that is needed, and as many behind it.
_BEFORE = (
    "anon file kernel kernel_stack pagetables sec_pagetables percpu sock vmalloc shmem zswap zswapped file_mapped file_dirty "
    "file_writeback swapcached anon_thp file_thp shmem_thp inactive_anon active_anon"
)
_AFTER = (
    "active_file unevictable slab_reclaimable slab_unreclaimable slab workingset_refault_anon workingset_refault_file "
    "workingset_activate_anon workingset_activate_file workingset_restore_anon workingset_restore_file workingset_nodereclaim "
    "pgscan pgsteal pgscan_kswapd pgscan_direct pgsteal_kswapd pgsteal_direct pgfault pgmajfault pgrefill pgactivate "
    "pgdeactivate pglazyfree pglazyfreed thp_fault_alloc thp_collapse_alloc"
)
IO_STAT = """\
254:0 rbytes=1000 wbytes=200 rios=192 wios=353 dbytes=0 dios=0
8:0 rbytes=30 wbytes=4 rios=1 wios=1 dbytes=0 dios=0
"""
PRESSURE = """\
some avg10={0} avg60=1.00 avg300=0.50 total=123456
full avg10=0.00 avg60=0.00 avg300=0.00 total=0
"""
MEMORY_EVENTS = "low 0\nhigh 0\nmax 17\noom 2\noom_kill 1\noom_group_kill 0\n"
NET_DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:  777777      10    0    0    0     0          0         0   777777      10    0    0    0     0       0          0
"""
INTERFACE = "{name:>6}: {received:7} 12 0 0 0 0 0 0 {sent:8} 9 0 0 0 0 0 0\n"


def memory_stat(inactive: int) -> str:
    lines = [f"{key} {100 + index}" for index, key in enumerate(_BEFORE.split())]
    lines += [f"inactive_file {inactive}"]
    lines += [f"{key} {900 + index}" for index, key in enumerate(_AFTER.split())]
    return "\n".join(lines) + "\n"


def net_dev(*interfaces: tuple[str, int, int]) -> str:
    return NET_DEV + "".join(INTERFACE.format(name=n, received=r, sent=s) for n, r, s in interfaces)


@dataclass
class Machine:
    """`proc` is what a Sampler gets; the cgroup trees lie beside it."""

    root: Path

    @property
    def proc(self) -> str:
        return str(self.root / "proc")

    def write(self, path: str, text: str) -> Path:
        """A file below the root. Written in place, since the sampler keeps files open."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def boot(self, *, v2: str = "", v1: tuple[str, ...] = (), memory_kib: int = 1_000_000) -> Machine:
        """Mount a cgroup2 tree at *v2* and v1 controllers (several with a comma) below "v1/"."""
        lines = ["31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755"]
        lines += [f"32 31 0:29 / {self.root}/v1/{name} rw,relatime - cgroup cgroup rw,{name}" for name in v1]
        lines += [f"41 31 0:38 / {self.root}/{v2} rw,relatime shared:9 - cgroup2 cgroup2 rw"] if v2 else []
        self.write("proc/self/mountinfo", "\n".join(lines) + "\n")
        self.write("proc/self/ns/net", "")
        self.write("proc/meminfo", f"MemTotal:       {memory_kib} kB\nMemFree:         5 kB\n")
        self.system_ticks(1000)
        return self

    def system_ticks(self, ticks: int) -> None:
        self.write("proc/stat", f"cpu  {ticks} 0 0 0 0 0 0 0 999 999\ncpu0 1 2 3 4 5 6 7 8 9 10\nbtime 1\n")

    def process(self, pid: int, cgroup: str, network: str | None = None) -> None:
        """A process; *network*: its net/dev, None for the host's namespace."""
        self.write(f"proc/{pid}/cgroup", cgroup)
        namespace = self.root / f"proc/{pid}/ns/net"
        if network is None:
            namespace.parent.mkdir(parents=True, exist_ok=True)
            namespace.symlink_to(self.root / "proc/self/ns/net")
        else:
            self.write(f"proc/{pid}/ns/net", "")
            self.write(f"proc/{pid}/net/dev", network)

    def container(
        self, container_id: str, pid: int, *, v2: str = "cgroup", network: str | None = None
    ) -> str:
        """A container of a v2 machine with every file; returns its cgroup's path below the root."""
        path = f"{v2}/kanto-cm/{container_id}"
        self.cpu_usage(path, 5_000_000)
        self.write(f"{path}/memory.current", "50000\n")
        self.write(f"{path}/memory.stat", memory_stat(20000))
        self.write(f"{path}/memory.max", "100000\n")
        self.write(f"{path}/memory.events", MEMORY_EVENTS)
        self.write(f"{path}/io.stat", IO_STAT)
        self.write(f"{path}/pids.current", "7\n")
        for name, value in (("memory", "1.25"), ("cpu", "33.30"), ("io", "0.00")):
            self.write(f"{path}/{name}.pressure", PRESSURE.format(value))
        self.process(pid, f"0::/kanto-cm/{container_id}\n", network)
        return path

    def cpu_usage(self, path: str, microseconds: int) -> None:
        self.write(f"{path}/cpu.stat", CPU_STAT.format(usage=microseconds))
