# SPDX-License-Identifier: Apache-2.0
"""The container manager: it creates, finds and reconciles units, and hands them the calls of fronts and events of
containerd.

Operations on one container are serialized; those on different containers run side by side. An operation that has begun
is finished even if its client disconnects. `list` and `get` answer from memory.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from pycm.containers.catalog import Catalog, Jobs, Peers
from pycm.containers.health import HealthChecks
from pycm.containers.launch import PARALLEL, Launcher
from pycm.containers.unit import Unit
from pycm.errors import ConflictError, OperationFailedError, PycmError
from pycm.failpoints import fail_point
from pycm.model import units
from pycm.model.container import Container, Resources, State, StopOptions, UpdateOptions
from pycm.model.defaults import fill_defaults, fill_swap, follow_memory
from pycm.model.frozen import replace
from pycm.model.states import Status
from pycm.model.units import sort_key
from pycm.model.validation import check_id, check_name, check_resources, check_restart_policy, validate
from pycm.oci.machine import online_cpus
from pycm.oci.spec import check_cpus, update_resources
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

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    from pycm.config.types import Config


#: Seconds that operations may take to end at the end of an agent whose containers run on.
OPERATIONS_LIMIT = 10.0
#: The prefix of a peer's host name in extra_hosts.
_PEER = "container_"
log = logging.getLogger("pycm.containers")
T = TypeVar("T")


class Manager:
    """Implements ports.Containers. `load`, then `run` as a task, at the end `close`."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        runtime: Runtime,
        images: Images,
        logs: Logs,
        metrics: Metrics,
        network: Network,
        config: Config,
    ) -> None:
        self._catalog, self._runtime, self._images = catalog, runtime, images
        self._logs, self._network, self._metrics = logs, network, metrics
        self._config = config
        self._jobs = Jobs()
        self._launcher = Launcher(runtime, logs, metrics, network, config)
        self._peers = Peers(
            catalog=catalog,
            jobs=self._jobs,
            runtime=runtime,
            logs=logs,
            metrics=metrics,
            network=network,
            launcher=self._launcher,
            checks=HealthChecks(runtime, logs),
            stop_timeout=config.manager.default_ctrs_stop_timeout,
        )
        self._reserved: set[str] = set()
        #: Records of creations and removals that were cut short; what they made is removed as soon as containerd
        # answers.
        self._unfinished: dict[str, Container] = {}
        self._undoing = asyncio.Lock()
        self._strangers: set[str] = set()
        #: Set once containerd has answered; and once the containers that should run have been started with the agent.
        self.reached, self.booted = asyncio.Event(), asyncio.Event()
        self._boot_begun = False
        self._lost = False

    # ── reading ──

    def get(self, container_id: str) -> Container | None:
        unit = self._catalog.find(container_id)
        return unit.container if unit else None

    def list(self) -> list[Container]:
        return self._catalog.list()

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        return self._catalog.subscribe(listener)

    # ── operations ──

    async def create(self, container: Container) -> Container:
        return await self._jobs.finish(self._create(container))

    async def start(self, container_id: str) -> None:
        await self._catalog.unit(container_id).start()

    async def stop(self, container_id: str, options: StopOptions | None = None) -> None:
        await self._catalog.unit(container_id).stop(options)

    async def pause(self, container_id: str) -> None:
        await self._catalog.unit(container_id).pause()

    async def unpause(self, container_id: str) -> None:
        await self._catalog.unit(container_id).unpause()

    async def rename(self, container_id: str, name: str) -> None:
        unit = self._catalog.unit(container_id)
        check_name(name)
        await unit.perform(lambda: self._rename(unit, name), ask=False)

    async def update(self, container_id: str, options: UpdateOptions) -> None:
        unit = self._catalog.unit(container_id)
        if options.restart_policy is not None:
            check_restart_policy(options.restart_policy)
        options = replace(options, resources=follow_memory(unit.container.resources, options.resources))
        check_resources(options.resources)
        await unit.perform(lambda: self._update(unit, options))

    async def remove(
        self, container_id: str, *, force: bool = False, options: StopOptions | None = None
    ) -> None:
        await self._catalog.unit(container_id).remove(options, force=force)

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
        """The record comes first: the next agent finds and undoes a creation that a kill cuts short."""
        unit = Unit(container, self._peers)
        try:
            await self._catalog.save(container)
            fail_point("containers.create-recorded")
            await self._logs.check(container.id, container.log_config)
            async with self._images.hold(container.image.name) as image:
                await self._runtime.prepare(container.id, image)
            fail_point("containers.create-prepared")
            await unit.create()
            fail_point("containers.create-stored")
        except BaseException:
            self._unfinished[container.id] = container
            await self._try_undo(container.id)
            raise
        return unit.container

    async def _undo_unfinished(self, container_id: str) -> None:
        """Remove what an interrupted creation or removal left of this container, if there was one."""
        async with self._undoing:
            if container_id in self._unfinished:
                await self._launcher.destroy(self._unfinished[container_id])
                await self._catalog.delete(container_id)
                del self._unfinished[container_id]

    async def _try_undo(self, container_id: str) -> None:
        try:
            await self._undo_unfinished(container_id)
        except PycmError as error:
            log.warning(
                "container %s: cannot remove what is left of it: %s (retrying when containerd is connected again)",
                container_id,
                error,
            )

    # ── rename, update ──

    async def _rename(self, unit: Unit, name: str) -> None:
        if name and name != unit.container.name:
            await self._catalog.commit(unit, replace(unit.container, name=name), Action.RENAMED)

    async def _update(self, unit: Unit, options: UpdateOptions) -> None:
        host = unit.container.host_config
        assert host is not None
        changed = host
        if options.resources is not None:
            wanted = options.resources
            changed = replace(changed, resources=None if wanted == Resources() else wanted)
        if options.restart_policy is not None:
            changed = replace(changed, restart_policy=options.restart_policy)
        if changed == host:
            return
        if changed.resources != host.resources and unit.is_alive:
            check_cpus(changed.resources, online_cpus())
            await self._runtime.update(
                unit.id, update_resources(host.resources, changed.resources, online_cpus())
            )
            self._metrics.limits_changed(unit.id)
            fail_point("containers.update-applied")
        try:
            await self._catalog.commit(unit, replace(unit.container, host_config=changed), Action.UPDATED)
        except OperationFailedError:
            await self._restore_limits(unit, changed.resources)
            raise
        fail_point("containers.update-stored")
        if changed.restart_policy != host.restart_policy:
            unit.begin_back_off()

    async def _restore_limits(self, unit: Unit, applied: Resources | None) -> None:
        """The record could not be written: the running container gets its recorded limits back."""
        host = unit.container.host_config
        if host is None or applied == host.resources or not unit.is_alive:
            return
        try:
            await self._runtime.update(unit.id, update_resources(applied, host.resources, online_cpus()))
        except PycmError as error:
            log.warning("container %s: runs with limits that are not recorded: %s", unit.id, error)
        self._metrics.limits_changed(unit.id)

    # ── start and end of the agent ──

    async def load(self) -> None:
        """Read the store. Containers are known, and the API may open, though containerd may not have answered yet."""
        for container in await self._catalog.load():
            filled = fill_defaults(container)
            if filled.state.status in (Status.DEAD, Status.CREATING):
                self._unfinished[filled.id] = filled
                continue
            unit = Unit(filled, self._peers)
            unit.awaits_boot = True
            self._catalog.add(unit)
            if filled is not container:
                await self._catalog.record(unit, filled)

    async def run(self) -> None:
        """Follow containerd for ever; it may be away now and at any time."""
        async for event in self._runtime.events():
            try:
                self._handle(event)
            except Exception:
                log.exception("containerd event %r: a bug in its handling (continuing with the next)", event)

    def _handle(self, event: RuntimeEvent) -> None:
        if isinstance(event, (TaskExited, TaskOOM)):
            unit = self._catalog.find(event.id)
            if unit is not None and isinstance(event, TaskExited):
                unit.task_exited(event.pid, event.exit)
            elif unit is not None:
                unit.out_of_memory = True
        elif isinstance(event, RuntimeConnected):
            if not self.reached.is_set():
                log.info("containerd %s, namespace %s", event.version, self._config.containers.default_ns)
                self.reached.set()
                self._lost = False
            self._connected(event.tasks)
        elif isinstance(event, RuntimeLost):
            self._lost = True
            log.warning("containerd unavailable: %s (reconnecting; containers keep running)", event.reason)

    def _connected(self, tasks: Iterable[Task]) -> None:
        if self._lost:
            log.info("containerd is back")
            self._lost = False
        for task in tasks:  # now, since a stop that waits for the exit holds the lock that reconciling needs
            unit = self._catalog.find(task.id)
            if unit is not None and task.exit is not None:
                unit.task_exited(task.pid, task.exit)
        self._jobs.spawn(self._reconcile(tasks))

    async def _reconcile(self, tasks: Iterable[Task]) -> None:
        by_id = {task.id: task for task in tasks}
        ours = {unit.id for unit in self._catalog} | self._reserved | self._unfinished.keys()
        for container in tuple(self._unfinished.values()):
            log.info("container %s: its interrupted %s is undone", container.id, _interrupted(container))
            await self._try_undo(container.id)
        known = {unit.id for unit in self._catalog} | self._reserved | self._unfinished.keys()
        await self._network.clear(known | by_id.keys())
        await self._each(list(self._catalog), lambda unit: unit.reconcile(by_id.get(unit.id)))
        for stranger in by_id.keys() - ours - self._strangers:
            self._strangers.add(stranger)
            log.warning("task %s in containerd: no stored container has this id (not changed)", stranger)
        if not self._boot_begun:
            self._boot_begun = True
            await self._boot_starts()
            self.booted.set()

    async def _boot_starts(self) -> None:
        for unit in self._catalog:
            unit.awaits_boot = unit.awaits_boot and unit.due_at_boot
        due = [unit for unit in self._catalog if unit.awaits_boot]
        groups, circle = boot_order(unit.container for unit in due)
        if circle:
            names = ", ".join(container.name for container in circle)
            log.warning(
                "extra_hosts of %s name each other in a circle: they start in the order of creation", names
            )
        for group in groups:
            units = (self._catalog.find(container.id) for container in group)
            await self._each([unit for unit in units if unit is not None], Unit.boot)

    async def _each(self, units: Iterable[Unit], work: Callable[[Unit], Coroutine[Any, Any, None]]) -> None:
        """*work* on every unit, PARALLEL at a time; one that fails is logged and does not stop the others."""
        limit = asyncio.Semaphore(PARALLEL)

        async def one(unit: Unit) -> None:
            async with limit:
                try:
                    await work(unit)
                except Exception as error:
                    log.error("container %s: %s", unit.id, error, exc_info=not isinstance(error, PycmError))

        await asyncio.gather(*map(one, units))

    async def close(self) -> None:
        """End of the agent. Containers run on with `live_restore`, else all are stopped; what operations began is
        finished.
        """
        self._jobs.closing = True
        checks = [unit.close() for unit in self._catalog]
        await asyncio.gather(*filter(None, checks), return_exceptions=True)
        stop_timeout = self._config.manager.default_ctrs_stop_timeout
        if self._config.manager.live_restore:
            await self._jobs.wait(min(stop_timeout, OPERATIONS_LIMIT))
        else:
            for unit in self._catalog:  # all at once: waiting for the stubborn costs nothing
                self._jobs.spawn(unit.shut_down())
            await self._jobs.wait(2 * stop_timeout)  # for SIGTERM, then for SIGKILL
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


def boot_order(containers: Iterable[Container]) -> tuple[list[list[Container]], list[Container]]:
    """Groups to start one after the other, and those of a circle, which are in the order of their creation, one by one.

    Within a group nobody waits for another: the order is that of creation. Peers that are not among *containers* are
    not waited for.
    """
    waiting = sorted(containers, key=lambda c: (sort_key(c.created), c.id))
    names = {container.host_name for container in waiting}
    needs = {c.id: (_named(c) & names) - {c.host_name} for c in waiting}
    groups: list[list[Container]] = []
    circle: list[Container] = []
    while waiting:
        pending = {container.host_name for container in waiting}
        group = [container for container in waiting if not needs[container.id] & pending]
        if not group:  # only circles, and who waits for one, are left
            group = [_of_circle(waiting, needs)]
            circle += group
        started = {container.id for container in group}
        waiting = [container for container in waiting if container.id not in started]
        groups.append(group)
    return groups, circle


def _named(container: Container) -> set[str]:
    entries = container.host_config.extra_hosts if container.host_config else ()
    values = (entry.partition(":")[2] for entry in entries)
    return {value[len(_PEER) :] for value in values if value.startswith(_PEER)}


def _of_circle(waiting: list[Container], needs: dict[str, set[str]]) -> Container:
    """The oldest container that waits, over others, for itself."""

    def reaches(container: Container) -> bool:
        seen: set[str] = set()
        ahead = set(needs[container.id])
        while ahead:
            seen |= ahead
            ahead = {name for other in waiting if other.host_name in ahead for name in needs[other.id]} - seen
        return container.host_name in seen

    return next((container for container in waiting if reaches(container)), waiting[0])
