# SPDX-License-Identifier: Apache-2.0
"""What the core of the twin decides; the service (or a test) does it.

Ordered ones are carried out one after the other, each finished before the next begins; after a loss of the connection those not yet
done are dropped, because everything is told anew. The others are done at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pycm.twin.names import Thing
    from pycm.twin.operations import Operation


@dataclass(frozen=True)
class Subscribe:
    topic: str


@dataclass(frozen=True)
class Unsubscribe:
    topic: str


@dataclass(frozen=True)
class Publish:
    """`key`: the path in the twin whose value this is; a newer value supersedes an older one. "" for answers, which nothing supersedes.

    `again`: an answer whose first sending failed.
    """

    topic: str
    payload: bytes
    key: str = ""
    again: bool = False

    @property
    def is_answer(self) -> bool:
        return not self.key


@dataclass(frozen=True)
class Recall:
    """Read which containers the thing's twin showed last; the answer goes to `Twin.recalled`."""

    thing: Thing


@dataclass(frozen=True)
class Remember:
    """Write which containers the thing's twin shows: id to feature id."""

    thing: Thing
    features: Mapping[str, str]


@dataclass(frozen=True)
class Forget:
    """The old thing's features are deleted: tell `Twin.forgotten`, and with *file* write that its twin shows no containers."""

    thing: Thing
    file: bool


@dataclass(frozen=True)
class Keep:
    """At once, the newest counts: write what a restart of the agent must not lose."""

    state: Mapping[str, Any]


@dataclass(frozen=True)
class Baseline:
    """At once: take CPU times of these containers, so that the next sample has a utilization."""

    container_ids: tuple[str, ...]


#: Who measures, each in its own period: the feature Metrics of the containers' thing, and that of the device's own thing.
CONTAINERS, MACHINE = "containers", "machine"


@dataclass(frozen=True)
class HostBaseline:
    """At once: take the machine's CPU time, so that the next sample for *reader* has a utilization."""

    reader: str


@dataclass(frozen=True)
class Measure:
    """At once: call `Twin.due` for *reader* every *period* seconds from now on, the first time after one period; None: no more.

    *resume*: a loss of the session is over, and the times from before it are kept.
    """

    period: float | None
    reader: str = CONTAINERS
    resume: bool = False


@dataclass(frozen=True)
class Run:
    """At once, without waiting for its end: carry out the operation; what came of it goes to `Twin.done` with the ticket."""

    ticket: int
    operation: Operation


@dataclass(frozen=True)
class Note:
    """At once: one line for the log, with a level of the logging module."""

    level: int
    text: str


Ordered = Subscribe | Unsubscribe | Publish | Recall | Remember | Forget
AtOnce = Baseline | HostBaseline | Measure | Run | Keep | Note
Decision = Ordered | AtOnce
