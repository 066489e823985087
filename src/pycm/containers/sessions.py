# SPDX-License-Identifier: Apache-2.0
"""Clients that talk with the processes of containers: attached to the first one, or with a process of their own (exec)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pycm.errors import ConflictError, InvalidInputError, NotFoundError, PycmError
from pycm.model.states import ALIVE

if TYPE_CHECKING:
    from pycm.model.container import Container
    from pycm.ports import Attachment, Containers, Logs, Runtime

#: Columns and rows that a terminal may have (struct winsize).
MOST_CELLS = 0xFFFF
log = logging.getLogger("pycm.containers")


class Sessions:
    """Implements ports.Sessions."""

    def __init__(self, containers: Containers, runtime: Runtime, logs: Logs) -> None:
        self._containers = containers
        self._runtime = runtime
        self._logs = logs

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


def check_size(width: int, height: int) -> None:
    if not (0 < width <= MOST_CELLS and 0 < height <= MOST_CELLS):
        raise InvalidInputError(
            f"a terminal of {width} columns and {height} rows cannot be: 1 to {MOST_CELLS} each"
        )
