# SPDX-License-Identifier: Apache-2.0
"""Carries out the core's operations on the container manager; whatever happens, an outcome comes back."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pycm.errors import OperationFailedError, PycmError
from pycm.twin.lanes import (
    INTERNAL,
    Create,
    Download,
    Failed,
    Operation,
    Pause,
    Remove,
    Rename,
    Resume,
    Start,
    Stop,
)

if TYPE_CHECKING:
    from pycm.ports import Containers, Downloads

log = logging.getLogger("pycm.twin")


async def carry_out(operation: Operation, containers: Containers, downloads: Downloads | None) -> Any:
    """The operation's result, or Failed with the text for the one who asked. Cancelled only at the agent's end."""
    try:
        if isinstance(operation, Download):
            if downloads is None:
                raise OperationFailedError(f"{operation.url} cannot be read: there is no way to download")
            return await downloads.fetch(operation.url, operation.limit)
        return await _manage(operation, containers)
    except PycmError as error:
        return Failed(str(error), error.masked)
    except Exception:
        log.exception("a bug in %s", type(operation).__name__)
        return Failed(INTERNAL)


async def _manage(operation: Operation, containers: Containers) -> Any:
    match operation:
        case Create(container):
            return await containers.create(container)
        case Start(container_id):
            await containers.start(container_id)
        case Stop(container_id, options):
            await containers.stop(container_id, options)
        case Pause(container_id):
            await containers.pause(container_id)
        case Resume(container_id):
            await containers.unpause(container_id)
        case Rename(container_id, name):
            await containers.rename(container_id, name)
        case Remove(container_id, force):
            await containers.remove(container_id, force=force)
        case Download():
            raise AssertionError
        case _:
            await containers.update(operation.container_id, operation.options)
    return None
