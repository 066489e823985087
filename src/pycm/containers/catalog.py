# SPDX-License-Identifier: Apache-2.0
"""All containers in memory, in step with the store, and the events of their changes.

Reading never waits. There are two ways to change. `commit` is for a wish of a user: first the disk, then memory; a full
disk refuses the change. `record` is for what has happened: first memory and event, then the disk, as soon as it accepts
the write.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pycm.errors import NotFoundError, OperationFailedError, PycmError
from pycm.model.units import sort_key
from pycm.ports import Action, Event
from pycm.storage.store import DiskFullError
from pycm.waiting import within

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from pycm.containers.health import HealthChecks
    from pycm.containers.launch import Launcher
    from pycm.containers.unit import Unit
    from pycm.model.container import Container
    from pycm.ports import Logs, Metrics, Network, Runtime
    from pycm.storage.store import ContainerStore

#: Seconds between attempts to write records that a full disk refused.
RETRY_SAVE = 10.0
#: Seconds that the last attempt at the agent's end may take.
LAST_SAVE = 5.0
log = logging.getLogger("pycm.containers")
T = TypeVar("T")


class Jobs:
    """Tasks of operations: each runs to its end, whatever becomes of the client that wanted it."""

    def __init__(self) -> None:
        #: The agent ends: nothing is started any more.
        self.closing = False
        self._running: set[asyncio.Task[Any]] = set()

    @property
    def idle(self) -> bool:
        return not self._running

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, PycmError):
            log.error("container manager: a bug: %r", error, exc_info=error)

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* to its end even if the caller is cancelled."""
        return await asyncio.shield(self.spawn(work))

    async def wait(self, limit: float) -> None:
        if self._running:
            _, late = await asyncio.wait(tuple(self._running), timeout=limit)
            if late:
                log.warning(
                    "%d operations did not end within %g s; the agent ends without them", len(late), limit
                )


class Peers(NamedTuple):
    """What all units share. *stop_timeout*: seconds between SIGTERM and SIGKILL where a request names none."""

    catalog: Catalog
    jobs: Jobs
    runtime: Runtime
    logs: Logs
    metrics: Metrics
    network: Network
    launcher: Launcher
    checks: HealthChecks
    stop_timeout: float


class Catalog:
    def __init__(self, store: ContainerStore) -> None:
        self._store = store
        self._units: dict[str, Unit] = {}
        self._listeners: list[Callable[[Event], None]] = []
        self._unsaved: set[str] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._saving: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Unit]:
        return iter(list(self._units.values()))

    def __contains__(self, container_id: str) -> bool:
        return container_id in self._units

    def find(self, container_id: str) -> Unit | None:
        return self._units.get(container_id)

    def unit(self, container_id: str) -> Unit:
        found = self._units.get(container_id)
        if found is None:
            raise NotFoundError(f"no such container with id = {container_id} exists")
        return found

    async def load(self) -> list[Container]:
        """Read the store. The containers are not in the catalog yet."""
        await asyncio.to_thread(self._store.prepare)
        return await asyncio.to_thread(self._store.load)

    def images(self) -> dict[str, str]:
        """Container id to the reference of its image."""
        return {unit.id: unit.container.image.name for unit in self._units.values()}

    def list(self) -> list[Container]:
        containers = [unit.container for unit in self._units.values()]
        return sorted(containers, key=lambda c: (sort_key(c.created), c.id))

    def add(self, unit: Unit) -> None:
        self._units[unit.id] = unit

    def drop(self, unit: Unit) -> None:
        self._units.pop(unit.id, None)
        self._unsaved.discard(unit.id)

    async def commit(self, unit: Unit, container: Container, action: Action | None = None) -> None:
        """Write, then change and publish. OperationFailedError (disk) leaves everything as it was; a new unit is
        unknown until then.
        """
        await self.save(container)
        unit.container = container
        self.add(unit)
        self._unsaved.discard(unit.id)
        self.publish(action, container)

    async def record(self, unit: Unit, container: Container, action: Action | None = None) -> None:
        """Change and publish, then write; a disk that refuses is logged, and the write is retried."""
        unit.container = container
        self.publish(action, container)
        try:
            await self.save(container)
        except OperationFailedError as error:
            if unit.id not in self._unsaved:  # once: a container that restarts may change often
                log.error("%s (the container runs on; retrying the write)", error)
            self._unsaved.add(unit.id)
            self._schedule_retry()
        else:
            self._unsaved.discard(unit.id)

    async def save(self, container: Container) -> None:
        await asyncio.to_thread(self._store.save, container)

    async def mark_dead(self, dead: Container) -> None:
        """Write that a removal has begun. A full disk does not refuse it: removing containers is how one makes room."""
        try:
            await self.save(dead)
        except DiskFullError as error:
            log.warning("%s (the container is removed all the same)", error)

    async def delete(self, container_id: str) -> None:
        await asyncio.to_thread(self._store.delete, container_id)

    def publish(self, action: Action | None, container: Container) -> None:
        if action is not None:
            event = Event(action, container)
            for listener in tuple(self._listeners):
                try:
                    listener(event)
                except Exception:  # a bug of a listener must not end the operation on the container
                    log.exception("container %s: %s: a bug in a listener", container.id, action.value)

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
        """Write the records that an earlier full disk refused. Whatever happens, the rest is retried."""
        try:
            await self._save_unsaved()
        finally:
            if self._unsaved:
                self._schedule_retry()

    async def _save_unsaved(self) -> None:
        for container_id in tuple(self._unsaved):
            unit = self._units.get(container_id)
            if unit is None:
                self._unsaved.discard(container_id)
                continue
            async with unit.lock:
                if self._units.get(container_id) is not unit:
                    continue  # removed meanwhile: its record must not come back
                try:
                    await self.save(unit.container)
                except OperationFailedError:
                    break
                self._unsaved.discard(container_id)

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    async def close(self) -> None:
        """One last attempt to write what a full disk refused; an operation that does not end must not keep the agent
        from ending.
        """
        self._cancel_retry()
        try:
            await within(LAST_SAVE, self._save_last())
        except asyncio.TimeoutError:
            log.error("records of %s could not be written before the end", ", ".join(sorted(self._unsaved)))
        self._cancel_retry()

    async def _save_last(self) -> None:
        await asyncio.gather(*self._saving)
        await self.save_refused()
