# SPDX-License-Identifier: Apache-2.0
"""The client's side of HTTP/2 (RFC 9113), as far as one gRPC call after the other needs it; no I/O.

Bytes from the peer go into `feed` and come out as what happens to the current `Call`; what is to be sent gathers in `take`. The
package h2 would do as well, but to import it costs a third of what `pycm list` may cost as a whole; of its parts only hpack is used.
There are no pushes, priorities or settings of our own beyond the window, and request headers are written without compression.
"""

from __future__ import annotations

import struct

from hpack import Decoder, HPACKError

from pycm.errors import PycmError

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import ClassVar

    from pycm.api.call import Call

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0,
    1,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITY = 0x4, 0x8, 0x20
ENABLE_PUSH, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 2, 4, 5
CANCEL = 8

DEFAULT_WINDOW = 65535
DEFAULT_FRAME = 16384
#: Bytes that the peer may send before we have read: a chunk of a log fits.
WINDOW = 4 * 1024 * 1024
#: Headers or trailers longer than this end the connection.
MAX_HEADERS = 64 * 1024
_HEAD = struct.Struct(">BHBBI")  # length in 8 + 16 bits, type, flags, stream


class Http2Error(PycmError):
    """The peer broke the rules, or does not speak HTTP/2 at all."""


class Connection:
    """`greeted`: the peer has shown that it speaks HTTP/2. `closing`: it takes no further calls."""

    def __init__(self) -> None:
        self.greeted = False
        self.closing = False
        self._out = bytearray(PREFACE)
        self._in = bytearray()
        self._decoder = Decoder()
        self._block = bytearray()
        self._block_flags = 0
        self._expect: int | None = None  # stream whose header block goes on in the next frame
        self._call: Call | None = None
        self._stream = -1
        self._peer_window = DEFAULT_WINDOW
        self._peer_frame = DEFAULT_FRAME
        self._room = DEFAULT_WINDOW  # what may be sent on the connection, and on the stream
        self._stream_room = 0
        self._unread = self._stream_unread = 0  # received and not yet given back to the peer
        self._frame(SETTINGS, 0, 0, struct.pack(">HIHI", ENABLE_PUSH, 0, INITIAL_WINDOW_SIZE, WINDOW))
        self._frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW - DEFAULT_WINDOW))

    # ── out ──

    def take(self) -> bytes:
        """What is to be sent now."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes | memoryview = b"") -> None:
        size = len(payload)
        self._out += _HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream)
        self._out += payload

    def open(self, call: Call, headers: Iterable[tuple[str, str]]) -> None:
        """Begin a call; the one before must have ended or been cancelled."""
        self._call = call
        self._stream += 2
        self._stream_room = self._peer_window
        self._stream_unread = 0
        self._frame(HEADERS, END_HEADERS, self._stream, b"".join(map(_literal, headers)))

    def send(self, data: memoryview, *, end: bool = True) -> memoryview:
        """As much of *data* as the peer allows, with *end* the end after the last byte; return the rest."""
        while data:
            size = min(self._room, self._stream_room, self._peer_frame)
            if size <= 0:
                break
            chunk, data = data[:size], data[size:]
            self._frame(DATA, END_STREAM if end and not data else 0, self._stream, chunk)
            self._room -= len(chunk)
            self._stream_room -= len(chunk)
        return data

    def end(self) -> None:
        """The caller has sent all."""
        self._frame(DATA, END_STREAM, self._stream)

    def cancel(self) -> None:
        """The caller needs no more of the call."""
        self._frame(RST_STREAM, 0, self._stream, struct.pack(">I", CANCEL))
        self._call = None

    def ping(self) -> None:
        """Ask the peer for a sign of life."""
        self._frame(PING, 0, 0, bytes(8))

    # ── in ──

    def feed(self, data: bytes) -> None:
        """Errors: Http2Error; the connection is of no use then."""
        self._in += data
        while len(self._in) >= _HEAD.size:
            high, low, kind, flags, stream = _HEAD.unpack_from(self._in)
            end = _HEAD.size + (high << 16 | low)
            if end > _HEAD.size + DEFAULT_FRAME or not (self.greeted or kind == SETTINGS):
                raise Http2Error("it does not speak HTTP/2")
            if len(self._in) < end:
                return
            payload = bytes(self._in[_HEAD.size : end])
            del self._in[:end]
            self._handle(kind, flags, stream & 0x7FFFFFFF, payload)

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._expect is not None and (kind, stream) != (CONTINUATION, self._expect):
            raise Http2Error("a block of headers is cut off by another frame")
        handler = self._HANDLERS.get(kind)
        try:
            if handler is not None:  # frames of types to come are ignored
                handler(self, flags, stream, payload)
        except (struct.error, IndexError):
            raise Http2Error(f"a frame of type {kind} with {len(payload)} bytes is not possible") from None

    def _on_settings(self, flags: int, _stream: int, payload: bytes) -> None:
        if flags & ACK:
            return
        for number, value in struct.iter_unpack(">HI", payload):
            if number == INITIAL_WINDOW_SIZE:
                self._stream_room += value - self._peer_window
                self._peer_window = value
            elif number == MAX_FRAME_SIZE:
                self._peer_frame = max(value, DEFAULT_FRAME)
        self.greeted = True
        self._frame(SETTINGS, ACK, 0)

    def _on_ping(self, flags: int, _stream: int, payload: bytes) -> None:
        if not flags & ACK:
            self._frame(PING, ACK, 0, payload)

    def _on_window_update(self, _flags: int, stream: int, payload: bytes) -> None:
        (size,) = struct.unpack(">I", payload)
        if stream == 0:
            self._room += size & 0x7FFFFFFF
        elif stream == self._stream:
            self._stream_room += size & 0x7FFFFFFF

    def _on_goaway(self, _flags: int, _stream: int, payload: bytes) -> None:
        last, _code = struct.unpack_from(">II", payload)
        self.closing = True
        if self._call is not None and last & 0x7FFFFFFF < self._stream:
            self._call.lost("the agent is being stopped or restarted; the call was not begun")

    def _on_reset(self, _flags: int, stream: int, payload: bytes) -> None:
        (code,) = struct.unpack(">I", payload)
        if self._call is not None and stream == self._stream:
            self._call.reset(code)

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        self._unread = self._give_back(0, self._unread + len(payload))
        if self._call is None or stream != self._stream:
            return
        if not flags & END_STREAM:
            self._stream_unread = self._give_back(stream, self._stream_unread + len(payload))
        self._call.data(_unpadded(flags, payload))
        if flags & END_STREAM:
            self._call.end()

    def _give_back(self, stream: int, size: int) -> int:
        """Let the peer send as much as was read, once that is worth a frame; return what is still held back."""
        if size < WINDOW // 2:
            return size
        self._frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))
        return 0

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        block = _unpadded(flags, payload)
        self._block = bytearray(block[5:] if flags & PRIORITY else block)
        self._block_flags = flags
        self._end_block(flags, stream)

    def _on_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        if self._expect is None:
            raise Http2Error("headers go on that never began")
        self._block += payload
        self._end_block(flags, stream)

    def _end_block(self, flags: int, stream: int) -> None:
        if len(self._block) > MAX_HEADERS:
            raise Http2Error(f"headers of more than {MAX_HEADERS} bytes")
        self._expect = None if flags & END_HEADERS else stream
        if self._expect is not None:
            return
        try:
            pairs = self._decoder.decode(bytes(self._block))  # of every stream, since the decoder remembers
        except HPACKError as error:
            raise Http2Error(f"headers that cannot be read: {error}") from None
        if self._call is not None and stream == self._stream:
            self._call.headers((str(name), str(value)) for name, value in pairs)
            if self._block_flags & END_STREAM:
                self._call.end()

    def _on_push(self, _flags: int, _stream: int, _payload: bytes) -> None:
        raise Http2Error("a push, which was switched off")

    _HANDLERS: ClassVar[dict[int, Callable[[Connection, int, int, bytes], None]]] = {
        DATA: _on_data,
        HEADERS: _on_headers,
        RST_STREAM: _on_reset,
        SETTINGS: _on_settings,
        PUSH_PROMISE: _on_push,
        PING: _on_ping,
        GOAWAY: _on_goaway,
        WINDOW_UPDATE: _on_window_update,
        CONTINUATION: _on_continuation,
    }


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & PADDED:
        return payload
    padding = payload[0]
    if padding >= len(payload):
        raise Http2Error("a frame that is all padding and more")
    return payload[1 : len(payload) - padding]


def _literal(pair: tuple[str, str]) -> bytes:
    """One header, neither compressed nor to be remembered (RFC 7541, 6.2.2)."""
    return b"\0" + _text(pair[0]) + _text(pair[1])


def _text(text: str) -> bytes:
    data = text.encode()
    size = len(data)
    if size < 0x7F:
        return bytes((size,)) + data
    head, size = bytearray((0x7F,)), size - 0x7F
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + data
