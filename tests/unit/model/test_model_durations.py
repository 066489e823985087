# SPDX-License-Identifier: Apache-2.0
"""Durations: the texts that Go reads and writes, and its errors."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycm.errors import InvalidInputError
from pycm.model.durations import SECOND, format_duration, parse_duration

MINUTE, HOUR = 60 * SECOND, 3600 * SECOND


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("+0", 0),
        ("-0", 0),
        ("0s", 0),
        ("5s", 5 * SECOND),
        ("20s", 20 * SECOND),
        ("-5s", -5 * SECOND),
        ("+5s", 5 * SECOND),
        ("5.0s", 5 * SECOND),
        ("5.s", 5 * SECOND),
        (".5s", SECOND // 2),
        ("1.004s", 1_004_000_000),
        ("100.00100s", 100 * SECOND + 1_000_000),
        ("10ns", 10),
        ("11us", 11_000),
        ("12\u00b5s", 12_000),
        ("12\u03bcs", 12_000),
        ("13ms", 13_000_000),
        ("14s", 14 * SECOND),
        ("15m", 15 * MINUTE),
        ("16h", 16 * HOUR),
        ("1h2m3s5ms", HOUR + 2 * MINUTE + 3 * SECOND + 5_000_000),
        ("-2m3.4s", -(2 * MINUTE + 3_400_000_000)),
        ("39h9m14.425s", 39 * HOUR + 9 * MINUTE + 14_425_000_000),
        ("52763797000ns", 52763797000),
        ("0.3333333333333333333h", 20 * MINUTE),
        ("9007199254740993ns", (1 << 53) + 1),
        ("9223372036854775807ns", (1 << 63) - 1),
        ("9223372036854775.807us", (1 << 63) - 1),
        ("9223372036s854ms775us807ns", (1 << 63) - 1),
        ("-9223372036854775808ns", -(1 << 63)),
        ("0.100000000000000000000h", 6 * MINUTE),
        ("000000000000000000000000001s", SECOND),
        ("0." + "0" * 400 + "1h", 0),
    ],
)
def test_duration_is_read_as_go_reads_it(text, nanoseconds):
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", 'time: invalid duration ""'),
        ("abc", 'time: invalid duration "abc"'),
        ("5", 'time: missing unit in duration "5"'),
        ("1.5", 'time: missing unit in duration "1.5"'),
        ("1h5", 'time: missing unit in duration "1h5"'),
        ("10 seconds", 'time: unknown unit " seconds" in duration "10 seconds"'),
        ("3d", 'time: unknown unit "d" in duration "3d"'),
        ("5S", 'time: unknown unit "S" in duration "5S"'),
        ("-", 'time: invalid duration "-"'),
        ("s", 'time: invalid duration "s"'),
        (".", 'time: invalid duration "."'),
        (".s", 'time: invalid duration ".s"'),
        ("--5s", 'time: invalid duration "--5s"'),
        (" 5s", 'time: invalid duration " 5s"'),
        ("٣s", r'time: invalid duration "\xd9\xa3s"'),
        ('a"b\\', r'time: invalid duration "a\"b\\"'),
        ("1\n", r'time: unknown unit "\x0a" in duration "1\x0a"'),
        ("9223372036854775808ns", 'time: invalid duration "9223372036854775808ns"'),
        ("-9223372036854775809ns", 'time: invalid duration "-9223372036854775809ns"'),
        ("9223372036854775.808us", 'time: invalid duration "9223372036854775.808us"'),
        ("2562048h", 'time: invalid duration "2562048h"'),
        ("9" * 5000 + "s", 'time: invalid duration "' + "9" * 200 + '..."'),
    ],
)
def test_wrong_duration_has_the_error_of_go(text, error):
    with pytest.raises(InvalidInputError, match=f"^{re.escape(error)}$"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1100, "1.1\u00b5s"),
        (2_200_000, "2.2ms"),
        (250_000_000, "250ms"),
        (3_300_000_000, "3.3s"),
        (30 * SECOND, "30s"),
        (90 * SECOND, "1m30s"),
        (HOUR, "1h0m0s"),
        (4 * MINUTE + 5 * SECOND + 1_000_000, "4m5.001s"),
        (744 * HOUR, "744h0m0s"),
        (-SECOND // 2, "-500ms"),
        ((1 << 63) - 1, "2562047h47m16.854775807s"),
        (-(1 << 63), "-2562047h47m16.854775808s"),
    ],
)
def test_duration_is_written_as_go_writes_it(nanoseconds, text):
    assert format_duration(nanoseconds) == text


@given(st.integers(-(1 << 53), 1 << 53))
def test_written_duration_is_read_back(nanoseconds):
    assert parse_duration(format_duration(nanoseconds)) == nanoseconds


@given(st.text(max_size=30) | st.text("0123456789.hmsn-+u", max_size=12))
def test_any_text_is_a_duration_or_one_line_of_error(text):
    error = None
    try:
        parse_duration(text)
    except InvalidInputError as caught:
        error = str(caught)
    assert error is None or error.isprintable()
