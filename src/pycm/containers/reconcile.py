# SPDX-License-Identifier: Apache-2.0
"""Align a container's record with what containerd has, after a start of the agent or an absence of containerd."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pycm.errors import ConflictError, NotFoundError
from pycm.model import restart, units
from pycm.model.frozen import replace
from pycm.model.states import Status, Trigger
from pycm.ports import Exit, Task, TaskStatus

if TYPE_CHECKING:
    from pycm.containers.unit import Unit
    from pycm.ports import Runtime

SIGKILL = 9
log = logging.getLogger("pycm.containers")


async def find_task(runtime: Runtime, container_id: str) -> Task | None:
    return next((task for task in await runtime.tasks() if task.id == container_id), None)


async def align(unit: Unit, task: Task | None) -> None:
    """*task* may be from a list that is older than the record: where it contradicts the record, it is read again."""
    if not _agrees(unit, task):
        task = await find_task(unit.peers.runtime, unit.id)
    if task is None:
        if unit.is_alive:
            await _lose(unit)
        else:  # what a start or an end left that was cut short
            await unit.peers.logs.finish(unit.id)
            await unit.peers.network.disconnect(unit.id)
    elif task.status is TaskStatus.STOPPED:
        if unit.is_alive:
            await _end(unit, task)
        else:
            await _discard(unit)
    elif task.status in (TaskStatus.RUNNING, TaskStatus.PAUSED):
        await _adopt(unit, task)
    elif task.status is TaskStatus.CREATED and not unit.is_alive:  # a start that a dead agent did not finish
        await _kill(unit)
        await _discard(unit)


def _agrees(unit: Unit, task: Task | None) -> bool:
    state = unit.container.state
    if task is None or not unit.is_alive:
        return task is None and not unit.is_alive
    status = TaskStatus.PAUSED if state.status is Status.PAUSED else TaskStatus.RUNNING
    return (task.pid, task.status) == (state.pid, status)


async def _lose(unit: Unit) -> None:
    since = "while containerd was away" if unit.exit is not None else "while the agent was away"
    text = "container %s: its task (pid %d) disappeared %s: exit code unknown (recorded as %d)"
    log.warning(text, unit.id, unit.container.state.pid, since, restart.LOST_EXIT_CODE)
    error = "the task was lost while the agent did not watch it"
    await unit.end(Trigger.EXIT, Exit(restart.LOST_EXIT_CODE, units.now()), error)


async def _end(unit: Unit, task: Task) -> None:
    if unit.exit is None:  # collect the output that waits in the FIFOs
        unit.peers.logs.attach(unit.id, task.io, unit.container.log_config)
    trigger = Trigger.STOP if unit.container.manually_stopped else Trigger.EXIT
    await unit.end(trigger, task.exit or Exit(restart.LOST_EXIT_CODE, units.now()))


async def _adopt(unit: Unit, task: Task) -> None:
    """Take over a running task. An agent that was killed in a start has left one that the record does not know."""
    state, peers = unit.container.state, unit.peers
    if unit.exit is not None and state.pid == task.pid:
        return  # watched all the time
    peers.logs.attach(unit.id, task.io, unit.container.log_config)
    peers.metrics.open(unit.id, task.pid)
    if not unit.is_alive or state.pid != task.pid:
        log.warning("container %s: runs as pid %d unknown to its record; adopted", unit.id, task.pid)
        stopped = unit.stop_unanswered and unit.container.manually_stopped
        unit.container = replace(peers.network.found(unit.container), manually_stopped=stopped)
        await unit.run(Trigger.ADOPT, task.pid, units.now())
    else:
        unit.begin_run()
    paused = task.status is TaskStatus.PAUSED
    if paused is not (unit.container.state.status is Status.PAUSED):
        await unit.enter(Trigger.PAUSE if paused else Trigger.RESUME)


async def _kill(unit: Unit) -> None:
    try:
        await unit.peers.runtime.signal(unit.id, SIGKILL, everyone=True)
    except (NotFoundError, ConflictError):
        pass


async def _discard(unit: Unit) -> None:
    unit.peers.metrics.close(unit.id)
    await unit.release()
