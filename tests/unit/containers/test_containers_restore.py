# SPDX-License-Identifier: Apache-2.0
"""What an agent finds that was away: containers that run, have ended, are lost; interrupted operations; the end of an agent."""

import asyncio
from pathlib import Path
from typing import cast

import pytest

from pycm.containers.unit import Unit
from pycm.model import states
from pycm.model.container import (
    Container,
    MountPoint,
    State,
)
from pycm.model.frozen import replace
from pycm.model.states import Status
from pycm.ports import Action, RuntimeConnected, RuntimeLost, Task, TaskOOM
from support.fakes import FakeRuntime, FakeStore
from support.managers import World, configured, described, started, world

# ── the agent was away ──


def running_record(pid: int, policy: str = "no", **changes: object) -> Container:
    state = states.running(State(), pid=pid, started_at="2026-11-23T18:39:26.5Z")
    record = replace(described(policy=policy), state=state, created="2026-11-23T18:39:25Z")
    return replace(record, started_successfully_before=True, **changes)  # type: ignore[arg-type]


async def left_running(policy: str = "no") -> tuple[FakeRuntime, FakeStore]:
    """A runtime and store as an agent leaves them that dies while c1 runs."""
    runtime, store = FakeRuntime(), FakeStore()
    async with world(runtime=runtime, store=store) as w:
        await started(w, policy=policy)
    return runtime, store


async def test_an_agent_that_ends_leaves_containers_running_and_the_next_adopts_them() -> None:
    runtime, store = await left_running()
    before = store.saved["c1"].state
    async with world(runtime=runtime, store=store) as w:
        assert w.state("c1") == before
        assert "c1" in w.logs.attached
        assert w.metrics.opened == {"c1": before.pid}
        assert w.actions == []
        runtime.end("c1", 5)
        await w.until(lambda: w.state("c1").status is Status.EXITED)


async def test_an_end_while_the_agent_was_away_is_found_with_its_code() -> None:
    runtime, store = await left_running()
    runtime.end("c1", 7, quietly=True)
    async with world(runtime=runtime, store=store) as w:
        await w.until(lambda: w.state("c1").status is Status.EXITED)
        assert w.state("c1").exit_code == 7
        assert "c1" in w.logs.finished


async def test_a_lost_task_counts_as_a_failure() -> None:
    async with world(running_record(99, "no")) as w:
        state = w.state("c1")
        assert (state.status, state.exit_code) == (Status.EXITED, 255)
        assert state.error
        assert w.actions == ["exited"]


async def test_manager_logs_what_it_knows_of_a_lost_task(caplog: pytest.LogCaptureFixture) -> None:
    text = (
        "container c1: its task (pid {}) disappeared while {} was away: exit code unknown (recorded as 255)"
    )
    async with world(running_record(99, "no")):
        assert caplog.messages == [text.format(99, "the agent")]
    caplog.clear()
    async with world() as w:
        pid = (await started(w)).pid
        w.runtime.emit(RuntimeLost("gone"))
        w.runtime.live.clear()
        w.runtime.emit(RuntimeConnected(()))
        await w.until(lambda: w.state("c1").status is Status.EXITED)
        assert caplog.messages[1:] == [text.format(pid, "containerd")]


async def test_a_lost_task_is_started_again_by_its_policy() -> None:
    async with world(running_record(99, "on-failure")) as w:
        await w.until(lambda: w.state("c1").status is Status.RUNNING)


async def test_a_start_with_the_agent_that_this_machine_cannot_do_yet_is_tried_again(tmp_path: Path) -> None:
    source = tmp_path / "late"
    record = running_record(99, "always", mount_points=(MountPoint(source=str(source), destination="/m"),))
    async with world(record) as w:
        await w.until(lambda: w.actions.count("stopped") >= 2)
        assert "does not exist" in w.state("c1").error
        source.mkdir()
        await w.until(lambda: w.state("c1").status is Status.RUNNING)


async def test_a_task_that_the_record_does_not_know_is_adopted() -> None:
    runtime, store = await left_running()
    store.saved["c1"] = replace(store.saved["c1"], state=states.created(State()))
    async with world(runtime=runtime, store=store) as w:
        await w.until(lambda: w.state("c1").status is Status.RUNNING)
        assert w.state("c1").pid == runtime.live["c1"].pid


async def test_a_stranger_is_left_alone() -> None:
    runtime, _ = await left_running()
    async with world(runtime=runtime) as w:
        assert "c1" in runtime.live
        assert w.manager.list() == []


@pytest.mark.parametrize(
    ("policy", "manual", "before", "starts"),
    [
        ("unless-stopped", True, True, False),
        ("unless-stopped", False, True, True),
        ("always", True, True, True),
        ("always", False, False, False),
        ("no", False, True, False),
    ],
)
async def test_what_starts_at_boot(policy: str, manual: bool, before: bool, starts: bool) -> None:
    state = states.stopped(State(), exit_code=143, finished_at="2026-11-23T18:39:26Z")
    record = replace(
        described(policy=policy), state=state, manually_stopped=manual, started_successfully_before=before
    )
    async with world(record, runtime=FakeRuntime()) as w:
        await w.until(lambda: w.manager._jobs.idle)
        assert (w.state("c1").status is Status.RUNNING) == starts
        if starts:
            container = w.manager.get("c1")
            assert container is not None
            assert not container.manually_stopped


@pytest.mark.parametrize("status", [Status.DEAD, Status.CREATING])
async def test_an_interrupted_creation_or_removal_is_undone(status: Status) -> None:
    runtime = FakeRuntime()
    runtime.snapshots.add("c1")
    record = replace(described(), state=states.enter(State(), status))
    async with world(record, runtime=runtime) as w:
        await w.until(lambda: not w.store.saved)
        assert not runtime.snapshots
        assert w.manager.list() == []
        await w.manager.create(described())


async def test_without_live_restore_all_are_stopped_but_not_by_hand() -> None:
    runtime, store = FakeRuntime(), FakeStore()
    async with world(runtime=runtime, store=store, live_restore=False, stop_timeout=1.0) as w:
        for n in range(20):
            await started(w, f"c{n}")
        runtime.stubborn.add("c3")
    assert not runtime.live
    assert {c.state.status for c in store.saved.values()} == {Status.STOPPED}
    assert not any(c.manually_stopped for c in store.saved.values())
    assert store.saved["c3"].state.exit_code == 137


async def test_after_containerd_returns_an_exit_in_between_is_found() -> None:
    async with world() as w:
        await started(w)
        w.runtime.end("c1", 9, quietly=True)
        w.runtime.emit(RuntimeConnected(tuple(w.runtime.live.values())))
        await w.until(lambda: w.state("c1").status is Status.EXITED)
        assert w.state("c1").exit_code == 9


async def test_containerd_that_is_away_at_start_is_waited_for_and_the_store_is_known_meanwhile() -> None:
    runtime = FakeRuntime()
    runtime.available = False
    made = World(runtime, FakeStore([running_record(99)]), configured())
    await made.manager.load()
    task = asyncio.create_task(made.manager.run())
    await made.until(lambda: ("events", "") in runtime.calls)
    assert [c.id for c in made.manager.list()] == ["c1"]
    runtime.available = True
    await made.until(lambda: made.manager._boot_begun)
    await made.manager.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_events_carry_the_container_as_it_was_then() -> None:
    async def run() -> None:
        async with world() as w:
            await started(w)
            assert [e.container.state.status for e in w.events] == [Status.CREATED, Status.RUNNING]
            assert w.events[0].action is Action.CREATED

    asyncio.run(run())


async def test_manager_follows_containerd_after_unexpected_errors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the handling of an event, and in the reconciling of one of two containers."""
    runtime, store = await left_running("unless-stopped")
    runtime.end("c1", 3, quietly=True)
    store.saved["c0"] = replace(running_record(99), id="c0", host_name="c0", name="c0")
    reconcile = Unit.reconcile

    async def buggy(self: Unit, task: Task | None) -> None:
        if self.id == "c0":
            raise TypeError("a bug")
        await reconcile(self, task)

    monkeypatch.setattr(Unit, "reconcile", buggy)
    async with world(runtime=runtime, store=store) as w:
        await w.until(lambda: "running" in w.actions)
        runtime.emit(TaskOOM(cast("str", ["unhashable"])))
        runtime.emit(RuntimeLost("gone"))
        await w.until(lambda: "containerd unavailable" in caplog.text)
    assert [r.getMessage().partition(":")[0] for r in caplog.records if r.exc_info] == [
        "container c0",
        "containerd event TaskOOM(id=['unhashable'])",
    ]
