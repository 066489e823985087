# SPDX-License-Identifier: Apache-2.0
"""Looks at the head of each HTTP/2 frame that a client sends, before the library sees it; no I/O.

h2 refuses a frame that is longer than allowed, but only once all of it has come: up to 16 MiB would be kept for every client. It
does not count frames that cost the agent more than the client (resets, settings, pings, empty data and the like). Here they cost
credit, which work for the client and time give back. A client without credit abuses the protocol (CVE-2019-9511 to 9518,
CVE-2023-44487, CVE-2024-27316).
"""

from __future__ import annotations

import struct

PREFACE_SIZE = 24
#: What a peer may send unless the server's settings say otherwise (RFC 9113, 4.2).
MAX_FRAME = 16384
#: Longest block of headers in HEADERS and CONTINUATION, and longest list that it may unpack to. Calls have 300 bytes.
MAX_HEADERS = 16384
#: Frames beyond what the calls explain: as many at once, and as many more each second. nginx and nghttp2 take a similar number.
ALLOWANCE, PER_SECOND = 1000, 100
#: Credit for a call that ended by itself, for a message sent, and bytes sent for each further credit.
CALL, MESSAGE, BYTES_SENT = 16, 4, 1024
#: DATA shorter than this, and padded DATA, costs credit. Longer frames pay for themselves.
TINY = 16

_HEAD = struct.Struct(">BHBBI")  # length in 8 + 16 bits, type, flags, stream
_DATA, _HEADERS, _CONTINUATION = 0, 1, 9
_END_HEADERS, _PADDED = 0x4, 0x8
_NAMES = ("DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION")  # fmt: skip


class FrameGuard:
    """For one connection: feed it everything in order.

    `frames`: how many have begun. `greeted`: the first has come. `midway`: a frame or a block of headers is incomplete.
    """

    __slots__ = ("_block", "_counts", "_credit", "_head", "_seen", "_skip", "_work", "frames")

    def __init__(self, now: float) -> None:
        self.frames = 0
        self._skip = PREFACE_SIZE
        self._head = b""
        self._block = 0  # length of the headers that go on in the next frame, 0 for none
        self._credit = float(ALLOWANCE)
        self._seen = now
        self._work = 0
        self._counts: dict[int, int] = {}

    @property
    def greeted(self) -> bool:
        return self.frames > 1 or (self.frames == 1 and not self._skip)

    @property
    def midway(self) -> bool:
        return bool(self._skip or self._head or self._block)

    def note(self, now: float, work: int) -> None:
        """Give credit for the time until *now* (seconds) and for all *work* so far."""
        earned = (now - self._seen) * PER_SECOND + work - self._work
        self._credit = min(self._credit + earned, ALLOWANCE)
        self._seen, self._work = now, work

    def refusal(self, data: bytes) -> str:
        """Return why the client must be cut off, "" if *data* may go on."""
        position, size = 0, len(data)
        while position < size:
            if self._skip:
                step = min(self._skip, size - position)
                self._skip -= step
                position += step
                continue
            part = data[position : position + _HEAD.size - len(self._head)]
            self._head += part
            position += len(part)
            if len(self._head) >= 3 and int.from_bytes(self._head[:3], "big") > MAX_FRAME:
                return "a frame longer than allowed, or no HTTP/2"
            if len(self._head) == _HEAD.size:
                refused = self._begin(*_HEAD.unpack(self._head))
                self._head = b""
                if refused:
                    return refused
        return ""

    def _begin(self, _high: int, length: int, kind: int, flags: int, _stream: int) -> str:
        self.frames += 1
        self._skip = length
        if kind in (_HEADERS, _CONTINUATION):
            self._block += length or 1
            if self._block > MAX_HEADERS:
                return f"more than {MAX_HEADERS} bytes of headers"
            if flags & _END_HEADERS:
                self._block = 0
        if kind == _DATA and length >= TINY and not flags & _PADDED:
            return ""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._credit -= 1 + length // 1024
        return "" if self._credit >= 0 else f"too many frames without use ({self._most()})"

    def _most(self) -> str:
        kind = max(self._counts, key=self._counts.__getitem__)
        name = _NAMES[kind] if kind < len(_NAMES) else f"type {kind}"
        return f"{self._counts[kind]} of {sum(self._counts.values())} are {name}"
