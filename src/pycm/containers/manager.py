# SPDX-License-Identifier: Apache-2.0
"""The container manager: what the fronts call, and what containerd's events lead to.

Operations on one container follow each other, those on different ones run beside each other. An operation that has begun is
finished even if its caller goes away, so that no half-made state depends on a client's life. `list` and `get` answer from memory.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from pycm.containers.boot import boot_order
from pycm.containers.catalog import Catalog, Entry
from pycm.containers.launch import Launcher
from pycm.containers.lifecycle import Lifecycle
from pycm.containers.settings import OPERATIONS_LIMIT, PARALLEL, Settings
from pycm.errors import ConflictError, NotFoundError, OperationFailedError, PycmError
from pycm.failpoints import fail_point
from pycm.model import states, units
from pycm.model.container import Container, Resources, State, StopOptions, UpdateOptions
from pycm.model.defaults import fill_defaults, fill_swap, follow_memory
from pycm.model.frozen import replace
from pycm.model.states import ALIVE, Operation, Status, check_allowed
from pycm.model.units import exit_text
from pycm.model.validation import check_id, check_name, check_resources, check_restart_policy, validate
from pycm.oci.devices import online_cpus
from pycm.oci.resources import check_cpus, update_resources
from pycm.ports import (
    Action,
    Event,
    Images,
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
from pycm.storage.store import DiskFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from pycm.storage.store import ContainerStore

#: Seconds between attempts to use a containerd that answers, but not as it should (its own disk is full, for instance).
RETRY_CONNECT = 5.0
log = logging.getLogger("pycm.containers")
T = TypeVar("T")


class Manager:
    """Implements ports.Containers. `load`, then `run` as a task, at the end `close`."""

    def __init__(
        self,
        *,
        store: ContainerStore,
        runtime: Runtime,
        images: Images,
        logs: Logs,
        metrics: Metrics,
        network: Network,
        settings: Settings,
    ) -> None:
        self._store = store
        self._runtime = runtime
        self._images = images
        self._logs = logs
        self._network = network
        self._metrics = metrics
        self._settings = settings
        self._catalog = Catalog(store)
        launcher = Launcher(runtime, logs, metrics, network, settings)
        self._lifecycle = Lifecycle(self._catalog, runtime, logs, metrics, network, launcher, settings)
        self._lifecycle.spawn = self._spawn
        self._launcher = launcher
        self._reserved: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        #: Records of creations and removals that were cut short; what they made is removed as soon as containerd answers.
        self._unfinished: dict[str, Container] = {}
        self._undoing = asyncio.Lock()
        self._strangers: set[str] = set()
        #: Set once containerd has answered; and once the containers that should run have been started with the agent.
        self.reached, self.booted = asyncio.Event(), asyncio.Event()
        self._boot_begun = False
        self._lost = False

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
        await self._locked(entry, lambda: self._lifecycle.start_by_hand(entry))

    async def stop(self, container_id: str, options: StopOptions | None = None) -> None:
        entry = self._catalog.entry(container_id)
        await self._locked(entry, lambda: self._lifecycle.stop(entry, options), ask=False)

    async def pause(self, container_id: str) -> None:
        entry = self._catalog.entry(container_id)
        await self._locked(entry, lambda: self._freeze(entry, Operation.PAUSE))

    async def unpause(self, container_id: str) -> None:
        entry = self._catalog.entry(container_id)
        await self._locked(entry, lambda: self._freeze(entry, Operation.UNPAUSE))

    async def rename(self, container_id: str, name: str) -> None:
        entry = self._catalog.entry(container_id)
        check_name(name)
        await self._locked(entry, lambda: self._rename(entry, name), ask=False)

    async def update(self, container_id: str, options: UpdateOptions) -> None:
        entry = self._catalog.entry(container_id)
        if options.restart_policy is not None:
            check_restart_policy(options.restart_policy)
        options = replace(options, resources=follow_memory(entry.container.resources, options.resources))
        check_resources(options.resources)
        await self._locked(entry, lambda: self._update(entry, options))

    async def remove(
        self, container_id: str, *, force: bool = False, options: StopOptions | None = None
    ) -> None:
        entry = self._catalog.entry(container_id)
        await self._locked(entry, lambda: self._remove(entry, force=force, options=options))

    async def _locked(
        self, entry: Entry, work: Callable[[], Coroutine[Any, Any, None]], *, ask: bool = True
    ) -> None:
        """*ask*: the operation wants to know what containerd has."""

        async def locked() -> None:
            async with entry.lock:
                if self._catalog.find(entry.id) is not entry:  # removed while we waited, perhaps made anew
                    raise NotFoundError(f"no such container with id = {entry.id} exists")
                if ask:
                    await self._lifecycle.know(entry)
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
        self._reserved.add(container.id)
        try:
            await asyncio.to_thread(validate, container)  # a large one takes some 100 ms
            self._network.check(container)
            self._launcher.admit(container)
            await self._undo_unfinished(container.id)
            return await self._make(replace(container, created=units.now()))
        finally:
            self._reserved.discard(container.id)

    async def _make(self, container: Container) -> Container:
        """The record comes first: a creation that a kill cuts short is found and undone at the next start."""
        try:
            await self._catalog.save(container)
            fail_point("containers.create-recorded")
            await self._logs.check(container.id, container.log_config)
            async with self._images.hold(container.image.name):
                await self._runtime.prepare(container.id, container.image.name)
            fail_point("containers.create-prepared")
            container = replace(container, state=states.created(container.state))
            await self._catalog.save(container)
            fail_point("containers.create-stored")
        except BaseException:
            self._unfinished[container.id] = container
            await self._try_undo(container.id)
            raise
        self._catalog.add(container).known = True
        self._catalog.tell(Action.CREATED, container)
        return container

    async def _undo_unfinished(self, container_id: str) -> None:
        """Remove what an interrupted creation or removal left of this container, if there was one."""
        async with self._undoing:
            if container_id in self._unfinished:
                await self._runtime.remove(container_id)
                await self._network.disconnect(container_id)
                self._logs.forget(container_id, self._unfinished[container_id].log_config)
                await asyncio.to_thread(self._store.delete, container_id)
                del self._unfinished[container_id]

    async def _try_undo(self, container_id: str) -> None:
        try:
            await self._undo_unfinished(container_id)
        except PycmError as error:
            log.warning(
                "container %s: what is left of it is removed when containerd can do it: %s",
                container_id,
                error,
            )

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
            changed = replace(changed, resources=None if wanted == Resources() else wanted)
        if options.restart_policy is not None:
            changed = replace(changed, restart_policy=options.restart_policy)
        if changed == host:
            return
        if changed.resources != host.resources and entry.container.state.status in ALIVE:
            check_cpus(changed.resources, online_cpus())
            await self._runtime.update(
                entry.id, update_resources(host.resources, changed.resources, online_cpus())
            )
            self._metrics.limits_changed(entry.id)
            fail_point("containers.update-applied")
        try:
            await self._catalog.commit(entry, replace(entry.container, host_config=changed), Action.UPDATED)
        except OperationFailedError:
            await self._restore_limits(entry, changed.resources)
            raise
        fail_point("containers.update-stored")
        if changed.restart_policy != host.restart_policy:
            entry.cancel_restart()
            entry.restart_delay = 0.0
            if entry.container.state.status in (Status.STOPPED, Status.EXITED):
                self._lifecycle.consider_restart(entry)

    async def _restore_limits(self, entry: Entry, applied: Resources | None) -> None:
        """The record could not be written: the running container gets its recorded limits back."""
        host = entry.container.host_config
        if host is None or applied == host.resources or entry.container.state.status not in ALIVE:
            return
        try:
            await self._runtime.update(entry.id, update_resources(applied, host.resources, online_cpus()))
        except PycmError as error:
            log.warning("container %s: runs with limits that are not recorded: %s", entry.id, error)
        self._metrics.limits_changed(entry.id)

    # ── remove ──

    async def _remove(self, entry: Entry, *, force: bool, options: StopOptions | None) -> None:
        check_allowed(Operation.FORCE_REMOVE if force else Operation.REMOVE, entry.container)
        pending = self._lifecycle.restart_pending(entry)
        entry.cancel_restart()
        if entry.container.state.status not in ALIVE:
            try:
                await self._destroy(entry)
            except PycmError:
                if pending:
                    self._lifecycle.consider_restart(entry)
                raise
            return
        options = options or StopOptions(force=True)
        timeout, number = self._lifecycle.stop_values(options)
        exit_ = await self._lifecycle.terminate(entry, number, timeout, force=options.force)
        log.info("container %s: stopped to be removed: %s", entry.id, exit_text(exit_.code))
        try:
            await self._destroy(entry)
        except PycmError:
            await self._lifecycle.ended(entry, exit_, Status.STOPPED)
            raise

    async def _destroy(self, entry: Entry) -> None:
        """The record says DEAD before anything is deleted: a removal that a kill cuts short is finished at the next start."""
        dead = replace(entry.container, state=states.enter(entry.container.state, Status.DEAD))
        try:
            await self._catalog.save(dead)
        except DiskFullError as error:  # removing containers is how one makes room
            log.warning("%s; the container is removed all the same", error)
        fail_point("containers.remove-recorded")
        try:
            await self._runtime.remove(entry.id)
        except PycmError:
            await self._catalog.record(entry, entry.container)
            raise
        fail_point("containers.remove-runtime")
        self._lifecycle.health.end(entry)
        self._metrics.close(entry.id)
        await self._logs.finish(entry.id)
        await self._network.disconnect(entry.id)
        self._logs.forget(entry.id, entry.container.log_config)
        fail_point("containers.remove-logs")
        # while the id is still taken, so that nobody's new record is deleted
        await asyncio.to_thread(self._store.delete, entry.id)
        fail_point("containers.remove-deleted")
        entry.container, entry.exit = dead, None
        self._catalog.drop(entry)
        self._catalog.tell(Action.REMOVED, dead)

    # ── start and end of the agent ──

    async def load(self) -> None:
        """Read the store. Containers are known, and the API may open, though containerd may not have answered yet."""
        await asyncio.to_thread(self._store.prepare)
        for container in await asyncio.to_thread(self._store.load):
            filled = fill_defaults(container)
            if filled.state.status in (Status.DEAD, Status.CREATING):
                self._unfinished[filled.id] = filled
                continue
            entry = self._catalog.add(filled)
            entry.awaits_boot = True
            if filled is not container:
                await self._catalog.record(entry, filled)

    async def run(self) -> None:
        """Follow containerd for ever; it may be away now and at any time."""
        log.info("containerd %s, namespace %s", await self._connect(), self._settings.namespace)
        self.reached.set()
        async for event in self._runtime.events():
            try:
                self._handle(event)
            except Exception:
                log.exception("containerd event %r: a bug in its handling (continuing with the next)", event)

    async def _connect(self) -> str:
        told = ""
        while True:
            try:
                return await self._runtime.connect()
            except Exception as error:
                if repr(error) != told:
                    bug = not isinstance(error, PycmError)
                    log.error("containerd cannot be used, retrying: %s", error, exc_info=bug)
                told = repr(error)
            await asyncio.sleep(RETRY_CONNECT)

    def _handle(self, event: RuntimeEvent) -> None:
        if isinstance(event, (TaskExited, TaskOOM)):
            entry = self._catalog.find(event.id)
            if entry is not None and isinstance(event, TaskExited):
                self._lifecycle.task_exited(entry, event.pid, event.exit)
            elif entry is not None:
                entry.out_of_memory = True
        elif isinstance(event, RuntimeConnected):
            self._connected(event.tasks)
        elif isinstance(event, RuntimeLost):
            self._lost = True
            log.warning("containerd is lost, containers go on: %s", event.reason)

    def _connected(self, tasks: Iterable[Task]) -> None:
        if self._lost:
            log.info("containerd is back")
            self._lost = False
        for task in tasks:  # now, since a stop that waits for the exit holds the lock that reconciling needs
            entry = self._catalog.find(task.id)
            if entry is not None and task.exit is not None:
                self._lifecycle.task_exited(entry, task.pid, task.exit)
        self._spawn(self._reconcile(tasks))

    async def _reconcile(self, tasks: Iterable[Task]) -> None:
        by_id = {task.id: task for task in tasks}
        ours = {entry.id for entry in self._catalog} | self._reserved | self._unfinished.keys()
        for container in tuple(self._unfinished.values()):
            log.info("container %s: its interrupted %s is undone", container.id, _interrupted(container))
            await self._try_undo(container.id)
        known = {entry.id for entry in self._catalog} | self._reserved | self._unfinished.keys()
        await self._network.clear(known | by_id.keys())
        await self._each(list(self._catalog), lambda entry: self._reconcile_one(entry, by_id))
        for stranger in by_id.keys() - ours - self._strangers:
            self._strangers.add(stranger)
            log.warning("containerd runs task %s that no stored container knows; it is left alone", stranger)
        if not self._boot_begun:
            self._boot_begun = True
            await self._boot_starts()
            self.booted.set()

    async def _reconcile_one(self, entry: Entry, tasks: dict[str, Task]) -> None:
        async with entry.lock:
            if self._catalog.find(entry.id) is entry:
                await self._lifecycle.reconcile(entry, tasks.get(entry.id))

    async def _boot_starts(self) -> None:
        for entry in self._catalog:
            entry.awaits_boot = entry.awaits_boot and self._lifecycle.due_at_boot(entry.container)
        due = [entry for entry in self._catalog if entry.awaits_boot]
        groups, circle = boot_order(entry.container for entry in due)
        if circle:
            names = ", ".join(container.name for container in circle)
            log.warning(
                "extra_hosts of %s name each other in a circle: they start in the order of creation", names
            )
        for group in groups:
            entries = (self._catalog.find(container.id) for container in group)
            await self._each([entry for entry in entries if entry is not None], self._boot_start)

    async def _boot_start(self, entry: Entry) -> None:
        async with entry.lock:
            if self._catalog.find(entry.id) is entry:
                await self._lifecycle.boot_start(entry)

    async def _each(
        self, entries: Iterable[Entry], work: Callable[[Entry], Coroutine[Any, Any, None]]
    ) -> None:
        """*work* on every entry, PARALLEL at a time; one that fails is logged and does not stop the others."""
        limit = asyncio.Semaphore(PARALLEL)

        async def one(entry: Entry) -> None:
            async with limit:
                try:
                    await work(entry)
                except Exception as error:
                    log.error("container %s: %s", entry.id, error, exc_info=not isinstance(error, PycmError))

        await asyncio.gather(*map(one, entries))

    async def close(self) -> None:
        """End of the agent. Containers run on with `live_restore`, else all are stopped; what operations began is finished."""
        self._lifecycle.closing = True
        await self._lifecycle.health.close()
        limit = min(self._settings.stop_timeout, OPERATIONS_LIMIT)
        for entry in self._catalog:
            entry.cancel_restart()
            if not self._settings.live_restore:  # all at once: waiting for the stubborn costs nothing
                self._spawn(self._lifecycle.stop_for_good(entry))
        if not self._settings.live_restore:
            limit = 2 * self._settings.stop_timeout  # for SIGTERM, then for SIGKILL
        if self._tasks:
            _, late = await asyncio.wait(tuple(self._tasks), timeout=limit)
            if late:
                log.warning(
                    "%d operations have not ended within %g s; the agent ends without them", len(late), limit
                )
        await self._catalog.close()


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
