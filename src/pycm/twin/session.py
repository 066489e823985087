# SPDX-License-Identifier: Apache-2.0
"""The session with the cloud connector: its names (device, thing, topics), and its phases as a table.

Two rules: the table alone says what follows what, and a pair that is not in it changes nothing. The device is forgotten
at every loss of the connection, so that the first answer after it registers all features again, even if it names the
same device.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.errors import InvalidInputError, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

EDGE_REQUEST = "edge/thing/request"
EDGE_RESPONSE = "edge/thing/response"
THING_SUFFIX = ":edge:containers"
CONTAINER_PREFIX = "Container:"

#: Longest device or tenant id; Ditto's own limit for a thing is 256.
MAX_NAME = 256
#: Characters that would change the level or the meaning of an MQTT topic, or the name of a file.
_UNFIT = re.compile(r"[/+#\x00-\x1f\x7f\ufffd]")


class Device(NamedTuple):
    """What the connector says. `policy_id` is only compared."""

    device_id: str
    tenant_id: str
    policy_id: str = ""


class Thing(NamedTuple):
    tenant: str
    id: str

    @property
    def ditto(self) -> str:
        """namespace/name, as Ditto's topics begin."""
        return self.id.replace(":", "/", 1)

    @property
    def events(self) -> str:
        return f"e/{self.tenant}/{self.id}"

    @property
    def commands(self) -> str:
        return f"command//{self.id}/req/#"

    @property
    def responses(self) -> str:
        """The topics of answers begin so."""
        return f"command//{self.id}/res/"

    @property
    def device_id(self) -> str:
        return self.id.removesuffix(THING_SUFFIX)


def thing_of(device: Device) -> Thing:
    return Thing(device.tenant_id, device.device_id + THING_SUFFIX)


def response_topic(thing_id: str, request_id: str, status: int) -> str:
    return f"command//{thing_id}/res/{request_id}/{status}"


def device_from(message: Mapping[str, Any]) -> Device:
    """Read the device of an edge response, given with lower-case keys. Raises InvalidInputError, which names the
    member.
    """
    device_id = _text(message, "deviceId")
    namespace, _, name = device_id.partition(":")
    if not namespace or not name:
        raise InvalidInputError(f"deviceId: {shorten(device_id)} is not of the form namespace:name")
    tenant_id = _text(message, "tenantId")
    if not tenant_id:
        raise InvalidInputError("tenantId: is missing or empty")
    return Device(device_id, tenant_id, _text(message, "policyId"))


def _text(message: Mapping[str, Any], name: str) -> str:
    value = message.get(name.lower())
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidInputError(f"{name}: {shorten(value)} is not a string")
    if len(value) > MAX_NAME:
        raise InvalidInputError(f"{name}: {shorten(value)} is longer than {MAX_NAME} characters")
    if _UNFIT.search(value):
        raise InvalidInputError(f"{name}: {shorten(value)} has a character that is not allowed in a topic")
    return value


# ── the phases ──


class Phase(enum.Enum):
    OFFLINE = "no connection"
    WAITING = "connected, no device yet"
    RECALLING = "device known, its stored list is being read"
    ACTIVE = "features registered, commands received"


class Input(enum.Enum):
    CONNECTED = enum.auto()
    LOST = enum.auto()
    SAME_DEVICE = enum.auto()
    NEW_POLICY = enum.auto()
    NEW_DEVICE = enum.auto()
    RECALLED = enum.auto()
    RETRY = enum.auto()


class Step(enum.Enum):
    """What the core does on a transition, in the order of the row."""

    ANNOUNCE = "subscribe to the connector's answers, ask for the device"
    LEAVE = "unsubscribe from the old thing's commands"
    RECALL = "read the stored list"
    REGISTER = "publish all features"
    LISTEN = "subscribe to the thing's commands, unless that is done"
    PAUSE = "stop measuring until the features are registered again"


_ANNOUNCE = (Step.ANNOUNCE,)
_RECALL = (Step.RECALL,)
_MOVE = (Step.LEAVE, Step.RECALL)
_AGAIN = (Step.ANNOUNCE, Step.RECALL)
_LOST = (Phase.OFFLINE, (Step.PAUSE,))

# fmt: off
TRANSITIONS: Mapping[tuple[Phase, Input], tuple[Phase, tuple[Step, ...]]] = {
    (Phase.OFFLINE, Input.CONNECTED): (Phase.WAITING, _ANNOUNCE),
    (Phase.WAITING, Input.NEW_DEVICE): (Phase.RECALLING, _RECALL),
    (Phase.WAITING, Input.RETRY): (Phase.WAITING, _ANNOUNCE),
    (Phase.WAITING, Input.LOST): _LOST,
    (Phase.RECALLING, Input.NEW_DEVICE): (Phase.RECALLING, _MOVE),
    # The original subscribes last, and loses a command that is sent as soon as a feature appears.
    (Phase.RECALLING, Input.RECALLED): (Phase.ACTIVE, (Step.LISTEN, Step.REGISTER)),
    (Phase.RECALLING, Input.RETRY): (Phase.RECALLING, _AGAIN),
    (Phase.RECALLING, Input.LOST): _LOST,
    (Phase.ACTIVE, Input.NEW_DEVICE): (Phase.RECALLING, _MOVE),
    (Phase.ACTIVE, Input.NEW_POLICY): (Phase.RECALLING, _RECALL),
    (Phase.ACTIVE, Input.RETRY): (Phase.RECALLING, _AGAIN),
    (Phase.ACTIVE, Input.LOST): _LOST,
}
# fmt: on


class Session:
    """Phase, device and subscription. `feed` returns the steps to take, in order."""

    def __init__(self) -> None:
        self.phase = Phase.OFFLINE
        self.device: Device | None = None
        #: The thing whose commands are subscribed to; it differs from `thing` while the device changes.
        self.listening: Thing | None = None

    @property
    def thing(self) -> Thing | None:
        return thing_of(self.device) if self.device else None

    @property
    def registered(self) -> bool:
        return self.phase is Phase.ACTIVE

    def feed(self, event: Input) -> tuple[Step, ...]:
        row = TRANSITIONS.get((self.phase, event))
        if row is None:
            return ()
        self.phase, steps = row
        if event is Input.LOST:
            self.device = self.listening = None
        elif event is Input.RETRY:
            self.listening = None
        return steps

    def meet(self, device: Device) -> tuple[Step, ...]:
        """The connector has named the device."""
        event = self._classify(device)
        if (self.phase, event) not in TRANSITIONS and event is not Input.NEW_POLICY:
            return ()
        self.device = device
        return self.feed(event)

    def _classify(self, device: Device) -> Input:
        if self.device is None or thing_of(device) != self.thing:
            return Input.NEW_DEVICE
        return Input.SAME_DEVICE if device == self.device else Input.NEW_POLICY
