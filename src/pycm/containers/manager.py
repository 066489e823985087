# SPDX-License-Identifier: Apache-2.0
"""The container manager: what the fronts call, and what containerd's events lead to.

Operations on one container follow each other, those on different ones run beside each other. An operation that has begun is
finished even if its caller goes away, so that no half-made state depends on a client's life. `list` and `get` answer from memory.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from pycm.containers.catalog import Catalog, Entry
from pycm.containers.launch import Launcher
from pycm.containers.lifecycle import Lifecycle
from pycm.containers.settings import PARALLEL, Settings
from pycm.errors import ConflictError, PycmError
from pycm.model import states, times
from pycm.model.container import Container, State, StopOptions, UpdateOptions
from pycm.model.defaults import fill_defaults, fill_swap
from pycm.model.signals import DEFAULT as SIGTERM
from pycm.model.states import ALIVE, Operation, Status, check_allowed
from pycm.model.validation import check_id, check_name, check_resources, check_restart_policy, validate
from pycm.oci.resources import update_resources
from pycm.ports import (
    Action,
    Event,
    Logs,
    Metrics,
    Network,
    Runtime,
    RuntimeConnected,
    RuntimeEvent,
    RuntimeLost,
    Task,
    TaskExited,
    TaskOOM,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from pycm.storage.store import ContainerStore

log = logging.getLogger("pycm.containers")
T = TypeVar("T")


class Manager:
    """Implements ports.Containers. `load`, then `run` as a task, at the end `close`."""

    def __init__(
        self,
        *,
        store: ContainerStore,
        runtime: Runtime,
        logs: Logs,
        metrics: Metrics,
        network: Network,
        settings: Settings,
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._logs = logs
        self._network = network
        self._metrics = metrics
        self._settings = settings
        self._catalog = Catalog(store)
        launcher = Launcher(runtime, network, settings)
        self._lifecycle = Lifecycle(self._catalog, runtime, logs, metrics, network, launcher, settings)
        self._lifecycle.spawn = self._spawn
        self._launcher = launcher
        self._reserved: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unfinished: list[Container] = []
        self._strangers: set[str] = set()
        self._booted = False
        self._closing = False

    # ── reading ──

    def get(self, container_id: str) -> Container | None:
        entry = self._catalog.find(container_id)
        return entry.container if entry else None

    def list(self) -> list[Container]:
        return self._catalog.list()

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        return self._catalog.subscribe(listener)

    # ── operations ──

    async def create(self, container: Container) -> Container:
        return await self._finish(self._create(container))

    async def start(self, container_id: str) -> None:
        entry = self._catalog.entry(container_id)
        await self._locked(entry, lambda: self._lifecycle.start(entry, by_hand=True))

    async def stop(self, container_id: str, options: StopOptions | None = None) -> None:
        entry = self._catalog.entry(container_id)
        await self._locked(entry, lambda: self._lifecycle.stop(entry, options))

    async def pause(self, container_id: str) -> None:
        entry = self._catalog.entry(container_id)
        await self._locked(entry, lambda: self._freeze(entry, Operation.PAUSE))

    async def unpause(self, container_id: str) -> None:
        entry = self._catalog.entry(container_id)
        await self._locked(entry, lambda: self._freeze(entry, Operation.UNPAUSE))

    async def rename(self, container_id: str, name: str) -> None:
        entry = self._catalog.entry(container_id)
        check_name(name)
        await self._locked(entry, lambda: self._rename(entry, name))

    async def update(self, container_id: str, options: UpdateOptions) -> None:
        entry = self._catalog.entry(container_id)
        if options.restart_policy is not None:
            check_restart_policy(options.restart_policy)
        check_resources(options.resources)
        await self._locked(entry, lambda: self._update(entry, options))

    async def remove(
        self, container_id: str, *, force: bool = False, options: StopOptions | None = None
    ) -> None:
        entry = self._catalog.entry(container_id)
        await self._locked(entry, lambda: self._remove(entry, force=force, options=options))

    async def _locked(self, entry: Entry, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def locked() -> None:
            async with entry.lock:
                self._catalog.entry(entry.id)  # it may have been removed while we waited
                await work()

        await self._finish(locked())

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Run *work* to its end even if the caller is cancelled."""
        return await asyncio.shield(self._spawn(work))

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, PycmError):
            log.error("a bug in the container manager: %r", error, exc_info=error)

    # ── create ──

    async def _create(self, container: Container) -> Container:
        container = fill_swap(fill_defaults(_as_new(container)))
        check_id(container.id)
        if container.id in self._catalog or container.id in self._reserved:
            raise ConflictError(f"container with id = {container.id} already exists")
        validate(container)
        self._network.check(container)
        self._launcher.check_policy(container)
        self._reserved.add(container.id)
        try:
            return await self._make(replace(container, created=times.now()))
        finally:
            self._reserved.discard(container.id)

    async def _make(self, container: Container) -> Container:
        """The record comes first: a creation that a kill cuts short is found and undone at the next start."""
        await self._catalog.save(container)
        try:
            await self._runtime.prepare(container.id, container.image.name)
            container = replace(container, state=states.created(container.state))
            await self._catalog.save(container)
        except BaseException:
            await self._undo(container.id)
            raise
        self._catalog.add(container)
        self._catalog.tell(Action.CREATED, container)
        return container

    async def _undo(self, container_id: str) -> None:
        try:
            await self._runtime.remove(container_id)
        except PycmError as error:
            log.warning(
                "container %s: what its failed creation made is removed at the next start: %s",
                container_id,
                error,
            )
            return
        self._logs.forget(container_id)
        await asyncio.to_thread(self._store.delete, container_id)

    # ── pause, rename, update ──

    async def _freeze(self, entry: Entry, operation: Operation) -> None:
        check_allowed(operation, entry.container)
        if operation is Operation.PAUSE:
            await self._runtime.pause(entry.id)
            status, action = Status.PAUSED, Action.PAUSED
        else:
            await self._runtime.resume(entry.id)
            status, action = Status.RUNNING, Action.RESUMED
        state = states.enter(entry.container.state, status)
        await self._catalog.record(entry, replace(entry.container, state=state), action)

    async def _rename(self, entry: Entry, name: str) -> None:
        if name and name != entry.container.name:
            await self._catalog.commit(entry, replace(entry.container, name=name), Action.RENAMED)

    async def _update(self, entry: Entry, options: UpdateOptions) -> None:
        host = entry.container.host_config
        assert host is not None
        changed = host
        if options.resources is not None:
            wanted = options.resources
            empty = not (wanted.memory or wanted.memory_reservation or wanted.memory_swap)
            changed = replace(changed, resources=None if empty else wanted)
        if options.restart_policy is not None:
            changed = replace(changed, restart_policy=options.restart_policy)
        if changed == host:
            return
        if changed.resources != host.resources and entry.container.state.status in ALIVE:
            await self._runtime.update(entry.id, update_resources(host.resources, changed.resources))
            self._metrics.limits_changed(entry.id)
        await self._catalog.commit(entry, replace(entry.container, host_config=changed), Action.UPDATED)
        if changed.restart_policy != host.restart_policy:
            entry.cancel_restart()
            if entry.container.state.status in (Status.STOPPED, Status.EXITED):
                self._lifecycle.consider_restart(entry)

    # ── remove ──

    async def _remove(self, entry: Entry, *, force: bool, options: StopOptions | None) -> None:
        check_allowed(Operation.FORCE_REMOVE if force else Operation.REMOVE, entry.container)
        entry.cancel_restart()
        if entry.container.state.status not in ALIVE:
            await self._destroy(entry)
            return
        options = options or StopOptions(force=True)
        timeout, number = self._lifecycle.stop_values(options)
        exit_ = await self._lifecycle.terminate(entry, number, timeout, force=options.force)
        try:
            await self._destroy(entry)
        except PycmError:
            await self._lifecycle.ended(entry, exit_, Status.STOPPED)
            raise

    async def _destroy(self, entry: Entry) -> None:
        """The record says DEAD before anything is deleted: a removal that a kill cuts short is finished at the next start."""
        dead = replace(entry.container, state=states.enter(entry.container.state, Status.DEAD))
        await self._catalog.save(dead)
        self._metrics.close(entry.id)
        try:
            await self._runtime.remove(entry.id)
        except PycmError:
            await self._catalog.save(entry.container)
            raise
        await self._logs.finish(entry.id)
        await self._network.disconnect(entry.id)
        self._logs.forget(entry.id)
        entry.container, entry.exit = dead, None
        self._catalog.drop(entry)
        self._catalog.tell(Action.REMOVED, dead)
        await asyncio.to_thread(self._store.delete, entry.id)

    # ── start and end of the agent ──

    async def load(self) -> None:
        """Read the store. Containers are known, and the API may open, though containerd may not have answered yet."""
        await asyncio.to_thread(self._store.prepare)
        for container in await asyncio.to_thread(self._store.load):
            filled = fill_defaults(container)
            if filled.state.status in (Status.DEAD, Status.CREATING):
                self._unfinished.append(filled)
                continue
            entry = self._catalog.add(filled)
            if filled is not container:
                await self._catalog.record(entry, filled)

    async def run(self) -> None:
        """Follow containerd for ever; it may be away now and at any time."""
        log.info("containerd %s, namespace %s", await self._runtime.connect(), self._settings.namespace)
        async for event in self._runtime.events():
            self._handle(event)

    def _handle(self, event: RuntimeEvent) -> None:
        if isinstance(event, TaskExited):
            entry = self._catalog.find(event.id)
            if entry is not None:
                self._lifecycle.task_exited(entry, event.pid, event.exit)
        elif isinstance(event, TaskOOM):
            entry = self._catalog.find(event.id)
            if entry is not None:
                entry.out_of_memory = True
        elif isinstance(event, RuntimeConnected):
            self._spawn(self._reconcile(event.tasks))
        elif isinstance(event, RuntimeLost):
            log.warning("containerd is lost, containers go on: %s", event.reason)

    async def _reconcile(self, tasks: Iterable[Task]) -> None:
        by_id = {task.id: task for task in tasks}
        await self._undo_unfinished()
        entries = list(self._catalog)
        await self._each(entries, lambda entry: self._reconcile_one(entry, by_id))
        for stranger in by_id.keys() - {entry.id for entry in entries} - self._reserved - self._strangers:
            self._strangers.add(stranger)
            log.warning("containerd runs task %s that no stored container knows; it is left alone", stranger)
        if not self._booted:
            self._booted = True
            await self._boot_starts()

    async def _reconcile_one(self, entry: Entry, tasks: dict[str, Task]) -> None:
        busy = entry.lock.locked()
        async with entry.lock:
            if self._catalog.find(entry.id) is not entry:
                return
            task = tasks.get(entry.id)
            if busy:  # an operation changed it after the list was made: ask again
                task = next((t for t in await self._runtime.tasks() if t.id == entry.id), None)
            await self._lifecycle.reconcile(entry, task)

    async def _undo_unfinished(self) -> None:
        unfinished, self._unfinished = self._unfinished, []
        for container in unfinished:
            log.info("container %s: its interrupted %s is undone", container.id, _interrupted(container))
            await self._undo(container.id)

    async def _boot_starts(self) -> None:
        due = [entry for entry in self._catalog if self._lifecycle.due_at_boot(entry.container)]
        await self._each(due, self._boot_start)

    async def _boot_start(self, entry: Entry) -> None:
        async with entry.lock:
            if self._lifecycle.due_at_boot(entry.container):
                await self._lifecycle.start(entry, by_hand=True)

    async def _each(
        self, entries: Iterable[Entry], work: Callable[[Entry], Coroutine[Any, Any, None]]
    ) -> None:
        """*work* on every entry, PARALLEL at a time; one that fails is logged and does not stop the others."""
        limit = asyncio.Semaphore(PARALLEL)

        async def one(entry: Entry) -> None:
            async with limit:
                try:
                    await work(entry)
                except PycmError as error:
                    log.error("container %s: %s", entry.id, error)

        await asyncio.gather(*map(one, entries))

    async def close(self) -> None:
        """End of the agent. Containers run on with `live_restore`, else all are stopped; what operations began is finished."""
        self._closing = True
        for entry in self._catalog:
            entry.cancel_restart()
        if not self._settings.live_restore:
            await self._each(list(self._catalog), self._stop_at_end)
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=self._settings.stop_timeout)
        await self._catalog.close()

    async def _stop_at_end(self, entry: Entry) -> None:
        """As a stop with force, but not by hand: the container comes back with the next agent."""
        async with entry.lock:
            if entry.container.state.status not in ALIVE:
                return
            exit_ = await self._lifecycle.terminate(
                entry, int(SIGTERM), self._settings.stop_timeout, force=True
            )
            await self._lifecycle.ended(entry, exit_, Status.STOPPED)


def _as_new(container: Container) -> Container:
    """Only the description counts: what a client says of state, times and network of a new container is not so."""
    return replace(
        container,
        state=State(),
        created="",
        network_settings=None,
        restart_count=0,
        manually_stopped=False,
        started_successfully_before=False,
        resolv_conf_path="",
        hosts_path="",
        hostname_path="",
    )


def _interrupted(container: Container) -> str:
    return "removal" if container.state.status is Status.DEAD else "creation"
