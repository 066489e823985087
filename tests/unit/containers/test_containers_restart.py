# SPDX-License-Identifier: Apache-2.0
"""What a user may do while a container waits for its restart: stop, remove, update, rename and start it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from pycm.errors import ConflictError, OperationFailedError, UnavailableError
from pycm.model import states
from pycm.model.container import Container, RestartPolicy, State, UpdateOptions
from pycm.model.frozen import replace
from pycm.model.states import Status
from pycm.ports import RuntimeConnected
from support.fakes import FakeRuntime, FakeStore
from support.managers import World, configured, described, started, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pycm.containers.unit import Unit

AWAY = UnavailableError("containerd at /c.sock does not answer")
POLICIES = ["always", "unless-stopped", "on-failure"]


def unit_of(w: World) -> Unit:
    return w.manager._catalog.unit("c1")


async def pausing(w: World, policy: str = "unless-stopped", code: int = 3) -> Unit:
    """c1 has exited and its restart is hours away."""
    await started(w, policy=policy)
    unit = unit_of(w)
    host = unit.container.host_config
    assert host is not None
    assert host.restart_policy is not None
    slow = replace(host.restart_policy, retry_timeout=10**18)
    unit.container = replace(unit.container, host_config=replace(host, restart_policy=slow))
    unit.restart_delay = 10_000.0
    w.runtime.end("c1", code)
    await w.until(lambda: unit.restart_timer is not None)
    return unit


def starts(w: World) -> int:
    return w.runtime.calls.count(("start", "c1"))


async def restart_is_over(w: World, unit: Unit) -> None:
    """Fail if anything is left that could start the container."""
    assert unit.restart_timer is None
    await w.until(lambda: w.manager._jobs.idle)
    assert starts(w) == 1


# ── what is written ──


@pytest.mark.parametrize("code", [0, 1])
async def test_restart_writes_the_end_and_the_new_run_and_nothing_else(code: int) -> None:
    async with world() as w:
        await started(w, policy="always")
        before = w.store.writes
        w.runtime.end("c1", code)
        await w.until(lambda: w.actions.count("running") == 2 and w.manager._jobs.idle)
        assert w.store.writes - before == 2
        assert w.store.saved["c1"] == w.manager.get("c1")
        assert w.store.saved["c1"].restart_count == 1


async def test_start_by_hand_writes_the_new_run_and_nothing_else() -> None:
    async with world() as w:
        await started(w, policy="unless-stopped")
        await w.manager.stop("c1")
        before = w.store.writes
        await w.manager.start("c1")
        assert w.store.writes - before == 1
        assert w.store.saved["c1"] == w.manager.get("c1")
        assert not w.store.saved["c1"].manually_stopped


async def test_start_that_a_killed_agent_did_not_record_is_no_longer_stopped_by_hand() -> None:
    runtime, store = FakeRuntime(), FakeStore()
    async with world(runtime=runtime, store=store) as w:
        await started(w, policy="unless-stopped")
        await w.manager.stop("c1")
        before = store.saved["c1"]
        await w.manager.start("c1")
    store.saved["c1"] = before
    async with world(runtime=runtime, store=store) as w:
        await w.until(lambda: w.state("c1").status is Status.RUNNING)
        assert not store.saved["c1"].manually_stopped


async def test_restart_for_which_containerd_is_away_writes_once_and_does_not_count() -> None:
    async with world() as w:
        unit = await waiting_for_containerd(w, runs=False)
        assert w.store.writes == 5, "creation twice, start, end, failed start"
        assert unit.container.restart_count == w.store.saved["c1"].restart_count == 0


async def test_restart_that_fails_writes_its_failure_with_the_count() -> None:
    async with world() as w:
        await started(w, policy="always")
        w.runtime.fail["start"] = OperationFailedError("not now")
        before = w.store.writes
        w.runtime.end("c1", 1)
        await w.until(lambda: w.actions.count("stopped") == 1)
        await w.until(lambda: w.store.writes - before == 2)
        assert w.store.saved["c1"].restart_count == 1
        assert w.store.saved["c1"].state.status is Status.STOPPED


async def test_run_that_a_killed_agent_did_not_record_is_adopted_with_its_network() -> None:
    runtime, store = FakeRuntime(), FakeStore()
    async with world(runtime=runtime, store=store) as w:
        await started(w, policy="always")
    state = states.exited(State(), exit_code=1, finished_at="2026-11-23T18:39:26.5Z")
    store.saved["c1"] = replace(store.saved["c1"], state=state, network_settings=None)
    async with world(runtime=runtime, store=store) as w:
        await w.until(lambda: w.state("c1").status is Status.RUNNING)
        adopted = w.manager.get("c1")
        assert adopted is not None
        assert adopted.network_settings is not None
        assert adopted.network_settings.sandbox_key == "found"


# ── stop ──


@pytest.mark.parametrize("policy", POLICIES)
async def test_stop_in_the_restart_pause_cancels_the_restart_and_counts_as_a_stop_by_hand(
    policy: str,
) -> None:
    async with world() as w:
        unit = await pausing(w, policy)
        before = w.state("c1")
        await w.manager.stop("c1")
        container = w.manager.get("c1")
        assert container is not None
        assert container.manually_stopped
        assert container.state == replace(before, status=Status.STOPPED, exited=False)
        assert (container.state.exit_code, container.state.finished_at) == (3, before.finished_at)
        assert w.store.saved["c1"] == container
        assert w.actions == ["created", "running", "exited", "stopped"]
        assert ("signal", "c1") not in w.runtime.calls
        await restart_is_over(w, unit)


async def test_stop_in_the_pause_after_a_failed_start_keeps_its_error() -> None:
    async with world() as w:
        await started(w, policy="always")
        w.runtime.fail["start"] = OperationFailedError("not now")
        w.runtime.end("c1", 1)
        await w.until(lambda: "stopped" in w.actions and unit_of(w).restart_timer is not None)
        await w.manager.stop("c1")
        assert unit_of(w).restart_timer is None
        assert "not now" in w.state("c1").error


async def test_second_stop_in_the_pause_is_refused_like_that_of_a_stopped_container() -> None:
    async with world() as w:
        await pausing(w)
        await w.manager.stop("c1")
        with pytest.raises(ConflictError, match=r"cannot perform stop operation .* with state: Stopped"):
            await w.manager.stop("c1")


@pytest.mark.parametrize(("policy", "code"), [("no", 1), ("on-failure", 0)])
async def test_stop_of_an_exited_container_without_a_pending_restart_is_refused(
    policy: str, code: int
) -> None:
    async with world() as w:
        await started(w, policy=policy)
        w.runtime.end("c1", code)
        await w.until(lambda: w.state("c1").status is Status.EXITED and w.manager._jobs.idle)
        with pytest.raises(ConflictError, match=r"cannot perform stop operation .* with state: Exited"):
            await w.manager.stop("c1")
        container = w.manager.get("c1")
        assert container is not None
        assert not container.manually_stopped


async def test_stop_while_the_restart_timer_has_fired_and_waits_for_the_lock_wins() -> None:
    async with world() as w:
        unit = await pausing(w)
        async with unit.lock:
            stop = asyncio.create_task(w.manager.stop("c1"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # it is the first to wait for the lock
            restart = asyncio.create_task(unit.restart())
            await asyncio.sleep(0)
        await asyncio.gather(stop, restart)
        await restart_is_over(w, unit)


async def test_stop_in_the_pause_is_recorded_later_when_the_disk_is_full() -> None:
    async with world() as w:
        unit = await pausing(w)
        w.store.full = True
        await w.manager.stop("c1")
        await restart_is_over(w, unit)
        w.store.full = False
        await w.manager._catalog.save_refused()
        assert w.store.saved["c1"].manually_stopped


async def test_container_stopped_in_the_pause_starts_by_hand_as_any_other() -> None:
    async with world() as w:
        unit = await pausing(w)
        await w.manager.stop("c1")
        await w.manager.start("c1")
        assert w.state("c1").status is Status.RUNNING
        assert not unit.container.manually_stopped


# ── containerd is away ──


async def waiting_for_containerd(w: World, *, runs: bool) -> Unit:
    """The restart of c1 has failed because containerd went away; *runs*: though the task was made."""
    await started(w, policy="always")
    real = w.runtime.start

    async def start(request: object, created: object = None) -> int:
        if runs:
            await real(request)  # type: ignore[arg-type]
        w.runtime.available = False
        raise AWAY

    w.runtime.start = start  # type: ignore[method-assign]
    w.runtime.end("c1", 1)
    unit = unit_of(w)
    await w.until(lambda: unit.waits_for_runtime and unit.restart_timer is not None)
    unit.cancel_restart()  # the next attempt is hours away
    unit.restart_timer = asyncio.get_running_loop().call_later(10_000, lambda: None)
    w.runtime.start = real  # type: ignore[method-assign]
    return unit


async def back(w: World) -> None:
    w.runtime.available = True
    w.runtime.emit(RuntimeConnected(tuple(w.runtime.live.values())))
    await w.until(lambda: w.runtime._events.empty() and w.manager._jobs.idle)


async def test_stop_cancels_a_restart_that_waits_for_containerd() -> None:
    async with world() as w:
        unit = await waiting_for_containerd(w, runs=False)
        await w.manager.stop("c1")
        assert unit.restart_timer is None
        before = starts(w)
        await back(w)
        assert (w.state("c1").status, starts(w)) == (Status.STOPPED, before)
        assert w.store.saved["c1"].manually_stopped


async def test_task_that_an_unanswered_start_has_left_is_ended_after_a_stop_meanwhile() -> None:
    async with world() as w:
        await waiting_for_containerd(w, runs=True)
        await w.manager.stop("c1")
        await back(w)
        await w.until(lambda: w.state("c1").status is Status.STOPPED)
        assert not w.runtime.live
        container = w.manager.get("c1")
        assert container is not None
        assert container.manually_stopped
        assert (container.state.exit_code, unit_of(w).restart_timer) == (143, None)


async def test_without_a_stop_the_task_of_an_unanswered_start_is_adopted() -> None:
    async with world() as w:
        await waiting_for_containerd(w, runs=True)
        await back(w)
        assert w.state("c1").status is Status.RUNNING
        assert ("signal", "c1") not in w.runtime.calls


# ── the agent starts ──


def ended_record(name: str, policy: str = "always") -> Container:
    state = states.exited(State(), exit_code=1, finished_at="2026-11-23T18:39:26.5Z")
    record = replace(described(name, policy), state=state, started_successfully_before=True)
    return replace(record, host_name=f"{name}-host", created="2026-11-23T18:39:25Z")


def consumer_record(policy: str) -> Container:
    record = ended_record("c1", policy)
    assert record.host_config is not None
    hosts = ("x:container_provider-host",)
    return replace(record, host_config=replace(record.host_config, extra_hosts=hosts))


@asynccontextmanager
async def beginning(*records: Container, runtime: FakeRuntime) -> AsyncIterator[World]:
    """An agent that has read its records and is on its way."""
    w = World(runtime, FakeStore(records), configured(stop_timeout=0.2))
    await w.manager.load()
    task = asyncio.create_task(w.manager.run())
    try:
        yield w
    finally:
        await w.manager.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("policy", POLICIES)
async def test_stop_of_a_container_that_waits_for_its_provider_at_boot_cancels_its_start(policy: str) -> None:
    runtime, gate = FakeRuntime(), asyncio.Event()
    real = runtime.start

    async def start(request: object, created: object = None) -> int:
        await gate.wait()
        return await real(request)  # type: ignore[arg-type]

    runtime.start = start  # type: ignore[method-assign]
    records = (ended_record("provider"), consumer_record(policy))
    async with beginning(*records, runtime=runtime) as w:
        await w.until(lambda: w.manager._boot_begun and unit_of(w).known)
        await w.manager.stop("c1")
        gate.set()
        await w.until(lambda: w.state("provider").status is Status.RUNNING and w.manager._jobs.idle)
        assert (w.state("c1").status, starts(w)) == (Status.STOPPED, 0)
        assert w.store.saved["c1"].manually_stopped


@pytest.mark.parametrize("policy", POLICIES)
async def test_stop_before_containerd_has_answered_cancels_the_start_with_the_agent(policy: str) -> None:
    runtime = FakeRuntime()
    runtime.available = False
    async with beginning(ended_record("c1", policy), runtime=runtime) as w:
        await w.manager.stop("c1")
        assert w.state("c1").status is Status.STOPPED
        runtime.available = True
        await w.until(lambda: w.manager._boot_begun and w.manager._jobs.idle)
        assert (w.state("c1").status, starts(w)) == (Status.STOPPED, 0)


async def test_stop_before_containerd_has_answered_is_refused_where_nothing_would_start() -> None:
    runtime = FakeRuntime()
    runtime.available = False
    async with beginning(ended_record("c1", "no"), runtime=runtime) as w:
        with pytest.raises(UnavailableError):
            await w.manager.stop("c1")
        assert not w.store.saved["c1"].manually_stopped


# ── other operations ──


async def test_remove_in_the_pause_is_final() -> None:
    async with world() as w:
        unit = await pausing(w)
        await w.manager.remove("c1")
        await restart_is_over(w, unit)
        assert (w.manager.list(), w.store.saved) == ([], {})


async def test_remove_that_fails_in_the_pause_leaves_the_restart_pending() -> None:
    async with world() as w:
        unit = await pausing(w)
        w.runtime.fail["remove"] = OperationFailedError("busy")
        with pytest.raises(OperationFailedError):
            await w.manager.remove("c1")
        assert unit.restart_timer is not None


async def test_remove_that_fails_does_not_start_what_was_not_to_be_started() -> None:
    async with world() as w:
        await started(w, policy="unless-stopped")
        await w.manager.stop("c1")
        w.runtime.fail["remove"] = OperationFailedError("busy")
        with pytest.raises(OperationFailedError):
            await w.manager.remove("c1")
        await restart_is_over(w, unit_of(w))


async def test_update_of_the_policy_in_the_pause_applies_at_once() -> None:
    async with world() as w:
        unit = await pausing(w, "always")
        await w.manager.update("c1", UpdateOptions(restart_policy=RestartPolicy(type="no")))
        await restart_is_over(w, unit)
        await w.manager.update("c1", UpdateOptions(restart_policy=RestartPolicy(type="unless-stopped")))
        assert unit.restart_delay == pytest.approx(0.1), "the back-off begins again"
        await w.until(lambda: w.state("c1").status is Status.RUNNING)


async def test_rename_in_the_pause_leaves_the_restart_pending() -> None:
    async with world() as w:
        unit = await pausing(w)
        await w.manager.rename("c1", "other")
        assert unit.restart_timer is not None
        await unit.restart()
        container = w.manager.get("c1")
        assert container is not None
        assert (container.name, container.state.status) == ("other", Status.RUNNING)


async def test_start_in_the_pause_starts_once() -> None:
    async with world() as w:
        unit = await pausing(w)
        await w.manager.start("c1")
        assert (unit.restart_timer, unit.container.restart_count, starts(w)) == (None, 0, 2)


@pytest.mark.parametrize("error", [OperationFailedError("not now"), AWAY])
async def test_start_by_hand_that_fails_in_the_pause_leaves_the_restart_pending(error: Exception) -> None:
    async with world() as w:
        unit = await pausing(w)
        w.runtime.fail["start"] = error
        with pytest.raises(type(error)):
            await w.manager.start("c1")
        assert unit.restart_timer is not None
        assert unit.waits_for_runtime is (error is AWAY)


async def test_start_by_hand_that_fails_without_a_pending_restart_is_not_repeated() -> None:
    async with world() as w:
        await w.manager.create(described(policy="always"))
        w.runtime.fail["start"] = OperationFailedError("not now")
        with pytest.raises(OperationFailedError):
            await w.manager.start("c1")
        await restart_is_over(w, unit_of(w))
