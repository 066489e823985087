# SPDX-License-Identifier: Apache-2.0
"""Looks at the length of each HTTP/2 frame that a client begins, before the library sees it.

h2 refuses a frame that is longer than allowed, but only once all of it has come: up to 16 MiB would be kept for every client.
"""

from __future__ import annotations

PREFACE_SIZE = 24
_LENGTH_SIZE = 3
_REST_OF_HEAD = 6  # type, flags, stream
#: What a peer may send without having been told otherwise (RFC 9113, 4.2).
MAX_FRAME = 16384


class FrameGuard:
    """For one connection: feed it everything in order."""

    __slots__ = ("_length", "_skip")

    def __init__(self) -> None:
        self._skip = PREFACE_SIZE
        self._length = b""

    def admits(self, data: bytes) -> bool:
        """False once a frame longer than MAX_FRAME begins."""
        position, size = 0, len(data)
        while position < size:
            if self._skip:
                step = min(self._skip, size - position)
                self._skip -= step
                position += step
                continue
            part = data[position : position + _LENGTH_SIZE - len(self._length)]
            self._length += part
            position += len(part)
            if len(self._length) == _LENGTH_SIZE:
                length = int.from_bytes(self._length, "big")
                self._length = b""
                if length > MAX_FRAME:
                    return False
                self._skip = length + _REST_OF_HEAD
        return True
