# SPDX-License-Identifier: Apache-2.0
"""The session with the cloud connector as a table (shared specification, mqtt-twin 1.2 to 1.5).

Two rules: the table alone says what follows what, and a pair that is not in it changes nothing. The device is forgotten at every loss
of the connection, so that the first answer after it registers all features anew, even if it names the same device.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from pycm.twin.names import Device, Thing, thing_of

if TYPE_CHECKING:
    from collections.abc import Mapping


class Phase(enum.Enum):
    OFFLINE = "no connection"
    WAITING = "connected, no device yet"
    RECALLING = "device known, its stored list is being read"
    ACTIVE = "features registered, commands listened to"


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
    LEAVE = "stop listening to the old thing's commands"
    RECALL = "read the stored list"
    REGISTER = "publish all features"
    LISTEN = "subscribe to the thing's commands, unless that is done"
    PAUSE = "stop measuring until the features are registered again"


_ANNOUNCE = (Step.ANNOUNCE,)
_RECALL = (Step.RECALL,)
_MOVE = (Step.LEAVE, Step.RECALL)
_AGAIN = (Step.ANNOUNCE, Step.RECALL)
_LOST = (Phase.OFFLINE, (Step.PAUSE,))

TRANSITIONS: Mapping[tuple[Phase, Input], tuple[Phase, tuple[Step, ...]]] = {
    (Phase.OFFLINE, Input.CONNECTED): (Phase.WAITING, _ANNOUNCE),
    (Phase.WAITING, Input.NEW_DEVICE): (Phase.RECALLING, _RECALL),
    (Phase.WAITING, Input.RETRY): (Phase.WAITING, _ANNOUNCE),
    (Phase.WAITING, Input.LOST): _LOST,
    (Phase.RECALLING, Input.NEW_DEVICE): (Phase.RECALLING, _MOVE),
    # The original listens last, and loses a command that answers the sight of a feature at once.
    (Phase.RECALLING, Input.RECALLED): (Phase.ACTIVE, (Step.LISTEN, Step.REGISTER)),
    (Phase.RECALLING, Input.RETRY): (Phase.RECALLING, _AGAIN),
    (Phase.RECALLING, Input.LOST): _LOST,
    (Phase.ACTIVE, Input.NEW_DEVICE): (Phase.RECALLING, _MOVE),
    (Phase.ACTIVE, Input.NEW_POLICY): (Phase.RECALLING, _RECALL),
    (Phase.ACTIVE, Input.RETRY): (Phase.RECALLING, _AGAIN),
    (Phase.ACTIVE, Input.LOST): _LOST,
}


class Session:
    """Phase, device and what is listened to. `feed` gives the steps to take; the caller takes them in order."""

    def __init__(self) -> None:
        self.phase = Phase.OFFLINE
        self.device: Device | None = None
        #: The thing whose commands the broker sends us; ahead of `thing` while a move is under way.
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
        """The connector told the device."""
        event = self._classify(device)
        if (self.phase, event) not in TRANSITIONS and event is not Input.NEW_POLICY:
            return ()
        self.device = device
        return self.feed(event)

    def _classify(self, device: Device) -> Input:
        if self.device is None or thing_of(device) != self.thing:
            return Input.NEW_DEVICE
        return Input.SAME_DEVICE if device == self.device else Input.NEW_POLICY
