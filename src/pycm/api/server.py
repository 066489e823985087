# SPDX-License-Identifier: Apache-2.0
"""The gRPC server: where it listens, and an end that does not wait for clients that stay connected."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any, Protocol, cast

import grpclib.server
from grpclib.config import Configuration

from pycm.api.connection import Calls, Clients, Complaints, Connection
from pycm.api.service import Codec, Service
from pycm.api.socket_file import SocketFile
from pycm.errors import ConfigError, shorten

if TYPE_CHECKING:
    import socket

    from grpclib.protocol import H2Protocol

    from pycm.api.service import Rooms

log = logging.getLogger("pycm.api")

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
        self.clients = Clients()

    def _protocol_factory(self) -> H2Protocol:
        calls = Calls(self._mapping, self._codec, self._status_details_codec, self.__dispatch__)
        self._handlers.add(calls)
        calls.gone = self._forget
        return Connection(calls, self._config, self._h2_config, self.clients)

    def _forget(self, calls: Calls) -> None:
        asyncio.get_running_loop().call_soon(self._handlers.discard, calls)

    def listening(self) -> list[socket.socket]:
        return list(cast("Any", self._server).sockets) if self._server else []

    async def finish(self) -> None:
        """The library's own wait would last, from Python 3.12 on, until the last client has gone by itself."""
        self.close()
        calls = [handler.wait_closed() for handler in self._handlers]
        if calls:
            await asyncio.wait([asyncio.ensure_future(call) for call in calls], timeout=CLOSE_TIMEOUT)
        for connection in tuple(self.clients.connections):
            connection.end()


class _OneLine(logging.Filter):
    """Append the error to the text and drop the traceback: what a peer does wrong is not a bug of ours. Not too many of them."""

    def __init__(self) -> None:
        super().__init__()
        self._complaints = Complaints()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            record.msg = f"{record.getMessage()}: {record.exc_info[1]!r}"
            record.args = ()
            record.exc_info = None
        return self._complaints.allowed(record.created)


def _quiet_library() -> None:
    for name in ("grpclib.server", "grpclib.protocol"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)  # a line for each call that a client cancels would be at INFO
        if not any(isinstance(one, _OneLine) for one in logger.filters):
            logger.addFilter(_OneLine())
