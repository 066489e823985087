# SPDX-License-Identifier: Apache-2.0
"""The reader of JSON: lenient about text, strict about numbers, and bounded."""

from typing import Any

import pytest

from pycm.errors import InvalidInputError
from pycm.model import gojson
from pycm.model.gojson import JsonError, read


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b' {"a": [1, -2.5e3, "x", null, true]}\n', {"a": [1, -2500.0, "x", None, True]}),
        ("\ufeff1", 1),
        (b"\xef\xbb\xbf1", 1),
        (b'"\xff"', "\ufffd"),
        (r'"\ud800x"', "\ufffdx"),
        (r'{"\udc00": ["\ud83d\ude00"]}', {"\ufffd": ["\U0001f600"]}),
        (b"123456789012345678901234567890", 123456789012345678901234567890),
        (b'{"a": 1, "a": 2}', {"a": 2}),
    ],
)
def test_read_returns_the_value(data: bytes | str, value: Any) -> None:
    assert read(data) == value


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not valid JSON: Expecting value at line 1 column 1"),
        (b"{\n  x", "not valid JSON: Expecting property name .* at line 2 column 3"),
        (b"{} {}", "not valid JSON: Extra data at line 1 column 4"),
        (b"[NaN]", "not valid JSON: NaN is not a JSON value"),
        (b"-Infinity", "not valid JSON: -Infinity is not a JSON value"),
        (b"1e999", "not valid JSON: the number 1e999 is out of range"),
        (b"9" * 5000, "not valid JSON: a number has too many digits"),
    ],
)
def test_read_refuses_what_is_not_json(data: bytes, text: str) -> None:
    with pytest.raises(JsonError, match=f"^{text}$"):
        read(data)


def test_json_error_carries_its_place() -> None:
    with pytest.raises(JsonError) as caught:
        read('{"a":\n x}')
    assert (caught.value.line, caught.value.column, caught.value.reason) == (2, 2, "Expecting value")


def test_read_refuses_more_bytes_than_the_limit() -> None:
    assert read(b"[12]", limit=4) == [12]
    with pytest.raises(InvalidInputError, match=r"^5 bytes; 4 are allowed$"):
        read(b"[123]", limit=4)


@pytest.mark.parametrize("depth", [3, gojson.DEPTH])
def test_read_refuses_deeper_nesting_than_allowed(depth: int) -> None:
    read("[" * depth + "]" * depth, depth=depth)
    with pytest.raises(InvalidInputError, match=f"nested {depth + 1} levels deep; {depth} are allowed"):
        read('{"a":' + "[" * depth + "]" * depth + "}", depth=depth)


def test_read_counts_no_brackets_in_strings() -> None:
    assert read('["' + "[" * 500 + '\\"{"]') == ["[" * 500 + '"{']


@pytest.mark.parametrize(
    ("digits", "value"),
    [
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", 2.0**63),
        ("-9223372036854775808", -(2**63)),
        ("-9223372036854775809", -(2.0**63)),
        ("1" + "0" * 100, 1e100),
    ],
)
def test_read_makes_floats_of_large_whole_numbers_on_demand(digits: str, value: float) -> None:
    found = read(digits, large_as_float=True)
    assert found == value
    assert type(found) is type(value)


def test_read_refuses_whole_numbers_that_no_float_holds() -> None:
    with pytest.raises(JsonError, match="out of range"):
        read("9" * 400, large_as_float=True)


def test_read_gives_repeated_members_to_the_caller() -> None:
    assert read('{"a": 1, "a": {"b": 2}}', pairs=list) == [("a", 1), ("a", [("b", 2)])]
