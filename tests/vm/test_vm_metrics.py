# SPDX-License-Identifier: Apache-2.0
"""Figures from real cgroup v2: what the twin was sent against what the guest's own cgroup files said at the same time."""

from __future__ import annotations

import pytest
from observed import Observed, keyed, mean

pytestmark = pytest.mark.vm
MIB = 1024 * 1024


def test_data_messages_come_each_second_for_more_than_ten_seconds(observed: Observed) -> None:
    assert len(observed.samples) >= 14
    assert observed.samples[-1]["at"] - observed.samples[0]["at"] >= 10


def test_a_container_capped_at_half_a_cpu_reads_as_half_a_cpu_of_all(observed: Observed) -> None:
    assert observed.file_series("busy", "cpu.max")[0][1] == "50000 100000\n"
    values = observed.series("busy", "cpu.utilization")
    assert len(values) >= 10
    assert mean(values) == pytest.approx(50 / observed.cpus, rel=0.05)


def test_the_capped_containers_cpu_agrees_with_its_own_cpu_stat(observed: Observed) -> None:
    """It divides by /proc/stat, which in an emulated machine may fall short of the time that passed and never exceeds it."""
    files = observed.file_series("busy", "cpu.stat")
    (first_at, first), (last_at, last) = files[0], files[-1]
    used = (keyed(last)["usage_usec"] - keyed(first)["usage_usec"]) / 1e6
    of_all_cpus = 100 * used / (last_at - first_at) / observed.cpus
    told = mean(observed.series("busy", "cpu.utilization")[1:])
    assert 0.95 * of_all_cpus <= told <= 1.05 * 50 / observed.cpus


def test_throttling_of_the_capped_container_shows(observed: Observed) -> None:
    assert keyed(observed.file_series("busy", "cpu.stat")[-1][1])["nr_throttled"] > 0
    assert observed.series("busy", "cpu.throttled")[-1] > 0


def test_a_tmpfs_file_of_32_mib_reads_as_32_mib_of_memory(observed: Observed) -> None:
    for value in observed.series("holder", "memory.used"):
        assert value == pytest.approx(32 * MIB, rel=0.05)


def test_memory_is_current_without_inactive_file_of_the_cgroup(observed: Observed) -> None:
    current = int(observed.file_series("holder", "memory.current")[-1][1])
    inactive = keyed(observed.file_series("holder", "memory.stat")[-1][1])["inactive_file"]
    assert observed.series("holder", "memory.used")[-1] == pytest.approx(current - inactive, rel=0.01)


def test_a_memory_limit_reads_as_the_total(observed: Observed) -> None:
    assert observed.file_series("survivor", "memory.max")[-1][1] == f"{16 * MIB}\n"
    assert observed.series("survivor", "memory.total")[-1] == 16 * MIB


def test_a_container_without_limit_has_the_machines_memory_as_total(observed: Observed) -> None:
    assert observed.file_series("holder", "memory.max")[-1][1] == "max\n"
    assert 512 * MIB < observed.series("holder", "memory.total")[-1] <= 1024 * MIB


def test_utilization_of_memory_is_used_by_total(observed: Observed) -> None:
    values = observed.measurements(observed.samples[-1], "holder")
    assert values["memory.utilization"] == pytest.approx(100 * values["memory.used"] / values["memory.total"])


def test_processes_are_counted_as_the_cgroup_counts_them(observed: Observed) -> None:
    for name in ("busy", "holder", "survivor"):
        assert observed.series(name, "pids")[-1] == int(observed.file_series(name, "pids.current")[-1][1])


@pytest.mark.parametrize(("measurement", "key"), [("io.readBytes", "rbytes"), ("io.writeBytes", "wbytes")])
def test_io_is_told_only_where_the_cgroup_has_entries(observed: Observed, measurement: str, key: str) -> None:
    for name in ("busy", "holder", "survivor"):
        text = observed.file_series(name, "io.stat")[-1][1]
        entries = [
            int(value) for part in text.split() for word, _, value in [part.partition("=")] if word == key
        ]
        assert observed.series(name, measurement)[-1:] == ([sum(entries)] if entries else [])


def test_an_oom_kill_that_the_container_survives_is_counted(observed: Observed) -> None:
    assert keyed(observed.file_series("survivor", "memory.events")[-1][1])["oom_kill"] == 1
    assert observed.series("survivor", "memory.oomKills")[-1] == 1
    assert observed.series("holder", "memory.oomKills")[-1] == 0


def test_pressure_figures_come_when_the_filter_names_them(observed: Observed) -> None:
    for measurement in ("cpu.pressure", "memory.pressure", "io.pressure"):
        assert 0 <= observed.series("busy", measurement)[-1] <= 100


def test_a_container_that_has_ended_is_not_measured(observed: Observed) -> None:
    assert not any(observed.measurements(sample, "victim") for sample in observed.samples)
