# SPDX-License-Identifier: Apache-2.0
"""CPU of one container's sample against a C program that takes the same numbers out of the same kept files.

On a cgroup v2 tree of plain files in memory, so that the figure is the same on every machine, whatever cgroups it has.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from figures import BenchmarkError, Figure

from pycm.metrics.sampler import Sampler
from support.cgroups import Machine, net_dev

if TYPE_CHECKING:
    from collections.abc import Mapping

LIMIT = 6.0
CONTAINERS = 10
ROUNDS = 15
SWEEPS = 200
C_SWEEPS = 1000
SOURCE = Path(__file__).with_name("floor.c")
#: What the C program takes out of a file, where the name of the figure does not say it.
KINDS = {
    "cpu.stat": "usage_usec",
    "memory.stat": "inactive_file",
    "io.stat": "io",
    "dev": "net",
    "memory.events": "oom_kill",
    "memory.oom_control": "oom_kill",
    "cpu.pressure": "psi",
    "memory.pressure": "psi",
    "io.pressure": "psi",
}
V1_MEMORY_STAT = "total_inactive_file"


def everything(_: str) -> bool:
    """A predicate that names all measurements, the extra ones too."""
    return True


def run(_: object) -> list[Figure]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="pycm-bench-", dir=memory) as directory:
        machine = Machine(Path(directory)).boot(v2="cgroup")
        sampler = Sampler(machine.proc)
        names = [f"c{number}" for number in range(CONTAINERS)]
        for number, name in enumerate(names):
            machine.container(name, 100 + number, network=net_dev(("eth0", 1236, 40)))
            sampler.open(name, 100 + number)
        with Floor() as floor:
            figures = [
                compare(floor, sampler, dict.fromkeys(names), "sample", "one container's sample, against C"),
                compare(
                    floor,
                    sampler,
                    dict.fromkeys(names, everything),
                    "sample-extras",
                    "the same with all extra measurements",
                ),
            ]
        sampler.close_all()
    return figures


class Floor:
    """The C program, built on the spot."""

    def __enter__(self):
        self._directory = tempfile.TemporaryDirectory(prefix="pycm-bench-")
        self._program = f"{self._directory.name}/floor"
        try:
            subprocess.run(["cc", "-O2", "-o", self._program, str(SOURCE)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            self._directory.cleanup()
            raise BenchmarkError(f"cannot build {SOURCE.name}: {error}; install gcc and libc6-dev") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()

    def nanoseconds(self, files: list[tuple[str, str]]) -> float:
        """CPU time of one sweep over (kind, path) files."""
        text = "".join(f"{kind} {path}\n" for kind, path in files)
        done = subprocess.run(
            [self._program, str(C_SWEEPS)], input=text, capture_output=True, text=True, check=True
        )
        return float(done.stdout.split()[0])


def compare(floor: Floor, sampler: Sampler, wanted: Mapping[str, object], name: str, text: str) -> Figure:
    """Both in turns, so that what else the machine does hits both; the median of the ratios of neighbours."""
    sampler.baseline(wanted)
    sampler.sample(wanted)  # makes the plans, opens what is opened late
    files = files_of(sampler, wanted)
    ratios, own = [], []
    for _ in range(ROUNDS):
        own.append(sweep_nanoseconds(sampler, wanted))
        ratios.append(own[-1] / floor.nanoseconds(files))
    microseconds = statistics.median(own) / len(wanted) / 1000
    detail = f"{microseconds:.1f} us a container, {len(files) // len(wanted)} files"
    return Figure(name, text, statistics.median(ratios), "times", LIMIT, detail=detail)


def sweep_nanoseconds(sampler: Sampler, wanted: Mapping[str, object]) -> float:
    before = time.process_time_ns()
    for _ in range(SWEEPS):
        sampler.sample(wanted)
    return (time.process_time_ns() - before) / SWEEPS


def files_of(sampler: Sampler, wanted: Mapping[str, object]) -> list[tuple[str, str]]:
    """The files that a sweep reads, with what is taken out of each."""
    files = []
    for name in wanted:
        reader = sampler._readers[name]
        probes = [reader._probes[figure] for figure in reader._probes]
        files += [probe._path for probe in [*probes, reader._network] if probe]
    return [(_kind(path), path) for path in files]


def _kind(path: str) -> str:
    name = os.path.basename(path)
    if name == "memory.stat" and "memory" in path.split("/")[:-1]:
        return V1_MEMORY_STAT
    return KINDS.get(name, "io" if name.startswith("blkio") else "=")
