# SPDX-License-Identifier: Apache-2.0
"""Clients that talk with the processes of containers: attached to the first one, or with a process of their own (exec)."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from pycm.containers.exec_session import ExecSession, check_command, check_size
from pycm.containers.launch import find_user
from pycm.errors import BusyError, ConflictError, NotFoundError, PycmError
from pycm.model.states import ALIVE, Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pycm.model.container import Container
    from pycm.ports import Attachment, Command, Containers, Logs, Runtime

#: Commands of clients in one container and in all; containerd's room allows some more for health checks.
MOST_COMMANDS, MOST_COMMANDS_AT_ALL = 8, 32
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
