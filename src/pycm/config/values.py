# SPDX-License-Identifier: Apache-2.0
"""One value of the configuration: from what a file or a flag holds to what the program uses, and back to what may be shown.

A value of the wrong type is an error. A duration that cannot be read and a word that is not among the choices are replaced by the
default, with a warning: the original does so, and a device in a vehicle had better start.
"""

from __future__ import annotations

from os.path import isabs
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pycm.config.keys import Key, plain
from pycm.config.types import LONGEST, LONGEST_PATH, MOST_ENTRIES
from pycm.errors import InvalidInputError, shorten
from pycm.flags import printable, read_bool, read_int
from pycm.model.durations import SECOND, parse_duration
from pycm.model.units import size_to_bytes
from pycm.model.validation import is_identifier

if TYPE_CHECKING:
    from collections.abc import Callable, Sized

    from pycm.config.types import Option

MASK = "***"
_PRINTED_BITS = 64  # integers beyond are not repeated in errors: Python refuses to print the largest


def read(key: Key, raw: Any) -> tuple[Any, str]:
    """The value that *raw* stands for, and a warning or "". Errors: InvalidInputError with the reason and what to write."""
    value = _READERS[key.option.kind](key.option, raw)
    if isinstance(value, InvalidInputError):
        if key.option.kind == "milliseconds":
            return None, f"{value}; the value of [connection] is used"
        return key.default, f"{value}; the default {plain(key.option, key.default)!r} is used"
    if not key.option.choices:
        return value, ""
    return _known(key, value) if key.option.kind == "strings" else _chosen(key, value)


def _chosen(key: Key, value: str) -> tuple[str, str]:
    wanted = value.upper() if key.option.upper else value
    if wanted in key.option.choices:
        return wanted, ""
    return key.default, f"{_not_known(key, value)}; the default {key.default!r} is used"


def _known(key: Key, values: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Those of a list that are known; the first of the others is named."""
    unknown = [value for value in values if value not in key.option.choices]
    kept = tuple(value for value in values if value in key.option.choices)
    return kept, f"{_not_known(key, unknown[0])}; it is left out" if unknown else ""


def _not_known(key: Key, value: str) -> str:
    return f"{shorten(value)} is not known ({', '.join(key.option.choices)})"


def _wrong(option: Option, raw: Any, wanted: str) -> InvalidInputError:
    return InvalidInputError(f"{MASK if option.hide else show_raw(raw)} is not {wanted}")


def _string(option: Option, raw: Any) -> str:
    if not isinstance(raw, str):
        raise _wrong(option, raw, "a string; put it in double quotes")
    longest = LONGEST_PATH if option.rule.startswith("path") else LONGEST
    if len(raw.encode(errors="replace")) > longest:
        raise _wrong(option, raw, f"usable: it is longer than {longest} bytes")
    if "\0" in raw:
        raise _wrong(option, raw, "usable: it has a NUL character in it")
    # a byte of a flag that is not UTF-8; file names may have such bytes
    if not option.rule.startswith("path") and any("\ud800" <= char <= "\udfff" for char in raw):
        raise _wrong(option, raw, "usable: it is not UTF-8 text")
    if option.rule and not _RULES[option.rule][0](raw):
        raise _wrong(option, raw, _RULES[option.rule][1])
    return raw


#: Rules that strings must keep to be taken, and how a text that does not is answered: "... is not ...".
_RULES: dict[str, tuple[Callable[[str], object], str]] = {
    "identifier": (
        is_identifier,
        "a name that containerd takes: at most 76 letters and digits, with . _ - between them",
    ),
    "path": (isabs, "an absolute path"),
    "path or nothing": (lambda raw: not raw or isabs(raw), "an absolute path"),
}


def _int(option: Option, raw: Any) -> int:
    wanted = f"a whole number from {option.low} to {option.high}"
    try:
        value = read_int(raw) if isinstance(raw, str) else raw
    except InvalidInputError:
        raise _wrong(option, raw, wanted) from None
    if isinstance(value, bool) or not isinstance(value, int) or not option.low <= value <= option.high:
        raise _wrong(option, raw, wanted)
    return value


def _bool(option: Option, raw: Any) -> bool:
    try:
        value = read_bool(raw) if isinstance(raw, str) else raw
    except InvalidInputError:
        value = None
    if not isinstance(value, bool):
        raise _wrong(option, raw, "true or false")
    return value


def _strings(option: Option, raw: Any) -> tuple[str, ...]:
    if not isinstance(raw, list | tuple):
        raise _wrong(option, raw, 'a list of strings, such as ["a", "b"]')
    _check_entries(raw)
    return tuple(_string(option, item) for item in raw)


def _duration(option: Option, raw: Any) -> float | InvalidInputError:
    if not isinstance(raw, str):
        raise _wrong(option, raw, 'a duration, a string such as "30s" or "1h15m"')
    try:
        seconds = parse_duration(raw) / SECOND
    except InvalidInputError as error:
        return error
    return _bounded(option, seconds, raw)


def _milliseconds(option: Option, raw: Any) -> float | InvalidInputError:
    try:
        value = read_int(raw) if isinstance(raw, str) else raw
    except InvalidInputError as error:
        return error
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(option, raw, "a whole number of milliseconds")
    if not option.low <= value <= option.high * 1000:
        return InvalidInputError(f"{show_raw(raw)} is not between {option.low} and {option.high * 1000} ms")
    return value / 1000


def _stop_timeout(option: Option, raw: Any) -> float | InvalidInputError:
    """Whole seconds; parts of a second are cut."""
    if isinstance(raw, str) and raw.isascii() and raw.isdigit():
        return _bounded(option, float(raw), raw)
    if isinstance(raw, int) and not isinstance(raw, bool):
        return _bounded(option, raw, raw)
    seconds = _duration(option, raw)
    return seconds if isinstance(seconds, InvalidInputError) else float(int(seconds))


def _size(option: Option, raw: Any) -> str | InvalidInputError:
    text = _string(option, raw)
    try:
        if text:
            size_to_bytes(text)
    except InvalidInputError as error:
        return error
    return text


def _bounded(option: Option, seconds: float, raw: Any) -> float | InvalidInputError:
    if not option.low <= seconds <= option.high:
        return InvalidInputError(f"{show_raw(raw)} is not between {option.low}s and {option.high}s")
    return float(seconds)


def _map(option: Option, raw: Any) -> MappingProxyType[str, str]:
    if not isinstance(raw, dict):
        raise _wrong(option, raw, "a table of strings")
    _check_entries(raw)
    return MappingProxyType({key: _string(option, value) for key, value in raw.items()})


def _check_entries(raw: Sized) -> None:
    if len(raw) > MOST_ENTRIES:
        raise InvalidInputError(f"it has {len(raw)} entries; at most {MOST_ENTRIES} are allowed")


_READERS: dict[str, Callable[[Option, Any], Any]] = {
    "string": _string, "int": _int, "bool": _bool, "strings": _strings, "duration": _duration,
    "stop_timeout": _stop_timeout, "milliseconds": _milliseconds, "size": _size, "map": _map,
}  # fmt: skip


def show_raw(raw: Any) -> str:
    """A value out of a file, on one short line; of lists and tables only what they are, since secrets may be in them."""
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, list | tuple):
        return "a list"
    if isinstance(raw, dict):
        return "a table"
    if isinstance(raw, int) and raw.bit_length() > _PRINTED_BITS:
        return "a number of more than 64 bits"
    return printable(shorten(raw))


def masked(option: Option, value: Any) -> Any:
    """*value* without what `option.hide` says is secret."""
    if option.hide == "password":
        return tuple(_without_password(item) for item in value)
    if option.hide == "login":
        return _without_login(value)
    return MASK if option.hide and value else value


def _without_password(item: str) -> str:
    file, colon, _ = item.partition(":")
    return file + (colon + MASK if colon else "")


def _without_login(address: str) -> str:
    before, at, host = address.rpartition("@")
    scheme, slashes, _ = before.partition("://")
    return f"{scheme if slashes else ''}{slashes}{MASK}@{host}" if at else address
