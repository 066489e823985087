# SPDX-License-Identifier: Apache-2.0
"""A blocking gRPC client: one connection, one call at a time, for the command line.

It imports neither asyncio nor grpclib: those alone would cost more than the whole of `pycm list` may. The protocol is h2's, the
rules of a call are in `call`; here is the socket, the waiting and the time.
"""

from __future__ import annotations

import errno
import socket
import time

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

from pycm.api.address import Address, parse_address
from pycm.api.call import INTERNAL, Call, CallError
from pycm.api.methods import PREFIX_SIZE
from pycm.errors import PycmError, UnavailableError

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Seconds between attempts to connect: first and longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5
#: Bytes that the agent may send before we have read: a chunk of a log fits.
WINDOW = 4 * 1024 * 1024
#: Seconds to tell the agent that a call is cancelled.
FAREWELL = 1.0
_CHUNK = 64 * 1024
_LOST = "the agent closed the connection before the call was done; whether it did it is not known"

_HINTS = {
    errno.ENOENT: "is the agent running?",
    errno.ECONNREFUSED: "nobody listens there: is the agent running?",
    errno.EACCES: "run it as root or as a member of the socket's group",
    errno.EPERM: "run it as root or as a member of the socket's group",
}
#: Waiting does not help with these.
_HOPELESS = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.ENOTSOCK,
        errno.EPROTOTYPE,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EINVAL,
    }
)


class Client:
    """Connects at the first call, and waits up to *timeout* seconds for the agent to appear and answer.

    Errors: UnavailableError if it does not; CallError for a call that failed. `unary` and `stream` take and give encoded messages.
    """

    def __init__(self, host: str, *, timeout: float = 30.0) -> None:
        self._address = parse_address(host)
        self._timeout = timeout
        self._wire: _Wire | None = None

    def unary(self, path: str, request: bytes, *, deadline: float | None = None) -> bytes:
        """The one answer. *deadline*: seconds for the whole call; None waits for as long as it takes."""
        answers = list(self.stream(path, request, deadline=deadline))
        if len(answers) != 1:
            raise CallError(INTERNAL, f"the agent sent {len(answers)} answers where one is due")
        return answers[0]

    def stream(self, path: str, request: bytes, *, deadline: float | None = None) -> Iterator[bytes]:
        """Answers as they come. Leaving the loop early, or Ctrl-C, cancels the call."""
        wire = self._connected()
        expires = None if deadline is None else time.monotonic() + deadline
        call = Call()
        stream_id = wire.open_call(path, self._authority(), deadline)
        try:
            unsent = memoryview(b"\0" + len(request).to_bytes(PREFIX_SIZE - 1, "big") + request)
            while not call.done:
                try:
                    unsent = wire.send(stream_id, unsent, expires)
                    for event in wire.receive(expires):
                        _tell(call, stream_id, event)
                except TimeoutError:
                    call.expire(deadline or 0)
                except _ClosedError as error:
                    call.lost(str(error))
                except ProtocolError as error:
                    wire.broken = True
                    call.lost(f"the answer is not proper HTTP/2: {error}")
                yield from call.messages()
            call.check()
        finally:
            wire.leave(stream_id, finished=call.done)
            if wire.broken:
                self.close()

    def _authority(self) -> str:
        return f"{self._address.host}:{self._address.port}" if self._address.host else "localhost"

    def _connected(self) -> _Wire:
        if self._wire is None:
            self._wire = _patiently(self._address, self._timeout, _handshake)
        return self._wire

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None


def _tell(call: Call, stream_id: int, event: Event) -> None:
    """Hand the event to the call; what still comes for an earlier, cancelled one is dropped."""
    if getattr(event, "stream_id", stream_id) != stream_id:
        return
    if isinstance(event, (ResponseReceived, TrailersReceived)):
        call.headers(event.headers)  # type: ignore[arg-type] # str, since header_encoding is set
    elif isinstance(event, DataReceived):
        call.data(event.data)
    elif isinstance(event, StreamEnded):
        call.end()
    elif isinstance(event, StreamReset):
        call.reset(int(event.error_code))
    elif isinstance(event, ConnectionTerminated):
        call.lost("the agent is ending its connections: it is being stopped or restarted")


# ── connecting ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _patiently(address: Address, timeout: float, attempt: Callable[[Address, float], _Wire]) -> _Wire:
    """*attempt* until it succeeds or *timeout* seconds have passed; then say why it did not."""
    until = time.monotonic() + timeout
    pause = FIRST_PAUSE
    while True:
        try:
            return attempt(address, max(until - time.monotonic(), 0.001))
        except (OSError, _ClosedError) as error:
            left = until - time.monotonic()
            if left <= pause or getattr(error, "errno", 0) in _HOPELESS:
                raise UnavailableError(_explained(address, error, timeout - max(left, 0))) from None
        except ProtocolError:
            raise UnavailableError(
                f"error while dialing {address}: what listens there does not speak gRPC"
            ) from None
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)


def _explained(address: Address, error: Exception, waited: float) -> str:
    number = getattr(error, "errno", None)
    if isinstance(error, TimeoutError):
        why = "it does not answer"
    elif number:
        why = str(getattr(error, "strerror", error))
    else:
        why = str(error)
    hint = f"; {_HINTS[number]}" if number in _HINTS else ""
    return f"error while dialing {address}: {why} (waited {waited:.0f} s){hint}"


def _handshake(address: Address, seconds: float) -> _Wire:
    """A connection whose peer has shown by its settings that it speaks HTTP/2."""
    until = time.monotonic() + seconds
    wire = _Wire(_open(address, seconds))
    try:
        while not any(isinstance(event, RemoteSettingsChanged) for event in wire.receive(until)):
            pass
    except BaseException:
        wire.close()
        raise
    return wire


def _open(address: Address, seconds: float) -> socket.socket:
    if address.kind == "unix":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(seconds)
            sock.connect(address.path)
        except OSError:
            sock.close()
            raise
        return sock
    return _open_tcp(address, seconds)


def _open_tcp(address: Address, seconds: float) -> socket.socket:
    family = {"tcp4": socket.AF_INET, "tcp6": socket.AF_INET6}.get(address.kind, socket.AF_UNSPEC)
    failure: OSError = OSError("the name has no address")
    for found in socket.getaddrinfo(address.host, address.port, family, socket.SOCK_STREAM):
        sock = socket.socket(found[0], found[1], found[2])
        try:
            sock.settimeout(seconds)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(found[4])
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure


# ── the connection ──────────────────────────────────────────────────────────────────────────────────────────────────


class _ClosedError(PycmError):
    """The peer closed the connection, or broke the rules of HTTP/2."""


class _Wire:
    """A socket that speaks HTTP/2."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._h2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.broken = False
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW)
        self._flush()

    def open_call(self, path: str, authority: str, deadline: float | None) -> int:
        stream_id = self._h2.get_next_available_stream_id()
        headers = [
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", authority),
            ("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "pycm"),
        ]  # fmt: skip
        if deadline is not None:
            headers.insert(4, ("grpc-timeout", f"{max(int(deadline * 1000), 1)}m"))
        self._h2.send_headers(stream_id, headers)
        self._h2.increment_flow_control_window(WINDOW, stream_id)
        return stream_id

    def send(self, stream_id: int, unsent: memoryview, until: float | None) -> memoryview:
        """As much of *unsent* as the peer allows, and the end after the last byte; return the rest. Errors: as `receive`."""
        self._limit(until)
        while unsent:
            room = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
            if room <= 0:
                break
            chunk, unsent = unsent[:room], unsent[room:]
            self._h2.send_data(stream_id, chunk.tobytes(), end_stream=not unsent)
        self._flush()
        return unsent

    def receive(self, until: float | None) -> list[Event]:
        """What the peer sends next. Errors: TimeoutError at *until* (monotonic), _ClosedError."""
        self._limit(until)
        try:
            data = self._socket.recv(_CHUNK)
        except ConnectionError:
            data = b""
        if not data:
            self.broken = True
            raise _ClosedError(_LOST)
        return self._read(data)

    def _limit(self, until: float | None) -> None:
        self._socket.settimeout(None if until is None else max(until - time.monotonic(), 0.001))

    def _read(self, data: bytes) -> list[Event]:
        events = self._h2.receive_data(data)
        for event in events:
            if isinstance(event, DataReceived):
                self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.broken = self.broken or isinstance(event, ConnectionTerminated)
        self._flush()
        return events

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            try:
                self._socket.sendall(data)
            except ConnectionError:
                self.broken = True  # what the peer said before it went may still be read

    def leave(self, stream_id: int, *, finished: bool) -> None:
        """The caller needs no more of this call: tell the peer, if it is not at its end."""
        if finished or self.broken:
            return
        try:
            self._socket.settimeout(FAREWELL)
            self._h2.reset_stream(stream_id, ErrorCodes.CANCEL)
            self._flush()
        except (ProtocolError, OSError):
            self.broken = True

    def close(self) -> None:
        self._socket.close()
