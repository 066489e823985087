# SPDX-License-Identifier: Apache-2.0
"""What the core decides, and the bounded queue of decisions that are carried out in order.

The service or a test carries decisions out. Those in order (`Ordered`) wait in the outbox, and each is finished before
the next begins. After a loss of the connection the pending ones are dropped, because a registration publishes
everything again. The others (`AtOnce`) are carried out immediately.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.errors import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pycm.twin.lanes import Job
    from pycm.twin.session import Thing

#: Pending values from which on superseded ones are dropped.
MAX_PENDING = 256
#: Pending answers, and their bytes. A further answer is dropped, because nothing supersedes an answer.
MAX_ANSWERS = 1000
MAX_ANSWER_BYTES = 4 << 20
#: Answers that wait for a connection, and their bytes. The oldest are dropped.
MAX_LATE_ANSWERS = 100
MAX_LATE_BYTES = 1 << 20

# ── in order ──


class Subscribe(NamedTuple):
    topic: str


class Unsubscribe(NamedTuple):
    topic: str


class Publish(NamedTuple):
    """`key`: the path in the twin whose value this is; a newer value supersedes an older one. "" for answers.

    `again`: an answer that could not be sent before.
    """

    topic: str
    payload: bytes
    key: str = ""
    again: bool = False

    @property
    def is_answer(self) -> bool:
        return not self.key


class Recall(NamedTuple):
    """Read which containers the thing's twin showed last, and call `Twin.recalled`."""

    thing: Thing


class Remember(NamedTuple):
    """Write which containers the thing's twin shows: container id to feature id."""

    thing: Thing
    features: Mapping[str, str]


class Forget(NamedTuple):
    """The old thing's features are deleted: call `Twin.forgotten`, and with *file* write that its twin shows no
    containers.
    """

    thing: Thing
    file: bool


# ── at once ──

#: Who measures, each with its own period: the feature Metrics of the containers' thing, and that of the device's own
# thing.
CONTAINERS, MACHINE = "containers", "machine"


class Keep(NamedTuple):
    """Write the state that a restart of the agent must not lose. Only the newest one counts."""

    state: Mapping[str, Any]


class Baseline(NamedTuple):
    """Read CPU times of these containers, so that the next sample has a utilization."""

    container_ids: tuple[str, ...]


class HostBaseline(NamedTuple):
    """Read the machine's CPU time, so that the next sample for *reader* has a utilization."""

    reader: str


class Measure(NamedTuple):
    """Call `Twin.due` for *reader* every *period* seconds, the first time after one period. None: stop.

    *resume*: a loss of the session is over; keep the times from before it.
    """

    period: float | None
    reader: str = CONTAINERS
    resume: bool = False


class Run(NamedTuple):
    """Run the job in its lane. `Twin.changed` is called with each property that it reports,
    `Twin.ended` with its outcome.

    `thing` received the command, `size` is the command's bytes, `finish` makes the decisions that follow the outcome.
    """

    lane: str
    job: Job
    thing: Thing | None
    size: int
    finish: Callable[[Any], list[Decision]]


class Note(NamedTuple):
    """Write a line to the log, with a level of the logging module."""

    level: int
    text: str


Ordered = Subscribe | Unsubscribe | Publish | Recall | Remember | Forget
AtOnce = Keep | Baseline | HostBaseline | Measure | Run | Note
Decision = Ordered | AtOnce


def ignored(topic: str, reason: str, level: int = logging.WARNING, size: int | None = None) -> Note:
    """The line for a message that has no effect."""
    length = "" if size is None else f" of {size} bytes"
    return Note(level, f"twin: message{length} on {shorten(topic)} ignored: {shorten(reason, 300)}")


# ── the queue ──


class LateAnswers:
    """Answers to operations that ended while there was no session."""

    def __init__(self) -> None:
        self._answers: deque[Publish] = deque(maxlen=MAX_LATE_ANSWERS)

    def add(self, answer: Publish) -> None:
        self._answers.append(answer)
        while sum(len(late.payload) for late in self._answers) > MAX_LATE_BYTES:
            self._answers.popleft()

    def take(self) -> list[Publish]:
        """Remove and return all."""
        answers = list(self._answers)
        self._answers.clear()
        return answers


class Outbox:
    """Normally every value is sent, as by the original.

    A peer too slow for that misses superseded values beyond MAX_PENDING, never the newest one. So no more is pending
    than MAX_PENDING and one value for each path in the twin.
    """

    def __init__(self) -> None:
        self._pending: deque[Ordered] = deque()
        self._answers = self._bytes = 0

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, item: Ordered) -> bool:
        """Append *item*. False: it is an answer beyond the bound, and dropped."""
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
        """Drop all. Returns the answers among them, which a registration does not publish again."""
        answers = [item for item in self._pending if isinstance(item, Publish) and item.is_answer]
        self._pending.clear()
        self._answers = self._bytes = 0
        return answers


def _answer_size(item: Ordered) -> int:
    """Bytes of an answer's topic and payload; 0 for anything else."""
    return len(item.topic) + len(item.payload) if isinstance(item, Publish) and item.is_answer else 0


def _supersedes(new: Ordered, old: Ordered) -> bool:
    """A value supersedes those of the same path and below it (a feature and its properties), of the same thing."""
    if isinstance(new, Publish) and isinstance(old, Publish):
        if new.topic != old.topic or not old.key:
            return False
        return old.key == new.key or old.key.startswith(new.key + "/")
    if isinstance(new, (Remember, Recall)):
        return type(old) is type(new) and old.thing == new.thing
    return False
