# SPDX-License-Identifier: Apache-2.0
"""What the core of the twin decides; the service (or a test) does it.

Ordered ones are carried out one after the other, each finished before the next begins; after a loss of the connection those not yet
done are dropped, because everything is told anew. The others are done at once.


What waits to be sent, in order and bounded.

Normally every value is sent, as the original does. A peer too slow for that is spared the past: beyond MAX_PENDING a value that a newer
one supersedes is dropped, never the newest. So no more waits than MAX_PENDING and one value for each path in the twin.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pycm.errors import shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pycm.twin.lanes import Operation
    from pycm.twin.session import Thing


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


def ignored(topic: str, payload: bytes, reason: str, level: int = logging.WARNING) -> Note:
    return Note(level, f"message ignored, {shorten(topic)}, {len(payload)} bytes: {shorten(reason, 300)}")


#: From here on superseded values are dropped.
MAX_PENDING = 256
#: Answers that wait, and their bytes; a further one is dropped, since nothing supersedes an answer.
MAX_ANSWERS = 1000
MAX_ANSWER_BYTES = 4 << 20
#: Answers that wait for a connection, and their bytes; the oldest are dropped.
MAX_LATE_ANSWERS = 100
MAX_LATE_BYTES = 1 << 20


class LateAnswers:
    """To operations that ended while there was no session."""

    def __init__(self) -> None:
        self._answers: deque[Publish] = deque(maxlen=MAX_LATE_ANSWERS)

    def add(self, answer: Publish) -> None:
        self._answers.append(answer)
        while sum(len(late.payload) for late in self._answers) > MAX_LATE_BYTES:
            self._answers.popleft()

    def take(self) -> list[Publish]:
        """All, which are then no more here."""
        answers = list(self._answers)
        self._answers.clear()
        return answers


class Outbox:
    def __init__(self) -> None:
        self._pending: deque[Ordered] = deque()
        self._answers = self._bytes = 0

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, item: Ordered) -> bool:
        """False if it was an answer too many."""
        if size := _answer_size(item):
            if self._answers >= MAX_ANSWERS or self._bytes + size > MAX_ANSWER_BYTES:
                return False
            self._answers += 1
            self._bytes += size
        elif len(self._pending) - self._answers >= MAX_PENDING:
            self._pending = deque(old for old in self._pending if not _supersedes(item, old))
        self._pending.append(item)
        return True

    def take(self) -> Ordered:
        item = self._pending.popleft()
        if size := _answer_size(item):
            self._answers -= 1
            self._bytes -= size
        return item

    def clear(self) -> list[Publish]:
        """Drop all; returns the answers among them, which nothing tells anew."""
        answers = [item for item in self._pending if isinstance(item, Publish) and item.is_answer]
        self._pending.clear()
        self._answers = self._bytes = 0
        return answers


def _answer_size(item: Ordered) -> int:
    """Bytes of topic and payload; 0 for what is no answer."""
    return len(item.topic) + len(item.payload) if isinstance(item, Publish) and item.is_answer else 0


def _supersedes(new: Ordered, old: Ordered) -> bool:
    """The same path, or all below it (a feature and its properties), of the same thing."""
    if isinstance(new, Publish) and isinstance(old, Publish):
        if new.topic != old.topic or not old.key:
            return False
        return old.key == new.key or old.key.startswith(new.key + "/")
    if isinstance(new, (Remember, Recall)):
        return type(old) is type(new) and old.thing == new.thing
    return False
