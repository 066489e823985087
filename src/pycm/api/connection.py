# SPDX-License-Identifier: Apache-2.0
"""The server's clients: one connection each, what it may hold, and how long it may be silent.

grpclib does the protocol. What it lacks for clients that are not trusted is added here: bounds on connections, on what one client
makes the agent hold, and on the time that it may take; and a release of all that a call or a connection has used, however it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
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

from pycm.api.frame_guard import BYTES_SENT, CALL, MAX_FRAME, MAX_HEADERS, MESSAGE, FrameGuard

if TYPE_CHECKING:
    from collections.abc import Callable

    from grpclib.protocol import Stream

log = logging.getLogger("pycm.api")

#: Clients connected at one time, and of these with one uid (unix socket) or address (TCP). At a bound the client that has been
#: without a call for longest makes room for a new one. Each has at most 100 calls open (HTTP/2 setting of the library).
MAX_CONNECTIONS, MAX_PER_PEER = 512, 128
#: Answers that wait for one client to read, in bytes; beyond, the client is cut off. The library stops far below this.
MAX_UNSENT = 2 * 1024 * 1024
#: Bytes that the unread requests of all clients may take, and what an open call takes besides; beyond, the client with most is cut off.
MAX_HELD, CALL_COST = 32 * 1024 * 1024, 20 * 1024
#: Longer requests of one peer are read by at most as many calls at a time.
LARGE_AT_ONCE = 4
#: Size of the table of headers that a client may have us keep for our answers: the default of HPACK.
MAX_TABLE = 4096
#: Seconds until a new client has sent its preface and settings, for a frame or a block of headers once it has begun, without a call,
#: and to read the rest once the connection ends. gRPC's clients end a connection themselves after 30 minutes without a call.
GREETING_TIMEOUT, FRAME_TIMEOUT, IDLE_TIMEOUT, CLOSING_TIMEOUT = 10.0, 30.0, 3600.0, 2.0
#: Complaints about clients in the log, at most, in so many seconds.
COMPLAINTS, COMPLAINTS_PERIOD = 10, 60.0
#: Seconds of silence, seconds between probes, and probes after which a TCP client counts as gone.
KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 20), (socket.TCP_KEEPCNT, 3))


class Peer:
    """Whoever has connected: a uid or an address. `large`: turns for long requests."""

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.large = asyncio.Semaphore(LARGE_AT_ONCE)


class Clients:
    """All connections of one server."""

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.held = 0
        self._peers: dict[str, Peer] = {}
        self._complaints = Complaints()

    def admit(self, new: Connection) -> bool:
        """Return False if there is no room for *new*."""
        peer = self._peers.get(new.peer_key) or Peer()
        for crowd, bound in ((peer.connections, MAX_PER_PEER), (self.connections, MAX_CONNECTIONS)):
            if len(crowd) >= bound:
                idle = [one for one in crowd if not one.calls]
                if not idle:
                    self.complain(f"API client ({new.name}): connection refused: {len(crowd)} are busy")
                    return False
                oldest = min(idle, key=lambda one: (one.greeted, one.active))
                oldest.leave("makes room for another")
                self.remove(oldest)  # at once: others may come before its transport has closed
        new.peer = self._peers[new.peer_key] = peer
        peer.connections.add(new)
        self.connections.add(new)
        return True

    def remove(self, old: Connection) -> None:
        if old not in self.connections:
            return
        self.connections.remove(old)
        self.held -= old.held
        old.peer.connections.remove(old)
        if not old.peer.connections:
            del self._peers[old.peer_key]

    def hold(self, client: Connection, size: int) -> None:
        """Count *size* bytes more (or fewer) of *client*; at the bound, cut off the client that holds most."""
        client.held += size
        if client in self.connections:
            self.held += size
        while self.held > MAX_HELD:
            most = max(self.connections, key=lambda one: one.held)
            most.cut_off(f"{most.held} of {self.held} bytes of unread requests are its own")
            self.remove(most)

    def complain(self, text: str) -> None:
        if self._complaints.allowed(asyncio.get_running_loop().time()):
            log.warning(text)


class Complaints:
    """Bounds what clients can have written to the log."""

    def __init__(self) -> None:
        self._since = float("-inf")
        self._count = 0

    def allowed(self, now: float) -> bool:
        if now - self._since >= COMPLAINTS_PERIOD:
            if self._count > COMPLAINTS:
                log.warning("API clients: %d more complaints were not logged", self._count - COMPLAINTS)
            self._since, self._count = now, 0
        self._count += 1
        return self._count <= COMPLAINTS


class Calls(grpclib.server.Handler):
    """The calls of one connection. Each is released when its task has ended, even if that was cancelled before its first step."""

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
    """Received bytes of one call. The library's keeps 300 bytes besides for each frame, and mistakes an empty one for the end."""

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


class Connection(H2Protocol):
    """One client. `active`: when its last call ended, or it connected. `served`: calls that ended by themselves."""

    handler: Calls
    peer: Peer
    peer_key: str
    name: str
    transport: asyncio.Transport | None = None

    def __init__(self, handler: Calls, config: Any, h2_config: Any, clients: Clients) -> None:
        super().__init__(handler, config, h2_config)
        handler.connection = self
        self._clients = clients
        self._loop = asyncio.get_running_loop()
        self.active = self._loop.time()
        self._guard = FrameGuard(self.active)
        self.held = self.served = 0
        self.answering = asyncio.Lock()
        self._watched: tuple[str, int] = ("", 0)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.peer_key, self.name = _introduced(self.transport)
        super().connection_made(transport)
        cast("Any", self.connection).client = self
        # frames of types to come are to be ignored (RFC 9113, 4.1); the library fails on them
        self.processor.processors[cast("Any", UnknownFrameReceived)] = _ignore
        h2 = self._h2
        h2.update_settings({SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADERS})
        h2.decoder.max_header_list_size = MAX_HEADERS
        self.connection.flush()
        if self._clients.admit(self):
            self.changed()
        else:
            self.transport.abort()

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

    def hold(self, size: int) -> None:
        self._clients.hold(self, size)

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        if self.transport.is_closing():
            return
        connection = self.connection
        work = self.served * CALL + connection.messages_sent * MESSAGE + connection.data_sent // BYTES_SENT
        self._guard.note(self._loop.time(), work)
        refusal = self._guard.refusal(data)
        if refusal:
            self.cut_off(refusal)
            return
        try:
            self._process(data)
        except ProtocolError as error:
            connection.flush()  # tells the client in the protocol's way
            self._clients.complain(f"API client ({self.name}): connection closed: {_one_line(error)}")
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

    def changed(self) -> None:
        """Begin, go on or cease to wait for what the client is to do next."""
        state = self._state()
        if state == self._watched:
            return
        self._watched = state
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        kind = state[0]
        if kind == "idle":
            self.active = self._loop.time()
        if kind:
            seconds, act = self._limits()[kind]
            self._timer = self._loop.call_later(seconds, act)

    def _state(self) -> tuple[str, int]:
        if self.transport is None:
            return "", 0
        if self.transport.is_closing():
            return "closing", 0
        if not self.greeted:
            return "greeting", 0
        if self._guard.midway:
            return "frame", self._guard.frames
        return ("", 0) if self.calls else ("idle", self.served)

    def _limits(self) -> dict[str, tuple[float, Callable[[], None]]]:
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

    def cut_off(self, why: str) -> None:
        self._clients.complain(f"API client ({self.name}): connection closed: {why}")
        self.end()

    def end(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._clients.remove(self)
        super().connection_lost(exc)
        self.transport = None
        self.changed()


def _ignore(_event: Any) -> None:
    pass


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")


def _introduced(transport: asyncio.Transport) -> tuple[str, str]:
    """Return who the client is, for its share and for the log."""
    sock = transport.get_extra_info("socket")
    if sock.family == socket.AF_UNIX:
        pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return f"uid {uid}", f"uid {uid}, pid {pid}"
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    host = (transport.get_extra_info("peername") or ("unknown",))[0]
    return share_of(host), str(host)


def share_of(host: str) -> str:
    """Return what an address shares its connections with: a network of 64 bits, of which one machine may have every address, or itself."""
    try:
        packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError:
        return host
    mapped = packed[:12] == bytes(10) + b"\xff\xff"
    return socket.inet_ntop(socket.AF_INET, packed[12:]) if mapped else packed[:8].hex()
