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

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NOTHING: Mapping[str, Any] = MappingProxyType({})
_META = "pycm"
T = TypeVar("T", bound="Record")


@dataclasses.dataclass(frozen=True)
class Form:
    """How one field looks outside Python.

    json, wire: its names there (wire "" : not on the wire).
    kind: "text", "flag", "int", "texts" (list of str), "one" (a Record or null), "many" (a list of Records), "map" (str to Record).
    omit: left out of the JSON when empty.
    low, high: bounds of an int.
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Frozen typed data with a JSON and a wire form. `extra`: JSON keys that no field claims, kept as they came."""

    extra: Mapping[str, Any] = dataclasses.field(default_factory=lambda: NOTHING, compare=False, repr=False)


def _declare(default: Any, form: Form) -> Any:
    return dataclasses.field(default=default, metadata={_META: form})


def text(json: str, wire: str | None = None, *, omit: bool = False) -> Any:
    return _declare("", Form(json, json if wire is None else wire, "text", omit))


def flag(json: str, wire: str | None = None, *, omit: bool = False) -> Any:
    return _declare(False, Form(json, json if wire is None else wire, "flag", omit))


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
) -> Any:
    form = Form(json, json if wire is None else wire, "int", omit, low, high, None, to_wire, from_wire)
    return _declare(default, form)


def port(json: str, *, omit: bool = False) -> Any:
    return integer(json, omit=omit, low=0, high=65535)


def texts(json: str, wire: str | None = None, *, omit: bool = False) -> Any:
    return _declare((), Form(json, json if wire is None else wire, "texts", omit))


def one(json: str, record: type[Record], wire: str | None = None, *, omit: bool = False) -> Any:
    return _declare(None, Form(json, json if wire is None else wire, "one", omit, record=record))


def always(json: str, record: type[Record]) -> Any:
    """A Record that readers need: absent or null is the empty one."""
    return dataclasses.field(default_factory=record, metadata={_META: Form(json, json, "one", record=record)})


def many(json: str, record: type[Record], wire: str | None = None, *, omit: bool = False) -> Any:
    return _declare((), Form(json, json if wire is None else wire, "many", omit, record=record))


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
