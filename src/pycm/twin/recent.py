# SPDX-License-Identifier: Apache-2.0
"""Commands that must not run twice though they may come twice (QoS 1: at least once). No I/O, no clock.

A copy has the topic, and so the request id, and the payload, and so the correlation id, of the first one. Of the operations only those
that make containers are remembered: the others ask for a state, and a second time find it. A command that failed is forgotten, so that it
can be tried again as it is; so is one whose container was removed. Nothing is kept over a restart of the agent: its session at the broker
is a new one, to which nothing is delivered again.
"""

from __future__ import annotations

import hashlib
from typing import Any

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
