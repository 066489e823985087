# SPDX-License-Identifier: Apache-2.0
"""What the sampler does when things end or break; what vanishes is played with files of ended processes."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import resource
import subprocess

import pytest

from pycm.metrics.sampler import Sampler
from pycm.model import measurements as ids
from support import cgroups
from support.sampling import everything, kept, values

TICK = 1_000_000 // os.sysconf("SC_CLK_TCK")  # microseconds
PID = 4711
ETH0 = cgroups.net_dev(("eth0", 1236, 40))


@pytest.fixture
def ended_files(machine):
    """A function that replaces files by those of a process, and one that ends it: their descriptors then answer ESRCH."""
    process = subprocess.Popen(["sleep", "60"])

    def replace(path, *names):
        for name in names:
            (machine.root / path / name).unlink()
            (machine.root / path / name).symlink_to(f"/proc/{process.pid}/oom_score")

    def end():
        process.kill()
        process.wait()

    yield replace, end
    end()


def test_a_vanished_cgroup_ends_its_readers_quietly(machine, sampler, ended_files, caplog):
    replace, end = ended_files
    path = machine.container("c1", PID, network=ETH0)
    machine.container("c2", PID + 1)
    replace(path, "memory.current", "pids.current")
    sampler.open("c1", PID)
    sampler.open("c2", PID + 1)
    assert ids.PIDS in values(sampler)
    end()
    (machine.root / path).rename(machine.root / "gone")
    with caplog.at_level(logging.INFO):
        found = sampler.sample({"c1": None, "c2": None})
    assert [one.container_id for one in found] == ["c2"]
    assert caplog.messages == []
    assert not any("c1" in name or "gone" in name or str(PID) + "/net" in name for name in kept(machine))
    assert values(sampler) == {}
    (machine.root / "gone").rename(machine.root / path)
    assert (
        values(sampler, predicate=[ids.IO_READ_BYTES].__contains__) == {}
    )  # a new cgroup of that name is another's
    sampler.baseline(["c1"])
    assert sampler.close("c1") == 0


def test_a_controller_that_is_turned_off_ends_only_its_own_figures(machine, sampler, ended_files, caplog):
    replace, end = ended_files
    path = machine.container("c1", PID)
    replace(path, "pids.current")
    sampler.open("c1", PID)
    end()
    with caplog.at_level(logging.INFO):
        assert ids.MEMORY_USED in values(sampler)
        assert ids.PIDS not in values(sampler)
    assert caplog.messages == []


def test_a_file_that_is_not_the_kernels_is_named_once_and_the_rest_goes_on(machine, sampler, caplog):
    path = machine.container("c1", PID)
    machine.write(f"{path}/pids.current", "many\n")
    sampler.open("c1", PID)
    assert ids.MEMORY_USED in values(sampler)
    assert ids.MEMORY_USED in values(sampler)
    (message,) = caplog.messages
    assert "c1" in message
    assert "pids" in message


def test_a_broken_cpu_file_at_the_baseline_is_named_once(machine, sampler, caplog):
    path = machine.container("c1", PID)
    machine.write(f"{path}/cpu.stat", "nonsense\n")
    sampler.open("c1", PID)
    sampler.baseline(["c1"])
    sampler.baseline(["c1"])
    assert next(iter(values(sampler))) == ids.MEMORY_TOTAL
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("number", [errno.ENODEV, errno.ESRCH])
def test_a_process_that_has_ended_at_open_is_skipped_quietly(machine, sampler, caplog, number, monkeypatch):
    machine.container("c1", PID)
    monkeypatch.setattr(os, "stat", lambda path: (_ for _ in ()).throw(OSError(number, "gone", path)))
    sampler.open("c1", PID)
    monkeypatch.undo()
    assert values(sampler) == {}
    assert caplog.messages == []


def test_an_unknown_process_is_skipped_quietly(sampler, caplog):
    sampler.open("c1", 999)
    assert values(sampler) == {}
    assert caplog.messages == []


def test_a_process_without_a_cgroup_of_its_own_is_named_and_skipped(machine, sampler, caplog):
    machine.process(PID, "0::/\n")
    sampler.open("c1", PID)
    assert values(sampler) == {}
    assert "c1" in caplog.messages[0]


def test_a_foreign_cgroup_text_is_named_and_skipped(machine, sampler, caplog):
    machine.process(PID, "nonsense\n")
    sampler.open("c1", PID)
    assert values(sampler) == {}
    assert len(caplog.messages) == 1


def test_close_releases_every_descriptor(machine, sampler):
    machine.container("c1", PID, network=ETH0)
    before = kept(machine)
    sampler.open("c1", PID)
    values(sampler, predicate=everything)
    sampler.close("c1")
    sampler.close("c1")
    assert {path for path in kept(machine) - before if "/c1/" in path or f"/{PID}/" in path} == set()
    assert values(sampler) == {}


def test_opening_again_releases_the_descriptors_of_before(machine, sampler):
    machine.container("c1", PID, network=ETH0)
    sampler.open("c1", PID)
    values(sampler)
    count = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        sampler.open("c1", PID)
    assert len(os.listdir("/proc/self/fd")) == count


def test_oom_kills_are_counted_and_unknown_ones_are_0(machine, sampler):
    path = machine.container("c1", PID)
    sampler.open("c1", PID)
    assert sampler.close("c1") == 1
    sampler.open("c1", PID)
    machine.write(f"{path}/memory.events", "low 0\nhigh 0\nmax 17\noom 2\noom_kill 3\noom_group_kill 0\n")
    assert sampler.close("c1") == 3
    assert sampler.close("c1") == 0
    assert sampler.close("unknown") == 0


def number_with_free_below(count):
    """A limit of descriptors that leaves *count* of them."""
    used = set(map(int, os.listdir("/proc/self/fd")))
    free = (number for number in itertools.count() if number not in used)
    return next(itertools.islice(free, count, None))


def test_descriptors_are_kept_again_once_a_container_has_released_its_own(machine, sampler):
    machine.container("c1", PID)
    sampler.open("c1", PID)
    sampler._descriptors.exhausted()
    machine.container("c2", PID + 1)
    sampler.open("c2", PID + 1)
    assert not any("/c2/" in name for name in kept(machine))
    sampler.close("c1")
    sampler.open("c2", PID + 1)
    assert any("/c2/" in name for name in kept(machine))


def test_without_free_descriptors_files_are_opened_for_each_sample(machine, caplog):
    path = machine.container("c1", PID, network=ETH0)
    machine.container("c2", PID + 1, network=ETH0)
    sampler = Sampler(machine.proc)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number_with_free_below(4), hard))
    try:
        sampler.open("c1", PID)
        sampler.open("c2", PID + 1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not any("/kanto-cm/" in name for name in kept(machine))  # none are kept from the rest of the agent
    sampler.sample({"c1": None, "c2": None})
    machine.system_ticks(1100)
    machine.cpu_usage(path, 5_000_000 + 10 * TICK)
    found = values(sampler)
    assert tuple(found) == ids.STANDARD_IDS
    assert values(sampler, "c2")[ids.PIDS] == 7
    assert found[ids.CPU_UTILIZATION] == 10
    assert found[ids.MEMORY_TOTAL] == 100000
    assert found[ids.NET_READ_BYTES] == 1236
    assert [message for message in caplog.messages if "LimitNOFILE" in message] == caplog.messages
    assert len(caplog.messages) == 1
    sampler.close_all()


def test_a_network_file_of_many_pages_is_read_to_its_end(machine, sampler, monkeypatch):
    machine.container("c1", PID, network=cgroups.net_dev(*[(f"veth{n}", 10, 1) for n in range(200)]))
    sampler.open("c1", PID)
    real = os.pread
    # The kernel gives whole lines, a page at the most, of files of /proc.
    monkeypatch.setattr(os, "pread", lambda fd, size, at: _whole_lines(real(fd, min(size, 4096), at)))
    assert values(sampler)[ids.NET_READ_BYTES] == 2000


def _whole_lines(data: bytes) -> bytes:
    return data if len(data) < 4096 else data[: data.rindex(b"\n") + 1]
