# SPDX-License-Identifier: Apache-2.0
"""What the kernel says of a process: CPU time, memory, wake-ups, disk writes."""

from __future__ import annotations

import contextlib
import glob
import os
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of processes, in nanosecond steps where the kernel counts each thread, else in clock ticks."""
    return sum(_cpu_of(pid) for pid in pids)


def _cpu_of(pid: int) -> float:
    threads = glob.glob(f"/proc/{pid}/task/*/schedstat")
    if threads:
        return sum(int(_text(path).split()[0]) for path in threads) / 1e9
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_kib(pid: int) -> tuple[int, int]:
    """PSS and USS."""
    values = {}
    for line in _text(f"/proc/{pid}/smaps_rollup").splitlines()[1:]:
        name, _, rest = line.partition(":")
        values[name] = int(rest.split()[0])
    return values["Pss"], values["Private_Clean"] + values["Private_Dirty"]


def wake_ups(pid: int) -> int:
    """Context switches of all threads so far, voluntary or not."""
    total = 0
    for path in glob.glob(f"/proc/{pid}/task/*/status"):
        with contextlib.suppress(OSError):  # a worker thread that ended
            total += sum(int(line.split()[1]) for line in _text(path).splitlines() if "ctxt_switches" in line)
    return total


def written_bytes(pid: int) -> int:
    lines = dict(line.split(": ") for line in _text(f"/proc/{pid}/io").splitlines())
    return int(lines["write_bytes"])


def shims(namespace: str) -> list[int]:
    """Pids of the shims of a containerd namespace."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = _text(path).split("\0")
            if "containerd-shim" in words[0] and namespace in words:
                found.append(int(path.split("/")[2]))
    return found


def cpu_of_command(command: Sequence[str]) -> float:
    """CPU seconds of one run of a command that must succeed, its output thrown away."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{' '.join(command)} ended with {process.returncode}"
    return usage.ru_utime + usage.ru_stime


def settle(seconds: float) -> None:
    """Let a process come to rest, or let a measured span of time go by."""
    time.sleep(seconds)


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
