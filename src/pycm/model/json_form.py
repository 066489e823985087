# SPDX-License-Identifier: Apache-2.0
"""Records to and from Kanto's JSON: stored files, descriptors, and what `get` prints.

Decoding follows Go: a key matches exactly or, failing that, in any case; null is absent; a wrong type or a number out of range makes the
whole document an error, which names the path, the value and the reason.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pycm.errors import InvalidInputError, shorten
from pycm.model import gojson
from pycm.model.fields import NOTHING, Form, Record, forms
from pycm.model.states import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T", bound=Record)

#: Nesting beyond this is no container: Python's own limit would end in RecursionError.
MAX_DEPTH = 64
#: A string without its end counts too: looking for the end from each quotation mark in it would take quadratic time.
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(r"[\[\]{}]")
_INDEX = re.compile(r"\[\d+\]")
#: Spellings that Leda's manifests use (proto names) beside those of the original's loader.
ALIASES = {"protocol": "proto", "mounts": "mount_points", "id": "container_id", "name": "container_name"}


def encode(record: Record) -> dict[str, Any]:
    """The record as a JSON object in Kanto's key order: empty lists and absent objects are null, or left out where Kanto does."""
    out: dict[str, Any] = {}
    for attribute, form in forms(type(record)):
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
    """Build a record from parsed JSON. Errors: InvalidInputError. *aliases*: take the spellings of ALIASES too (descriptors)."""
    if not isinstance(data, dict):
        raise _wrong(path or "document", data, "an object")
    rest = {key: value for key, value in data.items() if value is not None}
    folded = {key.lower(): key for key in rest}
    values: dict[str, Any] = {}
    for attribute, form in forms(record):
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
    """Of decryption keys, which hold passwords, nobody gets the value; of an environment logs and a masked twin do not."""
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


def parse(text: str | bytes) -> Any:
    """The one JSON value in *text*. Errors: InvalidInputError, also for data after it, which the original ignores."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    stripped = text.lstrip("\ufeff \t\r\n")
    _check_depth(stripped)
    try:
        value = _DECODER.decode(stripped)
    except json.JSONDecodeError as error:
        raise InvalidInputError(
            f"not valid JSON: {error.msg} at line {error.lineno} column {error.colno}"
        ) from None
    except RecursionError:
        raise InvalidInputError("not valid JSON: nested too deep") from None
    except ValueError:  # Python reads no number of more than 4300 digits
        raise InvalidInputError("not valid JSON: a number has too many digits") from None
    return gojson.without_surrogates(value, stripped)


def _number(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise InvalidInputError(f"not valid JSON: the number {digits[:20]} is out of range")
    return number


def _no_constant(word: str) -> NoReturn:
    raise InvalidInputError(f"not valid JSON: {word} is no JSON value")


#: Python would read NaN and Infinity, which could not be stored.
_DECODER = json.JSONDecoder(parse_float=_number, parse_constant=_no_constant)


def _check_depth(text: str) -> None:
    """Before Python's parser sees it, since that recurses. Most texts have too few brackets to be deep."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = deepest = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise InvalidInputError(f"nested {deepest} levels deep; {MAX_DEPTH} are allowed")


def stored(record: Record) -> bytes:
    """The bytes of a store file: one line of compact JSON and a newline."""
    return (gojson.dumps(encode(record)) + "\n").encode()
