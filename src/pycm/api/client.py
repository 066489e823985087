# SPDX-License-Identifier: Apache-2.0
"""A blocking gRPC client: one connection, one call at a time, for the command line.

It imports neither asyncio nor grpclib: those alone would cost more than the whole of `pycm list` may. The protocol is in `http2`,
the rules of a call are in `call`; here is the socket, the waiting and the time.
"""

from __future__ import annotations

import errno
import socket
import time

from pycm.api.address import Address, parse_address
from pycm.api.call import INTERNAL, Call, CallError
from pycm.api.http2 import Connection, Http2Error
from pycm.api.methods import PREFIX_SIZE
from pycm.errors import PycmError, UnavailableError

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pycm.api.duplex import Duplex

#: Seconds between attempts to connect: first and longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5
#: Seconds to tell the agent that a call is cancelled.
FAREWELL = 1.0
#: Seconds of silence until the agent is asked for a sign of life, the first time and later (a Go server takes more as abuse), and
#: seconds that it has to give it.
QUIET, LATER_QUIET, PATIENCE = 30.0, 330.0, 30.0
#: Seconds until a caller who waits for an answer hears that it still does; the next time is twice as late.
STILL_WAITING = 30.0
_CHUNK = 64 * 1024
LOST = "the agent closed the connection before the call was done; whether it did it is not known"
SILENT = "the agent does not answer any more; whether it did the call is not known"

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
    *waiting* hears the method of a call whose answer takes long, and the seconds so far.
    """

    def __init__(
        self, host: str, *, timeout: float = 30.0, waiting: Callable[[str, float], None] | None = None
    ) -> None:
        self._address = parse_address(host)
        self._timeout = timeout
        self._waiting = waiting
        self._wire: Wire | None = None

    def another(self) -> Client:
        """One more connection to the same agent."""
        return Client(self._address.text, timeout=self._timeout)

    def unary(
        self, path: str, request: bytes, *, deadline: float | None = None, patient: bool = False
    ) -> bytes:
        """The one answer. *deadline*: seconds for the whole call; None waits for as long as the agent shows signs of life."""
        answers = list(self.stream(path, request, deadline=deadline, patient=patient))
        if len(answers) != 1:
            raise CallError(INTERNAL, f"the agent sent {len(answers)} answers where one is due")
        return answers[0]

    def stream(
        self, path: str, request: bytes, *, deadline: float | None = None, patient: bool = False
    ) -> Iterator[bytes]:
        """Answers as they come. Leaving the loop early, or Ctrl-C, cancels the call. *patient*: nothing is said of a long wait."""
        wire = self._connected()
        expires = None if deadline is None else time.monotonic() + deadline
        notice = _Notice(None if patient else self._waiting, path)
        call = Call()
        wire.open(call, path, self._authority(), deadline)
        try:
            unsent = memoryview(b"\0" + len(request).to_bytes(PREFIX_SIZE - 1, "big") + request)
            while not call.done:
                try:
                    unsent = wire.send(unsent, expires)
                    wire.receive(notice.until(expires))
                except TimeoutError:
                    if wire.broken or not notice.given(expires):
                        call.expire(deadline or 0)
                except ClosedError as error:
                    call.lost(error.lost)
                except Http2Error as error:
                    wire.broken = True
                    call.lost(f"the answer is not proper HTTP/2: {error}")
                for message in call.messages():
                    yield message
                    notice.begin()
            call.check()
        finally:
            wire.leave(ended=call.ended)
            if wire.broken:
                self.close()

    def duplex(self, path: str) -> Duplex:
        """A call whose messages go both ways, as they come. No other call of this client may be made while it is open."""
        from pycm.api.duplex import Duplex

        wire = self._connected()
        call = Call()
        wire.open(call, path, self._authority(), None)
        return Duplex(wire, call)

    def _authority(self) -> str:
        return f"{self._address.host}:{self._address.port}" if self._address.host else "localhost"

    def _connected(self) -> Wire:
        if self._wire is not None and not self._wire.quiet:
            self.close()  # not used for long: the agent may have ended it meanwhile
        if self._wire is None:
            self._wire = _patiently(self._address, self._timeout, _handshake)
        return self._wire

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None


class _Notice:
    """When the caller is to hear that it still waits."""

    def __init__(self, tell: Callable[[str, float], None] | None, path: str) -> None:
        self._tell = tell
        self._method = path.rpartition("/")[2]
        self.begin()

    def begin(self) -> None:
        self._after = STILL_WAITING
        self._began = time.monotonic()

    def until(self, expires: float | None) -> float | None:
        """Return the end of the wait: the next notice or *expires*, whichever is earlier."""
        if self._tell is None:
            return expires
        due = self._began + self._after
        return due if expires is None else min(due, expires)

    def given(self, expires: float | None) -> bool:
        """Give the notice that is due; return False if the call has expired instead."""
        if self._tell is None or (expires is not None and time.monotonic() >= expires):
            return False
        self._tell(self._method, self._after)
        self._after *= 2
        return True


# ── connecting ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _patiently(address: Address, timeout: float, attempt: Callable[[Address, float], Wire]) -> Wire:
    """*attempt* until it succeeds or *timeout* seconds have passed; then say why it did not."""
    until = time.monotonic() + timeout
    pause = FIRST_PAUSE
    while True:
        try:
            return attempt(address, max(until - time.monotonic(), 0.001))
        except (OSError, ClosedError) as error:
            left = until - time.monotonic()
            if left <= pause or getattr(error, "errno", 0) in _HOPELESS:
                raise UnavailableError(_explained(address, error, timeout - max(left, 0))) from None
        except Http2Error as error:
            raise UnavailableError(
                f"error while dialing {address}: {error}; is it the agent's address?"
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


def _handshake(address: Address, seconds: float) -> Wire:
    """A connection whose peer has shown by its settings that it speaks HTTP/2."""
    until = time.monotonic() + seconds
    wire = Wire(_open(address, seconds))
    try:
        while not wire.greeted:
            wire.receive(until)
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


class ClosedError(PycmError):
    """The peer closed the connection. `lost`: what it means for a call."""

    lost = LOST


class SilentError(ClosedError):
    """The peer does not answer, not even a PING."""

    lost = SILENT


class Wire:
    """A socket that speaks HTTP/2. Errors of `send` and `receive`: TimeoutError at *until* (monotonic), ClosedError, Http2Error."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._http2 = Connection()
        self.broken = False
        self._asked = False
        self._due = time.monotonic() + QUIET
        self._flush(None)

    @property
    def greeted(self) -> bool:
        return self._http2.greeted

    def open(self, call: Call, path: str, authority: str, deadline: float | None) -> None:
        headers = [
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", authority),
            ("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "pycm"),
        ]  # fmt: skip
        if deadline is not None:
            headers.insert(4, ("grpc-timeout", f"{max(int(deadline * 1000), 1)}m"))
        self._http2.open(call, headers)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, unsent: memoryview, until: float | None, *, end: bool = True) -> memoryview:
        """As much of *unsent* as the peer allows; return the rest."""
        rest = self._http2.send(unsent, end=end)
        self._flush(until)
        return rest

    def receive(self, until: float | None) -> None:
        """Wait for something from the peer and hand it to the call. Errors besides those of the class: SilentError."""
        data = self._received(until)
        if not data:
            self.broken = True
            raise ClosedError("it closes the connection at once")
        self._due = time.monotonic() + (LATER_QUIET if self._asked else QUIET)
        self._asked = False
        self._http2.feed(data)
        self.broken = self.broken or self._http2.closing
        self._flush(None)

    def _received(self, until: float | None) -> bytes:
        while True:
            self._limit(until, self._due)
            try:
                return self._socket.recv(_CHUNK)
            except ConnectionError:
                return b""
            except TimeoutError:
                if until is not None and time.monotonic() >= until:
                    raise
                self.check()

    @property
    def quiet(self) -> float:
        """Seconds until `check` is due."""
        return max(self._due - time.monotonic(), 0.0)

    def check(self) -> None:
        """If nothing has come for long, ask the peer for a sign of life. Error: SilentError if it was asked already."""
        if self.quiet:
            return
        if self._asked:
            self.broken = True
            raise SilentError("it does not answer")
        self._asked = True
        self._due = time.monotonic() + PATIENCE
        self._http2.ping()
        self._flush(None)

    def end(self) -> None:
        """All has been sent."""
        self._http2.end()
        self._flush(None)

    def _limit(self, until: float | None, due: float) -> None:
        self._socket.settimeout(max((due if until is None else min(until, due)) - time.monotonic(), 0.001))

    def _flush(self, until: float | None) -> None:
        data = self._http2.take()
        if not data:
            return
        self._limit(until, time.monotonic() + PATIENCE)
        try:
            self._socket.sendall(data)
        except ConnectionError:
            self.broken = True  # what the peer said before it went may still be read
        except TimeoutError:
            self.broken = True  # a part may have gone out
            if until is not None and time.monotonic() >= until:
                raise
            raise SilentError("it does not read") from None

    def leave(self, *, ended: bool) -> None:
        """The caller needs no more of the call: tell the peer, if it is not at its end."""
        if ended or self.broken:
            return
        try:
            self._http2.cancel()
            self._flush(time.monotonic() + FAREWELL)
        except (OSError, SilentError):
            self.broken = True

    def close(self) -> None:
        self._socket.close()
