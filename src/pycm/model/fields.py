# SPDX-License-Identifier: Apache-2.0
"""Declaration of record fields: one line says a field's name in Python, in Kanto's JSON and on the wire.

A Record's codecs (`json_form`, `wire`) walk these declarations; nothing else knows the names. Kanto's JSON writes most empty
values as null, "" or 0 and leaves out those marked *omit*; keys it does not know are kept in `extra` and written back, so that a
file of a newer version survives.
"""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from pycm.errors import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

NOTHING: Mapping[str, Any] = MappingProxyType({})
_META = "pycm"
T = TypeVar("T", bound="Record")
#: Bytes of a text that says nothing else.
NAME = 256


@dataclasses.dataclass(frozen=True)
class Form:
    """How one field looks outside Python.

    json, wire: its names there (wire "" : not on the wire).
    kind: "text", "flag", "int", "texts" (list of str), "one" (a Record or null), "many" (a list of Records), "map" (str to Record).
    omit: left out of the JSON when empty.
    low, high: an int outside of them cannot be read at all.
    most: entries of a list, or the highest value of an int, in a new description; longest: bytes of a text, or of each text of a
    list. 0 for what the agent fills in itself. Records that are stored already may exceed them.
    record: the Record class of one, many and map.
    to_wire, from_wire: for values that differ on the wire (status words, seconds for nanoseconds).
    """

    json: str
    wire: str
    kind: str
    omit: bool = False
    low: int = -(2**63)
    high: int = 2**63 - 1
    record: type[Record] | None = None
    to_wire: Callable[[Any], Any] | None = None
    from_wire: Callable[[Any], Any] | None = None
    most: int = 0
    longest: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Frozen typed data with a JSON and a wire form. `extra`: JSON keys that no field claims, kept as they came."""

    extra: Mapping[str, Any] = dataclasses.field(default_factory=lambda: NOTHING, compare=False, repr=False)


def _declare(default: Any, form: Form, *, compare: bool = True) -> Any:
    return dataclasses.field(default=default, metadata={_META: form}, compare=compare)


def text(json: str, wire: str | None = None, *, omit: bool = False, longest: int = NAME) -> Any:
    return _declare("", Form(json, json if wire is None else wire, "text", omit, longest=longest))


def flag(json: str, wire: str | None = None, *, omit: bool = False, compare: bool = True) -> Any:
    """compare=False: a note beside the data, which makes no record differ from another."""
    return _declare(False, Form(json, json if wire is None else wire, "flag", omit), compare=compare)


def integer(
    json: str,
    wire: str | None = None,
    *,
    default: int = 0,
    omit: bool = False,
    low: int = -(2**63),
    high: int = 2**63 - 1,
    to_wire: Callable[[Any], Any] | None = None,
    from_wire: Callable[[Any], Any] | None = None,
    most: int = 0,
) -> Any:
    form = Form(json, json if wire is None else wire, "int", omit, low, high, None, to_wire, from_wire, most)
    return _declare(default, form)


def port(json: str, *, omit: bool = False) -> Any:
    return integer(json, omit=omit, low=0, high=65535)


def texts(json: str, *, omit: bool = False, most: int, longest: int) -> Any:
    return _declare((), Form(json, json, "texts", omit, most=most, longest=longest))


def one(json: str, record: type[Record], wire: str | None = None, *, omit: bool = False) -> Any:
    return _declare(None, Form(json, json if wire is None else wire, "one", omit, record=record))


def always(json: str, record: type[Record]) -> Any:
    """A Record that readers need: absent or null is the empty one."""
    return dataclasses.field(default_factory=record, metadata={_META: Form(json, json, "one", record=record)})


def many(json: str, record: type[Record], wire: str | None = None, *, omit: bool = False, most: int) -> Any:
    form = Form(json, json if wire is None else wire, "many", omit, record=record, most=most)
    return _declare((), form)


def mapping(json: str, record: type[Record], wire: str | None = None) -> Any:
    form = Form(json, json if wire is None else wire, "map", record=record)
    return dataclasses.field(default_factory=lambda: NOTHING, metadata={_META: form})


_FORMS: dict[type[Record], tuple[tuple[str, Form], ...]] = {}


def forms(record: type[Record]) -> tuple[tuple[str, Form], ...]:
    """The declared fields of a Record class as (attribute, Form), in the order of the JSON keys."""
    found = _FORMS.get(record)
    if found is None:
        fields = dataclasses.fields(record)
        found = tuple((f.name, f.metadata[_META]) for f in fields if _META in f.metadata)
        _FORMS[record] = found
    return found


def excess(record: Record, path: str = "") -> Iterator[str]:
    """Say of each bound that *record* or a record in it exceeds: where, what it has and what it may have."""
    for attribute, form in forms(type(record)):
        value = getattr(record, attribute)
        where = f"{path}.{form.json}" if path else form.json
        if isinstance(value, str):
            yield from _too_long(form, value, f"{where} {shorten(value)}")
        elif isinstance(value, Record):
            yield from excess(value, where)
        elif isinstance(value, int) and form.most and value > form.most:
            yield f"{where} is {value}; at most {form.most} is allowed"
        elif isinstance(value, tuple) and len(value) > form.most:
            yield f"{where} has {len(value)} entries; at most {form.most} are allowed"
        elif isinstance(value, tuple):
            for number, item in enumerate(value):
                place = f"{where}[{number}]"  # a text of a list is not shown: variables and keys are secret
                yield from _too_long(form, item, place) if isinstance(item, str) else excess(item, place)


def unclaimed(record: Record) -> Iterator[dict[str, Any]]:
    """The keys of *record*, and of each record in it, that no field claims."""
    if record.extra:
        yield dict(record.extra)
    for attribute, _ in forms(type(record)):
        value = getattr(record, attribute)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Record):
                yield from unclaimed(item)


def _too_long(form: Form, value: str, where: str) -> Iterator[str]:
    # a character has at most 4 bytes: most texts need not be encoded
    if form.longest and len(value) * 4 > form.longest:
        size = len(value.encode(errors="replace"))
        if size > form.longest:
            yield f"{where} has {size} bytes; at most {form.longest} are allowed"
