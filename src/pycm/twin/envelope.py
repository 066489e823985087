# SPDX-License-Identifier: Apache-2.0
"""Ditto envelopes and errors: bytes to values and back, in the byte form of the original.

Reading follows Go's decoder: member names in any case, null for absent, unknown members ignored. Unlike Go, it bounds
size and nesting. See docs/spec/twin.md, "Bytes".
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.errors import InvalidInputError
from pycm.model import gojson

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pycm.twin.session import Thing

#: Longest payload that is read; no valid command is a tenth of it.
MAX_PAYLOAD = 1 << 20
JSON_TYPE = "application/json"


class _Absent:
    """Marks a value that is not sent; None is sent, as null."""


ABSENT: Any = _Absent()


class Envelope(NamedTuple):
    topic: str
    path: str
    headers: Mapping[str, Any]
    value: Any

    def text_header(self, name: str) -> str:
        """The header if it is text, else "": a wrong type counts as absent."""
        header = self.headers.get(name)
        return header if isinstance(header, str) else ""


# ── errors ──


class Kind(enum.Enum):
    """Ditto's error name and status: the three errors that the cloud can get as an answer."""

    INVALID = ("messages:parameter.invalid", 400)
    NOT_FOUND = ("messages:subject.notfound", 404)
    FAILED = ("messages:execution.failed", 500)

    @property
    def status(self) -> int:
        return self.value[1]


class Problem(Exception):  # noqa: N818  it is the content of an answer, not a failure of pycm
    """Raised by the handler of an operation; becomes the answer. *masked*: the message without values of environment
    variables.
    """

    def __init__(self, kind: Kind, message: str, masked: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.masked = masked or message

    def without_secrets(self) -> Problem:
        return Problem(self.kind, self.masked)

    def as_value(self) -> dict[str, Any]:
        name, status = self.kind.value
        return {"error": name, "status": status, "message": self.message}


# ── reading ──


def parse(payload: bytes) -> Any:
    """Read one JSON value. Raises InvalidInputError with a short reason."""
    return gojson.read(payload, limit=MAX_PAYLOAD, large_as_float=True)


def members(value: Any) -> dict[str, Any]:
    """The object's members by lower-case name; of several the last counts, null is an empty object. Raises
    InvalidInputError.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidInputError("not a JSON object")
    return {key.lower(): item for key, item in value.items()}


_MEMBERS: tuple[tuple[str, type, str], ...] = (
    ("topic", str, "a string"),
    ("path", str, "a string"),
    ("timestamp", str, "a string"),
    ("headers", dict, "an object"),
    ("status", int, "a whole number"),
    ("revision", int, "a whole number"),
)


def decode(payload: bytes) -> Envelope:
    """Raises InvalidInputError."""
    found = {name: item for name, item in members(parse(payload)).items() if item is not None}
    for name, kind, text in _MEMBERS:
        if name in found and (not isinstance(found[name], kind) or isinstance(found[name], bool)):
            raise InvalidInputError(f"{name} is not {text}")
    return Envelope(
        found.get("topic", ""), found.get("path", ""), found.get("headers", {}), found.get("value")
    )


# ── writing ──

#: The request for the device: an empty envelope, not an empty payload.
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
