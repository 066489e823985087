# SPDX-License-Identifier: Apache-2.0
"""A server for the command line's client that does what a script says, in a thread."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pycm.api.protocol import Frames, frame

WAIT = 60.0
VERSION = b'{"project_version":"0.1.0"}'
Script = Callable[["Peer"], None]


class Peer:
    """One accepted connection. `gone`: the client has closed it."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.settimeout(WAIT)
        self._in = b""
        self._frames = Frames()

    def request(self) -> tuple[str, Any]:
        """Wait for a request; returns method and target, and the JSON of the body. ConnectionError if the client has gone."""
        while b"\r\n\r\n" not in self._in:
            self._more()
        head, _, self._in = self._in.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines)
        assert fields["host"]
        size = int(fields.get("content-length", "0"))
        while len(self._in) < size:
            self._more()
        body, self._in = self._in[:size], self._in[size:]
        return first.removesuffix(" HTTP/1.1"), json.loads(body) if body else None

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionResetError
        self._in += data

    def greet(self) -> None:
        """Answer the question that each client begins with."""
        assert self.request() == ("GET /v1/version", None)
        self.answer(VERSION)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self, body: bytes = b"", status: int = 200) -> None:
        self.send(b"HTTP/1.1 %d Text\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)

    def problem(self, status: int, **members: object) -> None:
        self.answer(json.dumps(members).encode(), status)

    def begin_stream(self) -> None:
        self.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")

    def chunk(self, data: bytes = b"") -> None:
        """An empty one is the end."""
        self.send(b"%x\r\n" % len(data) + data + b"\r\n")

    def upgrade(self) -> None:
        self.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: pycm-frames\r\n\r\n")

    def frame(self, kind: int, payload: bytes = b"") -> None:
        self.send(frame(kind, payload))

    def frames(self, count: int) -> list[tuple[int, bytes]]:
        """Wait for so many frames."""
        found: list[tuple[int, bytes]] = []
        while len(found) < count:
            if not self._in:
                self._more()
            self._frames.feed(self._in)
            self._in = b""
            found += self._frames.take()
        return found

    def until_closed(self) -> None:
        while self.socket.recv(65536):
            pass


def greeted(script: Script) -> Script:
    """*script*, after the greeting of a client's first connection."""

    def with_greeting(peer: Peer) -> None:
        peer.greet()
        script(peer)

    return with_greeting


@contextmanager
def served(path: str, *scripts: Script) -> Iterator[list[Peer]]:
    """A server whose first client gets the first script, and so on; it closes each connection at the script's end."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    listener.settimeout(WAIT)
    peers: list[Peer] = []

    def serve() -> None:
        for script in scripts:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    peers.append(Peer(connection))
                    script(peers[-1])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield peers
    finally:
        listener.close()
        thread.join(WAIT)
        assert not thread.is_alive()
