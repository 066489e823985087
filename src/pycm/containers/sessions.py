# SPDX-License-Identifier: Apache-2.0
"""Clients of processes in containers: attached to the first one, or with a process of their own (exec)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from typing import TYPE_CHECKING

from pycm.containers.launch import find_user
from pycm.errors import (
    BusyError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    OperationFailedError,
    PycmError,
    shorten,
)
from pycm.model.states import ALIVE, Status
from pycm.ports import ExecRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pycm.model.container import Container
    from pycm.ports import Attachment, Command, Containers, Logs, Runtime

#: Commands of clients in one container and in all; containerd's room allows some more for health checks.
MOST_COMMANDS, MOST_COMMANDS_AT_ALL = 8, 32
#: Seconds without output after which a command that has ended is at its end though something that it started holds its
# output open.
QUIET, STEP = 1.0, 0.01
#: Columns and rows that a terminal may have (struct winsize), and the highest signal.
MOST_CELLS, MOST_SIGNAL = 0xFFFF, 64
#: Words of a command and variables with it, and bytes of each (the kernel's bound is 128 KiB).
MOST_WORDS, LONGEST_WORD = 4096, 128 * 1024
log = logging.getLogger("pycm.containers")


class Sessions:
    """Implements ports.Sessions."""

    def __init__(self, containers: Containers, runtime: Runtime, logs: Logs) -> None:
        self._containers = containers
        self._runtime = runtime
        self._logs = logs
        self._commands: dict[str, int] = {}

    # ── a command of its own ──

    @contextlib.asynccontextmanager
    async def exec(self, command: Command) -> AsyncIterator[ExecSession]:
        container = self._known(command.container_id)
        if container.state.status is not Status.RUNNING:
            raise ConflictError(
                f"container with id = {container.id} is not running - current status is {container.state.status.word}"
            )
        check_command(command)
        with self._counted(container.id):
            user = None
            if command.user:
                found = await find_user(self._runtime, container.id, command.user)
                user = found.uid, found.gid, found.additional_gids
            async with contextlib.aclosing(ExecSession(self._runtime, self._logs, command, user)) as session:
                await session.start()
                yield session

    @contextlib.contextmanager
    def _counted(self, container_id: str) -> Iterator[None]:
        mine = self._commands.get(container_id, 0)
        if mine >= MOST_COMMANDS or sum(self._commands.values()) >= MOST_COMMANDS_AT_ALL:
            raise BusyError(
                f"too many commands run already ({mine} in container {container_id}, {MOST_COMMANDS} are allowed;"
                f" {MOST_COMMANDS_AT_ALL} in all containers together)"
            )
        self._commands[container_id] = mine + 1
        try:
            yield
        finally:
            self._commands[container_id] -= 1
            if not self._commands[container_id]:
                del self._commands[container_id]

    # ── the first process ──

    def _known(self, container_id: str) -> Container:
        container = self._containers.get(container_id)
        if container is None:
            raise NotFoundError(f"no such container with id = {container_id} exists")
        return container

    async def attach(self, container_id: str) -> Attachment:
        container = self._known(container_id)
        return await self._logs.connect(container_id, next_run=container.state.status not in ALIVE)

    async def close_stdin(self, container_id: str) -> None:
        container = self._containers.get(container_id)
        if container is None or container.state.status not in ALIVE:
            return
        self._logs.close_stdin(container_id)
        try:
            await self._runtime.close_stdin(container_id)
        except NotFoundError:
            pass
        except PycmError as error:
            log.warning("container %s: its stdin may stay open: %s", container_id, error)

    async def resize(self, container_id: str, width: int, height: int) -> None:
        check_size(width, height)
        container = self._known(container_id)
        if container.state.status not in ALIVE:
            raise ConflictError(
                f"container with id = {container_id} is not running - current status is {container.state.status.word}"
            )
        if not (container.io_config and container.io_config.tty):
            raise ConflictError(f"container with id = {container_id} has no terminal")
        await self._runtime.resize(container_id, width, height)


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
            f"columns and rows of a terminal must be between 1 and {MOST_CELLS}, got {width} and {height}"
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
