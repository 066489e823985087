# SPDX-License-Identifier: Apache-2.0
"""Commands from the cloud: which are accepted, and how each is answered (shared specification, mqtt-twin 2.1, 2.2).

`CHECKS` is the acceptance algorithm, one row a step; the first step that finds something ends it. An answer is made only for a request
with an id in its topic whose headers ask for one.


Commands that must not run twice though they may come twice (QoS 1: at least once). No I/O, no clock.

A copy has the topic, and so the request id, and the payload, and so the correlation id, of the first one. Of the operations only those
that make containers are remembered: the others ask for a state, and a second time find it. A command that failed is forgotten, so that it
can be tried again as it is; so is one whose container was removed. Nothing is kept over a restart of the agent: its session at the broker
is a new one, to which nothing is delivered again.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from pycm.errors import InvalidInputError
from pycm.twin import envelope as ditto
from pycm.twin.envelope import Kind, Problem
from pycm.twin.outbox import Publish
from pycm.twin.session import response_topic

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.twin.envelope import Envelope
    from pycm.twin.features.base import Feature


#: Names of one-way topics that are not operations: what the backend tells of its own twin. They change nothing here.
EVENTS = frozenset({"created", "modified", "deleted", "errors-response"})

#: Longest topic of a command; the answer's topic is a little longer, and MQTT allows 65 535 bytes.
MAX_TOPIC = 4096

_FEATURE_PATH = re.compile(r"/features/([^/]+)/inbox/messages/([^/]+)")
_THING_PATH = re.compile(r"/inbox/messages/[^/]+")


class Known(Protocol):
    """What a command is held against."""

    def thing_id(self) -> str: ...

    def feature(self, feature_id: str) -> Feature | None: ...


@dataclass(frozen=True)
class Address:
    """The parts of a command's MQTT topic."""

    thing_id: str
    request_id: str
    name: str

    @property
    def is_event(self) -> bool:
        return not self.request_id and self.name in EVENTS


def address_of(topic: str) -> Address | None:
    """None if the topic is not of the form command//THING/req/REQUEST/NAME."""
    if len(topic) > MAX_TOPIC:
        return None
    parts = topic.split("/")
    if len(parts) != 6 or parts[:2] != ["command", ""] or parts[3] != "req" or not parts[2] or not parts[5]:
        return None
    return Address(parts[2], parts[4], parts[5])


@dataclass(frozen=True)
class Command:
    """An accepted request: run `operation` of `feature` with `argument`, then `answer`."""

    feature: Feature
    feature_id: str
    operation: str
    argument: Any
    address: Address
    envelope: Envelope
    #: Bytes of the payload.
    size: int

    def without_argument(self) -> Command:
        """As much as an answer needs: it may have to wait for long."""
        return replace(self, argument=None, envelope=replace(self.envelope, value=None))

    def answer(self, value: Any = ditto.ABSENT) -> Publish | None:
        """The handler succeeded; *value* absent: 204."""
        status = 204 if value is ditto.ABSENT else 200
        return _response(self.address, self.envelope, self._outbox(), value, status)

    def refuse(self, problem: Problem) -> Publish | None:
        return _response(self.address, self.envelope, self._outbox(), problem.as_value(), problem.kind.status)

    def _outbox(self) -> str:
        return f"/features/{self.feature_id}/outbox/messages/{self.operation}"


@dataclass(frozen=True)
class Refusal:
    """Not accepted: why, and the answer if one is due."""

    reason: str
    answer: Publish | None


def accept(address: Address, payload: bytes, known: Known) -> Command | Refusal:
    try:
        envelope = ditto.decode(payload)
    except InvalidInputError as error:
        return _undecodable(address, str(error))
    for check, anonymous in CHECKS:
        problem = check(address, envelope, known)
        if problem is not None:
            answer = (
                _anonymous(address, envelope, problem) if anonymous else _refused(address, envelope, problem)
            )
            return Refusal(problem.message, answer)
    # from here on answers go out under the thing that was found
    address = replace(address, thing_id=known.thing_id())
    problem = _feature_problem(address, envelope, known)
    if problem is not None:
        return Refusal(problem.message, _refused(address, envelope, problem))
    match = _FEATURE_PATH.fullmatch(envelope.path)
    assert match is not None
    feature_id, operation = match.groups()
    feature = known.feature(feature_id)
    assert feature is not None
    return Command(feature, feature_id, operation, envelope.value, address, envelope, len(payload))


# ── the steps ──


def _invalid(address: Address, detail: str = "") -> Problem:
    more = f": {detail}" if detail else ""
    return Problem(Kind.INVALID, f"invalid Ditto message received for device id [{address.thing_id}]{more}")


def _has_topic_and_path(address: Address, envelope: Envelope, _: Known) -> Problem | None:
    return None if envelope.topic and envelope.path else _invalid(address)


def _has_thing_topic(address: Address, envelope: Envelope, _: Known) -> Problem | None:
    if envelope.topic.count("/") >= 2:
        return None
    return Problem(Kind.INVALID, f"invalid Ditto message topic received for device id [{address.thing_id}]")


def _has_correlation(address: Address, envelope: Envelope, _: Known) -> Problem | None:
    if envelope.text_header("correlation-id"):
        return None
    return _invalid(address, "correlation id header is missing")


def _has_content_type(address: Address, envelope: Envelope, _: Known) -> Problem | None:
    given = envelope.text_header("content-type")
    if envelope.value is None:
        if envelope.headers.get("content-type") is None:
            return None
        return _invalid(address, f"unexpected content type header {given}")
    if not given:
        return _invalid(address, "missing content type header")
    return None if given == ditto.JSON_TYPE else _invalid(address, f"unsupported content type header {given}")


def _is_for_our_thing(address: Address, envelope: Envelope, known: Known) -> Problem | None:
    namespace, name, _ = envelope.topic.split("/", 2)
    if f"{namespace}:{name}" == known.thing_id():
        return None
    return Problem(Kind.NOT_FOUND, f"thing with ID = {address.thing_id} is not found")


def _feature_problem(address: Address, envelope: Envelope, known: Known) -> Problem | None:
    if match := _FEATURE_PATH.fullmatch(envelope.path):
        if known.feature(match[1]) is not None:
            return None
        return Problem(Kind.INVALID, f"feature [{match[1]}] not found ")
    if _THING_PATH.fullmatch(envelope.path):
        return Problem(
            Kind.NOT_FOUND,
            f"the target thing ID = {address.thing_id} does not have e registered operations handler"
            " - thus, the command will not be processed",
        )
    return Problem(Kind.INVALID, f"missing operation name for device id [{address.thing_id}]")


#: (step, True if the answer cannot name the request's topic and path)
CHECKS: tuple[tuple[Callable[[Address, Envelope, Known], Problem | None], bool], ...] = (
    (_has_topic_and_path, True),
    (_has_thing_topic, True),
    (_has_correlation, False),
    (_has_content_type, False),
    (_is_for_our_thing, False),
)


# ── the answers ──


def _response(address: Address, envelope: Envelope, path: str, value: Any, status: int) -> Publish | None:
    if not address.request_id or envelope.headers.get("response-required") is not True:
        return None
    headers: dict[str, Any] = {}
    if value is not ditto.ABSENT:
        headers["content-type"] = ditto.JSON_TYPE
    if correlation := envelope.text_header("correlation-id"):
        headers["correlation-id"] = correlation
    payload = ditto.encode(envelope.topic, headers, path, value, status)
    return Publish(response_topic(address.thing_id, address.request_id, status), payload)


def _refused(address: Address, envelope: Envelope, problem: Problem) -> Publish | None:
    return _response(address, envelope, envelope.path, problem.as_value(), problem.kind.status)


def _anonymous(address: Address, envelope: Envelope, problem: Problem) -> Publish | None:
    if envelope.headers.get("response-required") is not True:
        return None
    return _nameless(address, problem)


def _nameless(address: Address, problem: Problem) -> Publish | None:
    if not address.request_id:
        return None
    status = problem.kind.status
    headers = {"content-type": ditto.JSON_TYPE}
    payload = ditto.encode("unknown/unknown/things/twin/errors", headers, "/", problem.as_value(), status)
    return Publish(response_topic(address.thing_id, address.request_id, status), payload)


def _undecodable(address: Address, reason: str) -> Refusal:
    """Whether an answer is wanted cannot be read; one is given if there is somewhere to send it."""
    text = f"error parsing Ditto message received for device id [{address.thing_id}]"
    return Refusal(f"{text}: {reason}", _nameless(address, Problem(Kind.INVALID, text)))


#: Commands that are remembered; the oldest is forgotten.
MAX_RECENT = 64

RUNNING: Any = object()


def mark_of(topic: str, payload: bytes) -> bytes:
    return hashlib.sha256(topic.encode("utf-8", "replace") + b"\0" + payload).digest()


class Recent:
    """Marks of commands, and what each was answered; RUNNING as long as it is not."""

    def __init__(self) -> None:
        self._values: dict[bytes, Any] = {}
        self._retained = False

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, mark: bytes) -> bool:
        return mark in self._values

    def value(self, mark: bytes) -> Any:
        return self._values[mark]

    def begin(self, mark: bytes) -> None:
        while len(self._values) >= MAX_RECENT:
            del self._values[next(iter(self._values))]
        self._values[mark] = RUNNING

    def end(self, mark: bytes, value: Any) -> None:
        if mark in self._values:
            self._values[mark] = value

    def forget(self, mark: bytes) -> None:
        self._values.pop(mark, None)

    def is_first_retained(self) -> bool:
        """For the log: such a command comes with each subscription, and never runs."""
        first, self._retained = not self._retained, True
        return first

    def removed(self, container_id: str) -> None:
        """A container is gone: who asks for it anew means it. What an installation has made is not known, so any ends its memory."""
        for mark, value in list(self._values.items()):
            if value is not RUNNING and (value == container_id or not isinstance(value, str)):
                del self._values[mark]

    def clear(self) -> None:
        self._values.clear()
