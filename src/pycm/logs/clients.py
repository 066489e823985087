# SPDX-License-Identifier: Apache-2.0
"""Clients of a container's streams: attached to its main process, or running a command in it.

An attached client gets a copy of the output: the pump's thread puts it into a Tap, and the event loop takes it out. A
client that does not keep up is disconnected when LIMIT bytes wait for it, so that neither the container nor its log
waits for a client. A command has pipes of its own, which only its client reads: while the client does not read, the
command waits.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from pycm.errors import OperationFailedError
from pycm.logs import fifos

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.ports import TaskIO

#: Bytes of output that wait for one attached client. Beyond this it is disconnected.
LIMIT = 1024 * 1024
#: Bytes that one `read` returns: of a Tap, and of a command's pipe.
PIECE, EXEC_PIECE = 256 * 1024, 64 * 1024
#: Clients that are attached at the same time, over all containers.
MOST_CLIENTS = 32
TOO_SLOW = f"client reads too slowly: {LIMIT} bytes of output waited for it (the log has all of it)"


class Tap:
    """Output on its way from the pump's thread (`put`, `end`) to the loop (`read`, `close`)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._data = bytearray()
        self._rung = False  # the loop was woken
        self._wake = asyncio.Event()
        self._ended = False
        self._error = ""

    def put(self, data: bytes) -> None:
        with self._lock:
            if self._ended:
                return
            if len(self._data) + len(data) > LIMIT:
                self._data.clear()
                self._ended, self._error = True, TOO_SLOW
            else:
                self._data += data
        self._ring()

    def end(self, error: str = "") -> None:
        """No more will come. With an *error*, `read` raises it after the rest of the output."""
        with self._lock:
            if self._ended:
                return
            self._ended, self._error = True, error
        self._ring()

    def _ring(self) -> None:
        with self._lock:
            rung, self._rung = self._rung, True
        if not rung:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._wake.set)

    async def read(self) -> bytes:
        """Output as soon as there is some, b"" at the end. OperationFailedError if the client is disconnected."""
        while True:
            with self._lock:
                if self._data:
                    data = bytes(self._data[:PIECE])
                    del self._data[:PIECE]
                    return data
                if self._ended:
                    if self._error:
                        raise OperationFailedError(self._error)
                    return b""
                self._rung = False
                self._wake.clear()
            await self._wake.wait()

    def close(self) -> None:
        with self._lock:
            self._ended = True
            self._data.clear()


class Attachment:
    """One attached client. Implements ports.Attachment. `close` calls *leave* once."""

    def __init__(self, container_id: str, tap: Tap, leave: Callable[[Attachment], None]) -> None:
        self.container_id = container_id
        self.tap = tap
        self._leave: Callable[[Attachment], None] | None = leave
        self._io: TaskIO | None = None
        self._begun = asyncio.Event()
        self._ready = asyncio.Event()
        self._stdin = -1
        self._shut = False

    @property
    def waiting(self) -> bool:
        """Whether the run that it waits for has not begun."""
        return self._io is None

    def begin(self, io: TaskIO) -> None:
        self._io = io
        self._begun.set()

    async def read(self) -> bytes:
        return await self.tap.read()

    async def write(self, data: bytes) -> None:
        """Write *data* to the container's stdin, and wait while it does not read. Without an open stdin, drop it."""
        await self._begun.wait()
        rest = memoryview(data)
        while rest and self._open():
            try:
                rest = rest[os.write(self._stdin, rest) :]
            except BlockingIOError:
                await self._writable()
            except OSError:  # no reader is left
                self.shut()

    def _open(self) -> bool:
        if self._stdin >= 0 or self._shut or self._io is None:
            return not self._shut
        with suppress(OSError):  # gone, or without a reader
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            self._stdin = os.open(self._io.stdin, flags) if self._io.stdin else -1
        self._shut = self._stdin < 0
        return not self._shut

    async def _writable(self) -> None:
        descriptor = self._stdin
        loop = asyncio.get_running_loop()
        loop.add_writer(descriptor, self._ready.set)
        try:
            await self._ready.wait()
        finally:
            self._ready.clear()
            if self._stdin == descriptor:  # else its number may belong to another file by now
                loop.remove_writer(descriptor)

    def shut(self) -> None:
        """Write nothing from now on."""
        self._shut = True
        if self._stdin >= 0:
            descriptor, self._stdin = self._stdin, -1
            asyncio.get_running_loop().remove_writer(descriptor)
            os.close(descriptor)
        self._ready.set()

    def close(self) -> None:
        leave, self._leave = self._leave, None
        if leave is not None:
            self.tap.close()
            self.shut()
            leave(self)


class ExecPipes:
    """The FIFOs of a command in a container. Implements ports.Pipes. *directory* is created, and removed by `close`."""

    def __init__(self, directory: str, *, terminal: bool, stdin: bool) -> None:
        self._directory = directory
        self.io: TaskIO = fifos.make(directory, terminal=terminal, stdin=stdin)
        self._outputs: list[int] = []
        self._holders: list[int] = []  # writers, so that no output ends before the command has begun
        self._stdin = -1
        self._waiting, self._at_end = [False, False], [False, False]
        try:
            for path in filter(None, (self.io.stdout, self.io.stderr)):
                self._outputs.append(fifos.open_output(path))
                self._holders.append(fifos.open_input(path))
            if stdin:
                self._stdin = fifos.open_input(self.io.stdin)
        except OSError as error:
            self.close()
            raise OperationFailedError(f"cannot open {error.filename}: {error.strerror}") from None

    def started(self) -> None:
        for descriptor in self._holders:
            os.close(descriptor)
        self._holders.clear()

    @property
    def idle(self) -> bool:
        return all(self._waiting)

    @property
    def ended(self) -> bool:
        return all(self._at_end)

    async def read(self, stream: int) -> bytes:
        if stream >= len(self._outputs):
            self._at_end[stream] = self._waiting[stream] = True
            return b""
        descriptor = self._outputs[stream]
        while True:
            try:
                data = os.read(descriptor, EXEC_PIECE)
            except BlockingIOError:
                self._waiting[stream] = True
                loop = asyncio.get_running_loop()
                await _ready(loop.add_reader, loop.remove_reader, descriptor)
            else:
                self._at_end[stream] = self._waiting[stream] = not data
                return data

    async def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and self._stdin >= 0:
            try:
                rest = rest[os.write(self._stdin, rest) :]
            except BlockingIOError:
                loop = asyncio.get_running_loop()
                await _ready(loop.add_writer, loop.remove_writer, self._stdin)

    def end_input(self) -> None:
        if self._stdin >= 0:
            descriptor, self._stdin = self._stdin, -1
            os.close(descriptor)

    def close(self) -> None:
        """Close and remove the FIFOs. No `read` or `write` may be running."""
        self.started()
        self.end_input()
        for descriptor in self._outputs:
            os.close(descriptor)
        self._outputs.clear()
        shutil.rmtree(self._directory, ignore_errors=True)


async def _ready(
    watch: Callable[[int, Callable[[], None]], None], unwatch: Callable[[int], object], descriptor: int
) -> None:
    ready = asyncio.Event()
    watch(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        unwatch(descriptor)
