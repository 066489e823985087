# SPDX-License-Identifier: Apache-2.0
"""The sampler on machines made of plain files: values, order, omission, filters."""

from __future__ import annotations

import os

import pytest

from pycm.model import measurements as ids
from support import cgroups
from support.sampling import kept, values

TICK = 1_000_000 // os.sysconf("SC_CLK_TCK")  # microseconds
PID = 4711
ETH0 = cgroups.net_dev(("eth0", 1236, 40))


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
    assert not any("net/dev" in path for path in kept(machine))


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
