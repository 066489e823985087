# SPDX-License-Identifier: Apache-2.0
"""Define what both ends of the JSON API agree on: versions, bounds, and the frames of exec and attach.

After the answer `101 Switching Protocols` both ends send frames: one byte for the kind, four for the length of the
payload (big-endian), the payload. This module imports nothing, because every start of the command line reads it.
"""

from __future__ import annotations

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Version of the API that clients compare, and what is unknown about a build (without blanks, because scripts split
#: the line).
API_VERSION = "1.0.0"
UNKNOWN_BUILD = "unknown"
#: Name in the `Upgrade` header of exec and attach.
UPGRADE = "pycm-frames"
#: Longest request body in bytes: the default limit of gRPC in Go, which the other language of the socket has too.
MAX_BODY = 4 * 1024 * 1024

#: Kinds of frames. STDIN (empty: end of input), RESIZE and SIGNAL go to the agent; the others come from it, EXIT or
#: PROBLEM last. RESIZE, SIGNAL, EXIT and PROBLEM carry a JSON object.
STDIN, STDOUT, STDERR, EXIT, RESIZE, SIGNAL, PROBLEM = range(7)
HEAD_SIZE = 5
#: Longest payload of a frame in bytes.
MAX_PAYLOAD = 64 * 1024


class FrameError(ValueError):
    """The peer sent a frame that is longer than allowed."""


def frame(kind: int, payload: bytes = b"") -> bytes:
    """Encode one frame. *payload* must not exceed MAX_PAYLOAD."""
    return bytes((kind,)) + len(payload).to_bytes(4, "big") + payload


class Frames:
    """Split a stream of bytes into frames: `feed` it with what was received, iterate over `take`."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def take(self) -> Iterator[tuple[int, bytes]]:
        """Yield kind and payload of every complete frame. Raises FrameError."""
        buffer = self._buffer
        while len(buffer) >= HEAD_SIZE:
            end = HEAD_SIZE + int.from_bytes(buffer[1:HEAD_SIZE], "big")
            if end > HEAD_SIZE + MAX_PAYLOAD:
                raise FrameError(f"a frame has {end - HEAD_SIZE} bytes, at most {MAX_PAYLOAD} are allowed")
            if len(buffer) < end:
                return
            kind, payload = buffer[0], bytes(buffer[HEAD_SIZE:end])
            del buffer[:end]
            yield kind, payload
