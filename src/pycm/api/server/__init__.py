# SPDX-License-Identifier: Apache-2.0
"""The API's server: where it listens, which language a client speaks, and an end that does not wait for clients."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import grpclib.server
from grpclib.config import Configuration

from pycm.api.server.clients import CLOSING_TIMEOUT, GREETING_TIMEOUT, Client, Clients, Complaints, introduced
from pycm.api.server.grpc import Codec, Service
from pycm.api.server.grpc_connection import Calls, Connection
from pycm.errors import ConfigError, ConflictError, shorten

if TYPE_CHECKING:
    from collections.abc import Callable

    from grpclib.protocol import H2Protocol

    from pycm.api.server.handlers import Handlers
    from pycm.api.server.operations import Rooms
    from pycm.config.types import GrpcServer

log = logging.getLogger("pycm.api")

#: Bytes of requests that one client may have under way unread; a longer message flows as it is read.
WINDOW = 256 * 1024
#: Connections that wait to be accepted.
BACKLOG = 128
#: Seconds that running calls get to see their end.
CLOSE_TIMEOUT = 2.0

DIRECTORY_MODE = 0o711
SOCKET_MODE = 0o660
_MAX_PATH = 107  # sockaddr_un.sun_path without its final NUL

#: Languages, and how HTTP/2 begins.
HTTP1, HTTP2 = "HTTP/1.1", "HTTP/2"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: Browsers can send HTTP/1.1 to any TCP address, and the API has no login.
_REFUSED = (
    b'{"type":"urn:pycm:problem:unix-socket-only","title":"Only on the unix socket","status":403,'
    b'"detail":"the JSON API is served on the unix socket only","code":"unix-socket-only"}'
)
REFUSAL = (
    b"HTTP/1.1 403 Only on the unix socket\r\nContent-Type: application/problem+json\r\n"
    b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(_REFUSED), _REFUSED)
)

_FAMILIES = {"tcp": 0, "tcp4": 2, "tcp6": 10}  # AF_UNSPEC, AF_INET, AF_INET6


def tcp_address(listen: GrpcServer) -> tuple[str, int] | None:
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

    def __init__(self, rooms: Rooms, listen: GrpcServer) -> None:
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
        address = tcp_address(self._listen)
        grpc = _Grpc(self._service, speaks_json=address is None)
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
            # asyncio's text repeats number and address; numbers below 0 are those of the resolver
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

    def __init__(self, service: Service, *, speaks_json: bool) -> None:
        windows = Configuration(http2_connection_window_size=WINDOW, http2_stream_window_size=WINDOW)
        super().__init__([service], codec=Codec(), config=windows)
        self.clients = Clients()
        self.speaks_json = speaks_json
        self._operations = service.operations
        self._json: Handlers | None = None

    def _protocol_factory(self) -> H2Protocol:
        return cast("H2Protocol", Greeting(self))

    def grpc_connection(self) -> Connection:
        calls = Calls(self._mapping, self._codec, self._status_details_codec, self.__dispatch__)
        self._handlers.add(calls)
        calls.gone = self._forget
        return Connection(calls, self._config, self._h2_config, self.clients)

    def json_connection(self) -> Client:
        """Import the JSON API with its first client: an agent without one does not pay for it."""
        from pycm.api.server import http

        if self._json is None:
            from pycm.api.server.handlers import Handlers

            self._json = Handlers(self._operations)
        return http.Connection(self.clients, self._json)

    def _forget(self, calls: Calls) -> None:
        asyncio.get_running_loop().call_soon(self._handlers.discard, calls)

    def listening(self) -> list[socket.socket]:
        return list(cast("Any", self._server).sockets) if self._server else []

    async def finish(self) -> None:
        """The library's own wait would last, from Python 3.12 on, until the last client has gone by itself."""
        self.close()
        ending: list[asyncio.Future[None]] = [
            asyncio.ensure_future(handler.wait_closed()) for handler in self._handlers
        ]
        ending += filter(None, [connection.finish() for connection in self.clients.connections])
        if ending:
            await asyncio.wait(ending, timeout=CLOSE_TIMEOUT)
        for connection in tuple(self.clients.connections):
            connection.end()


def language_of(first: bytes) -> str:
    """Return what a client speaks by its first bytes, "" if they do not tell yet. Bytes that are neither are gRPC's to
    refuse.
    """
    if PREFACE.startswith(first[: len(PREFACE)]):
        return HTTP2 if len(first) >= len(b"PRI") else ""
    return HTTP1 if first[:1].isalpha() else HTTP2


class Greeting(Client, asyncio.Protocol):
    """A client whose language is not known, because its first bytes have not come."""

    calls = 0
    greeted = False

    def __init__(self, server: _Grpc) -> None:
        super().__init__(server.clients)
        self.transport: asyncio.Transport | None = None
        self._server = server
        self._first = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.peer_key, self.name = introduced(self.transport)
        if self.clients.admit(self):
            self.changed()
        else:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self._first += data
        language = language_of(self._first)
        if language == HTTP2:
            self._hand_over(self._server.grpc_connection())
        elif language == HTTP1 and self._server.speaks_json:
            self._hand_over(self._server.json_connection())
        elif language == HTTP1:
            self._refuse()

    def _refuse(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.clients.complain(f"API client ({self.name}): connection closed: HTTP/1.1 on a TCP address")
            self.transport.write(REFUSAL)
            self.transport.close()
            self.changed()

    def _hand_over(self, new: Client) -> None:
        transport, self.transport = self.transport, None
        assert transport is not None
        assert isinstance(new, asyncio.Protocol)
        self.changed()
        self.clients.replace(self, new)
        transport.set_protocol(new)
        new.connection_made(transport)
        new.data_received(self._first)

    def state(self) -> tuple[str, int]:
        if self.transport is None:
            return "", 0
        return ("closing" if self.transport.is_closing() else "greeting"), 0

    def limits(self) -> dict[str, tuple[float, Callable[[], None]]]:
        silent = partial(self.cut_off, f"it sent nothing within {GREETING_TIMEOUT:g} s")
        return {"greeting": (GREETING_TIMEOUT, silent), "closing": (CLOSING_TIMEOUT, self.end)}

    def leave(self, why: str) -> None:
        if self.transport is not None:
            log.debug("API client (%s): connection closed: %s", self.name, why)
            self.transport.close()
            self.changed()

    def connection_lost(self, _error: BaseException | None) -> None:
        self.clients.remove(self)
        self.transport = None
        self.changed()


class _OneLine(logging.Filter):
    """Append the error to the text and drop the traceback: what a peer does wrong is not a bug of ours. Not too many of
    them.
    """

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


# ── the unix socket as a file ──


class SocketFile:
    """A bound socket that does not listen yet. Errors: ConfigError, ConflictError."""

    def __init__(self, path: str) -> None:
        self.path = path
        if len(os.fsencode(path)) > _MAX_PATH:
            raise ConfigError(
                f"grpc_server.address_path: {path!r} is longer than the {_MAX_PATH} bytes that a socket may have"
            )
        try:
            _prepare_directory(os.path.dirname(path) or ".")
            _remove_stale(path)
            self.socket = _bind(path)
            found = os.lstat(path)
        except OSError as error:
            raise ConfigError(
                f"grpc_server.address_path: no socket can be made at {path!r}: {error.strerror}"
            ) from None
        self._identity = found.st_dev, found.st_ino

    def remove(self) -> None:
        """Unlink the file unless somebody has put another in its place."""
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self._identity:
                os.unlink(self.path)


def _prepare_directory(path: str) -> None:
    """Mode 0711 as the original sets it, but not for a directory that is everyone's, such as /tmp or /run."""
    os.makedirs(path, DIRECTORY_MODE, exist_ok=True)
    shared = os.path.ismount(path) or os.stat(path).st_mode & stat.S_ISVTX
    if not shared:
        os.chmod(path, DIRECTORY_MODE)


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(
            f"grpc_server.address_path: {path!r} exists but is not a socket; refusing to replace it"
        )
    if _answers(path):
        raise ConflictError(f"another process serves the socket {path!r}: is an agent running already?")
    os.unlink(path)


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except BlockingIOError:  # its queue is full: somebody listens
            return True
        except OSError:
            return False
        return True


def _bind(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(path)
        os.chmod(path, SOCKET_MODE)  # nobody can connect before listen()
    except OSError:
        sock.close()
        raise
    return sock
