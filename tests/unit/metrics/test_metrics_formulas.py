# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of the measurements, with the check values of the original's tests."""

from __future__ import annotations

import pytest

from pycm.metrics import counters
from pycm.metrics.counters import CpuTimes
from pycm.model import measurements as ids


def test_cpu_utilization_has_the_values_of_the_original():
    first, second, third = CpuTimes(10000, 100000), CpuTimes(15000, 150000), CpuTimes(25000, 200000)
    assert counters.cpu_utilization(first, second) == pytest.approx(10)
    assert counters.cpu_utilization(second, third) == pytest.approx(20)


def test_cpu_utilization_needs_an_earlier_sample():
    assert counters.cpu_utilization(None, CpuTimes(1, 1)) is None


@pytest.mark.parametrize("system", [100, 99, 0])
def test_cpu_utilization_is_left_out_when_the_system_time_does_not_advance(system):
    assert counters.cpu_utilization(CpuTimes(1, 100), CpuTimes(2, system)) is None


@pytest.mark.parametrize(("used", "percent"), [(300, 100), (50, 0)])
def test_cpu_utilization_stays_between_0_and_100(used, percent):
    assert counters.cpu_utilization(CpuTimes(100, 100), CpuTimes(used, 200)) == percent


@pytest.mark.parametrize(
    ("limit", "machine", "total"),
    [(None, 1000, 1000), (500, 1000, 500), (9223372036854771712, 1000, 1000), (500, 0, 500), (None, 0, 0)],
)
def test_memory_total_is_the_limit_but_never_more_than_the_machine_has(limit, machine, total):
    assert counters.memory_total(limit, machine) == total


def test_memory_used_is_never_negative():
    assert counters.memory_used(100, 30) == 70
    assert counters.memory_used(30, 100) == 0


def test_memory_utilization_is_the_recorded_one_and_left_out_without_a_total():
    assert counters.memory_utilization(761856, 100663296) == 0.7568359375
    assert counters.memory_utilization(200, 100) == 100
    assert counters.memory_utilization(1, 0) is None


@pytest.mark.parametrize("text", ["cpu.utilization", "cpu", "cpu.*", "cpu.u", "*", "", "**cpu*"])
def test_a_filter_text_is_a_prefix_of_a_standard_id(text):
    assert ids.matches(ids.CPU_UTILIZATION, text)


@pytest.mark.parametrize("text", ["*.utilization", "memory", "cpu.utilization.x"])
def test_a_filter_text_is_nothing_but_a_prefix(text):
    assert not ids.matches(ids.CPU_UTILIZATION, text)


@pytest.mark.parametrize("text", ["cpu", "cpu.*", "*", "", "cpu.t"])
def test_an_extra_id_is_not_selected_by_a_prefix(text):
    assert not ids.matches(ids.CPU_THROTTLED, text)


def test_an_extra_id_is_selected_by_its_full_name():
    for name in ids.EXTRA_IDS:
        assert [found for found in ids.ALL_IDS if ids.matches(found, name)] == [name]
