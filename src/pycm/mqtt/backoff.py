# SPDX-License-Identifier: Apache-2.0
"""What is not tried at once: pauses between attempts to connect, and messages that the broker refuses. No I/O.

MQTT 3.1.1 has no answer for a refused PUBLISH: a broker whose access rules or size limit forbid it closes the connection. So the refused
message is found by observation: it is the one that waits for its acknowledgement at two losses in a row. Once a message of its kind is
refused, one loss is enough for another one that is longer than all accepted ones.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from random import random
from typing import TYPE_CHECKING

from pycm.waiting import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

#: Longest pauses. The product promises to be back within 10 s of the return of a broker on this machine, 60 s of any other.
LOCAL_CAP, REMOTE_CAP = 8.0, 45.0
#: A connection that lasted so many seconds ends a phase of failures; a shorter one does not.
LASTED = 60.0
#: Pauses until a refused message is sent again. The product promises 5 minutes from the end of the refusal.
FIRST_REFUSED, REFUSED_CAP = 8.0, 240.0
#: Kinds of refused messages that are remembered; the oldest is forgotten.
MAX_REFUSALS = 64
#: Levels of a topic that make up its kind: access rules rarely look at more, and answers to commands differ in the fifth.
_LEVELS = 4


@dataclass(frozen=True)
class Request:
    """A packet that the broker must acknowledge. `size`: bytes of its payload."""

    what: str
    topic: str
    size: int = 0

    @property
    def kind(self) -> tuple[str, str]:
        """Requests of one kind are refused from some size on."""
        return self.what, "/".join(self.topic.split("/")[:_LEVELS])

    def resembles(self, other: Request) -> bool:
        """The same message, or a slightly different value in its place."""
        return self.kind == other.kind and self.size * 10 >= other.size * 9


@dataclass
class _Refusal:
    """`size`: bytes of the smallest refused request, `accepted`: of the longest acknowledged one that is shorter.

    `until`: when the next one may be sent, after `pause` seconds; None: accepted meanwhile.
    """

    size: int
    pauses: Backoff
    until: float | None = None
    pause: float = 0.0
    accepted: int = -1


@dataclass
class Refusals:
    """Which requests the broker refuses, and when each may be tried again.

    The pause of a kind is only forgotten if a connection lasted while requests of the kind were accepted.
    """

    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random
    _suspects: tuple[Request, ...] = ()
    _found: dict[tuple[str, str], _Refusal] = field(default_factory=dict)

    @property
    def suspicious(self) -> bool:
        """One of several requests may have ended the last connection: send one at a time to find out which."""
        return bool(self._suspects)

    def pause(self, request: Request) -> float:
        """Seconds during which the request must not be sent; 0: send it."""
        found = self._found.get(request.kind)
        if found is None or found.until is None or request.size < found.size:
            return 0.0
        return max(0.0, found.until - self.clock())

    def acknowledged(self, request: Request) -> bool:
        """True if such a request was refused before."""
        self._suspects = tuple(suspect for suspect in self._suspects if not request.resembles(suspect))
        found = self._found.get(request.kind)
        if found is None or found.until is None:
            return False
        if request.size < found.size:
            found.accepted = max(found.accepted, request.size)
            return False
        found.until = None
        return True

    def lost(self, unanswered: Collection[Request]) -> Request | None:
        """The broker ended the connection while *unanswered* waited. Returns the request that it refuses, if that is known now."""
        if not unanswered:
            self.acquit()
            return None
        for other in self._found.values():
            if other.until is not None:  # while the search goes on, what is known is not tried again
                other.until = max(other.until, self.clock() + other.pause)
        request = next(iter(unanswered))
        found = self._found.get(request.kind)
        known = found is not None and request.size > min(found.accepted, found.size - 1)
        if len(unanswered) == 1 and (known or any(map(request.resembles, self._suspects))):
            self._suspects = ()
            return request
        self._suspects = tuple(unanswered)
        return None

    def refuse(self, request: Request) -> tuple[float, bool]:
        """(seconds until it may be tried again, whether that is news for the log)."""
        found = self._found.pop(request.kind, None)
        if found is None:
            while len(self._found) >= MAX_REFUSALS:
                del self._found[next(iter(self._found))]
            found = _Refusal(request.size, Backoff(REFUSED_CAP, FIRST_REFUSED, self.chance))
        self._found[request.kind] = found
        news = not found.pauses.is_longest or request.size < found.size
        found.size = min(found.size, request.size)
        found.accepted = min(found.accepted, found.size - 1)
        found.pause = found.pauses.next()
        found.until = self.clock() + found.pause
        return found.pause, news

    def acquit(self) -> None:
        """The broker was away, or ended a connection on which nothing waited: it may have other rules by now."""
        self._suspects = ()
        for found in self._found.values():
            found.until = None

    def lasted(self) -> None:
        """The connection lasted."""
        self._found = {kind: found for kind, found in self._found.items() if found.until is not None}
