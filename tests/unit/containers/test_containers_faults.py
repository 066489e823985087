# SPDX-License-Identifier: Apache-2.0
"""The manager while something fails: containerd, the disk, the clock, a caller at the wrong moment, the agent's own end."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from pycm.containers import catalog
from pycm.containers.unit import Unit
from pycm.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    OperationFailedError,
    UnavailableError,
)
from pycm.model import states
from pycm.model.container import (
    Container,
    MountPoint,
    Resources,
    State,
    StopOptions,
    UpdateOptions,
)
from pycm.model.frozen import replace
from pycm.model.states import Status
from pycm.ports import RuntimeConnected, RuntimeLost, Task, TaskIO, TaskStatus
from support.fakes import FakeRuntime, FakeStore
from support.managers import World, configured, described, started, world

AWAY = UnavailableError("containerd at /c.sock does not answer")


def running_record(pid: int = 99, policy: str = "no") -> Container:
    state = states.running(State(), pid=pid, started_at="2026-11-23T18:39:26.5Z")
    return replace(described(policy=policy), state=state, started_successfully_before=True)


def ended_record(policy: str) -> Container:
    state = states.exited(State(), exit_code=1, finished_at="2026-11-23T18:39:26.5Z")
    return replace(described(policy=policy), state=state, started_successfully_before=True)


async def left_running(policy: str = "no") -> tuple[FakeRuntime, FakeStore]:
    runtime, store = FakeRuntime(), FakeStore()
    async with world(runtime=runtime, store=store) as w:
        await started(w, policy=policy)
    return runtime, store


# ── containerd is away when the agent starts ──


async def test_a_stop_before_containerd_has_answered_is_refused_and_changes_nothing() -> None:
    runtime, store = await left_running()
    runtime.available = False
    made = World(runtime, store, configured())
    await made.manager.load()
    before = made.manager.get("c1")
    for operation in (made.manager.stop, made.manager.start, made.manager.pause):
        with pytest.raises(UnavailableError):
            await operation("c1")
    assert made.manager.get("c1") == before
    await made.manager.rename("c1", "other")
    await made.manager.close()


async def test_a_stop_before_the_agent_has_looked_reaches_the_running_container() -> None:
    runtime, store = await left_running()
    made = World(runtime, store, configured())
    await made.manager.load()
    task = asyncio.create_task(made.manager.run())
    await made.manager.stop("c1")
    assert made.state("c1").exit_code == 143
    assert not runtime.live
    await made.manager.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_without_live_restore_an_agent_that_never_saw_containerd_claims_no_stop() -> None:
    runtime, store = await left_running()
    runtime.available = False
    made = World(runtime, store, configured(live_restore=False))
    await made.manager.load()
    await made.manager.close()
    assert store.saved["c1"].state.status is Status.RUNNING


async def test_a_create_that_containerd_does_not_answer_leaves_nothing_once_it_is_back() -> None:
    async with world() as w:
        w.runtime.fail = {"prepare": AWAY, "remove": AWAY}
        with pytest.raises(UnavailableError):
            await w.manager.create(described())
        assert "c1" in w.store.saved
        w.runtime.fail = {}
        w.runtime.emit(RuntimeConnected(()))
        await w.until(lambda: not w.store.saved)
        await w.manager.create(described())


async def test_an_id_whose_removal_is_still_to_be_finished_can_be_used_again() -> None:
    record = replace(described(), state=states.enter(State(), Status.DEAD))
    runtime = FakeRuntime()
    runtime.snapshots.add("c1")
    made = World(runtime, FakeStore([record]), configured())
    await made.manager.load()
    await made.manager.create(described())
    task = asyncio.create_task(made.manager.run())
    await made.until(lambda: made.manager._boot_begun)
    assert [c.id for c in made.manager.list()] == ["c1"]
    assert made.store.saved["c1"].state.status is Status.CREATED
    assert runtime.snapshots == {"c1"}
    await made.manager.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_undoing_that_fails_is_done_when_containerd_is_back() -> None:
    runtime = FakeRuntime()
    runtime.fail["remove"] = AWAY
    record = replace(described(), state=states.enter(State(), Status.DEAD))
    async with world(record, runtime=runtime) as w:
        assert w.store.saved
        del runtime.fail["remove"]
        runtime.emit(RuntimeConnected(()))
        await w.until(lambda: not w.store.saved)


async def test_manager_starts_when_a_failing_containerd_recovers(caplog: pytest.LogCaptureFixture) -> None:
    runtime = FakeRuntime()
    runtime.first = RuntimeLost("containerd's Leases.Create failed: no space left on device")
    async with world(runtime=runtime) as w:
        await started(w)
        assert w.manager.reached.is_set()
    assert len([r for r in caplog.records if "no space left" in r.message]) == 1
    assert "containerd is back" not in caplog.text, "it was not there before"


# ── containerd goes and comes back ──


async def test_a_loss_and_a_return_are_told_once_each(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        with caplog.at_level(logging.INFO, "pycm.containers"):
            w.runtime.emit(RuntimeLost("gone"))
            w.runtime.emit(RuntimeConnected(()))
            w.runtime.emit(RuntimeConnected(()))
            await w.until(w.runtime._events.empty)
    told = [record.message for record in caplog.records]
    assert told == [
        "containerd unavailable: gone (reconnecting; containers keep running)",
        "containerd is back",
    ]


async def test_automatic_starts_wait_for_containerd_without_using_up_the_policys_tries() -> None:
    async with world() as w:
        policy = replace(described(policy="on-failure"))
        host = policy.host_config
        assert host is not None
        assert host.restart_policy is not None
        host = replace(host, restart_policy=replace(host.restart_policy, maximum_retry_count=1))
        await w.manager.create(replace(policy, host_config=host))
        await w.manager.start("c1")
        w.runtime.fail["start"] = AWAY
        w.runtime.end("c1", 1)
        await w.until(lambda: w.actions.count("stopped") >= 2)
        del w.runtime.fail["start"]
        unit = w.manager._catalog.unit("c1")
        unit.restart_delay = 1000.0
        await w.until(lambda: unit.restart_timer is not None)
        w.runtime.emit(RuntimeConnected(()))
        await w.until(lambda: w.state("c1").status is Status.RUNNING)
        container = w.manager.get("c1")
        assert container is not None
        assert container.restart_count == 1


async def test_a_start_with_the_agent_that_containerd_spoils_is_tried_again() -> None:
    runtime = FakeRuntime()
    runtime.fail["start"] = AWAY
    async with world(ended_record("unless-stopped"), runtime=runtime) as w:
        await w.until(lambda: "stopped" in w.actions)
        del runtime.fail["start"]
        await w.until(lambda: w.state("c1").status is Status.RUNNING)


async def test_a_container_that_started_though_containerd_did_not_say_so_keeps_its_output_and_is_found() -> (
    None
):
    async with world() as w:
        await w.manager.create(described())
        real = w.runtime.start

        async def start(request: object, created: object = None) -> int:
            await real(request)  # type: ignore[arg-type]
            raise AWAY

        w.runtime.start = start  # type: ignore[method-assign]
        with pytest.raises(UnavailableError):
            await w.manager.start("c1")
        assert "c1" in w.logs.attached
        with pytest.raises(ConflictError, match="already running"):
            await w.manager.start("c1")
        assert w.state("c1").status is Status.RUNNING
        assert "c1" in w.logs.attached
        await w.manager.stop("c1")


async def test_an_exit_that_was_missed_is_found_by_the_stop_that_waits_for_it() -> None:
    async with world(stop_timeout=300) as w:
        await started(w, policy="unless-stopped")
        w.runtime.stubborn.add("c1")
        stop = asyncio.create_task(w.manager.stop("c1"))
        await w.until(lambda: ("signal", "c1") in w.runtime.calls)
        w.runtime.end("c1", 9, quietly=True)
        w.runtime.emit(RuntimeConnected(tuple(w.runtime.live.values())))
        await asyncio.wait_for(stop, 60)
        assert (w.state("c1").status, w.state("c1").exit_code) == (Status.STOPPED, 9)


@pytest.mark.parametrize("stale", [(), "ended", "running"])
async def test_a_list_of_tasks_that_is_older_than_the_record_does_not_count(stale: object) -> None:
    async with world() as w:
        state = await started(w)
        old = Task("c1", state.pid + 1000, TaskStatus.RUNNING, TaskIO())
        if stale == "running":
            await w.manager.stop("c1")
        if stale == "ended":
            old = old._replace(status=TaskStatus.STOPPED)
        before = w.state("c1")
        w.runtime.emit(RuntimeConnected(() if stale == () else (old,)))
        await w.until(lambda: w.runtime._events.empty() and w.manager._jobs.idle)
        assert w.state("c1") == before


async def test_a_task_in_a_state_that_says_nothing_is_left_alone() -> None:
    async with world() as w:
        await w.manager.create(described())
        w.runtime.live["c1"] = Task("c1", 7, TaskStatus.UNKNOWN, TaskIO())
        w.runtime.emit(RuntimeConnected(tuple(w.runtime.live.values())))
        await w.until(lambda: w.runtime._events.empty() and w.manager._jobs.idle)
        assert "c1" in w.runtime.live


async def test_what_a_cut_start_left_of_fifos_goes_when_the_agent_has_looked() -> None:
    async with world(replace(described(), state=states.created(State()))) as w:
        assert w.logs.finished == ["c1"]


# ── the disk ──


async def test_a_full_disk_refuses_neither_stop_nor_removal(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        await started(w)
        w.store.full = True
        await w.manager.stop("c1")
        assert w.state("c1").status is Status.STOPPED
        assert len(caplog.records) == 1, "told once, not for each of its records"
        await w.manager.remove("c1")
        assert w.manager.list() == []
        assert not w.runtime.snapshots
        assert not w.store.saved


async def test_limits_that_cannot_be_recorded_are_taken_back() -> None:
    async with world() as w:
        await started(w, resources=Resources(memory="32M"))
        w.store.full = True
        with pytest.raises(OperationFailedError):
            await w.manager.update("c1", UpdateOptions(resources=Resources(memory="64M")))
        assert [update["memory"]["limit"] for _, update in w.runtime.updates] == [64 << 20, 32 << 20]
        w.store.full = False


async def test_a_record_of_a_removed_container_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as w:
        await started(w)
        w.store.full = True
        w.runtime.end("c1", 0)
        await w.until(lambda: "exited" in w.actions)
        w.store.full = False
        unit = w.manager._catalog.unit("c1")
        async with unit.lock:
            saving = asyncio.create_task(w.manager._catalog.save_refused())
            await asyncio.sleep(0)
            w.manager._catalog.drop(unit)
            w.store.delete("c1")
        await saving
        assert not w.store.saved


async def test_the_agent_ends_though_a_stop_goes_on_and_a_record_is_unwritten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalog, "LAST_SAVE", 0.05)
    async with world() as w:
        await started(w)
        w.store.full = True
        w.runtime.stubborn.add("c1")
        stop = asyncio.create_task(w.manager.stop("c1", StopOptions(timeout=3600)))
        await w.until(lambda: ("signal", "c1") in w.runtime.calls)
        await asyncio.wait_for(w.manager.close(), 60)
        stop.cancel()
        w.runtime.end("c1", 0)


# ── two at once ──


async def test_an_id_is_free_only_when_its_removal_has_deleted_its_record() -> None:
    async with world() as w:
        await w.manager.create(described())
        deleting, go = asyncio.Event(), asyncio.Event()
        loop, real = asyncio.get_running_loop(), w.store.delete

        def delete(container_id: str) -> None:
            loop.call_soon_threadsafe(deleting.set)
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result(5)
            real(container_id)

        w.store.delete = delete  # type: ignore[method-assign]
        removal = asyncio.create_task(w.manager.remove("c1"))
        await deleting.wait()
        with pytest.raises(ConflictError):
            await w.manager.create(described())
        go.set()
        await removal
        await w.manager.create(described())
        assert "c1" in w.store.saved


async def test_an_operation_that_waited_for_a_removal_does_not_touch_the_next_of_that_id() -> None:
    async with world() as w:
        await w.manager.create(described())
        old = w.manager._catalog.unit("c1")
        async with old.lock:
            start = asyncio.create_task(w.manager.start("c1"))
            await asyncio.sleep(0)
            w.manager._catalog.drop(old)
            w.manager._catalog.add(Unit(described(), w.manager._peers))
        with pytest.raises(NotFoundError):
            await start
        assert not w.runtime.live


async def test_thirty_at_once_are_created_started_stopped_and_removed_while_list_answers() -> None:
    ids = [f"c{n}" for n in range(30)]
    async with world() as w:
        await asyncio.gather(*(w.manager.create(described(i)) for i in ids))
        for operation in (w.manager.start, w.manager.stop, w.manager.start):
            await asyncio.gather(*(operation(i) for i in ids), asyncio.sleep(0, w.manager.list()))
        await asyncio.gather(*(w.manager.remove(i, force=True) for i in ids))
        assert w.manager.list() == []
        assert not w.store.saved
        assert not w.runtime.live


# ── clocks ──


async def test_starts_that_fail_long_after_the_last_run_come_at_growing_distances() -> None:
    async with world() as w:
        await started(w, policy="always")
        unit = w.manager._catalog.unit("c1")
        old = replace(unit.container.state, started_at="2020-01-01T00:00:00Z")
        unit.container = replace(unit.container, state=old)
        w.runtime.fail["start"] = OperationFailedError("not now")
        w.runtime.end("c1", 1)
        await w.until(lambda: w.actions.count("stopped") == 2)
        await w.until(lambda: unit.restart_timer is not None)
        assert unit.restart_delay == pytest.approx(0.4)
        w.runtime.fail.clear()


@pytest.mark.parametrize("year", [1970, 2020, 2050])
async def test_a_clock_that_jumps_changes_no_delay(monkeypatch: pytest.MonkeyPatch, year: int) -> None:
    async with world() as w:
        await started(w, policy="always")
        unit = w.manager._catalog.unit("c1")
        unit.restart_delay = 0.2
        monkeypatch.setattr(time, "time_ns", lambda: (year - 1970) * 31_556_952 * 10**9)
        w.runtime.end("c1", 1)
        await w.until(lambda: unit.restart_timer is not None)
        assert unit.restart_delay == pytest.approx(0.4)


async def test_times_of_records_that_make_no_sense_harm_nothing() -> None:
    odd = ("", "9999-99-99T99:99:99Z", "yesterday", "0001-01-01T00:00:00Z")
    records = [
        replace(running_record(policy="always"), id=f"c{n}", created=text) for n, text in enumerate(odd)
    ]
    records = [replace(r, state=replace(r.state, started_at=r.created)) for r in records]
    async with world(*records) as w:
        assert len(w.manager.list()) == len(odd)
        await w.until(lambda: all(c.state.status is Status.RUNNING for c in w.manager.list()))


# ── what cannot be started ──


@pytest.mark.parametrize(
    ("source", "said"),
    [("/not/there", "'/not/there' does not exist"), ("here", "'here' is not an absolute path")],
)
async def test_a_mount_that_cannot_be_is_named(source: str, said: str) -> None:
    """A relative one may be in records of Kanto and of older versions."""
    mount = MountPoint(source=source, destination="/x", propagation_mode="rprivate")
    record = replace(described(), mount_points=(mount,), state=states.created(State()))
    async with world(record) as w:
        with pytest.raises(InvalidInputError, match=said):
            await w.manager.start("c1")
        assert said in w.state("c1").error
        assert not w.runtime.live


# ── the end of the agent ──


async def test_stubborn_containers_are_waited_for_together() -> None:
    async with world(live_restore=False, stop_timeout=3600) as w:
        for n in range(30):
            await started(w, f"c{n}")
        asked: list[tuple[str, int]] = []

        async def signal(container_id: str, number: int, *, everyone: bool = False) -> None:
            asked.append((container_id, number))
            if len(asked) == 30:
                for slow, _ in asked:
                    w.runtime.end(slow, 143)

        w.runtime.signal = signal  # type: ignore[method-assign]
        await asyncio.wait_for(w.manager.close(), 60)
        assert sorted(asked) == sorted((f"c{n}", 15) for n in range(30))
        assert not w.runtime.live


async def test_nothing_is_started_again_once_the_agent_ends() -> None:
    async with world(live_restore=False) as w:
        await started(w, policy="always")
        w.runtime.end("c1", 1)
        await w.manager.close()
        assert w.manager._catalog.unit("c1").restart_timer is None
        assert not w.runtime.live


async def test_starts_with_the_agent_end_with_it() -> None:
    records = [replace(ended_record("always"), id=f"c{n}") for n in range(20)]
    runtime = FakeRuntime()
    real, begun = runtime.start, asyncio.Event()

    async def start(request: object, created: object = None) -> int:
        begun.set()
        await asyncio.sleep(0.05)
        return await real(request)  # type: ignore[arg-type]

    runtime.start = start  # type: ignore[method-assign]
    made = World(runtime, FakeStore(records), configured(live_restore=False, stop_timeout=2))
    await made.manager.load()
    task = asyncio.create_task(made.manager.run())
    await begun.wait()
    await made.manager.close()
    assert not runtime.live
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(("memory", "told"), [("3M", True), ("64M", False)])
async def test_a_start_that_fails_below_what_the_runtime_needs_names_the_memory_limit(
    memory: str, *, told: bool
) -> None:
    """runc, killed while it starts the container, says no more than this."""
    runtime = FakeRuntime()
    runtime.fail["start"] = OperationFailedError("cannot start a stopped process")
    async with world(runtime=runtime) as w:
        container = described()
        assert container.host_config
        limited = replace(container.host_config, resources=Resources(memory=memory))
        await w.manager.create(replace(container, host_config=limited))
        with pytest.raises(OperationFailedError, match="cannot start a stopped process") as caught:
            await w.manager.start(container.id)
        assert (f"the memory limit {memory} may be too low" in str(caught.value)) is told
