# SPDX-License-Identifier: Apache-2.0
"""One command that runs in a container for a client: its streams, its terminal, its end."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

from pycm.errors import ConflictError, InvalidInputError, NotFoundError, OperationFailedError, shorten
from pycm.ports import ExecRequest

if TYPE_CHECKING:
    from pycm.ports import Command, Logs, Runtime

#: Seconds without output after which a command that has ended is at its end though something that it started holds its output open.
QUIET, STEP = 1.0, 0.01
#: Columns and rows that a terminal may have (struct winsize), and the highest signal.
MOST_CELLS, MOST_SIGNAL = 0xFFFF, 64
#: Words of a command and variables with it, and bytes of each (the kernel's bound is 128 KiB).
MOST_WORDS, LONGEST_WORD = 4096, 128 * 1024


class ExecSession:
    """Implements ports.Session, and ports.ExecListener for the runtime. `aclose` ends the command if it still runs."""

    def __init__(
        self,
        runtime: Runtime,
        logs: Logs,
        command: Command,
        user: tuple[int, int, tuple[int, ...]] | None,
    ) -> None:
        self._runtime = runtime
        self._command = command
        self._id = f"pycm-{secrets.token_hex(8)}"
        self._pipes = logs.pipes(
            command.container_id, self._id, terminal=command.terminal, stdin=command.stdin
        )
        self._request = ExecRequest(
            id=command.container_id,
            args=command.args,
            io=self._pipes.io,
            env=command.env,
            cwd=command.cwd,
            exec_id=self._id,
            user=user,
        )
        self._begun = asyncio.Event()
        self._run: asyncio.Task[int] | None = None

    async def start(self) -> None:
        self._run = asyncio.ensure_future(self._runtime.exec(self._request, None, self))
        begun = asyncio.ensure_future(self._begun.wait())
        try:
            await asyncio.wait({self._run, begun}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            begun.cancel()
        if not self._begun.is_set():
            await self._run  # it failed
        if self._command.terminal and self._command.width and self._command.height:
            await self.resize(self._command.width, self._command.height)

    def started(self) -> None:
        self._pipes.started()
        self._begun.set()

    async def exited(self) -> None:
        """Wait until all output has been read, but not for what the command left running with its output open."""
        quiet = 0.0
        while not self._pipes.ended and quiet < QUIET:
            await asyncio.sleep(STEP)
            quiet = quiet + STEP if self._pipes.idle else 0.0

    async def read(self, stream: int) -> bytes:
        return await self._pipes.read(stream)

    async def write(self, data: bytes) -> None:
        await self._pipes.write(data)

    async def end_input(self) -> None:
        self._pipes.end_input()
        if self._command.stdin:
            try:
                await self._runtime.close_stdin(self._command.container_id, self._id)
            except (NotFoundError, ConflictError, OperationFailedError):
                pass  # it has ended

    async def resize(self, width: int, height: int) -> None:
        check_size(width, height)
        if not self._command.terminal:
            raise InvalidInputError("the command has no terminal whose size could be set")
        try:
            await self._runtime.resize(self._command.container_id, width, height, self._id)
        except (NotFoundError, ConflictError, OperationFailedError):
            pass  # it has ended

    async def signal(self, number: int) -> None:
        if not 0 < number <= MOST_SIGNAL:
            raise InvalidInputError(f"invalid signal = {number}")
        try:
            await self._runtime.signal(self._command.container_id, number, exec_id=self._id)
        except (NotFoundError, ConflictError):
            pass  # it has ended

    async def exit_code(self) -> int:
        assert self._run is not None
        return await asyncio.shield(self._run)

    async def aclose(self) -> None:
        """A caller may be cancelled once more meanwhile, as by the reset of its call and the end of its connection."""
        try:
            if self._run is not None:
                self._run.cancel()
                await asyncio.gather(self._run, return_exceptions=True)
        finally:
            if self._run is None or self._run.done():
                self._pipes.close()
            else:
                self._run.add_done_callback(lambda _: self._pipes.close())


def check_size(width: int, height: int) -> None:
    if not (0 < width <= MOST_CELLS and 0 < height <= MOST_CELLS):
        raise InvalidInputError(
            f"a terminal of {width} columns and {height} rows cannot be: 1 to {MOST_CELLS} each"
        )


def check_command(command: Command) -> None:
    """Errors: InvalidInputError."""
    if not command.args or not command.args[0]:
        raise InvalidInputError("the command is missing")
    words = (*command.args, *command.env, command.cwd)
    if len(words) > MOST_WORDS:
        raise InvalidInputError(f"a command with {len(words)} words and variables: {MOST_WORDS} are allowed")
    for word in words:
        if "\0" in word or len(word.encode(errors="replace")) > LONGEST_WORD:
            raise InvalidInputError(
                f"{shorten(word)} cannot be part of a command: it is too long or has a NUL in it"
            )
    for entry in command.env:
        if not entry.partition("=")[0] or "=" not in entry:
            raise InvalidInputError(f"the variable {shorten(entry.partition('=')[0])} is not NAME=value")
    if command.cwd and not command.cwd.startswith("/"):
        raise InvalidInputError(f"the working directory {shorten(command.cwd)} is not an absolute path")
    if command.width or command.height:
        check_size(command.width, command.height)
