# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 as far as the command line needs it, and the socket below it (docs/api.md).

It is written by hand because every start of the command line pays for its imports: `http.client` alone costs more than
the whole of `pycm list` may. `_socket` is the part of `socket` that is written in C; the rest of it costs as much as
half a bare Python.
"""

from __future__ import annotations

import time
from _socket import AF_UNIX, SOCK_STREAM, socket

from pycm.api.protocol import UPGRADE
from pycm.errors import PycmError

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from typing import Any

#: Seconds of silence until the agent is probed, the first time and later, and seconds that it has to answer.
QUIET, LATER_QUIET, PATIENCE = 30.0, 330.0, 30.0
#: Maximum size of the head of an answer, and of an answer or one line of a stream.
MAX_HEAD, MAX_ANSWER = 64 * 1024, 64 * 1024 * 1024
_CHUNK = 64 * 1024

LOST = "the agent closed the connection before the call was done; whether it did it is not known"
SILENT = "the agent does not answer any more; whether it did the call is not known"


class AnswerError(PycmError):
    """The peer does not follow HTTP/1.1."""


class NoJsonError(AnswerError):
    """The peer speaks another protocol."""


class ClosedError(PycmError):
    """The connection ended: the peer closed it or does not answer any more."""


def read_json(data: bytes | bytearray) -> Any:
    """Errors: AnswerError."""
    import json

    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"it is not valid JSON: {error}") from None


def encode_request(method: str, target: str, body: Any = None, *, upgrade: bool = False) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: pycm", "User-Agent: pycm"]
    if upgrade:
        lines += ["Connection: Upgrade", f"Upgrade: {UPGRADE}"]
    data = b""
    if body is not None:
        import json

        data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        lines.append(f"Content-Length: {len(data)}")
    return "\r\n".join((*lines, "", "")).encode("ascii") + data


PROBE = encode_request("GET", "/v1/version")


class Answer:
    """One HTTP/1.1 answer, without I/O.

    `status`: 0 until the head has come. `body`: the bytes of it that have come and are not read yet. With
    status 101 they are those of the upgraded connection. `ended`: it is complete.
    """

    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()
        self.ended = False
        self._in = bytearray()
        self._closed = False
        self._steps = self._read()
        next(self._steps)

    def feed(self, data: bytes) -> None:
        """Take bytes of the peer, b"" for the end of the connection. Errors: NoJsonError, AnswerError, ClosedError."""
        self._closed = not data
        self._in += data
        if not self.status and not b"HTTP/1.".startswith(self._in[:7]):
            raise NoJsonError("it does not speak HTTP/1.1")
        try:
            next(self._steps, None)
        except ValueError:
            raise AnswerError("a number in its answer is not valid") from None

    def lines(self) -> Iterator[bytes]:
        """Take the whole lines of the body."""
        while (end := self.body.find(b"\n")) >= 0:
            line = bytes(self.body[:end])
            del self.body[: end + 1]
            yield line

    def _read(self) -> Generator[None]:
        while True:
            status, *lines = (yield from self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            number = int(status[9:12])
            if number == 101 or number >= 200:
                break
        self.status = number
        pairs = (line.partition(":") for line in lines)
        fields = {name.strip().lower(): value.strip().lower() for name, _, value in pairs}
        if number == 101:
            while True:
                yield from self._take(len(self._in) or 1)
        elif fields.get("transfer-encoding") == "chunked":
            yield from self._read_chunks()
        elif number != 204:
            yield from self._take(int(fields.get("content-length", "0")))
        self.ended = True

    def _read_chunks(self) -> Generator[None]:
        while size := int((yield from self._until(b"\r\n")).partition(b";")[0], 16):
            yield from self._take(size)
            if (yield from self._until(b"\r\n")):
                raise AnswerError("a chunk of its answer has a wrong length")
        while (yield from self._until(b"\r\n")):  # trailers
            pass

    def _until(self, mark: bytes) -> Generator[None, None, bytes]:
        while (end := self._in.find(mark)) < 0:
            if len(self._in) > MAX_HEAD:
                raise AnswerError(f"its answer has a head of more than {MAX_HEAD} bytes")
            yield from self._more()
        found = bytes(self._in[:end])
        del self._in[: end + len(mark)]
        return found

    def _take(self, size: int) -> Generator[None]:
        if size < 0:
            raise ValueError
        while size:
            part = self._in[:size]
            self.body += part
            del self._in[: len(part)]
            size -= len(part)
            if len(self.body) > MAX_ANSWER:
                raise AnswerError(f"its answer has more than {MAX_ANSWER} bytes")
            if size:
                yield from self._more()

    def _more(self) -> Generator[None]:
        if self._closed:
            raise ClosedError(LOST)
        yield


class Wire:
    """A connected socket, and whether the agent behind it still lives: when nothing has come for long, another
    connection asks.

    Errors of `send` and `receive`: TimeoutError at *until* (monotonic), ClosedError.
    """

    def __init__(self, path: str, seconds: float) -> None:
        self._path = path
        self._probe: socket | None = None
        self._due = time.monotonic() + QUIET
        self._socket = _connect(path, seconds)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        self._socket.settimeout(PATIENCE)
        try:
            self._socket.sendall(data)
        except ConnectionError:
            pass  # what the agent said before it closed may still be read
        except TimeoutError:
            raise ClosedError(SILENT) from None

    def send_some(self, data: bytearray) -> None:
        """Send as much as the agent takes now, and remove it from *data*."""
        self._socket.settimeout(0)
        try:
            del data[: self._socket.send(data)]
        except BlockingIOError:
            pass
        except ConnectionError:
            data.clear()  # as in `send`

    def receive(self, until: float | None) -> bytes:
        """Wait for bytes of the agent; b"" is the end of the connection."""
        while True:
            due = self._due if until is None else min(until, self._due)
            self._socket.settimeout(max(due - time.monotonic(), 0.001))
            try:
                data = self._socket.recv(_CHUNK)
            except ConnectionError:
                return b""
            except TimeoutError:
                if until is not None and time.monotonic() >= until:
                    raise
                self.check()
                continue
            self._alive()
            return data

    @property
    def quiet(self) -> float:
        """Seconds until `check` is due."""
        return max(self._due - time.monotonic(), 0.0)

    def check(self) -> None:
        """If nothing has come for long, probe the agent, without waiting. Error: ClosedError if it did not answer the
        last probe.
        """
        if self.quiet:
            return
        if self._probe is None:
            self._probe = _ask(self._path)
            self._due = time.monotonic() + PATIENCE
        elif _has_answered(self._probe):
            self._alive(LATER_QUIET)
        else:
            raise ClosedError(SILENT)

    def _alive(self, quiet: float | None = None) -> None:
        if self._probe is not None:
            self._probe.close()
            self._probe = None
        self._due = time.monotonic() + (QUIET if quiet is None else quiet)

    def close(self) -> None:
        self._alive()
        self._socket.close()


def _connect(path: str, seconds: float) -> socket:
    sock = socket(AF_UNIX, SOCK_STREAM)
    try:
        sock.settimeout(seconds)
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def _ask(path: str) -> socket:
    """A connection of its own with a request that the agent answers from memory."""
    sock = socket(AF_UNIX, SOCK_STREAM)
    sock.settimeout(0)
    try:
        sock.connect(path)
        sock.send(PROBE)
    except OSError:
        pass  # it will not have answered
    return sock


def _has_answered(probe: socket) -> bool:
    try:
        return bool(probe.recv(_CHUNK))
    except OSError:
        return False
