# SPDX-License-Identifier: Apache-2.0
"""The sampler on machines made of plain files; what vanishes is played with files of ended processes."""

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
from support.cgroups import Machine

TICK = 1_000_000 // os.sysconf("SC_CLK_TCK")  # microseconds
PID = 4711
ETH0 = cgroups.net_dev(("eth0", 1236, 40))


def everything(_: str) -> bool:
    return True


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path).boot(v2="cgroup")


@pytest.fixture
def sampler(machine):
    sampler = Sampler(machine.proc)
    yield sampler
    sampler.close_all()


def values(sampler, container_id="c1", predicate=None):
    """One sweep over one container, as a dict in the order of output."""
    found = sampler.sample({container_id: predicate})
    return {item.id: item.value for one in found for item in one.measurements}


@pytest.fixture
def opened(monkeypatch):
    """Paths that are opened from here on."""
    paths: list[str] = []
    real = os.open

    def spy(path, *arguments, **options):
        paths.append(os.fspath(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", spy)
    return paths


def kept():
    return {os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _is_link(name)}


def _is_link(name):
    return os.path.islink(f"/proc/self/fd/{name}")


# ── values, order, omission ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_sample_has_all_standard_measurements_in_order(machine, sampler):
    path = machine.container("c1", PID, network=ETH0)
    sampler.open("c1", PID)
    sampler.baseline(["c1"])
    machine.system_ticks(1100)
    machine.cpu_usage(path, 5_000_000 + 25 * TICK)
    found = values(sampler)
    assert tuple(found) == ids.STANDARD_IDS
    assert found == {
        ids.CPU_UTILIZATION: 25.0,
        ids.MEMORY_TOTAL: 100000,
        ids.MEMORY_USED: 30000,
        ids.MEMORY_UTILIZATION: pytest.approx(30),
        ids.IO_READ_BYTES: 1030,
        ids.IO_WRITE_BYTES: 204,
        ids.NET_READ_BYTES: 1236,
        ids.NET_WRITE_BYTES: 40,
        ids.PIDS: 7,
    }


def test_without_a_baseline_the_first_sample_has_no_cpu_and_the_second_has(machine, sampler):
    path = machine.container("c1", PID)
    sampler.open("c1", PID)
    assert ids.CPU_UTILIZATION not in values(sampler)
    machine.system_ticks(1010)
    machine.cpu_usage(path, 5_000_000 + 5 * TICK)
    assert values(sampler)[ids.CPU_UTILIZATION] == 50


def test_system_time_counts_ticks_and_not_whole_seconds(machine, sampler):
    path = machine.container("c1", PID)
    sampler.open("c1", PID)
    sampler.baseline(["c1"])
    machine.system_ticks(1004)
    machine.cpu_usage(path, 5_000_000 + 1 * TICK)
    assert values(sampler)[ids.CPU_UTILIZATION] == 25


def test_the_baseline_moves_on_also_when_there_was_no_value(machine, sampler):
    path = machine.container("c1", PID)
    sampler.open("c1", PID)
    sampler.baseline(["c1"])
    machine.cpu_usage(path, 5_000_000 + 50 * TICK)  # and no time has passed
    assert ids.CPU_UTILIZATION not in values(sampler)
    machine.system_ticks(1100)
    assert values(sampler)[ids.CPU_UTILIZATION] == 0


def test_a_started_again_container_begins_without_a_baseline(machine, sampler):
    machine.container("c1", PID)
    sampler.open("c1", PID)
    sampler.baseline(["c1"])
    sampler.open("c1", PID)
    machine.system_ticks(1100)
    assert ids.CPU_UTILIZATION not in values(sampler)


def test_an_unreadable_system_time_costs_only_the_cpu_utilization(machine, sampler, caplog):
    machine.container("c1", PID)
    machine.write("proc/stat", "nonsense\n")
    sampler.open("c1", PID)
    sampler.baseline(["c1"])
    assert next(iter(values(sampler))) == ids.MEMORY_TOTAL
    assert caplog.messages
    assert "stat" in caplog.messages[0]
    machine.system_ticks(1000)
    values(sampler)
    machine.system_ticks(1100)
    assert values(sampler)[ids.CPU_UTILIZATION] == 0


def test_io_without_entries_and_no_tasks_are_left_out(machine, sampler):
    path = machine.container("c1", PID)
    machine.write(f"{path}/io.stat", "")
    machine.write(f"{path}/pids.current", "0\n")
    sampler.open("c1", PID)
    found = values(sampler)
    assert ids.IO_READ_BYTES not in found
    assert ids.IO_WRITE_BYTES not in found
    assert ids.PIDS not in found


@pytest.mark.parametrize(
    ("text", "total"), [("max\n", 1_024_000_000), ("9000000000\n", 1_024_000_000), ("5\n", 5)]
)
def test_memory_total_is_the_limit_or_the_machines_memory(machine, sampler, text, total):
    path = machine.container("c1", PID)
    machine.write(f"{path}/memory.max", text)
    sampler.open("c1", PID)
    assert values(sampler)[ids.MEMORY_TOTAL] == total


def test_a_changed_limit_counts_once_it_is_told(machine, sampler):
    path = machine.container("c1", PID)
    sampler.open("c1", PID)
    machine.write(f"{path}/memory.max", "60000\n")
    assert values(sampler)[ids.MEMORY_TOTAL] == 100000
    sampler.limits_changed("c1")
    assert values(sampler)[ids.MEMORY_TOTAL] == 60000
    assert values(sampler)[ids.MEMORY_UTILIZATION] == 50


def test_a_container_in_the_hosts_network_has_no_traffic_and_keeps_no_network_file(machine, sampler):
    machine.container("c1", PID, network=None)
    machine.write(f"proc/{PID}/net/dev", ETH0)
    sampler.open("c1", PID)
    found = values(sampler)
    assert (found[ids.NET_READ_BYTES], found[ids.NET_WRITE_BYTES]) == (0, 0)
    assert not any("net/dev" in path for path in kept())


def test_without_a_network_file_the_rest_is_still_measured(machine, sampler):
    machine.container("c1", PID, network=ETH0)
    (machine.root / f"proc/{PID}/net/dev").unlink()
    sampler.open("c1", PID)
    found = values(sampler)
    assert ids.NET_READ_BYTES not in found
    assert found[ids.PIDS] == 7


def test_without_memory_and_io_controllers_cpu_and_pids_are_still_measured(machine, sampler):
    path = machine.container("c1", PID)
    for name in ("memory.current", "memory.stat", "memory.max", "io.stat"):
        (machine.root / path / name).unlink()
    sampler.open("c1", PID)
    sampler.baseline(["c1"])
    machine.system_ticks(1001)
    found = values(sampler)
    assert tuple(found) == (ids.CPU_UTILIZATION, ids.NET_READ_BYTES, ids.NET_WRITE_BYTES, ids.PIDS)


def test_a_sweep_keeps_the_order_asked_for_and_leaves_out_what_is_not_open(machine, sampler):
    for number, name in enumerate(("c1", "c2", "c3")):
        machine.container(name, PID + number)
        sampler.open(name, PID + number)
    sampler.close("c2")
    wanted = dict.fromkeys(("c3", "unknown", "c2", "c1"))
    assert [one.container_id for one in sampler.sample(wanted)] == ["c3", "c1"]


# ── filters ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_predicate_chooses_single_measurements(machine, sampler):
    machine.container("c1", PID)
    sampler.open("c1", PID)
    assert tuple(values(sampler, predicate={ids.MEMORY_USED, ids.PIDS}.__contains__)) == (
        ids.MEMORY_USED,
        ids.PIDS,
    )
    assert next(iter(values(sampler, predicate=None))) == ids.MEMORY_TOTAL
    assert tuple(values(sampler, predicate=lambda _: False)) == ()


def test_extra_measurements_come_only_when_the_predicate_names_them(machine, sampler):
    machine.container("c1", PID)
    sampler.open("c1", PID)
    assert not set(values(sampler)) & set(ids.EXTRA_IDS)
    found = values(sampler, predicate=set(ids.EXTRA_IDS).__contains__)
    assert found == {
        ids.CPU_THROTTLED: 2.5,
        ids.MEMORY_PRESSURE: 1.25,
        ids.CPU_PRESSURE: 33.3,
        ids.IO_PRESSURE: 0,
        ids.MEMORY_OOM_KILLS: 1,
    }
    assert tuple(found) == ids.EXTRA_IDS


def test_files_of_extra_measurements_are_opened_when_first_asked_for_and_kept(machine, sampler, opened):
    machine.container("c1", PID)
    sampler.open("c1", PID)
    assert not any("pressure" in path for path in opened)
    for _ in range(3):
        values(sampler, predicate=[ids.CPU_PRESSURE].__contains__)
    assert sum("pressure" in path for path in opened) == 1


def test_a_machine_without_pressure_counters_leaves_them_out(machine, sampler):
    path = machine.container("c1", PID)
    (machine.root / path / "cpu.pressure").unlink()
    sampler.open("c1", PID)
    assert values(sampler, predicate=[ids.CPU_PRESSURE, ids.IO_PRESSURE].__contains__) == {ids.IO_PRESSURE: 0}


def test_only_files_whose_figures_are_wanted_are_read(machine, sampler, monkeypatch):
    machine.container("c1", PID, network=ETH0)
    sampler.open("c1", PID)
    read: list[str] = []
    real = os.pread
    monkeypatch.setattr(
        os, "pread", lambda fd, *rest: (read.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd, *rest))[1]
    )
    values(sampler, predicate=[ids.PIDS].__contains__)
    assert [os.path.basename(path) for path in read] == ["pids.current"]


def test_a_sweep_opens_nothing_and_reads_the_system_time_once(machine, sampler, opened, monkeypatch):
    for number in range(5):
        machine.container(f"c{number}", PID + number, network=ETH0)
        sampler.open(f"c{number}", PID + number)
    wanted = dict.fromkeys(f"c{number}" for number in range(5))
    sampler.sample(wanted)
    opened.clear()
    read: list[str] = []
    real = os.pread
    monkeypatch.setattr(
        os, "pread", lambda fd, *rest: (read.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd, *rest))[1]
    )
    assert len(sampler.sample(wanted)) == 5
    assert opened == []
    assert sum(path.endswith("proc/stat") for path in read) == 1
    assert len(read) == 1 + 5 * 6


def test_a_predicate_is_asked_once_and_not_in_every_sweep(machine, sampler):
    machine.container("c1", PID)
    sampler.open("c1", PID)
    asked: list[str] = []

    def predicate(name):
        asked.append(name)
        return True

    values(sampler, predicate=predicate)
    assert tuple(asked) == ids.ALL_IDS
    values(sampler, predicate=predicate)
    assert len(asked) == len(ids.ALL_IDS)


# ── ends and faults ──────────────────────────────────────────────────────────────────────────────────────────────────


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
    assert not any("c1" in name or "gone" in name or str(PID) + "/net" in name for name in kept())
    assert values(sampler) == {}
    (machine.root / "gone").rename(machine.root / path)
    assert (
        values(sampler, predicate=[ids.IO_READ_BYTES].__contains__) == {}
    )  # a new cgroup of that name is another's
    sampler.baseline(["c1"])
    assert sampler.oom_kills("c1") == 0


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
    before = kept()
    sampler.open("c1", PID)
    values(sampler, predicate=everything)
    sampler.close("c1")
    sampler.close("c1")
    assert {path for path in kept() - before if "/c1/" in path or f"/{PID}/" in path} == set()
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
    assert sampler.oom_kills("c1") == 1
    machine.write(f"{path}/memory.events", "low 0\nhigh 0\nmax 17\noom 2\noom_kill 3\noom_group_kill 0\n")
    assert sampler.oom_kills("c1") == 3
    assert sampler.oom_kills("unknown") == 0


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
    assert not any("/c2/" in name for name in kept())
    sampler.close("c1")
    sampler.open("c2", PID + 1)
    assert any("/c2/" in name for name in kept())


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
    assert not any("/kanto-cm/" in name for name in kept())  # none are kept from the rest of the agent
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


# ── cgroup v1 and hybrid hosts ───────────────────────────────────────────────────────────────────────────────────────

CONTROLLERS = ("cpu,cpuacct", "memory", "blkio", "pids")
V1_CGROUP = "5:pids:/kanto-cm/c1\n4:memory:/kanto-cm/c1\n3:blkio:/kanto-cm/c1\n2:cpu,cpuacct:/kanto-cm/c1\n"


def v1_container(machine):
    base = "v1/{}/kanto-cm/c1/{}"
    for controller in CONTROLLERS:
        machine.write(base.format(controller, "cgroup.clone_children"), "0\n")
    machine.write(base.format("cpu,cpuacct", "cpuacct.usage"), "5000000000\n")
    machine.write(
        base.format("cpu,cpuacct", "cpu.stat"), "nr_periods 1\nnr_throttled 1\nthrottled_time 1500000000\n"
    )
    machine.write(base.format("memory", "memory.usage_in_bytes"), "50000\n")
    machine.write(base.format("memory", "memory.stat"), "inactive_file 1\ntotal_inactive_file 20000\n")
    machine.write(base.format("memory", "memory.limit_in_bytes"), "100000\n")
    machine.write(
        base.format("memory", "memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"
    )
    machine.write(
        base.format("blkio", "blkio.throttle.io_service_bytes_recursive"),
        "8:0 Read 9\n8:0 Write 8\nTotal 17\n",
    )
    machine.write(base.format("pids", "pids.current"), "3\n")


@pytest.fixture
def v1(tmp_path):
    machine = Machine(tmp_path).boot(v1=CONTROLLERS)
    v1_container(machine)
    machine.process(PID, V1_CGROUP)
    return machine


def test_a_v1_container_has_all_standard_measurements(v1):
    sampler = Sampler(v1.proc)
    sampler.open("c1", PID)
    sampler.baseline(["c1"])
    v1.system_ticks(1100)
    found = values(sampler)
    assert found == {
        ids.CPU_UTILIZATION: 0,
        ids.MEMORY_TOTAL: 100000,
        ids.MEMORY_USED: 30000,
        ids.MEMORY_UTILIZATION: pytest.approx(30),
        ids.IO_READ_BYTES: 9,
        ids.IO_WRITE_BYTES: 8,
        ids.NET_READ_BYTES: 0,
        ids.NET_WRITE_BYTES: 0,
        ids.PIDS: 3,
    }
    assert values(sampler, predicate=set(ids.EXTRA_IDS).__contains__) == {
        ids.CPU_THROTTLED: 1.5,
        ids.MEMORY_OOM_KILLS: 4,
    }
    assert sampler.oom_kills("c1") == 4
    sampler.close_all()


def test_a_v1_memory_limit_is_read_again_when_it_changed(v1):
    sampler = Sampler(v1.proc)
    sampler.open("c1", PID)
    v1.write("v1/memory/kanto-cm/c1/memory.limit_in_bytes", "9223372036854771712\n")
    sampler.limits_changed("c1")
    assert values(sampler)[ids.MEMORY_TOTAL] == 1_024_000_000
    sampler.close_all()


def test_a_hybrid_host_gives_pressure_from_v2_and_what_v1_has_from_v1(tmp_path):
    machine = Machine(tmp_path).boot(v2="unified", v1=CONTROLLERS)
    v1_container(machine)
    machine.process(PID, V1_CGROUP + "0::/kanto-cm/c1\n")
    machine.cpu_usage("unified/kanto-cm/c1", 1_000_000)
    machine.write("unified/kanto-cm/c1/cpu.pressure", cgroups.PRESSURE.format("4.50"))
    sampler = Sampler(machine.proc)
    sampler.open("c1", PID)
    sampler.baseline(["c1"])
    machine.system_ticks(1100)
    machine.write("v1/cpu,cpuacct/kanto-cm/c1/cpuacct.usage", f"{5_000_000_000 + 50 * TICK * 1000}\n")
    found = values(sampler, predicate=everything)
    assert found[ids.CPU_UTILIZATION] == 50
    assert found[ids.CPU_PRESSURE] == 4.5
    assert (found[ids.MEMORY_TOTAL], found[ids.PIDS]) == (100000, 3)
    sampler.close_all()


def test_a_hybrid_host_without_a_v1_controller_uses_that_of_v2(tmp_path):
    machine = Machine(tmp_path).boot(v2="unified", v1=("pids",))
    machine.container("c1", PID, v2="unified")
    machine.write("v1/pids/kanto-cm/c1/cgroup.clone_children", "0\n")
    machine.write("v1/pids/kanto-cm/c1/pids.current", "3\n")
    machine.write(f"proc/{PID}/cgroup", "5:pids:/kanto-cm/c1\n0::/kanto-cm/c1\n")
    sampler = Sampler(machine.proc)
    sampler.open("c1", PID)
    found = values(sampler)
    assert (found[ids.PIDS], found[ids.MEMORY_TOTAL], found[ids.MEMORY_USED]) == (3, 100000, 30000)
    sampler.close_all()


def test_a_v1_controller_without_the_containers_cgroup_is_left_out(v1, caplog):
    (v1.root / "v1/memory/kanto-cm/c1/cgroup.clone_children").unlink()
    sampler = Sampler(v1.proc)
    sampler.open("c1", PID)
    found = values(sampler)
    assert ids.MEMORY_TOTAL not in found
    assert found[ids.PIDS] == 3
    assert caplog.messages == []
    sampler.close_all()
