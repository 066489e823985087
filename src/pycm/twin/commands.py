# SPDX-License-Identifier: Apache-2.0
"""Commands from the cloud: which are accepted, how each is answered, and which have run before.

An answer is made only for a request with an id in its topic whose headers ask for one. docs/spec/twin.md, "Commands",
has the checks in their order.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pycm.errors import InvalidInputError
from pycm.twin import envelope as ditto
from pycm.twin.envelope import Kind, Problem
from pycm.twin.outbox import Publish
from pycm.twin.session import response_topic

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.twin.envelope import Envelope
    from pycm.twin.features import Feature
    from pycm.twin.session import Thing

    Refuse = Callable[["Address", Envelope, Problem], Publish | None]

#: Names of one-way topics that are not operations: events of the backend's own twin. They change nothing here.
EVENTS = frozenset({"created", "modified", "deleted", "errors-response"})
#: Longest topic of a command; the answer's topic is a little longer, and MQTT allows 65 535 bytes.
MAX_TOPIC = 4096
#: Commands that are remembered; the oldest is forgotten.
MAX_RECENT = 64

_FEATURE_PATH = re.compile(r"/features/([^/]+)/inbox/messages/([^/]+)")
_THING_PATH = re.compile(r"/inbox/messages/[^/]+")


class Known(Protocol):
    """The thing and the features that a command is checked against."""

    @property
    def thing(self) -> Thing | None: ...

    def feature(self, feature_id: str) -> Feature | None: ...


class Address(NamedTuple):
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


class Command(NamedTuple):
    """An accepted request: run `operation` of `feature` with `argument`, then `answer`. `size`: bytes of it."""

    feature: Feature
    feature_id: str
    operation: str
    argument: Any
    address: Address
    envelope: Envelope
    size: int

    def without_argument(self) -> Command:
        """What an answer needs; a command may wait for a long time."""
        return self._replace(argument=None, envelope=self.envelope._replace(value=None))

    def answer(self, value: Any) -> Publish | None:
        """The handler succeeded. *value* None: 204 without a value."""
        if value is None:
            return _response(self.address, self.envelope, self._outbox(), ditto.ABSENT, 204)
        return _response(self.address, self.envelope, self._outbox(), value, 200)

    def refuse(self, problem: Problem) -> Publish | None:
        return _response(self.address, self.envelope, self._outbox(), problem.as_value(), problem.kind.status)

    def _outbox(self) -> str:
        return f"/features/{self.feature_id}/outbox/messages/{self.operation}"


class Refusal(NamedTuple):
    """A command that is not accepted: the reason, and the answer if one is due."""

    reason: str
    answer: Publish | None


def accept(address: Address, payload: bytes, known: Known) -> Command | Refusal:
    try:
        envelope = ditto.decode(payload)
    except InvalidInputError as error:
        return _undecodable(address, str(error))
    if found := _problem(address, envelope, known):
        problem, refuse = found
        return Refusal(problem.message, refuse(address, envelope, problem))
    # from here on answers are sent for the thing that was found
    address = address._replace(thing_id=known.thing.id if known.thing else address.thing_id)
    match = _FEATURE_PATH.fullmatch(envelope.path)
    feature = known.feature(match[1]) if match else None
    if match is None or feature is None:
        problem = _path_problem(address, envelope.path)
        return Refusal(problem.message, _refused(address, envelope, problem))
    return Command(feature, match[1], match[2], envelope.value, address, envelope, len(payload))


# ── the answers to refused commands ──


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
    """An answer that cannot name the topic and the path of the request."""
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
    """Whether an answer is wanted cannot be read; one is given if the topic has a request id."""
    text = f"error parsing Ditto message received for device id [{address.thing_id}]"  # compat
    return Refusal(f"{text}: {reason}", _nameless(address, Problem(Kind.INVALID, text)))


# ── the checks; their texts are the original's (compat) ──


def _problem(address: Address, envelope: Envelope, known: Known) -> tuple[Problem, Refuse] | None:
    """The first fault of a command, and the function that makes the answer."""
    invalid = f"invalid Ditto message received for device id [{address.thing_id}]"
    if not envelope.topic or not envelope.path:
        return Problem(Kind.INVALID, invalid), _anonymous
    if envelope.topic.count("/") < 2:
        text = f"invalid Ditto message topic received for device id [{address.thing_id}]"
        return Problem(Kind.INVALID, text), _anonymous
    if not envelope.text_header("correlation-id"):
        return Problem(Kind.INVALID, f"{invalid}: correlation id header is missing"), _refused
    if detail := _content_problem(envelope):
        return Problem(Kind.INVALID, f"{invalid}: {detail}"), _refused
    namespace, name, _ = envelope.topic.split("/", 2)
    if known.thing is None or f"{namespace}:{name}" != known.thing.id:
        return Problem(Kind.NOT_FOUND, f"thing with ID = {address.thing_id} is not found"), _refused
    return None


def _content_problem(envelope: Envelope) -> str:
    given = envelope.text_header("content-type")
    if envelope.value is None:
        absent = envelope.headers.get("content-type") is None
        return "" if absent else f"unexpected content type header {given}"
    if not given:
        return "missing content type header"
    return "" if given == ditto.JSON_TYPE else f"unsupported content type header {given}"


def _path_problem(address: Address, path: str) -> Problem:
    if match := _FEATURE_PATH.fullmatch(path):
        return Problem(Kind.INVALID, f"feature [{match[1]}] not found ")
    if _THING_PATH.fullmatch(path):
        return Problem(
            Kind.NOT_FOUND,
            f"the target thing ID = {address.thing_id} does not have e registered operations handler"
            " - thus, the command will not be processed",
        )
    return Problem(Kind.INVALID, f"missing operation name for device id [{address.thing_id}]")


# ── commands that must not run twice ──

RUNNING: Any = object()


def mark_of(topic: str, payload: bytes) -> bytes:
    """A copy of a command has the same topic, and so request id, and the same payload, and so correlation id."""
    return hashlib.sha256(topic.encode("utf-8", "replace") + b"\0" + payload).digest()


class Recent:
    """Marks of the commands that create containers, with the value of each answer; RUNNING until there is one.

    QoS 1 may deliver a command twice. Other commands ask for a state, and find it the second time. A command that
    failed, or whose container was removed, is forgotten, so that the same command runs again. Nothing is kept over a
    restart of the agent, which begins a new session at the broker.
    """

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
        """For the log: a retained command comes with each subscription, and never runs."""
        first, self._retained = not self._retained, True
        return first

    def removed(self, container_id: str) -> None:
        """Forget the command that created this container. Containers of an installation are not known: any removal
        forgets it.
        """
        for mark, value in list(self._values.items()):
            if value is not RUNNING and (value == container_id or not isinstance(value, str)):
                del self._values[mark]

    def clear(self) -> None:
        self._values.clear()
