# SPDX-License-Identifier: Apache-2.0
"""The FIFOs of a command that runs in a container for a client. Nobody reads them but that client's call: while the client does
not read, the command waits, as it would for a terminal or a pipe.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from typing import TYPE_CHECKING

from pycm.errors import OperationFailedError
from pycm.logs import fifos

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.ports import TaskIO

#: Bytes that one `read` returns at most.
PIECE = 64 * 1024


class ExecPipes:
    """Implements ports.Pipes. *directory* is made, and removed by `close`."""

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
                data = os.read(descriptor, PIECE)
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
        """No read or write may be under way."""
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
