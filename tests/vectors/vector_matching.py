# SPDX-License-Identifier: Apache-2.0
"""What a vector expects against what was seen: subsets, placeholders, order (docs/spec/twin.md, "Vectors")."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Bindings = Mapping[str, str]

_UUID = r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_PLACEHOLDER = re.compile(r"<<([^<>]+)>>")
_NANO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")


@dataclass(frozen=True)
class Seen:
    """Something that the agent sent to the broker. kind: publish, subscribe or unsubscribe."""

    kind: str
    topic: str
    payload: bytes = b""
    qos: int = 1
    retain: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.topic} {self.payload.decode(errors='replace')}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


#: Placeholders that stand for a whole value.
_WHOLE = {
    "int": _is_int,
    "string": lambda value: isinstance(value, str),
    "rfc3339nano": lambda value: isinstance(value, str) and _NANO.fullmatch(value) is not None,
    "unix-seconds": lambda value: _is_int(value) and 1_000_000_000 <= value < 100_000_000_000,
}


def _text_pattern(text: str, bindings: Bindings, *, is_regex: bool = False) -> str:
    """*text* as a regular expression; unbound names match a UUID and bind it."""
    out, last, named = [], 0, set()
    for match in _PLACEHOLDER.finditer(text):
        literal = text[last : match.start()]
        out.append(literal if is_regex else re.escape(literal))
        last = match.end()
        name = match[1].removeprefix("uuid:")
        if name in bindings:
            out.append(re.escape(bindings[name]))
        elif name in named:
            out.append(f"(?P={name})")
        else:
            named.add(name)
            out.append(f"(?P<{name}>{_UUID if match[1].startswith('uuid:') else '.+'})")
    out.append(text[last:] if is_regex else re.escape(text[last:]))
    return "".join(out)


def match_value(expected: Any, actual: Any, bindings: Bindings) -> Bindings | None:
    """The bindings with those added that *expected* makes, or None if *actual* does not fit."""
    if isinstance(expected, str):
        return _match_text(expected, actual, bindings)
    if isinstance(expected, dict):
        return _match_object(expected, actual, bindings)
    if isinstance(expected, list):
        if not isinstance(actual, list) or len(actual) != len(expected):
            return None
        for wanted, item in zip(expected, actual, strict=True):
            found = match_value(wanted, item, bindings)
            if found is None:
                return None
            bindings = found
        return bindings
    if _is_number(expected):
        return bindings if _is_number(actual) and actual == expected else None
    return bindings if type(actual) is type(expected) and actual == expected else None


def _match_text(expected: str, actual: Any, bindings: Bindings) -> Bindings | None:
    whole = _PLACEHOLDER.fullmatch(expected)
    if whole and whole[1] in _WHOLE:
        return bindings if _WHOLE[whole[1]](actual) else None
    if not isinstance(actual, str):
        return None
    found = re.fullmatch(_text_pattern(expected, bindings), actual, re.DOTALL)
    return {**bindings, **found.groupdict()} if found else None


def _match_object(expected: dict[str, Any], actual: Any, bindings: Bindings) -> Bindings | None:
    if not isinstance(actual, dict):
        return None
    for key, wanted in expected.items():
        candidates = (
            [key] if key in actual else [other for other in actual if _match_text(key, other, bindings)]
        )
        for candidate in candidates:
            under = _match_text(key, candidate, bindings) if candidate != key else bindings
            found = match_value(wanted, actual[candidate], under or bindings)
            if found is not None:
                bindings = found
                break
        else:
            return None
    return bindings


def _exists(path: Sequence[str], value: Any, bindings: Bindings) -> bool:
    for key in path:
        if not isinstance(value, dict):
            return False
        found = next((other for other in value if _match_text(key, other, bindings) is not None), None)
        if found is None:
            return False
        value = value[found]
    return True


def match_seen(expected: Mapping[str, Any], seen: Seen, bindings: Bindings) -> Bindings | None:
    """One entry of `expect` or `forbid` against one thing seen."""
    for kind in ("subscribe", "unsubscribe"):
        if kind in expected:
            if seen.kind != kind or expected.get("qos", seen.qos) != seen.qos:
                return None
            return _match_text(expected[kind], seen.topic, bindings)
    if seen.kind != "publish":
        return None
    topic = re.fullmatch(_text_pattern(expected["topic_pattern"], bindings, is_regex=True), seen.topic)
    if topic is None:
        return None
    bindings = {**bindings, **{name: value for name, value in topic.groupdict().items() if value}}
    if expected.get("qos", seen.qos) != seen.qos or expected.get("retain", seen.retain) != seen.retain:
        return None
    return _match_payload(expected, seen.payload, bindings)


def _match_payload(expected: Mapping[str, Any], payload: bytes, bindings: Bindings) -> Bindings | None:
    text = payload.decode("utf-8", "replace")
    if "payload_exact_text" in expected and expected["payload_exact_text"] != text:
        return None
    contained = expected.get("payload_contains_text", [])
    if any(part not in text for part in ([contained] if isinstance(contained, str) else contained)):
        return None
    if "payload_subset" not in expected and not expected.get("absent"):
        return bindings
    try:
        value = json.loads(text)
    except ValueError:
        return None
    found = (
        match_value(expected["payload_subset"], value, bindings) if "payload_subset" in expected else bindings
    )
    if found is None or any(_exists(path, value, found) for path in expected.get("absent", [])):
        return None
    return found


# ── a vector as a whole ──

_MEMBERS = (
    ("name", str, "a string"),
    ("given", dict, "an object"),
    ("expect", list, "a list of MQTT messages"),
    ("send", (dict, type(None)), "an object or null"),
    ("order", (str, type(None)), "a string"),
)
_TOPICS = ("subscribe", "unsubscribe", "topic_pattern")
_ENTRY = {
    *_TOPICS, "qos", "retain", "payload_subset", "absent", "payload_exact_text", "payload_contains_text", "after_response",
}  # fmt: skip


def malformed(vector: Any) -> str:
    """What is wrong with a vector's form, or "". A misspelt word would otherwise be a condition that always holds."""
    if not isinstance(vector, dict):
        return "not an object"
    for key, kind, wanted in _MEMBERS:
        if not isinstance(vector.get(key), kind):
            return f"{key} is not {wanted}"
    if vector.get("order") not in (None, "strict", "any"):
        return f"order is {vector['order']!r}, neither strict nor any"
    for part in ("expect", "expect_any_position", "forbid"):
        for entry in vector.get(part) or []:
            if not isinstance(entry, dict) or not any(key in entry for key in _TOPICS):
                return f"{part}: {json.dumps(entry)[:100]} has none of {', '.join(_TOPICS)}"
            if unknown := set(entry) - _ENTRY:
                return f"{part}: {', '.join(sorted(unknown))} is not known"
    return ""


def find_all(vector: Mapping[str, Any], seen: Sequence[Seen]) -> Bindings | None:
    """Bindings under which everything that the vector expects was seen, each entry by another message; None if there are none."""
    ordered = list(vector.get("expect", []))
    free = list(vector.get("expect_any_position", []))
    if vector.get("order") != "strict":
        ordered, free = [], ordered + free
    free.sort(key=lambda entry: "<<uuid:" not in json.dumps(entry))  # those that bind come first
    return next(_assign(free, ordered, seen, frozenset(), -1, {}), None)


def _assign(
    free: Sequence[Mapping[str, Any]],
    ordered: Sequence[Mapping[str, Any]],
    seen: Sequence[Seen],
    used: frozenset[int],
    last: int,
    bindings: Bindings,
) -> Iterator[Bindings]:
    if not free and not ordered:
        yield bindings
        return
    entry = free[0] if free else ordered[0]
    for index, item in enumerate(seen):
        if index in used or (not free and index <= last):
            continue
        found = match_seen(entry, item, bindings)
        if found is None:
            continue
        if free:
            yield from _assign(free[1:], ordered, seen, used | {index}, last, found)
        else:
            yield from _assign((), ordered[1:], seen, used | {index}, index, found)


def missing(vector: Mapping[str, Any], seen: Sequence[Seen]) -> list[Mapping[str, Any]]:
    """Entries that nothing fits, for the report; empty if only the order or a combination is wrong."""
    entries = [*vector.get("expect", []), *vector.get("expect_any_position", [])]
    return [entry for entry in entries if not any(match_seen(entry, item, {}) is not None for item in seen)]


def forbidden(vector: Mapping[str, Any], seen: Sequence[Seen], bindings: Bindings) -> list[Seen]:
    answered = next((i for i, item in enumerate(seen) if is_answer(vector, item)), len(seen))
    found = []
    for entry in vector.get("forbid", []):
        begin = answered + 1 if entry.get("after_response") else 0
        found += [item for item in seen[begin:] if match_seen(entry, item, bindings) is not None]
    return found


def request_id(vector: Mapping[str, Any]) -> str:
    parts = ((vector.get("send") or {}).get("topic") or "").split("/")
    return parts[4] if len(parts) > 4 and parts[0] == "command" else ""


def is_answer(vector: Mapping[str, Any], item: Seen) -> bool:
    wanted = request_id(vector)
    return bool(wanted) and item.kind == "publish" and f"/res/{wanted}/" in item.topic


def wrong_answer(vector: Mapping[str, Any], seen: Sequence[Seen]) -> Seen | None:
    """An answer to the request that no entry fits, though the vector expects one: there will be no other."""
    entries = [*vector.get("expect", []), *vector.get("expect_any_position", [])]
    if not any("/res/" in entry.get("topic_pattern", "") for entry in entries):
        return None
    answers = (item for item in seen if is_answer(vector, item))
    return next((a for a in answers if all(match_seen(entry, a, {}) is None for entry in entries)), None)
