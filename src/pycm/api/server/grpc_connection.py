# SPDX-License-Identifier: Apache-2.0
"""Serve one gRPC client per connection.

grpclib implements the protocol. This module adds what it lacks for clients that are not trusted: bounds on memory and
time. It also releases all that a call or a connection has used, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import grpclib.server
from grpclib.protocol import H2Protocol
from h2.errors import ErrorCodes
from h2.events import RemoteSettingsChanged, UnknownFrameReceived
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from h2.stream import StreamState

from pycm.api.server.clients import (
    CALL_COST,
    CLOSING_TIMEOUT,
    FRAME_TIMEOUT,
    GREETING_TIMEOUT,
    IDLE_TIMEOUT,
    Client,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from grpclib.protocol import Stream

    from pycm.api.server.clients import Clients

log = logging.getLogger("pycm.api")

#: Answers that wait for one client to read, in bytes; beyond, the client is cut off. The library stops far below
#: this.
MAX_UNSENT = 2 * 1024 * 1024
#: Size of the table of headers that a client may have us keep for our answers: the default of HPACK.
MAX_TABLE = 4096
PREFACE_SIZE = 24
#: What a peer may send unless the server's settings say otherwise (RFC 9113, 4.2).
MAX_FRAME = 16384
#: Longest block of headers in HEADERS and CONTINUATION, and longest list that it may unpack to. Calls have 300 bytes.
MAX_HEADERS = 16384
#: Frames beyond what the calls explain: as many at once, and as many more each second. nginx and nghttp2 take a
#: similar number.
ALLOWANCE, PER_SECOND = 1000, 100
#: Credit for a call that ended by itself, for a message sent, and bytes sent for each further credit.
CALL, MESSAGE, BYTES_SENT = 16, 4, 1024
#: DATA shorter than this, and padded DATA, costs credit. Longer frames pay for themselves.
TINY = 16

_HEAD = struct.Struct(">BHBBI")  # length in 8 + 16 bits, type, flags, stream
_DATA, _HEADERS, _CONTINUATION = 0, 1, 9
_END_HEADERS, _PADDED = 0x4, 0x8
_NAMES = ("DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY", "WINDOW_UPDATE", "CONTINUATION")  # fmt: skip


class Calls(grpclib.server.Handler):
    """The calls of one connection. Each is released when its task has ended, even if that was cancelled before its
    first step.
    """

    connection: Connection
    gone: Callable[[Calls], None]

    def accept(
        self, stream: Stream, headers: list[tuple[str, str]], release_stream: Callable[[], Any]
    ) -> None:
        hold, names = self.connection.hold, {name for name, _ in headers}
        if (
            not {":method", ":path"} <= names
        ):  # the library would fail on it, and leave the client without an answer
            release_stream()
            stream.reset_nowait(ErrorCodes.PROTOCOL_ERROR)
            return
        cost = CALL_COST + sum(len(name) + len(value) for name, value in headers)
        stream.buffer = cast("Any", Buffer(partial(stream.connection.ack, cast("int", stream.id)), hold))
        hold(cost)
        left = [release_stream]

        def release() -> None:
            if left:
                left.pop()()
                stream.buffer.unacked_size()  # the library leaves it out when the connection ends
                hold(-cost)

        super().accept(stream, headers, release)
        self._tasks[stream].add_done_callback(partial(self._ended, stream, release))

    def _ended(self, stream: Stream, release: Callable[[], None], task: asyncio.Task[None]) -> None:
        by_itself = self._tasks.pop(stream, None) is not None
        self._cancelled.discard(task)
        release()
        if self.closing:
            self.check_gone()
            return
        if not _is_answered(stream):
            stream.reset_nowait(ErrorCodes.INTERNAL_ERROR)
        elif by_itself:
            self.connection.served += 1
        self.connection.changed()

    def __gc_collect__(self) -> None:
        """Nothing is left to collect."""

    def close(self) -> None:
        super().close()
        self.check_gone()

    def check_gone(self) -> None:
        if not self._tasks and not self._cancelled:
            self.gone(self)


def _is_answered(stream: Stream) -> bool:
    """No more is due: the call's end was sent, or the client does not want it."""
    found = stream._h2_connection.streams.get(cast("int", stream.id)) if stream.closable else None  # noqa: SLF001
    return found is None or found.state_machine.state is StreamState.HALF_CLOSED_LOCAL


class Buffer:
    """Received bytes of one call. The library's keeps 300 bytes besides for each frame, and mistakes an empty one for
    the end.
    """

    def __init__(self, ack: Callable[[int], None], hold: Callable[[int], None]) -> None:
        self._ack, self._hold = ack, hold
        self._data = bytearray()
        self._unacked = 0  # bytes that the client may not send again yet; padding counts
        self._wanted = 0  # bytes that somebody waits for
        self._eof = False
        self._wake = asyncio.Event()

    def add(self, data: bytes, ack_size: int) -> None:
        self._data += data
        self._unacked += ack_size
        self._hold(len(data))
        self._wake.set()

    def eof(self) -> None:
        self._eof = True
        self._wake.set()

    def has(self, size: int) -> bool:
        """Tell whether `read` would return at once."""
        return self._eof or len(self._data) >= size

    async def read(self, size: int) -> bytes:
        """Return *size* bytes, fewer if the client has sent no more."""
        while not self.has(size):
            self._give_back(self._unacked)
            self._wake.clear()
            await self._wake.wait()
        data = bytes(self._data[:size])
        del self._data[:size]
        self._hold(-len(data))
        self._give_back(max(self._unacked - len(self._data), 0))
        return data

    def _give_back(self, size: int) -> None:
        self._unacked -= size
        self._ack(size)

    def unacked_size(self) -> int:
        """Empty the buffer and return what is to be given back to the client."""
        self._hold(-len(self._data))
        self._data.clear()
        size, self._unacked = self._unacked, 0
        return size


class Connection(Client, H2Protocol):
    """One client. `served`: calls that ended by themselves."""

    handler: Calls

    def __init__(self, handler: Calls, config: Any, h2_config: Any, clients: Clients) -> None:
        Client.__init__(self, clients)
        H2Protocol.__init__(self, handler, config, h2_config)
        self.transport: asyncio.Transport | None = None
        handler.connection = self
        self._guard = FrameGuard(self.active)
        self.served = 0
        self.answering = asyncio.Lock()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        super().connection_made(transport)
        cast("Any", self.connection).client = self
        # frames of types to come are to be ignored (RFC 9113, 4.1); the library fails on them
        self.processor.processors[cast("Any", UnknownFrameReceived)] = _ignore
        h2 = self._h2
        h2.update_settings({SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADERS})
        h2.decoder.max_header_list_size = MAX_HEADERS
        self.connection.flush()
        self.changed()

    @property
    def _h2(self) -> Any:
        return self.connection._connection  # noqa: SLF001 - the library has no other way to it

    @property
    def calls(self) -> int:
        """How many are open."""
        return len(self.processor.streams)

    @property
    def greeted(self) -> bool:
        return self._guard.greeted

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        if self.transport.is_closing():
            return
        connection = self.connection
        work = self.served * CALL + connection.messages_sent * MESSAGE + connection.data_sent // BYTES_SENT
        self._guard.note(self.loop.time(), work)
        refusal = self._guard.refusal(data)
        if refusal:
            self.cut_off(refusal)
            return
        try:
            self._process(data)
        except ProtocolError as error:
            connection.flush()  # the client receives it as GOAWAY
            self.clients.complain(f"API client ({self.name}): connection closed: {_one_line(error)}")
            self.processor.close("Protocol error")
        except Exception as error:  # noqa: BLE001 - foreign bytes in a library: whatever it raises ends this connection and no more
            self.cut_off(f"it does not speak HTTP/2 properly: {error!r}")
        if self.transport.get_write_buffer_size() > MAX_UNSENT:
            self.cut_off("it sends and does not read")
        self.changed()

    def _process(self, data: bytes) -> None:
        events = self.connection.feed(data)
        if any(isinstance(event, RemoteSettingsChanged) for event in events):
            self._limit_settings()
        self.connection.flush()
        for event in events:
            if self.transport is None or self.transport.is_closing():
                return
            self.processor.process(event)
        self.connection.flush()

    def _limit_settings(self) -> None:
        """A client may allow us more than we want to hold for it."""
        h2 = self._h2
        h2.encoder.header_table_size = min(h2.encoder.header_table_size, MAX_TABLE)
        if h2.max_outbound_frame_size > MAX_FRAME:
            h2.max_outbound_frame_size = MAX_FRAME
            for stream in h2.streams.values():
                stream.max_outbound_frame_size = MAX_FRAME

    # ── time ──

    def state(self) -> tuple[str, int]:
        if self.transport is None:
            return "", 0
        if self.transport.is_closing():
            return "closing", 0
        if not self.greeted:
            return "greeting", 0
        if self._guard.midway:
            return "frame", self._guard.frames
        return ("", 0) if self.calls else ("idle", self.served)

    def limits(self) -> dict[str, tuple[float, Callable[[], None]]]:
        late = "it did not send {} within {:g} s"
        greeting = late.format("preface and settings of HTTP/2", GREETING_TIMEOUT)
        frame = late.format("the rest of a frame or of headers", FRAME_TIMEOUT)
        return {
            "greeting": (GREETING_TIMEOUT, partial(self.cut_off, greeting)),
            "frame": (FRAME_TIMEOUT, partial(self.cut_off, frame)),
            "idle": (IDLE_TIMEOUT, partial(self.leave, f"no call for {IDLE_TIMEOUT:g} s")),
            "closing": (CLOSING_TIMEOUT, self.end),
        }

    # ── the end ──

    def leave(self, why: str) -> None:
        """Tell a client without calls that the connection ends: it connects again when it needs one."""
        if self.transport is None or self.transport.is_closing():
            return
        log.debug("API client (%s): connection closed: %s", self.name, why)
        with contextlib.suppress(ProtocolError):
            self._h2.close_connection()
            self.connection.flush()
        self.processor.close(why)
        self.changed()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.clients.remove(self)
        super().connection_lost(exc)
        self.transport = None
        self.changed()


def _ignore(_event: Any) -> None:
    pass


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")


class FrameGuard:
    """Look at the head of each HTTP/2 frame of one connection before h2 sees it; no I/O. Feed it everything in order.

    h2 refuses a frame that is longer than allowed, but only once all of it has come: up to 16 MiB for every client. It
    does not count frames that cost the agent more than the client (resets, settings, pings, empty data and the like).
    Here they cost credit, which work for the client and time give back. A client without credit abuses the protocol
    (CVE-2019-9511 to 9518, CVE-2023-44487, CVE-2024-27316).

    `frames`: how many have begun. `greeted`: the first is complete. `midway`: a frame or a block of headers is
    incomplete.
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
