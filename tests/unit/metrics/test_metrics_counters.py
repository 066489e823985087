# SPDX-License-Identifier: Apache-2.0
"""Kernel texts to numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycm.metrics import counters
from pycm.metrics.cgroups import FILES
from support import cgroups


def test_a_key_is_found_at_the_start_in_the_middle_and_at_the_end():
    data = b"first 1\nmiddle 22\nlast 333\n"
    assert [counters.keyed(key)(data) for key in ("first", "middle", "last")] == [1, 22, 333]


def test_a_key_is_not_mistaken_for_a_longer_one_that_ends_or_begins_alike():
    assert counters.keyed("inactive_file")(b"total_inactive_file 5\ninactive_files 6\n") is None
    assert counters.keyed("inactive_file")(b"total_inactive_file 5\ninactive_file 6\n") == 6


def test_a_number_that_was_cut_off_is_an_error_and_not_a_smaller_number():
    with pytest.raises(counters.MALFORMED):
        counters.keyed("usage")(b"usage 12345")


def test_cpu_time_of_cgroup_v2_is_in_nanoseconds():
    assert counters.usage_nanoseconds(cgroups.CPU_STAT.format(usage=42).encode()) == 42_000


def test_memory_stat_of_both_versions_gives_the_inactive_file_cache():
    v1, v2 = (row[3] for row in FILES if row[0] == "cache")
    assert v2(cgroups.memory_stat(4711).encode()) == 4711
    assert v1(b"cache 1\ninactive_file 5\nhierarchical_memory_limit 9\ntotal_inactive_file 6\n") == 6


def test_io_stat_sums_over_devices():
    assert counters.io_stat(cgroups.IO_STAT.encode()) == (1030, 204)


@pytest.mark.parametrize("text", [b"", b"8:0 \n", b"254:0\n8:16 \n"])
def test_io_stat_without_entries_says_nothing(text):
    assert counters.io_stat(text) is None


def test_io_service_bytes_sums_reads_and_writes_in_any_case_and_no_totals():
    text = b"8:0 Read 100\n8:0 write 20\n8:0 Sync 5\n8:0 Total 120\n8:16 READ 3\n8:16 Write 4\nTotal 127\n"
    assert counters.io_service_bytes(text) == (103, 24)


def test_io_service_bytes_without_devices_says_nothing():
    assert counters.io_service_bytes(b"Total 0\n") is None


def test_network_counters_are_summed_without_the_loop_back_interface():
    text = cgroups.net_dev(("eth0", 1236, 40), ("eth1", 4, 2), ("lovely", 10, 20))
    assert counters.net_dev(text.encode()) == (1250, 62)


def test_network_counters_stand_close_to_a_long_interface_name():
    assert counters.net_dev(
        cgroups.NET_DEV.encode() + b"enp0s31f6b15:18446744073709551615 1 0 0 0 0 0 0 5 1 0\n"
    ) == (
        18446744073709551615,
        5,
    )


def test_a_namespace_with_loop_back_only_has_no_traffic():
    assert counters.net_dev(cgroups.NET_DEV.encode()) == (0, 0)


def test_pressure_is_the_some_average_over_ten_seconds():
    assert counters.pressure(cgroups.PRESSURE.format("33.30").encode()) == 33.3
    assert counters.pressure(b"") is None


def test_system_time_counts_eight_fields_and_not_guest_time():
    assert (
        counters.system_ticks(b"cpu  1 20 300 4000 50000 600000 7000000 80000000 9 9\ncpu0 1\n") == 87654321
    )


@pytest.mark.parametrize("text", [b"intr 1 2\n", b"cpu 1 2", b"", b"\n"])
def test_a_foreign_stat_file_is_an_error(text):
    with pytest.raises(counters.MALFORMED):
        counters.system_ticks(text)


def test_memory_of_the_machine_is_in_bytes():
    assert counters.memory_of_machine(b"MemTotal:       24683656 kB\nMemFree: 1 kB\n") == 25276063744


def test_a_limit_of_max_is_none():
    assert counters.limit(b"max\n") is None
    assert counters.limit(b"100663296\n") == 100663296


PARSERS = [row[3] for row in FILES]
PARSERS += [counters.net_dev, counters.system_ticks, counters.memory_of_machine, counters.limit]


@given(st.binary(max_size=300) | st.text("0123456789 \n:rbytes=wcpuadg_lo", max_size=200).map(str.encode))
def test_no_text_makes_a_parser_fail_in_an_unforeseen_way(data):
    for parser in PARSERS:
        try:
            parser(data)
        except counters.MALFORMED:
            continue
