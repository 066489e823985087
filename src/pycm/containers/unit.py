# SPDX-License-Identifier: Apache-2.0
"""One container: its lock, its run and exit, its automatic restarts and its health.

What happens is a row of the table in `model.states`, which `Unit.enter` follows. Whatever changes the container holds
its lock; readers do not take it. The rules of restarts are in `model.restart`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from pycm.containers.launch import Stop, stop_of
from pycm.containers.reconcile import align, find_task
from pycm.errors import (
    NotFoundError,
    PycmError,
    UnavailableError,
)
from pycm.failpoints import fail_point
from pycm.model import restart, states, units
from pycm.model.container import StopOptions
from pycm.model.frozen import replace
from pycm.model.restart import STARTING, check_of
from pycm.model.states import ALIVE, TABLE, Action, Effect, Operation, Status, Trigger, check_allowed, follow
from pycm.model.units import DEFAULT_SIGNAL as SIGTERM
from pycm.model.units import exit_text
from pycm.ports import Exit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pycm.containers.catalog import Peers
    from pycm.model.container import Container
    from pycm.ports import Task

log = logging.getLogger("pycm.containers")


class Unit:
    """A container in the agent's memory."""

    def __init__(self, container: Container, peers: Peers) -> None:
        self.container = container
        self.lock = asyncio.Lock()
        self.peers = peers
        #: Resolves when the running task exits; None while no task is known.
        self.exit: asyncio.Future[Exit] | None = None
        #: An exit that containerd reported before the start had returned the pid.
        self._early_exit: tuple[int, Exit] | None = None
        self.out_of_memory = False
        #: Loop time at which the present run began, and seconds that the last run took: the wall clock may jump.
        self._running_since: float | None = None
        self._ran_for = 0.0
        self._health: asyncio.Task[None] | None = None
        self.restart_timer: asyncio.TimerHandle | None = None
        self.restart_delay = 0.0
        #: The record has been compared with containerd: not yet at the agent's start, and not after a start without an
        # answer.
        self.known = False
        #: The last automatic start failed because containerd was unavailable: its return triggers the next one.
        self.waits_for_runtime = False
        #: The agent has just started, and starts this container in its turn if the restart policy says so.
        self.awaits_boot = False
        #: Stopped by hand while containerd was unavailable: a task that containerd then reports is ended.
        self.stop_unanswered = False

    @property
    def id(self) -> str:
        return self.container.id

    @property
    def is_alive(self) -> bool:
        return self.container.state.status in ALIVE

    @property
    def is_gone(self) -> bool:
        """The container was removed; another one may have its id."""
        return self.peers.catalog.find(self.id) is not self

    # ── operations ──

    async def perform(self, work: Callable[[], Awaitable[None]], *, ask: bool = True) -> None:
        """Do *work* under the lock, to its end even if the caller is cancelled. *ask*: compare with containerd first if
        needed.
        """

        async def locked() -> None:
            async with self.lock:
                if self.is_gone:
                    raise NotFoundError(f"no such container with id = {self.id} exists")
                if ask:
                    await self.know()
                await work()

        await self.peers.jobs.finish(locked())

    async def create(self) -> None:
        await self.enter(Trigger.CREATE)
        self.known = True

    async def start(self) -> None:
        await self.perform(self._start_by_hand)

    async def stop(self, options: StopOptions | None) -> None:
        await self.perform(lambda: self._stop(options), ask=False)

    async def pause(self) -> None:
        await self.perform(self._pause)

    async def unpause(self) -> None:
        await self.perform(self._unpause)

    async def remove(self, options: StopOptions | None, *, force: bool) -> None:
        await self.perform(lambda: self._remove(options, force=force))

    # ── the table ──

    async def enter(self, trigger: Trigger, **facts: Any) -> str:
        """Follow the table's row of *trigger*. Return what the restart policy decided, for the log."""
        row = TABLE[trigger, self.container.state.status]
        catalog, decision = self.peers.catalog, ""
        for effect in row.effects:
            if effect is Effect.BEGIN_RUN:
                self.begin_run()
            elif effect is Effect.END_RUN:
                self._end_run()
            elif effect is Effect.RECORD:
                if trigger is Trigger.EXIT:
                    facts["oom"] = self.out_of_memory
                await catalog.record(self, follow(row, self.container, **facts), row.action)
            elif effect is Effect.COMMIT:
                await catalog.commit(self, follow(row, self.container, **facts), row.action)
            elif effect is Effect.RELEASE:
                fail_point("containers.end-recorded")
                await self.release()
            elif effect is Effect.ASK_POLICY:
                decision = self.consider_restart()
            elif effect is Effect.DELETE:
                await self._delete(follow(row, self.container), row.action)
        return decision

    def begin_run(self) -> None:
        loop = asyncio.get_running_loop()
        self.exit = loop.create_future()
        self._running_since = loop.time()
        self.begin_health()

    def _end_run(self) -> None:
        self._end_health()
        if self.peers.metrics.close(self.id):
            self.out_of_memory = True
        since, self._running_since = self._running_since, None
        self._ran_for = asyncio.get_running_loop().time() - since if since is not None else 0.0
        self.exit, self._early_exit = None, None
        fail_point("containers.end-seen")

    async def release(self) -> None:
        try:
            await self.peers.runtime.delete_task(self.id)
        except PycmError as error:
            log.warning(
                "container %s: cannot delete its ended task: %s (retrying at its next start)", self.id, error
            )
        fail_point("containers.end-deleted")
        for release in (self.peers.logs.finish, self.peers.network.disconnect):
            try:
                await release(self.id)
            except Exception:  # what follows the end, such as a restart, does not wait for that
                log.exception("container %s: cannot release what its run held", self.id)

    # ── start ──

    async def _start(self, *, by_hand: bool) -> None:
        """Start the task. *by_hand*: for a user or with the agent, which resets the count of automatic restarts.

        The record is written once, with what comes of it. If a kill loses that, `_adopt` finds the run.
        """
        check_allowed(Operation.START, self.container)
        self.cancel_restart()
        self.stop_unanswered = False
        count = 0 if by_hand else self.container.restart_count + 1
        self.container = replace(self.container, restart_count=count, manually_stopped=False)
        if by_hand:
            self.restart_delay = 0.0
        self._early_exit, self.out_of_memory = None, False
        try:
            run = await self.peers.launcher.launch(self.container)
        except PycmError as error:
            await self._start_failed(error, by_hand=by_hand)
            raise
        fail_point("containers.start-launched")
        self.waits_for_runtime = False
        self.container = run.container
        await self.run(Trigger.START, run.pid, run.started_at)
        how = "started" if by_hand else "restarted"
        which = "" if by_hand else f" (automatic restart {count})"
        log.info("container %s: %s: pid %d%s", self.id, how, run.pid, which)
        fail_point("containers.start-told")

    async def _start_failed(self, error: PycmError, *, by_hand: bool) -> None:
        """The state shows the error too: a client that created the container over MQTT gets no other answer."""
        if isinstance(error, UnavailableError):  # the task may run; and this try does not count
            self.known = False
            if not by_hand:
                self.container = replace(self.container, restart_count=self.container.restart_count - 1)
        before = self.container.started_successfully_before
        text = f"{error}{states.NOT_STARTED if before else states.NEVER_STARTED}"
        self._ran_for = 0.0
        await self.enter(Trigger.FAIL, exit_code=0, finished_at=units.now(), error=text)

    async def run(self, trigger: Trigger, pid: int, started_at: str) -> None:
        self.container = replace(self.container, started_successfully_before=True)
        health = STARTING if check_of(self.container) else ""
        await self.enter(trigger, pid=pid, started_at=started_at, health=health)
        if self._early_exit and self._early_exit[0] == pid:
            self.task_exited(*self._early_exit)

    async def _start_by_hand(self) -> None:
        """A failure leaves a pending restart pending."""
        pending = self.restart_pending
        try:
            await self._start(by_hand=True)
        except PycmError as error:
            after = self._retry(error) if pending else "not restarted: start by hand"
            if not self.is_alive:
                log.info("container %s: failed to start: %s (%s)", self.id, error.masked, after)
            raise

    # ── the task ends ──

    def task_exited(self, pid: int, exit_: Exit) -> None:
        """containerd reports an exit: wake the operation that waits for it, or handle it if none does."""
        if not self.is_alive or self.container.state.pid != pid or self.exit is None:
            self._early_exit = (pid, exit_)
        elif not self.exit.done():
            self.exit.set_result(exit_)
            self.peers.jobs.spawn(self._exited(self.exit))

    async def _exited(self, exit_: asyncio.Future[Exit]) -> None:
        async with self.lock:
            if self.exit is exit_:  # else a stop or removal that held the lock has handled it
                await self.end(Trigger.EXIT, exit_.result())

    async def end(self, trigger: Trigger, exit_: Exit, error: str = "", *, cause: str = "") -> None:
        """Follow *trigger* and log what came of it. *cause*: of *error*, for the log. For one that asks no policy, why
        not.
        """
        after = await self.enter(trigger, exit_code=exit_.code, finished_at=exit_.at, error=error)
        event = {Trigger.EXIT: "exited", Trigger.STOP: "stopped by hand"}.get(trigger, "stopped")
        why = "the agent ends" if self.peers.jobs.closing else "stopped by hand"
        what = exit_text(exit_.code) + (", OOM kill" if self.container.state.oom_killed else "")
        text = cause or error
        log.info(
            "container %s: %s: %s%s (%s)",
            self.id,
            event,
            what,
            text and f": {text}",
            after or f"not restarted: {why}",
        )

    # ── stop ──

    async def _stop(self, options: StopOptions | None) -> None:
        """Stop by hand. The wish is stored before the signal, so that an agent that dies here does not restart the
        container.

        A full disk does not refuse it: the container to be stopped may be the one that fills it.
        """
        how = stop_of(options, self.peers.stop_timeout)
        try:
            await self.know()
        except UnavailableError:
            if not self.restart_pending:
                raise
            self.stop_unanswered = True
        if self.restart_pending:  # nothing runs: cancel the restart, also that of `always`
            self.cancel_restart()
            self.waits_for_runtime = False
            self.container = replace(self.container, manually_stopped=True)
            await self.enter(Trigger.CANCEL)
            log.info("container %s: stopped by hand: pending restart cancelled", self.id)
            return
        check_allowed(Operation.STOP, self.container)
        self.cancel_restart()
        before = self.container.manually_stopped
        await self.peers.catalog.record(self, replace(self.container, manually_stopped=True))
        fail_point("containers.stop-recorded")
        try:
            exit_ = await self.terminate(how)
        except PycmError:
            await self.peers.catalog.record(self, replace(self.container, manually_stopped=before))
            raise
        await self.end(Trigger.STOP, exit_)

    async def shut_down(self) -> None:
        """Stop with force, without a restart: at the agent's end, or for a stop that containerd could not answer."""
        async with self.lock:
            if self.is_gone or not self.is_alive:
                return
            try:
                await self.know()
                if self.exit is not None:
                    exit_ = await self.terminate(Stop(int(SIGTERM), self.peers.stop_timeout, force=True))
                    await self.end(Trigger.SHUT_DOWN, exit_)
            except PycmError as error:
                log.error("container %s: cannot be stopped: %s", self.id, error)

    async def terminate(self, stop: Stop) -> Exit:
        if self.exit is None:
            return Exit(restart.LOST_EXIT_CODE, units.now())
        return await self.peers.launcher.terminate(self.id, self.exit, stop, self._thaw)

    async def _thaw(self) -> None:
        """A frozen process gets its signal only when it runs again."""
        if self.container.state.status is Status.PAUSED:
            try:
                await self._unpause()
            except PycmError as error:
                log.debug("container %s: cannot resume before the stop: %s", self.id, error)

    # ── pause ──

    async def _pause(self) -> None:
        check_allowed(Operation.PAUSE, self.container)
        await self.peers.runtime.pause(self.id)
        await self.enter(Trigger.PAUSE)

    async def _unpause(self) -> None:
        check_allowed(Operation.UNPAUSE, self.container)
        await self.peers.runtime.resume(self.id)
        await self.enter(Trigger.RESUME)

    # ── remove ──

    async def _remove(self, options: StopOptions | None, *, force: bool) -> None:
        check_allowed(Operation.FORCE_REMOVE if force else Operation.REMOVE, self.container)
        pending = self.restart_pending
        self.cancel_restart()
        exit_ = None
        if self.is_alive:
            exit_ = await self.terminate(stop_of(options or StopOptions(force=True), self.peers.stop_timeout))
            log.info("container %s: stopped to be removed: %s", self.id, exit_text(exit_.code))
        try:
            await self.enter(Trigger.REMOVE)
        except PycmError:
            if exit_ is not None:
                await self.enter(Trigger.SHUT_DOWN, exit_code=exit_.code, finished_at=exit_.at)
            elif pending:
                self.consider_restart()
            raise

    async def _delete(self, dead: Container, action: Action) -> None:
        """The record says DEAD before anything is deleted: the next agent finishes a removal that a kill cuts short."""
        catalog = self.peers.catalog
        await catalog.mark_dead(dead)
        fail_point("containers.remove-recorded")
        try:
            await self.peers.launcher.destroy(dead)
        except PycmError:
            await catalog.record(self, self.container)
            raise
        self._end_health()
        fail_point("containers.remove-logs")
        await catalog.delete(self.id)  # while the id is still in use, so that no new record is deleted
        fail_point("containers.remove-deleted")
        self.container, self.exit = dead, None
        catalog.drop(self)
        catalog.publish(action, dead)

    # ── health ──

    def begin_health(self) -> None:
        self._end_health()
        self._health = self.peers.checks.begin(self)

    def _end_health(self) -> None:
        if self._health is not None:
            self._health.cancel()
            self._health = None

    # ── automatic restart ──

    @property
    def restart_pending(self) -> bool:
        """The container waits for its back-off, for containerd or for its turn at the agent's start."""
        return not self.is_alive and (
            self.restart_timer is not None or (self.awaits_boot and self.due_at_boot)
        )

    @property
    def due_at_boot(self) -> bool:
        """The container's policy starts it when the agent starts and does not find it running."""
        status = self.container.state.status
        if status in ALIVE or status in (Status.DEAD, Status.CREATING):
            return False
        return self.container.started_successfully_before and self._is_wanted()

    def _is_wanted(self) -> bool:
        return restart.wants_restart(*restart.question(self.container))

    def consider_restart(self) -> str:
        """Ask the policy, and set the timer of the next start. Return the decision, for the log."""
        if self.peers.jobs.closing:
            return "not restarted: the agent ends"
        policy, ended = restart.question(self.container)
        if policy is None or not restart.wants_restart(policy, ended):
            return f"not restarted: {restart.refusal(policy, ended)}"
        if self.restart_pending:
            return "restart pending"
        self.restart_delay = restart.next_delay(policy, self.restart_delay, self._ran_for)
        spawn = self.peers.jobs.spawn
        loop = asyncio.get_running_loop()
        self.restart_timer = loop.call_later(self.restart_delay, lambda: spawn(self.restart()))
        return f"restart in {self.restart_delay:g} s"

    def cancel_restart(self) -> None:
        self.awaits_boot = False
        if self.restart_timer is not None:
            self.restart_timer.cancel()
            self.restart_timer = None

    def begin_back_off(self) -> None:
        """Forget the pending restart and the delays so far, and ask the policy again."""
        self.cancel_restart()
        self.restart_delay = 0.0
        if self.container.state.status in (Status.STOPPED, Status.EXITED):
            self.consider_restart()

    async def restart(self) -> None:
        """The back-off is over."""
        async with self.lock:
            timer, self.restart_timer = self.restart_timer, None
            if timer is None or self.is_gone or self.peers.jobs.closing or self.is_alive:
                return
            try:
                await self.know()
                if not self.is_alive:
                    await self._start(by_hand=False)
            except UnavailableError as error:
                if not self.waits_for_runtime:
                    log.warning(
                        "container %s: automatic start waits for containerd: %s", self.id, error.masked
                    )
                self._retry(error)
            except PycmError as error:
                after = self.consider_restart()
                log.warning("container %s: automatic start failed: %s (%s)", self.id, error.masked, after)
            except Exception:  # a bug must not leave the container down for ever
                log.exception("container %s: automatic start failed: a bug (retrying)", self.id)
                self.consider_restart()

    def _retry(self, error: PycmError) -> str:
        self.waits_for_runtime = isinstance(error, UnavailableError)
        return self.consider_restart()

    async def boot(self) -> None:
        """Start what its policy starts with the agent. Every failure is retried: a device may appear later."""
        async with self.lock:
            if self.is_gone or self.peers.jobs.closing or not self.awaits_boot or not self.due_at_boot:
                return
            self.awaits_boot = False
            try:
                await self.know()
                if not self.is_alive:
                    await self._start(by_hand=True)
            except PycmError as error:
                after = self._retry(error)
                log.error("container %s: start with the agent failed: %s (%s)", self.id, error.masked, after)

    def close(self) -> asyncio.Task[None] | None:
        """The agent ends: nothing is restarted or checked. The task of the health checks, which ends."""
        self.cancel_restart()
        health = self._health
        self._end_health()
        return health

    # ── what containerd has ──

    async def know(self) -> None:
        """Compare the record with containerd if that is not done yet. UnavailableError without containerd."""
        if not self.known:
            await self._compare(await find_task(self.peers.runtime, self.id))

    async def reconcile(self, task: Task | None) -> None:
        """Bring the record in line with *task*, what containerd has."""
        async with self.lock:
            if not self.is_gone:
                await self._compare(task)

    async def _compare(self, task: Task | None) -> None:
        await align(self, task)
        self.known = True
        if self.stop_unanswered:
            self.stop_unanswered = False
            self.peers.jobs.spawn(self.shut_down())  # returns at once if there is no task
        if self.waits_for_runtime and self.restart_timer is not None:
            self.begin_back_off()
