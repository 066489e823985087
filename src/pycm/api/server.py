# SPDX-License-Identifier: Apache-2.0
"""The gRPC server: where it listens, how many may come, and what keeps one bad client from hurting the others.

grpclib does the protocol. What it lacks for clients that are not trusted is added here: bounds on connections and on what waits to
be sent, no traceback for foreign bytes, and an end that does not wait for clients who stay connected.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any, Protocol, cast

import grpclib.server
from grpclib.config import Configuration
from grpclib.protocol import H2Protocol
from h2.events import UnknownFrameReceived

from pycm.api.frame_guard import FrameGuard
from pycm.api.service import Codec, Service
from pycm.api.socket_file import SocketFile
from pycm.errors import ConfigError, shorten

if TYPE_CHECKING:
    import socket

    from pycm.api.service import Rooms

log = logging.getLogger("pycm.api")

#: Clients connected at one time; one more is turned away. Each has at most 100 calls open (HTTP/2 setting of the library).
MAX_CONNECTIONS = 512
#: Answers that wait for one client to read, in bytes; beyond, the client is cut off. Logs and lists wait far below this.
MAX_UNSENT = 8 * 1024 * 1024
#: Bytes of requests that one client may have under way unread; a longer message flows as it is read.
WINDOW = 256 * 1024
#: Connections that wait to be accepted.
BACKLOG = 128
#: Seconds that running calls get to see their end.
CLOSE_TIMEOUT = 2.0

_FAMILIES = {"tcp": 0, "tcp4": 2, "tcp6": 10}  # AF_UNSPEC, AF_INET, AF_INET6


class Listen(Protocol):
    """The section grpc_server of the configuration, as far as it is needed here."""

    @property
    def protocol(self) -> str: ...

    @property
    def address_path(self) -> str: ...


def tcp_address(listen: Listen) -> tuple[str, int] | None:
    """Host ("" for all) and port, or None for a unix socket. Errors: ConfigError for what can be neither."""
    if listen.protocol == "unix":
        return None
    if listen.protocol not in _FAMILIES:
        raise ConfigError(
            f"grpc_server.protocol: {shorten(listen.protocol)} is none of unix, tcp, tcp4, tcp6"
        )
    host, colon, port = listen.address_path.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"grpc_server.address_path: {shorten(listen.address_path)} is not host:port")
    return host.strip("[]"), int(port)


class Server:
    """`start` once containers are loaded, `close` at the end. Errors of start: ConfigError, ConflictError."""

    def __init__(self, rooms: Rooms, listen: Listen) -> None:
        self._service = Service(rooms)
        self._listen = listen
        self._grpc: _Grpc | None = None
        self._file: SocketFile | None = None

    @property
    def sockets(self) -> list[socket.socket]:
        """Where it listens now."""
        return self._grpc.listening() if self._grpc else []

    async def start(self) -> None:
        _quiet_library()
        grpc = _Grpc([self._service], codec=Codec())
        address = tcp_address(self._listen)
        if address is None:
            self._file = SocketFile(self._listen.address_path)
            await grpc.start(sock=self._file.socket, backlog=BACKLOG)
        else:
            await self._start_tcp(grpc, *address)
        self._grpc = grpc
        log.info("API at %s %s", self._listen.protocol, self._listen.address_path)

    async def _start_tcp(self, grpc: _Grpc, host: str, port: int) -> None:
        family = cast("Any", _FAMILIES[self._listen.protocol])
        try:
            await grpc.start(host or None, port, family=family, backlog=BACKLOG)
        except OSError as error:
            # asyncio's text has number and address in it, where they would stand twice; numbers below 0 are those of names
            number = error.errno or 0
            reason = os.strerror(number) if number > 0 else error.strerror
            raise ConfigError(
                f"grpc_server.address_path: cannot listen at {self._listen.address_path}: {reason or error}"
            ) from None

    async def close(self) -> None:
        """Stop listening, end calls and connections, remove the socket file. Safe to call twice, and before start."""
        grpc, self._grpc = self._grpc, None
        socket_file, self._file = self._file, None
        self._service.closing()
        if socket_file is not None:
            socket_file.remove()
        if grpc is not None:
            await grpc.finish()


class _Grpc(grpclib.server.Server):
    """grpclib's server that knows its connections."""

    def __init__(self, handlers: Any, *, codec: Codec) -> None:
        windows = Configuration(http2_connection_window_size=WINDOW, http2_stream_window_size=WINDOW)
        super().__init__(handlers, codec=codec, config=windows)
        self.connections: set[_Connection] = set()

    def _protocol_factory(self) -> H2Protocol:
        plain = super()._protocol_factory()
        return _Connection(plain, self.connections)

    def listening(self) -> list[socket.socket]:
        return list(cast("Any", self._server).sockets) if self._server else []

    async def finish(self) -> None:
        """The library's own wait would last, from Python 3.12 on, until the last client has gone by itself."""
        self.close()
        calls = [handler.wait_closed() for handler in self._handlers]
        if calls:
            await asyncio.wait([asyncio.ensure_future(call) for call in calls], timeout=CLOSE_TIMEOUT)
        for connection in tuple(self.connections):
            connection.end()


class _Connection(H2Protocol):
    """One client."""

    transport: asyncio.Transport | None = None

    def __init__(self, plain: H2Protocol, connections: set[_Connection]) -> None:
        super().__init__(plain.handler, plain.config, plain.h2_config)
        self._connections = connections
        self._guard = FrameGuard()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        super().connection_made(transport)
        # frames of types to come are to be ignored (RFC 9113, 4.1); the library fails on them
        self.processor.processors[cast("Any", UnknownFrameReceived)] = _ignore
        if len(self._connections) >= MAX_CONNECTIONS:
            log.warning("API: a client is turned away: %d are connected", MAX_CONNECTIONS)
            self.end()
        else:
            self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        if self.transport.is_closing():
            return
        if not self._guard.admits(data):
            log.warning("API: a client is cut off: it sends a frame longer than allowed, or no HTTP/2")
            self.end()
            return
        try:
            super().data_received(data)
        except Exception as error:  # noqa: BLE001 - foreign bytes in a library: whatever it raises ends this connection and no more
            log.warning("API: a client is cut off, it does not speak HTTP/2 properly: %r", error)
            self.end()
            return
        if self.transport.get_write_buffer_size() > MAX_UNSENT:
            log.warning("API: a client is cut off: it sends and does not read")
            self.end()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.discard(self)
        super().connection_lost(exc)

    def end(self) -> None:
        if self.transport is not None:
            self.transport.abort()


def _ignore(_event: Any) -> None:
    pass


def _one_line(record: logging.LogRecord) -> bool:
    """Append the error to the text and drop the traceback: what a peer does wrong is no bug of ours."""
    if record.exc_info and record.exc_info[1] is not None:
        record.msg = f"{record.getMessage()}: {record.exc_info[1]!r}"
        record.args = ()
        record.exc_info = None
    return True


def _quiet_library() -> None:
    for name in ("grpclib.server", "grpclib.protocol"):
        logger = logging.getLogger(name)
        if _one_line not in logger.filters:
            logger.addFilter(_one_line)
