# SPDX-License-Identifier: Apache-2.0
"""JSON as Kanto's Go code writes it: compact, "<>&" and U+2028/9 escaped, floats in shortest form without ".0", exponents below 1e-6 only.

Files, twin messages and the command line's output are compared byte for byte by existing clients and tests.
"""

from __future__ import annotations

import json
import re
from typing import Any

_ESCAPES = {char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
_SPECIAL = re.compile("[<>&\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
#: Go switches to exponents here, and below 10 to the -6.
_LARGE, _SMALL_POWER = 1e21, 6
#: A number that Python writes with a negative exponent: whether there may be one, and each beside the strings that look like it.
_SMALL = re.compile(r"(?:^|[:,\[\s])-?\d(?:\.\d+)?e-\d")
_SMALL_OR_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d(?:\.\d+)?e-\d+')


def _number(value: float) -> float | int:
    """Whole floats as int, so that json prints 1073741824 and not 1073741824.0: with the digits that tell the float, then zeros."""
    if not value.is_integer() or abs(value) >= _LARGE:
        return value
    mantissa, _, power = repr(value).partition("e+")
    if not power:
        return int(value)
    before, _, after = mantissa.partition(".")
    return int(f"{before}{after}{'0' * (int(power) - len(after))}")


def _small(match: re.Match[str]) -> str:
    """Python begins exponents below 1e-4 and pads them to two digits."""
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


def without_surrogates(value: Any, text: str) -> Any:
    """*value*, parsed from *text*, with U+FFFD for halves of surrogate pairs, as Go reads them.

    They are no characters, and nothing that has them can be sent or stored.
    """
    return _replaced(value) if _SURROGATE_ESCAPE.search(text) else value


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_replaced(item) for item in value]
    if isinstance(value, dict):
        return {_replaced(key): _replaced(item) for key, item in value.items()}
    return value
