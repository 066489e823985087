# SPDX-License-Identifier: Apache-2.0
"""Ditto envelopes: bytes to values and back, in the original's byte form (shared specification, mqtt-twin 2.1, 2.3, 3).

Reading is as lenient as Go's decoder (member names in any case, null for absent, unknown members, U+FFFD for what is no text) and as
strict (numbers that no 64-bit float holds, nothing after the value), with bounds on size and nesting that Go has not.


The three errors that the cloud can get as an answer (shared specification, mqtt-twin 2.2).
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from pycm.errors import InvalidInputError
from pycm.model import gojson

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pycm.twin.session import Thing


#: Longest payload that is read; no valid command is a tenth of it.
MAX_PAYLOAD = 1 << 20
#: Deepest nesting; a container's description needs 6.
MAX_DEPTH = 64
#: Digits beyond this are a float, as is what no 64 bits hold.
_MAX_INT_DIGITS = 19
_INT64 = 1 << 63

JSON_TYPE = "application/json"


class _Absent:
    """Marks a value that is not sent; None is sent, as null."""


ABSENT: Any = _Absent()


@dataclass(frozen=True)
class Envelope:
    topic: str
    path: str
    headers: Mapping[str, Any]
    value: Any

    def text_header(self, name: str) -> str:
        """The header if it is text, else "": a wrong type counts as absent."""
        header = self.headers.get(name)
        return header if isinstance(header, str) else ""


# ── reading ──


def parse(payload: bytes, limit: int = MAX_PAYLOAD) -> Any:
    """One JSON value. Errors: InvalidInputError, with the reason in a few words."""
    if len(payload) > limit:
        raise InvalidInputError(f"{len(payload)} bytes, {limit} are allowed")
    text = payload.decode("utf-8", "replace")
    try:
        value = json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"not valid JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise InvalidInputError(f"nested more than {MAX_DEPTH} levels deep") from None
    _check_depth(value)
    return gojson.without_surrogates(value, text)


def _number(digits: str) -> int | float:
    if len(digits.lstrip("-")) <= _MAX_INT_DIGITS and digits.lstrip("-").isdigit():
        whole = int(digits)
        if -_INT64 <= whole < _INT64:
            return whole
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise InvalidInputError("not valid JSON: a number is out of range")
    return number


def _constant(word: str) -> NoReturn:
    raise InvalidInputError(f"not valid JSON: {word} is no JSON value")


def _check_depth(value: Any) -> None:
    """Level by level, without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return
    raise InvalidInputError(f"nested more than {MAX_DEPTH} levels deep")


def _children(item: Any) -> Any:
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list) else ()


def members(value: Any) -> dict[str, Any]:
    """The object's members by lower-case name, the last of several counts. null is an empty object. Errors: InvalidInputError."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInputError("not a JSON object")
    return {key.lower(): item for key, item in value.items()}


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def decode(payload: bytes) -> Envelope:
    """Errors: InvalidInputError."""
    found = {name: item for name, item in members(parse(payload)).items() if item is not None}
    for name, kind, fits in _MEMBERS:
        if name in found and not fits(found[name]):
            raise InvalidInputError(f"{name} is not {kind}")
    return Envelope(
        found.get("topic", ""), found.get("path", ""), found.get("headers", {}), found.get("value")
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


_MEMBERS = (
    ("topic", "a string", _is_text),
    ("path", "a string", _is_text),
    ("timestamp", "a string", _is_text),
    ("headers", "an object", _is_object),
    ("status", "a whole number", _is_int),
    ("revision", "a whole number", _is_int),
)


# ── writing ──

#: What asks the connector for the device: an empty envelope, not an empty payload.
EMPTY = b'{"topic":"","headers":null,"path":""}'


def encode(
    topic: str, headers: Mapping[str, Any], path: str, value: Any = ABSENT, status: int | None = None
) -> bytes:
    envelope: dict[str, Any] = {
        "topic": topic,
        "headers": {name: headers[name] for name in sorted(headers)},
        "path": path,
    }
    if value is not ABSENT:
        envelope["value"] = value
    if status is not None:
        envelope["status"] = status
    return gojson.dumps(envelope).encode()


_TWIN_HEADERS = {"response-required": False}
_LIVE_HEADERS = {"content-type": JSON_TYPE, "response-required": False}


def modify(thing: Thing, path: str, value: Any) -> bytes:
    return encode(f"{thing.ditto}/things/twin/commands/modify", _TWIN_HEADERS, path, value)


def delete(thing: Thing, path: str) -> bytes:
    return encode(f"{thing.ditto}/things/twin/commands/delete", _TWIN_HEADERS, path)


def live_message(thing: Thing, feature: str, subject: str, value: Any) -> bytes:
    topic = f"{thing.ditto}/things/live/messages/{subject}"
    return encode(topic, _LIVE_HEADERS, f"/features/{feature}/outbox/messages/{subject}", value)


class Kind(enum.Enum):
    """Ditto's error name and status."""

    INVALID = ("messages:parameter.invalid", 400)
    NOT_FOUND = ("messages:subject.notfound", 404)
    FAILED = ("messages:execution.failed", 500)

    @property
    def status(self) -> int:
        return self.value[1]


class Problem(Exception):  # noqa: N818  it is what the answer says, not a failure of ours
    """Raised by the handler of an operation; becomes the answer."""

    def __init__(self, kind: Kind, message: str, masked: str = "") -> None:
        """*masked*: the message without values of environment variables, if it has some."""
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.masked = masked or message

    def without_secrets(self) -> Problem:
        return Problem(self.kind, self.masked)

    def as_value(self) -> dict[str, Any]:
        name, status = self.kind.value
        return {"error": name, "status": status, "message": self.message}
