# SPDX-License-Identifier: Apache-2.0
"""Records: typed data with a form in Kanto's JSON and one in its gRPC messages.

One line declares a field: its name in Python, in JSON and on the wire. The codecs below walk these declarations;
nothing else knows the names.

JSON: most empty values are null, "" or 0, and those marked *omit* are left out. Unknown keys are kept in `extra` and
written back, so that a file of a newer version survives. Decoding follows Go: a key matches exactly or, failing that,
in any case; null is absent. A wrong type, or a number out of range, makes the whole document an error that names the
path, the value and the reason.
"""

from __future__ import annotations

import re
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from pycm.errors import InvalidInputError, shorten
from pycm.model import gojson
from pycm.model.frozen import Frozen
from pycm.model.states import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

NOTHING: Mapping[str, Any] = MappingProxyType({})
T = TypeVar("T", bound="Record")
#: Bytes of a text whose field names no other bound.
NAME = 256
INT64 = 1 << 63


class Form(NamedTuple):
    """How one field looks outside Python.

    default: of the field. json, wire: its names there (wire "": not on the wire). kind: "text", "flag", "int", "texts"
    (list of str), "one" (a Record or null), "many" (a list of Records), "map" (str to Record). omit: left out of the
    JSON when empty. low, high: an int outside of them cannot be read at all. most: entries of a list, or the highest
    value of an int, in a new description; longest: bytes of a text, or of each text of a list. 0 for values that the
    agent fills in itself. Stored records may exceed them. record: the Record class of one, many and map. to_wire,
    from_wire: for values that differ on the wire (status words, seconds for nanoseconds).
    """

    default: Any
    json: str
    wire: str
    kind: str
    omit: bool = False
    low: int = -INT64
    high: int = INT64 - 1
    record: type[Record] | None = None
    to_wire: Callable[[Any], Any] | None = None
    from_wire: Callable[[Any], Any] | None = None
    most: int = 0
    longest: int = 0


class Record(Frozen, uncompared=("extra",)):
    """Frozen data with a JSON and a wire form. `extra`: JSON keys that no field claims, as they came.

    FORMS: (attribute, Form) of each declared field, in the order of the JSON keys.
    """

    extra: Mapping[str, Any] = NOTHING
    if TYPE_CHECKING:
        FORMS: ClassVar[tuple[tuple[str, Form], ...]]

    def __init_subclass__(cls, uncompared: Sequence[str] = ()) -> None:
        super().__init_subclass__(uncompared)
        cls.FORMS = tuple((name, form) for name, form in vars(cls).items() if isinstance(form, Form))
        for name, form in cls.FORMS:
            setattr(cls, name, form.default)


def text(json: str, wire: str | None = None, *, omit: bool = False, longest: int = NAME) -> Any:
    return Form("", json, json if wire is None else wire, "text", omit, longest=longest)


def flag(json: str, wire: str | None = None, *, omit: bool = False) -> Any:
    return Form(False, json, json if wire is None else wire, "flag", omit)


def integer(json: str, wire: str | None = None, *, default: int = 0, omit: bool = False, **more: Any) -> Any:
    """*more*: bounds and codecs, as in Form."""
    return Form(default, json, json if wire is None else wire, "int", omit, **more)


def port(json: str, *, omit: bool = False) -> Any:
    return integer(json, omit=omit, low=0, high=65535)


def texts(json: str, *, omit: bool = False, most: int, longest: int) -> Any:
    return Form((), json, json, "texts", omit, most=most, longest=longest)


def one(json: str, record: type[Record], *, omit: bool = False) -> Any:
    return Form(None, json, json, "one", omit, record=record)


def always(json: str, record: type[Record]) -> Any:
    """A Record that readers need: absent or null is the empty one."""
    return Form(record(), json, json, "one", record=record)


def many(json: str, record: type[Record], wire: str | None = None, *, omit: bool = False, most: int) -> Any:
    return Form((), json, json if wire is None else wire, "many", omit, record=record, most=most)


def mapping(json: str, record: type[Record]) -> Any:
    return Form(NOTHING, json, json, "map", record=record)


def excess(record: Record, path: str = "") -> Iterator[str]:
    """Yield a text for each bound that *record* or a record in it exceeds: the field, its size and the bound."""
    for attribute, form in record.FORMS:
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
                place = f"{where}[{number}]"  # texts of lists are not shown: variables and keys are secret
                yield from _too_long(form, item, place) if isinstance(item, str) else excess(item, place)


def _too_long(form: Form, value: str, where: str) -> Iterator[str]:
    # a character has at most 4 bytes: most texts need not be encoded
    if form.longest and len(value) * 4 > form.longest:
        size = len(value.encode(errors="replace"))
        if size > form.longest:
            yield f"{where} has {size} bytes; at most {form.longest} are allowed"


# ── JSON ──

_INDEX = re.compile(r"\[\d+\]")
#: Spellings that Leda's manifests use (proto names) beside those of the original's loader.
ALIASES = {"protocol": "proto", "mounts": "mount_points", "id": "container_id", "name": "container_name"}


def encode(record: Record) -> dict[str, Any]:
    """Return the record as a JSON object in Kanto's key order. Empty lists and absent objects are null, or left out as
    Kanto does.
    """
    out: dict[str, Any] = {}
    for attribute, form in record.FORMS:
        value = getattr(record, attribute)
        if form.omit and not value and not (form.kind == "one" and value is not None):
            continue
        out[form.json] = _encode_value(form, value)
    out.update(record.extra)
    return out


def _encode_value(form: Form, value: Any) -> Any:
    if form.kind in ("text", "flag"):
        return value
    if form.kind == "int":
        return int(value)
    if value is None or not (form.kind == "one" or value):
        return None
    if form.kind == "texts":
        return list(value)
    if form.kind == "one":
        return encode(value)
    if form.kind == "many":
        return [encode(item) for item in value]
    return {key: encode(value[key]) for key in sorted(value)}


def decode(record: type[T], data: Any, path: str = "", *, aliases: bool = False) -> T:
    """Build a record from parsed JSON. Errors: InvalidInputError. *aliases*: accept the spellings of ALIASES too."""
    if not isinstance(data, dict):
        raise _wrong(path or "document", data, "an object")
    rest = {key: value for key, value in data.items() if value is not None}
    folded = {key.lower(): key for key in rest}
    values: dict[str, Any] = {}
    for attribute, form in record.FORMS:
        key = _find(form.json, rest, folded, aliases=aliases)
        if key is not None:
            where = f"{path}.{form.json}" if path else form.json
            values[attribute] = _decode_value(form, rest.pop(key), where, aliases=aliases)
    return record(**values, extra=rest or NOTHING)


def _find(name: str, rest: Mapping[str, Any], folded: Mapping[str, str], *, aliases: bool) -> str | None:
    if name in rest:
        return name
    found = folded.get(name.lower())
    if found is None and aliases:
        found = next((key for key, real in ALIASES.items() if real == name and key in rest), None)
    return found if found in rest else None


def _wrong(path: str, value: Any, wanted: str) -> InvalidInputError:
    """Values of decryption keys, which hold passwords, are never shown; those of an environment only unmasked."""
    name = _INDEX.sub("", path)
    masked = f"{path}: *** is not {wanted}"
    if name.endswith(("decrypt_config", "decrypt_config.keys")):
        return InvalidInputError(masked)
    secret = name.endswith(("config.env", "hooks.env"))
    text = f"{path}: {shorten(value)} is not {wanted}"
    return InvalidInputError(text, masked=masked if secret else "")


def _decode_value(form: Form, value: Any, path: str, *, aliases: bool) -> Any:
    if form.kind == "text":
        return _checked(value, str, path, "a string")
    if form.kind == "flag":
        return _checked(value, bool, path, "true or false")
    if form.kind == "int":
        return _decode_int(form, value, path)
    if form.kind == "texts":
        items = _checked(value, list, path, "a list of strings")
        return tuple(_checked(item, str, f"{path}[{i}]", "a string") for i, item in enumerate(items))
    assert form.record is not None
    if form.kind == "one":
        return decode(form.record, value, path, aliases=aliases)
    if form.kind == "many":
        items = _checked(value, list, path, "a list of objects")
        return tuple(
            decode(form.record, item, f"{path}[{i}]", aliases=aliases) for i, item in enumerate(items)
        )
    entries = _checked(value, dict, path, "an object")
    return {key: decode(form.record, item, f"{path}.{key}", aliases=aliases) for key, item in entries.items()}


def _checked(value: Any, kind: type, path: str, wanted: str) -> Any:
    if not isinstance(value, kind):
        raise _wrong(path, value, wanted)
    return value


def _decode_int(form: Form, value: Any, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(path, value, "a whole number")
    if not form.low <= value <= form.high:
        raise _wrong(path, value, f"between {form.low} and {form.high}")
    if form.json == "status":
        return Status(value) if value in Status._value2member_map_ else Status.UNKNOWN
    return int(value)


def stored(record: Record) -> bytes:
    """The bytes of a store file: one line of compact JSON and a newline."""
    return (gojson.dumps(encode(record)) + "\n").encode()


# ── messages: accessed by attribute only, so that this module does not need protobuf ──


def to_message(record: Record, message: Any) -> Any:
    """Fill *message* (a fresh protobuf message of the matching type) from *record* and return it."""
    for attribute, form in record.FORMS:
        value = getattr(record, attribute)
        if not form.wire or value is None:
            continue
        if form.kind == "one":
            child = getattr(message, form.wire)
            child.SetInParent()
            to_message(value, child)
        elif form.kind == "many":
            for item in value:
                to_message(item, getattr(message, form.wire).add())
        elif form.kind == "map":
            for key, item in value.items():
                to_message(item, getattr(message, form.wire)[key])
        elif form.kind == "texts":
            getattr(message, form.wire).extend(value)
        else:
            setattr(message, form.wire, form.to_wire(value) if form.to_wire else value)
    return message


def from_message(record: type[T], message: Any, path: str = "") -> T:
    """Build a record from a message; unset sub-messages are None. InvalidInputError for numbers out of range."""
    values: dict[str, Any] = {}
    for attribute, form in record.FORMS:
        if form.wire:
            where = f"{path}.{form.wire}" if path else form.wire
            value = _wire_value(form, message, where)
            if value is not None:
                values[attribute] = value
    return record(**values)


def _wire_value(form: Form, message: Any, path: str) -> Any:
    if form.kind == "one":
        assert form.record is not None
        return (
            from_message(form.record, getattr(message, form.wire), path)
            if message.HasField(form.wire)
            else None
        )
    value = getattr(message, form.wire)
    if form.kind == "texts":
        return tuple(value)
    if form.kind == "many":
        assert form.record is not None
        return tuple(from_message(form.record, item, f"{path}[{i}]") for i, item in enumerate(value))
    if form.kind == "map":
        assert form.record is not None
        return {key: from_message(form.record, value[key], f"{path}.{key}") for key in value}
    if form.from_wire:
        value = form.from_wire(value)
    if form.kind == "int" and not form.low <= value <= form.high:
        raise InvalidInputError(f"{path}: {shorten(value)} is not between {form.low} and {form.high}")
    return value


# ── unknown keys, which are mostly misspelt ──

#: Letters of a key that are compared with the known ones.
_LONGEST = 100


def walk(record: Record, path: str = "") -> Iterator[tuple[str, Record]]:
    """Yield *record* and each record in it, with their paths."""
    yield path, record
    for attribute, form in record.FORMS:
        for where, child in _children(form, getattr(record, attribute)):
            yield from walk(child, f"{path}.{where}" if path else where)


def unknown_keys(record: Record) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield the path of each unknown key in *record* and the records in it, and a function for the nearest known key,
    or "".
    """
    for path, part in walk(record):
        for key in part.extra:
            yield f"{path}.{key}" if path else key, partial(_nearest, key, part)


def _children(form: Form, value: object) -> Iterator[tuple[str, Record]]:
    if isinstance(value, Record):
        yield form.json, value
    elif form.kind == "many" and isinstance(value, tuple):
        for number, item in enumerate(value):
            yield f"{form.json}[{number}]", item
    elif form.kind == "map" and isinstance(value, dict):
        for key, item in value.items():
            yield f"{form.json}.{key}", item


def _nearest(key: str, record: Record) -> str:
    from difflib import get_close_matches  # slow to import, and seldom needed

    known = [form.json for _, form in record.FORMS]
    return next(iter(get_close_matches(key.casefold()[:_LONGEST], known, 1)), "")
