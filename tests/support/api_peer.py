# SPDX-License-Identifier: Apache-2.0
"""A server for the blocking client that does what a script says, in a thread."""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, RequestReceived, StreamEnded, StreamReset

from pycm.api.call import CallError
from pycm.api.client import Client

WAIT = 60.0
OK = [(":status", "200"), ("content-type", "application/grpc")]
Script = Callable[["Peer"], None]


class Peer:
    """One accepted connection, with h2 to speak or bytes to throw."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.settimeout(WAIT)
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.resets: list[int] = []
        self.events: deque[Event] = deque()

    def greet(self) -> None:
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def request(self) -> int:
        """Wait for a whole request, or for the cancelling of one; returns its stream."""
        stream = 0
        while True:
            while not self.events:
                data = self.socket.recv(65536)
                if not data:
                    raise ConnectionError
                self.events += self.h2.receive_data(data)
            event = self.events.popleft()
            if isinstance(event, RequestReceived):
                stream = event.stream_id
            if isinstance(event, StreamReset):
                self.resets.append(int(event.error_code))
                return event.stream_id
            if isinstance(event, StreamEnded):
                return stream

    def answer(self, stream: int, *messages: bytes, status: str = "0") -> None:
        self.h2.send_headers(stream, OK)
        for message in messages:
            self.h2.send_data(stream, b"\0" + len(message).to_bytes(4, "big") + message)
        self.h2.send_headers(stream, [("grpc-status", status), ("grpc-message", "why")], end_stream=True)
        self.flush()


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


def failure(path: str, script: Script, *, deadline: float | None = None) -> CallError:
    with served(path, script):
        client = Client(path, timeout=5)
        with pytest.raises(CallError) as caught:
            client.unary("/x", b"request", deadline=deadline)
        client.close()
    return caught.value


def until_closed(peer: Peer) -> None:
    while peer.socket.recv(65536):
        pass
