# SPDX-License-Identifier: Apache-2.0
"""All containers in memory, in step with the store, and the events that tell of their changes.

Reading never waits. Two ways to change: `commit` for what a user asks (first the disk, then memory: a full disk refuses the change)
and `record` for what has happened (first memory and event, then the disk: what is true is told at once, and written as soon as
the disk takes it).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pycm.errors import NotFoundError, OperationFailedError
from pycm.model.states import ALIVE, Status
from pycm.model.units import sort_key
from pycm.ports import Action, Event, Exit, Task, TaskStatus
from pycm.waiting import within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pycm.model.container import Container
    from pycm.storage.store import ContainerStore

#: Seconds between attempts to write records that a full disk refused.
RETRY_SAVE = 10.0
#: Seconds that the last attempt at the agent's end may take.
LAST_SAVE = 5.0
log = logging.getLogger("pycm.containers")


@dataclass
class Entry:
    """One container with what its life-cycle needs in memory. `lock` serialises operations; readers do not take it."""

    container: Container
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: Resolves when the running task exits; None while no task is known.
    exit: asyncio.Future[Exit] | None = None
    #: An exit that was reported before the start that made it had returned the pid.
    early_exit: tuple[int, Exit] | None = None
    out_of_memory: bool = False
    restart_timer: asyncio.TimerHandle | None = None
    restart_delay: float = 0.0
    #: The record has been compared with what containerd has; False until then, and after a start that containerd left unanswered.
    known: bool = False
    #: The last automatic start failed for want of containerd: it is tried again as soon as that is back.
    waits_for_runtime: bool = False
    #: The agent has just begun and starts this container in its turn if the policy says so.
    awaits_boot: bool = False
    #: Stopped by hand while containerd could not say whether a task runs: if one does, it is ended at containerd's return.
    stop_unanswered: bool = False
    #: Loop time at which the present run began, and seconds that the last one took: the wall clock may jump.
    running_since: float | None = None
    ran_for: float = 0.0

    @property
    def id(self) -> str:
        return self.container.id

    def agrees(self, task: Task | None) -> bool:
        """Does the record say the same as containerd's *task*?"""
        state = self.container.state
        if task is None or state.status not in ALIVE:
            return task is None and state.status not in ALIVE
        status = TaskStatus.PAUSED if state.status is Status.PAUSED else TaskStatus.RUNNING
        return (task.pid, task.status) == (state.pid, status)

    def cancel_restart(self) -> None:
        self.awaits_boot = False
        if self.restart_timer is not None:
            self.restart_timer.cancel()
            self.restart_timer = None

    def run_begins(self) -> None:
        self.exit = asyncio.get_running_loop().create_future()
        self.running_since = asyncio.get_running_loop().time()

    def run_ends(self) -> None:
        since, self.running_since = self.running_since, None
        self.ran_for = asyncio.get_running_loop().time() - since if since is not None else 0.0
        self.exit, self.early_exit, self.out_of_memory = None, None, False


class Catalog:
    def __init__(self, store: ContainerStore) -> None:
        self._store = store
        self._entries: dict[str, Entry] = {}
        self._listeners: list[Callable[[Event], None]] = []
        self._unsaved: set[str] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._saving: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def __contains__(self, container_id: str) -> bool:
        return container_id in self._entries

    def find(self, container_id: str) -> Entry | None:
        return self._entries.get(container_id)

    def entry(self, container_id: str) -> Entry:
        found = self._entries.get(container_id)
        if found is None:
            raise NotFoundError(f"no such container with id = {container_id} exists")
        return found

    def list(self) -> list[Container]:
        containers = [entry.container for entry in self._entries.values()]
        return sorted(containers, key=lambda c: (sort_key(c.created), c.id))

    def add(self, container: Container) -> Entry:
        entry = Entry(container)
        self._entries[container.id] = entry
        return entry

    def drop(self, entry: Entry) -> None:
        self._entries.pop(entry.id, None)
        self._unsaved.discard(entry.id)

    async def commit(self, entry: Entry, container: Container, action: Action | None = None) -> None:
        """Write, then change and tell. OperationFailedError (disk) leaves everything as it was."""
        await self.save(container)
        entry.container = container
        self._unsaved.discard(entry.id)
        self.tell(action, container)

    async def record(self, entry: Entry, container: Container, action: Action | None = None) -> None:
        """Change and tell, then write; a disk that refuses is logged and tried again."""
        entry.container = container
        self.tell(action, container)
        try:
            await self.save(container)
        except OperationFailedError as error:
            if entry.id not in self._unsaved:  # once: a container that restarts may change often
                log.error("%s; the container goes on, the record is written when that works again", error)
            self._unsaved.add(entry.id)
            self._schedule_retry()
        else:
            self._unsaved.discard(entry.id)

    async def save(self, container: Container) -> None:
        await asyncio.to_thread(self._store.save, container)

    def tell(self, action: Action | None, container: Container) -> None:
        if action is not None:
            event = Event(action, container)
            for listener in tuple(self._listeners):
                try:
                    listener(event)
                except Exception:  # a bug of who listens must not end the operation on the container
                    log.exception("a bug in the handling of container %s %s", container.id, action.value)

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def _schedule_retry(self) -> None:
        if self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(RETRY_SAVE, self._start_retry)

    def _start_retry(self) -> None:
        self._retry = None
        task = asyncio.ensure_future(self.save_refused())
        self._saving.add(task)
        task.add_done_callback(self._saving.discard)

    async def save_refused(self) -> None:
        """Write the records that an earlier full disk refused. Whatever happens, those that are left are tried again."""
        try:
            await self._save_unsaved()
        finally:
            if self._unsaved:
                self._schedule_retry()

    async def _save_unsaved(self) -> None:
        for container_id in tuple(self._unsaved):
            entry = self._entries.get(container_id)
            if entry is None:
                self._unsaved.discard(container_id)
                continue
            async with entry.lock:
                if self._entries.get(container_id) is not entry:
                    continue  # removed meanwhile: its record must not come back
                try:
                    await self.save(entry.container)
                except OperationFailedError:
                    break
                self._unsaved.discard(container_id)

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    async def close(self) -> None:
        """One last attempt to write what a full disk refused; an operation that does not end must not keep the agent from ending."""
        self._cancel_retry()
        try:
            await within(LAST_SAVE, self._save_last())
        except asyncio.TimeoutError:
            log.error("records of %s could not be written before the end", ", ".join(sorted(self._unsaved)))
        self._cancel_retry()

    async def _save_last(self) -> None:
        await asyncio.gather(*self._saving)
        await self.save_refused()
