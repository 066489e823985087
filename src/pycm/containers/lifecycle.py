# SPDX-License-Identifier: Apache-2.0
"""What happens to one container's task: started, stopped, ended, restarted, found again after the agent was away.

Everything here runs under the entry's lock, except the timer of an automatic restart, which takes it first. Rules are in
`model.states` and `model.restart`; this module carries them out through the ports.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from pycm.containers.health import Health
from pycm.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    OperationFailedError,
    PycmError,
    UnavailableError,
)
from pycm.failpoints import fail_point
from pycm.model import restart, states, units
from pycm.model.container import Container, StopOptions
from pycm.model.frozen import replace
from pycm.model.restart import STARTING, UNHEALTHY, check_of
from pycm.model.states import ALIVE, Operation, Status, check_allowed
from pycm.model.units import DEFAULT_SIGNAL as SIGTERM
from pycm.model.units import exit_text, parse_signal, signal_name
from pycm.ports import Action, Exit, Logs, Metrics, Network, Runtime, Task, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pycm.containers.catalog import Catalog, Entry
    from pycm.containers.launch import Launcher
    from pycm.containers.settings import Settings

SIGKILL = 9
#: Longest time-out a stop may ask for, in seconds.
LONGEST_STOP = 24 * 3600
log = logging.getLogger("pycm.containers")


class Lifecycle:
    def __init__(
        self,
        catalog: Catalog,
        runtime: Runtime,
        logs: Logs,
        metrics: Metrics,
        network: Network,
        launcher: Launcher,
        settings: Settings,
    ) -> None:
        self._catalog = catalog
        self._runtime = runtime
        self._logs = logs
        self._metrics = metrics
        self._network = network
        self._launcher = launcher
        self._settings = settings
        #: Set by the manager: runs a coroutine in a task that close() waits for.
        self.spawn: Callable[[Coroutine[Any, Any, None]], object] = asyncio.ensure_future
        #: The agent ends: nothing is started any more.
        self.closing = False
        self.health = Health(catalog, runtime, logs, self._unhealthy, self._begin)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self.spawn(work)

    # ── start ──

    async def start(self, entry: Entry, *, by_hand: bool) -> None:
        """Start the task. *by_hand*: a user or the boot, which reset the count of automatic restarts."""
        check_allowed(Operation.START, entry.container)
        entry.cancel_restart()
        entry.stop_unanswered = False
        if not by_hand:  # written with what comes of it
            entry.container = replace(entry.container, restart_count=entry.container.restart_count + 1)
        try:
            container = await self._launcher.ready(entry.container)
        except PycmError as error:  # seen in the state too: who created it over MQTT gets no other answer
            await self._failed_start(entry, error)
            raise
        if by_hand:
            entry.restart_delay = 0.0
            container = replace(container, restart_count=0)
        container = replace(container, manually_stopped=False)
        if by_hand:
            await self._catalog.record(entry, container)
            fail_point("containers.start-recorded")
        else:  # two durable writes a restart: its end and its pid. What a kill in between loses, `_adopt` finds
            entry.container = container
        entry.early_exit, entry.out_of_memory = None, False
        try:
            pid, started_at = await self._launcher.launch(container)
        except PycmError as error:
            entry.known = not isinstance(error, UnavailableError)
            await self._failed_start(entry, error)
            raise
        fail_point("containers.start-launched")
        entry.waits_for_runtime = False
        await self._run(entry, pid, started_at)
        how = "started" if by_hand else "restarted"
        which = "" if by_hand else f" (automatic restart {container.restart_count})"
        log.info("container %s: %s: pid %d%s", entry.id, how, pid, which)
        fail_point("containers.start-told")

    async def start_by_hand(self, entry: Entry) -> None:
        """A failure does not take away the automatic restart for which the container was waiting."""
        pending = self.restart_pending(entry)
        try:
            await self.start(entry, by_hand=True)
        except PycmError as error:
            after = self._retry(entry, error) if pending else "not restarted: start by hand"
            if entry.container.state.status not in ALIVE:
                log.info("container %s: failed to start: %s (%s)", entry.id, error.masked, after)
            raise

    async def _failed_start(self, entry: Entry, error: PycmError) -> None:
        before = entry.container.started_successfully_before
        text = f"{error}{states.NOT_STARTED if before else states.NEVER_STARTED}"
        state = states.stopped(entry.container.state, exit_code=0, finished_at=units.now(), error=text)
        stopped = replace(entry.container, state=state, network_settings=None)
        entry.ran_for = 0.0
        await self._catalog.record(entry, stopped, Action.STOPPED)

    async def _run(self, entry: Entry, pid: int, started_at: str) -> None:
        entry.run_begins()
        health = STARTING if check_of(entry.container) else ""
        state = states.running(entry.container.state, pid=pid, started_at=started_at, health=health)
        container = replace(entry.container, state=state, started_successfully_before=True)
        await self._catalog.record(entry, container, Action.RUNNING)
        self.health.begin(entry)
        if entry.early_exit and entry.early_exit[0] == pid:
            self.task_exited(entry, pid, entry.early_exit[1])

    # ── the task ends ──

    def task_exited(self, entry: Entry, pid: int, exit_: Exit) -> None:
        """containerd reports an exit: wake who waits for it, and see to it if nobody does."""
        state = entry.container.state
        if state.status not in ALIVE or state.pid != pid or entry.exit is None:
            entry.early_exit = (pid, exit_)
            return
        if not entry.exit.done():
            entry.exit.set_result(exit_)
            self.spawn(self._self_exit(entry, entry.exit))

    async def _self_exit(self, entry: Entry, exit_: asyncio.Future[Exit]) -> None:
        async with entry.lock:
            if entry.exit is exit_:  # else a stop or remove that held the lock has seen to it
                await self._conclude(entry, exit_.result(), Status.EXITED)

    async def _conclude(
        self, entry: Entry, exit_: Exit, status: Status, error: str = "", cause: str = ""
    ) -> None:
        """Record the end of a run, ask the policy what follows, and log both. *cause*: of *error*, for the log."""
        await self.ended(entry, exit_, status, error)
        event = "stopped by hand" if status is Status.STOPPED else "exited"
        self.log_end(entry, event, exit_, self.consider_restart(entry), cause or error)

    def log_end(self, entry: Entry, event: str, exit_: Exit, after: str, cause: str = "") -> None:
        what = exit_text(exit_.code) + (", OOM kill" if entry.container.state.oom_killed else "")
        log.info("container %s: %s: %s%s (%s)", entry.id, event, what, cause and f": {cause}", after)

    async def ended(self, entry: Entry, exit_: Exit, status: Status, error: str = "") -> None:
        """Record the end of a run as STOPPED or EXITED and release what the run held."""
        self.health.end(entry)
        oom = entry.out_of_memory or self._metrics.oom_kills(entry.id) > 0
        state = entry.container.state
        if status is Status.STOPPED:
            state = states.stopped(state, exit_code=exit_.code, finished_at=exit_.at, error=error)
            action = Action.STOPPED
        else:
            state = states.exited(state, exit_code=exit_.code, finished_at=exit_.at, error=error, oom=oom)
            action = Action.EXITED
        entry.run_ends()
        container = replace(entry.container, state=state, network_settings=None)
        fail_point("containers.end-seen")
        await self._catalog.record(entry, container, action)
        fail_point("containers.end-recorded")
        await self._release(entry)

    async def _release(self, entry: Entry) -> None:
        self._metrics.close(entry.id)
        try:
            await self._runtime.delete_task(entry.id)
        except PycmError as error:
            log.warning("container %s: its ended task is left to the next start: %s", entry.id, error)
        fail_point("containers.end-deleted")
        for release in (self._logs.finish, self._network.disconnect):
            try:
                await release(entry.id)
            except Exception:  # what follows the end, as a restart, does not wait for that
                log.exception("container %s: what its run held could not be released", entry.id)

    # ── stop ──

    async def stop(self, entry: Entry, options: StopOptions | None) -> None:
        """Stop by hand. The wish is stored before the signal, so that an agent that dies here does not bring the container back.

        A full disk does not refuse it: the container to be stopped may be the one that fills it.
        """
        timeout, number = self.stop_values(options)
        try:
            await self.know(entry)
        except UnavailableError:
            if not self.restart_pending(entry):
                raise
            entry.stop_unanswered = True
        if self.restart_pending(entry):
            await self._stop_restart(entry)
            return
        check_allowed(Operation.STOP, entry.container)
        entry.cancel_restart()
        before = entry.container.manually_stopped
        await self._catalog.record(entry, replace(entry.container, manually_stopped=True))
        fail_point("containers.stop-recorded")
        try:
            exit_ = await self.terminate(entry, number, timeout, force=bool(options and options.force))
        except PycmError:
            await self._catalog.record(entry, replace(entry.container, manually_stopped=before))
            raise
        await self._conclude(entry, exit_, Status.STOPPED)

    async def _stop_restart(self, entry: Entry) -> None:
        """Nothing runs: cancel the restart, also that of `always`, and keep what the state says of the last run."""
        entry.cancel_restart()
        entry.waits_for_runtime = False
        state = states.enter(entry.container.state, Status.STOPPED)
        stopped = replace(entry.container, state=state, manually_stopped=True)
        await self._catalog.record(entry, stopped, Action.STOPPED)
        log.info("container %s: stopped by hand: pending restart cancelled", entry.id)

    async def stop_for_good(self, entry: Entry) -> None:
        """As a stop with force that no policy follows: at the agent's end, or for a stop that containerd could not hear."""
        async with entry.lock:
            if self._catalog.find(entry.id) is not entry or entry.container.state.status not in ALIVE:
                return
            try:
                await self.know(entry)
                if entry.exit is not None:
                    exit_ = await self.terminate(entry, int(SIGTERM), self._settings.stop_timeout, force=True)
                    await self.ended(entry, exit_, Status.STOPPED)
                    why = "the agent ends" if self.closing else "stopped by hand"
                    self.log_end(entry, "stopped", exit_, f"not restarted: {why}")
            except PycmError as error:
                log.error("container %s could not be stopped: %s", entry.id, error)

    def stop_values(self, options: StopOptions | None) -> tuple[float, int]:
        options = options or StopOptions()
        if options.timeout < 0:
            raise InvalidInputError(f"the timeout = {options.timeout} shouldn't be negative")
        if options.timeout > LONGEST_STOP:
            raise InvalidInputError(f"the timeout = {options.timeout} is longer than {LONGEST_STOP} seconds")
        return options.timeout or self._settings.stop_timeout, parse_signal(options.signal)

    async def terminate(self, entry: Entry, number: int, timeout: float, *, force: bool) -> Exit:
        """Signal, wait, with *force* kill and wait again; returns the exit. The container's record is not changed."""
        if number != SIGKILL:
            exit_ = await self._signal_and_wait(entry, number, timeout, everyone=False)
            if exit_ is not None:
                return exit_
            if not force:
                raise OperationFailedError(
                    f"could not stop container with ID = {entry.id} with {signal_name(number)}"
                )
        exit_ = await self._signal_and_wait(entry, SIGKILL, timeout, everyone=True)
        if exit_ is None:
            raise OperationFailedError(f"could not stop container with ID = {entry.id} with SIGKILL")
        return exit_

    async def _signal_and_wait(
        self, entry: Entry, number: int, timeout: float, *, everyone: bool
    ) -> Exit | None:
        if entry.exit is None:
            return Exit(restart.LOST_EXIT_CODE, units.now())
        try:
            await self._runtime.signal(entry.id, number, everyone=everyone)
        except NotFoundError:
            pass  # it ended by itself just now: its exit is on the way
        else:
            await self._thaw(entry)
        fail_point("containers.stop-signalled")
        done, _ = await asyncio.wait({entry.exit}, timeout=timeout)
        return entry.exit.result() if done else None

    async def _thaw(self, entry: Entry) -> None:
        """A frozen process gets its signal only when it runs again."""
        if entry.container.state.status is Status.PAUSED:
            try:
                await self._runtime.resume(entry.id)
            except PycmError as error:
                log.debug("container %s: resume before stop: %s", entry.id, error)
            else:
                state = states.enter(entry.container.state, Status.RUNNING)
                await self._catalog.record(entry, replace(entry.container, state=state), Action.RESUMED)

    async def _unhealthy(self, entry: Entry, reason: str) -> None:
        """End a container that its health check has given up and that its policy starts again: as if it had failed by itself."""
        async with entry.lock:
            state = entry.container.state
            gone = self._catalog.find(entry.id) is not entry or state.health != UNHEALTHY
            if gone or self.closing or state.status not in ALIVE:
                return
            log.warning("container %s: unhealthy: %s (restarting it)", entry.id, reason)
            try:
                exit_ = await self.terminate(entry, parse_signal(""), self._settings.stop_timeout, force=True)
            except PycmError as error:
                log.error("container %s: unhealthy, and cannot be stopped: %s", entry.id, error)
                self.health.begin(entry)
                return
            why = f"unhealthy: {state.health_error or reason}"
            await self._conclude(entry, exit_, Status.EXITED, why, "unhealthy")

    # ── automatic restart ──

    def restart_pending(self, entry: Entry) -> bool:
        """Does the container, which does not run, wait for its back-off, for containerd or for its turn at the agent's start?"""
        due = entry.awaits_boot and self.due_at_boot(entry.container)
        return entry.container.state.status not in ALIVE and (entry.restart_timer is not None or due)

    def _retry(self, entry: Entry, error: PycmError) -> str:
        entry.waits_for_runtime = isinstance(error, UnavailableError)
        return self.consider_restart(entry)

    def consider_restart(self, entry: Entry) -> str:
        """Ask the policy, and start the container again after its delay. Return what follows, for the log."""
        container = entry.container
        if self.closing:
            return "not restarted: the agent ends"
        if not self._wanted(container):
            return f"not restarted: {restart.refusal(*restart.question(container))}"
        if self.restart_pending(entry):
            return "restart pending"
        assert container.host_config is not None
        assert container.host_config.restart_policy is not None
        delay = restart.next_delay(container.host_config.restart_policy, entry.restart_delay, entry.ran_for)
        entry.restart_delay = delay
        loop = asyncio.get_running_loop()
        entry.restart_timer = loop.call_later(delay, lambda: self.spawn(self._restart(entry)))
        return f"restart in {delay:g} s"

    def _wanted(self, container: Container) -> bool:
        return restart.wants_restart(*restart.question(container))

    async def _restart(self, entry: Entry) -> None:
        async with entry.lock:
            timer, entry.restart_timer = entry.restart_timer, None
            gone = self._catalog.find(entry.id) is not entry
            if timer is None or gone or self.closing or entry.container.state.status in ALIVE:
                return
            try:
                await self.know(entry)
                if entry.container.state.status in ALIVE:
                    return
                await self.start(entry, by_hand=False)
            except PycmError as error:
                await self._failed_restart(entry, error)
            except Exception:  # a bug must not leave the container down for ever
                log.exception("container %s: a bug in its automatic start (retrying)", entry.id)
                self.consider_restart(entry)

    async def _failed_restart(self, entry: Entry, error: PycmError) -> None:
        """A try for which containerd was away does not count among those that a policy allows, and is repeated at its return."""
        if isinstance(error, UnavailableError):
            if not entry.waits_for_runtime:
                log.warning("container %s: automatic start waits for containerd: %s", entry.id, error.masked)
            entry.waits_for_runtime = True
            if entry.container.restart_count:
                fewer = replace(entry.container, restart_count=entry.container.restart_count - 1)
                await self._catalog.record(entry, fewer)
            self.consider_restart(entry)
            return
        after = self.consider_restart(entry)
        log.warning("container %s: automatic start failed: %s (%s)", entry.id, error.masked, after)

    async def boot_start(self, entry: Entry) -> None:
        """Start what its policy starts with the agent. A device or mount may come later: whatever fails is tried again."""
        if self.closing or not entry.awaits_boot or not self.due_at_boot(entry.container):
            return
        entry.awaits_boot = False
        try:
            await self.know(entry)
            if entry.container.state.status not in ALIVE:
                await self.start(entry, by_hand=True)
        except PycmError as error:
            after = self._retry(entry, error)
            log.error("container %s: start with the agent failed: %s (%s)", entry.id, error.masked, after)

    def due_at_boot(self, container: Container) -> bool:
        """Does the container's policy start it when the agent starts and finds it not running?"""
        status = container.state.status
        if status in ALIVE or status in (Status.DEAD, Status.CREATING):
            return False
        return container.started_successfully_before and self._wanted(container)

    # ── found again ──

    async def know(self, entry: Entry) -> None:
        """Before an operation on a container whose record may not be true: ask containerd. UnavailableError while it is away."""
        if not entry.known:
            await self.reconcile(entry, await self._task(entry))

    async def _task(self, entry: Entry) -> Task | None:
        return next((task for task in await self._runtime.tasks() if task.id == entry.id), None)

    async def reconcile(self, entry: Entry, task: Task | None) -> None:
        """Bring the record in line with what containerd has, after a start of the agent or a loss of containerd.

        *task* may be of a list that is older than an operation which has ended since: where it contradicts the record, it is asked
        for again.
        """
        if not entry.agrees(task):
            task = await self._task(entry)
        await self._align(entry, task)
        entry.known = True
        if entry.stop_unanswered:
            entry.stop_unanswered = False
            self.spawn(self.stop_for_good(entry))  # returns at once if there is no task
        if entry.waits_for_runtime and entry.restart_timer is not None:
            entry.cancel_restart()
            entry.restart_delay = 0.0
            self.consider_restart(entry)

    async def _align(self, entry: Entry, task: Task | None) -> None:
        alive = entry.container.state.status in ALIVE
        if task is None:
            if alive:
                await self._lost(entry)
            else:  # what a start or an end left that was cut short
                await self._logs.finish(entry.id)
                await self._network.disconnect(entry.id)
        elif task.status is TaskStatus.STOPPED:
            await self._ended_meanwhile(entry, task, alive=alive)
        elif task.status in (TaskStatus.RUNNING, TaskStatus.PAUSED):
            await self._adopt(entry, task)
        elif task.status is TaskStatus.CREATED and not alive:  # a start that a dead agent did not finish
            await self._discard(entry)

    async def _lost(self, entry: Entry) -> None:
        since = "while containerd was away" if entry.exit is not None else "while the agent was away"
        text = "container %s: its task (pid %d) disappeared %s: exit code unknown (recorded as %d)"
        log.warning(text, entry.id, entry.container.state.pid, since, restart.LOST_EXIT_CODE)
        error = "the task was lost while the agent did not watch it"
        await self._conclude(entry, Exit(restart.LOST_EXIT_CODE, units.now()), Status.EXITED, error)

    async def _ended_meanwhile(self, entry: Entry, task: Task, *, alive: bool) -> None:
        if not alive:
            await self._release(entry)
            return
        if entry.exit is None:  # collect the output that waits in the FIFOs
            self._attach(entry, task)
        status = Status.STOPPED if entry.container.manually_stopped else Status.EXITED
        await self._conclude(entry, task.exit or Exit(restart.LOST_EXIT_CODE, units.now()), status)

    def _attach(self, entry: Entry, task: Task) -> None:
        self._logs.attach(entry.id, task.io, entry.container.log_config)

    async def _adopt(self, entry: Entry, task: Task) -> None:
        state = entry.container.state
        if entry.exit is not None and state.pid == task.pid:
            return  # watched all the time
        self._attach(entry, task)
        if state.status not in ALIVE or state.pid != task.pid:
            log.warning("container %s: runs as pid %d unknown to its record; adopted", entry.id, task.pid)
            self._metrics.open(entry.id, task.pid)
            entry.container = self._network.found(entry.container)
            await self._run(entry, task.pid, units.now())
        else:
            self._metrics.open(entry.id, task.pid)
            entry.run_begins()
            self.health.begin(entry)
        await self._align_pause(entry, task)

    async def _align_pause(self, entry: Entry, task: Task) -> None:
        actual = Status.PAUSED if task.status is TaskStatus.PAUSED else Status.RUNNING
        if entry.container.state.status is not actual:
            container = replace(entry.container, state=states.enter(entry.container.state, actual))
            await self._catalog.record(
                entry, container, Action.PAUSED if actual is Status.PAUSED else Action.RESUMED
            )

    async def _discard(self, entry: Entry) -> None:
        try:
            await self._runtime.signal(entry.id, SIGKILL, everyone=True)
        except (NotFoundError, ConflictError):
            pass
        await self._release(entry)
