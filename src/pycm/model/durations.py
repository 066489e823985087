# SPDX-License-Identifier: Apache-2.0
"""Durations as Go writes them ("1m30s", "250ms"), to and from whole nanoseconds.

Accepted texts, rounding and error texts are those of Go's time package, since files, flags and MQTT requests carry such
texts and clients match on the errors. The command line imports this module at each start, so it imports nothing slow.
"""

from __future__ import annotations

from pycm.errors import InvalidInputError

SECOND = 1_000_000_000
MILLISECOND = 1_000_000
#: Go writes "µ" as U+00B5 and reads U+03BC too.
UNITS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,
    "ms": MILLISECOND,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
}
_LIMIT = 1 << 63  # magnitude; only a negative duration may reach it
_MAX_DIGITS = 19  # that _LIMIT has: longer numbers overflow, and are not worth converting
_LONGEST = 1024  # characters: each term costs a copy of the rest
_MAX_SHOWN = 200  # characters of a wrong text that are repeated in an error


def parse_duration(text: str) -> int:
    """Nanoseconds of a Go duration such as "1h2m3.5s". Errors: InvalidInputError with Go's text."""
    unsigned = text[1:] if text[:1] in ("-", "+") else text
    if unsigned == "0":
        return 0
    if len(text) > _LONGEST:
        raise _invalid(text)
    total = 0
    rest = unsigned
    while rest:
        nanoseconds, rest = _leading_term(rest, text)
        total += nanoseconds
    negative = text.startswith("-")
    if not unsigned or total > _LIMIT or (total == _LIMIT and not negative):
        raise _invalid(text)
    return -total if negative else total


def _leading_term(rest: str, whole: str) -> tuple[int, str]:
    """The first number and unit of *rest* in nanoseconds, and what follows them."""
    number, rest = _leading(rest, _DIGITS)
    fraction = ""
    if rest.startswith("."):
        fraction, rest = _leading(rest[1:], _DIGITS)
    if not number and not fraction:
        raise _invalid(whole)
    unit, rest = _leading_unit(rest)
    if not unit:
        raise InvalidInputError(f"time: missing unit in duration {_quote(whole)}")
    if unit not in UNITS:
        raise InvalidInputError(f"time: unknown unit {_quote(unit)} in duration {_quote(whole)}")
    return _scaled(number, UNITS[unit], whole) + _fraction(fraction, UNITS[unit]), rest


_DIGITS = frozenset("0123456789")


def _leading(text: str, wanted: frozenset[str]) -> tuple[str, str]:
    end = next((i for i, char in enumerate(text) if char not in wanted), len(text))
    return text[:end], text[end:]


def _leading_unit(text: str) -> tuple[str, str]:
    end = next((i for i, char in enumerate(text) if char == "." or char in _DIGITS), len(text))
    return text[:end], text[end:]


def _scaled(number: str, unit: int, whole: str) -> int:
    digits = number.lstrip("0")
    if len(digits) > _MAX_DIGITS or (value := int(digits or "0")) > _LIMIT // unit:
        raise _invalid(whole)
    return value * unit


def _fraction(digits: str, unit: int) -> int:
    """Go computes this part in floating point; so does this, to end in the same nanosecond."""
    used = digits[:_MAX_DIGITS]  # what is beyond is far below a nanosecond
    return int(float(int(used)) * (unit / 10.0 ** len(used))) if used else 0


def _invalid(text: str) -> InvalidInputError:
    return InvalidInputError(f"time: invalid duration {_quote(text)}")


def _quote(text: str) -> str:
    """As Go's time package quotes: bytes outside printable ASCII in hexadecimal."""
    shown = text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
    out = []
    for byte in shown.encode("utf-8", "surrogateescape"):
        char = chr(byte)
        if not 0x20 <= byte < 0x7F:
            out.append(f"\\x{byte:02x}")
        else:
            out.append("\\" + char if char in '"\\' else char)
    return '"' + "".join(out) + '"'


def format_duration(nanoseconds: int) -> str:
    """The shortest text as Go prints it: "0s", "250ms", "30s", "1m30s", "1h0m0s"."""
    sign = "-" if nanoseconds < 0 else ""
    value = abs(nanoseconds)
    if value < SECOND:
        return sign + _below_a_second(value)
    minutes, rest = divmod(value, 60 * SECOND)
    seconds = _decimal(rest, SECOND) + "s"
    if not minutes:
        return sign + seconds
    hours, minutes = divmod(minutes, 60)
    return f"{sign}{hours}h{minutes}m{seconds}" if hours else f"{sign}{minutes}m{seconds}"


def _below_a_second(value: int) -> str:
    if value == 0:
        return "0s"
    unit = next(name for name in ("ms", "\u00b5s", "ns") if value >= UNITS[name])
    return _decimal(value, UNITS[unit]) + unit


def _decimal(value: int, unit: int) -> str:
    """*value* divided by *unit* (a power of ten) without trailing zeros."""
    whole, rest = divmod(value, unit)
    if not rest:
        return str(whole)
    return f"{whole}.{str(unit + rest)[1:].rstrip('0')}"
