# SPDX-License-Identifier: Apache-2.0
"""A peer that accepts each connection and closes it at once, as a socket unit does whose service does not start.

It runs in a thread, so that the connection may be lost between any two steps of the client.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Listener:
    def __init__(self, path: str) -> None:
        self.closed = 0
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(path)
        self.socket.listen()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.socket.accept()[0].close()
                self.closed += 1


@contextlib.contextmanager
def closing_listener(path: str) -> Iterator[Listener]:
    """Listen at *path*, in place of what may have been there. `closed` of what it yields counts connections."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = Listener(path)
    thread = threading.Thread(target=listener.run)
    thread.start()
    try:
        yield listener
    finally:
        listener.socket.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.socket.close()
        os.unlink(path)
