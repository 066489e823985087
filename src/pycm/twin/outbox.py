# SPDX-License-Identifier: Apache-2.0
"""What waits to be sent, in order and bounded.

Normally every value is sent, as the original does. A peer too slow for that is spared the past: beyond MAX_PENDING a value that a newer
one supersedes is dropped, never the newest. So no more waits than MAX_PENDING and one value for each path in the twin.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pycm.twin.actions import Publish, Recall, Remember

if TYPE_CHECKING:
    from pycm.twin.actions import Ordered

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
