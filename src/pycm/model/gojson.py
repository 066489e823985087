# SPDX-License-Identifier: Apache-2.0
"""JSON as Kanto's Go code writes and reads it.

Writing: compact, "<>&" and U+2028/9 escaped, floats in their shortest form without ".0", exponents below 1e-6 only.
Clients and tests compare files, twin messages and the command line's output byte for byte. Reading: lenient about text
that is not UTF-8, strict about numbers and anything after the value, and bounded where Go is not.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

from pycm.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable

#: Nesting that is read; a container's description needs 6, and Python's parser recurses.
DEPTH = 64
_ESCAPES = {char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
_SPECIAL = re.compile("[<>&\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
#: Go uses exponents from here, and below 10 to the -6.
_LARGE, _SMALL_POWER = 1e21, 6
#: Numbers that Python writes with a negative exponent: a quick test, and an exact one that skips strings.
_SMALL = re.compile(r"(?:^|[:,\[\s])-?\d(?:\.\d+)?e-\d")
_SMALL_OR_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d(?:\.\d+)?e-\d+')


def _number(value: float) -> float | int:
    """Whole floats as int, for 1073741824 instead of 1073741824.0: the digits that identify the float, then zeros."""
    if not value.is_integer() or abs(value) >= _LARGE:
        return value
    mantissa, _, power = repr(value).partition("e+")
    if not power:
        return int(value)
    before, _, after = mantissa.partition(".")
    return int(f"{before}{after}{'0' * (int(power) - len(after))}")


def _small(match: re.Match[str]) -> str:
    """Python uses exponents below 1e-4 and pads them to two digits."""
    text = match.group()
    if text.startswith('"'):
        return text
    mantissa, _, exponent = text.partition("e-")
    power = int(exponent)
    if power > _SMALL_POWER:
        return f"{mantissa}e-{power}"
    sign = "-" if mantissa.startswith("-") else ""
    return f"{sign}0.{'0' * (power - 1)}{mantissa.lstrip('-').replace('.', '')}"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def dumps(value: Any, *, indent: int | None = None) -> str:
    """*value* as Go's encoding/json prints it; *indent* blanks a level (Kanto's `get` uses 3), None for compact.

    Keys keep their order. NaN and infinity raise ValueError. Lone surrogates become U+FFFD.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(
        _plain(value), ensure_ascii=False, allow_nan=False, separators=separators, indent=indent
    )
    if _SMALL.search(text):
        text = _SMALL_OR_STRING.sub(_small, text)
    if _SPECIAL.search(text):
        text = _SPECIAL.sub(lambda match: _ESCAPES[match.group()], text)
    if _SURROGATE.search(text):
        text = _SURROGATE.sub("\ufffd", text)
    return text


#: A string without its end counts too: searching the end from each quotation mark in it would take quadratic time.
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_INT64 = 1 << 63
_INT64_DIGITS = 19
_INFINITE = (float("inf"), float("-inf"))


class JsonError(InvalidInputError):
    """Text that is not valid JSON. `line` and `column` begin at 1; they are 0 if they are not known."""

    def __init__(self, reason: str, line: int = 0, column: int = 0) -> None:
        where = f" at line {line} column {column}" if line else ""
        super().__init__(f"not valid JSON: {reason}{where}", reason=reason)
        self.line = line
        self.column = column


def read(
    data: bytes | str,
    *,
    limit: int | None = None,
    depth: int = DEPTH,
    large_as_float: bool = False,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Return the one JSON value in *data*. Errors: InvalidInputError.

    Bytes that are not UTF-8 and halves of surrogate pairs become U+FFFD; a byte order mark is skipped. NaN, infinity,
    data after the value, more than *limit* bytes and more than *depth* levels are errors. *large_as_float*: read whole
    numbers beyond 64 bits as floats. *pairs*: build an object from its members, which may be repeated.
    """
    if limit is not None and len(data) > limit:
        raise InvalidInputError(f"{len(data)} bytes; {limit} are allowed")
    text = (data.decode("utf-8", "replace") if isinstance(data, bytes) else data).removeprefix("\ufeff")
    _check_depth(text, depth)
    try:
        value = json.loads(
            text,
            parse_float=_finite,
            parse_int=_int_or_float if large_as_float else None,
            parse_constant=_refuse_constant,
            object_pairs_hook=pairs,
        )
    except json.JSONDecodeError as error:
        raise JsonError(error.msg, error.lineno, error.colno) from None
    except RecursionError:
        raise JsonError("nested too deep") from None
    except ValueError:  # Python reads no number of more than 4300 digits
        raise JsonError("a number has too many digits") from None
    return without_surrogates(value, text)


def without_surrogates(value: Any, text: str) -> Any:
    """*value*, parsed from *text*, with U+FFFD for halves of surrogate pairs, which cannot be sent or stored."""
    return _replaced(value) if _SURROGATE_ESCAPE.search(text) else value


def _check_depth(text: str, limit: int) -> None:
    """Most texts have too few brackets to be deep."""
    if text.count("[") + text.count("{") <= limit:
        return
    depth = deepest = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > limit:
        raise InvalidInputError(f"nested {deepest} levels deep; {limit} are allowed")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in _INFINITE:
        raise JsonError(f"the number {digits[:20]} is out of range")
    return number


def _int_or_float(digits: str) -> int | float:
    if len(digits.lstrip("-")) <= _INT64_DIGITS and -_INT64 <= int(digits) < _INT64:
        return int(digits)
    return _finite(digits)


def _refuse_constant(word: str) -> NoReturn:
    raise JsonError(f"{word} is not a JSON value")


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_replaced(item) for item in value]
    if isinstance(value, dict):
        return {_replaced(key): _replaced(item) for key, item in value.items()}
    return value
