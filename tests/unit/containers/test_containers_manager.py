# SPDX-License-Identifier: Apache-2.0
"""The manager with a faked containerd: every operation and every kind of end."""

import asyncio

import pytest

from pycm.containers.launch import PARALLEL
from pycm.errors import ConflictError, InvalidInputError, NotFoundError, OperationFailedError
from pycm.model import units
from pycm.model.container import (
    Container,
    DecryptConfig,
    Image,
    Resources,
    RestartPolicy,
    State,
    StopOptions,
    UpdateOptions,
)
from pycm.model.frozen import replace
from pycm.model.states import Status
from pycm.ports import Event, TaskOOM, TaskStatus
from support.fakes import IMAGE, FakeRuntime
from support.managers import described, started, world


async def test_create_fills_stores_and_tells() -> None:
    async with world() as w:
        made = await w.manager.create(described())
        assert made.state.status is Status.CREATED
        assert made.name == "c1"
        assert w.manager.list() == [made]
        assert w.store.saved["c1"] == made
        assert w.runtime.snapshots == {"c1"}
        assert w.actions == ["created"]


async def test_what_a_client_says_of_the_state_of_a_new_container_is_ignored() -> None:
    lying = replace(
        described(), state=State(pid=1, running=True, status=Status.RUNNING), restart_count=7, created="x"
    )
    async with world() as w:
        made = await w.manager.create(lying)
        assert (made.state.status, made.state.pid, made.restart_count) == (Status.CREATED, -1, 0)


async def test_an_id_is_taken_once_even_by_two_creates_at_the_same_time() -> None:
    async with world() as w:
        results = await asyncio.gather(
            w.manager.create(described()), w.manager.create(described()), return_exceptions=True
        )
        errors = [r for r in results if isinstance(r, ConflictError)]
        assert [str(e) for e in errors] == ["container with id = c1 already exists"]
        assert w.actions == ["created"]


@pytest.mark.parametrize("bad", ["../../x", "a/b", "x" * 100])
async def test_an_id_is_checked_before_anything_is_written(bad: str) -> None:
    async with world() as w:
        with pytest.raises(InvalidInputError, match="invalid container id format"):
            await w.manager.create(described(bad))
        assert not w.store.saved
        assert ("prepare", bad) not in w.runtime.calls


async def test_a_failed_create_leaves_nothing() -> None:
    async with world(runtime=FakeRuntime(images=[])) as w:
        with pytest.raises(NotFoundError, match="failed to resolve reference"):
            await w.manager.create(described())
        assert not w.store.saved
        assert not w.manager.list()
        assert w.actions == []


async def test_a_full_disk_refuses_a_create_and_later_one_succeeds() -> None:
    async with world() as w:
        w.store.full = True
        with pytest.raises(OperationFailedError, match="No space left"):
            await w.manager.create(described())
        w.store.full = False
        await w.manager.create(described())


@pytest.mark.parametrize(
    "policy",
    [
        {"image_verifier_type": "notation"},
        {"image_dec_keys": ("key.pem",)},
        {"image_dec_recipients": ("cert.pem",)},
    ],
)
async def test_content_that_should_be_verified_or_decrypted_is_never_used(policy: dict[str, object]) -> None:
    async with world(**policy) as w:
        with pytest.raises(ConflictError, match="not supported yet"):
            await w.manager.create(described())
        assert not w.runtime.snapshots


async def test_a_decryption_with_keys_is_refused_and_an_empty_one_asks_for_nothing() -> None:
    async with world() as w:
        keyed = Image(name=IMAGE, decrypt_config=DecryptConfig(keys=("key.pem",)))
        with pytest.raises(ConflictError, match="not supported yet"):
            await w.manager.create(replace(described("c1"), image=keyed))
        await w.manager.create(
            replace(described("c2"), image=Image(name=IMAGE, decrypt_config=DecryptConfig()))
        )


async def test_start_records_pid_time_and_that_it_worked() -> None:
    async with world() as w:
        state = await started(w)
        assert (state.status, state.running, state.pid) == (Status.RUNNING, True, 4242)
        container = w.manager.get("c1")
        assert container is not None
        assert container.started_successfully_before
        assert w.store.saved["c1"] == container
        assert w.metrics.opened == {"c1": 4242}
        assert "c1" in w.logs.attached
        assert w.actions == ["created", "running"]


async def test_a_start_that_fails_ends_stopped_with_its_reason() -> None:
    runtime = FakeRuntime()
    runtime.fail["start"] = OperationFailedError("runc says no")
    async with world(runtime=runtime) as w:
        await w.manager.create(described())
        with pytest.raises(OperationFailedError, match="runc says no"):
            await w.manager.start("c1")
        assert (w.state("c1").status, w.state("c1").error) == (
            Status.STOPPED,
            "runc says no (never started)",
        )
        assert "c1" not in w.logs.attached
        assert w.actions == ["created", "stopped"]


async def test_a_network_that_cannot_be_made_is_seen_in_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(_: object, __: Container) -> Container:
        raise OperationFailedError("no address left")

    async with world() as w:
        await w.manager.create(described())
        monkeypatch.setattr("support.fakes.FakeNetwork.connect", connect)
        with pytest.raises(OperationFailedError, match="no address left"):
            await w.manager.start("c1")
        assert (w.state("c1").status, w.state("c1").error) == (
            Status.STOPPED,
            "no address left (never started)",
        )
        assert w.actions == ["created", "stopped"]


async def test_a_container_that_exits_before_start_returns_is_seen_to_exit() -> None:
    runtime = FakeRuntime()
    runtime.exit_before_start_returns = 3
    async with world(runtime=runtime) as w:
        await started(w)
        await w.until(lambda: w.state("c1").status is Status.EXITED)
        state = w.state("c1")
        assert state.exit_code == 3
        assert units.sort_key(state.started_at) <= units.sort_key(state.finished_at)
        assert w.actions == ["created", "running", "exited"]


async def test_an_unknown_id_is_named_by_every_operation() -> None:
    async with world() as w:
        manager = w.manager
        for call in (
            manager.start("x"),
            manager.stop("x"),
            manager.pause("x"),
            manager.unpause("x"),
            manager.rename("x", "y"),
            manager.update("x", UpdateOptions()),
            manager.remove("x"),
        ):
            with pytest.raises(NotFoundError, match="no such container with id = x exists"):
                await call
        assert manager.get("x") is None


async def test_stop_is_graceful_and_keeps_the_exit_code() -> None:
    async with world() as w:
        await started(w, policy="unless-stopped")
        await w.manager.stop("c1")
        state = w.state("c1")
        assert (state.status, state.exit_code, state.pid, state.exited) == (Status.STOPPED, 143, -1, False)
        container = w.manager.get("c1")
        assert container is not None
        assert container.manually_stopped
        assert w.actions == ["created", "running", "stopped"]
        assert "c1" not in w.runtime.live
        assert w.logs.finished[-1] == "c1"


async def test_a_stop_without_force_that_is_ignored_leaves_the_container_running() -> None:
    async with world() as w:
        await started(w)
        w.runtime.stubborn.add("c1")
        with pytest.raises(OperationFailedError, match="could not stop container with ID = c1 with SIGTERM"):
            await w.manager.stop("c1")
        container = w.manager.get("c1")
        assert container is not None
        assert container.state.status is Status.RUNNING
        assert not container.manually_stopped


async def test_a_stop_with_force_kills_in_the_end() -> None:
    async with world() as w:
        await started(w)
        w.runtime.stubborn.add("c1")
        await w.manager.stop("c1", StopOptions(force=True))
        assert (w.state("c1").status, w.state("c1").exit_code) == (Status.STOPPED, 137)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (StopOptions(timeout=-1), "the timeout = -1 shouldn't be negative"),
        (StopOptions(signal="TERM"), "invalid signal = TERM"),
        (StopOptions(timeout=10**9), "longer than"),
    ],
)
async def test_bad_stop_options_change_nothing(options: StopOptions, said: str) -> None:
    async with world() as w:
        await started(w)
        with pytest.raises(InvalidInputError, match=said):
            await w.manager.stop("c1", options)
        assert w.state("c1").status is Status.RUNNING


async def test_a_paused_container_is_thawed_to_be_stopped() -> None:
    async with world() as w:
        await started(w)
        await w.manager.pause("c1")
        assert (w.state("c1").status, w.state("c1").running, w.state("c1").pid) == (
            Status.PAUSED,
            False,
            4242,
        )
        await w.manager.stop("c1", StopOptions(force=True))
        assert w.state("c1").status is Status.STOPPED
        assert ("resume", "c1") in w.runtime.calls


async def test_pause_and_unpause() -> None:
    async with world() as w:
        await started(w)
        await w.manager.pause("c1")
        await w.manager.unpause("c1")
        assert w.state("c1").status is Status.RUNNING
        assert w.actions[-2:] == ["paused", "resumed"]


async def test_an_exit_by_itself_is_told_with_its_code() -> None:
    async with world() as w:
        await started(w)
        w.runtime.end("c1", 3)
        await w.until(lambda: w.state("c1").status is Status.EXITED)
        assert (w.state("c1").exit_code, w.state("c1").oom_killed) == (3, False)
        await w.until(lambda: "c1" in w.logs.finished)
        assert w.metrics.opened == {}


@pytest.mark.parametrize("how", ["event", "counter"])
async def test_an_oom_kill_shows(how: str) -> None:
    async with world() as w:
        await started(w)
        if how == "event":
            w.runtime.emit(TaskOOM("c1"))
        else:
            w.metrics.kills["c1"] = 1
        w.runtime.end("c1", 137)
        await w.until(lambda: w.state("c1").status is Status.EXITED)
        assert (w.state("c1").oom_killed, w.state("c1").error) == (True, "OOM Killed")


async def test_an_oom_kill_before_the_start_has_returned_shows() -> None:
    """A program that is killed at once: its cgroup must be open before it runs."""
    async with world() as w:
        w.runtime.exit_before_start_returns = 137
        w.metrics.ended = lambda name: w.runtime.live[name].status is TaskStatus.STOPPED
        w.metrics.kills["c1"] = 1
        await started(w, policy="no")
        await w.until(lambda: w.state("c1").status is Status.EXITED)
        assert (w.state("c1").oom_killed, w.state("c1").error) == (True, "OOM Killed")


async def test_unless_stopped_restarts_after_an_exit_and_counts() -> None:
    async with world() as w:
        await started(w, policy="unless-stopped")
        w.runtime.end("c1", 0)
        await w.until(lambda: w.actions[-1] == "running" and len(w.actions) == 4)
        container = w.manager.get("c1")
        assert container is not None
        assert container.restart_count == 1
        await w.manager.stop("c1")
        await w.manager.start("c1")
        container = w.manager.get("c1")
        assert container is not None
        assert container.restart_count == 0


async def test_a_failed_automatic_start_is_tried_again() -> None:
    async with world() as w:
        await started(w, policy="always")
        w.runtime.fail["start"] = OperationFailedError("not now")
        w.runtime.end("c1", 1)
        await w.until(lambda: w.actions.count("stopped") == 2)
        del w.runtime.fail["start"]
        await w.until(lambda: w.state("c1").status is Status.RUNNING)


async def test_a_bug_does_not_end_the_automatic_starts(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        await started(w, policy="always")
        w.runtime.fail["start"] = ValueError("a bug")
        w.runtime.end("c1", 1)
        await w.until(lambda: caplog.text.count("automatic start failed: a bug (retrying)") == 2)
        del w.runtime.fail["start"]
        await w.until(lambda: w.state("c1").status is Status.RUNNING)


async def test_a_bug_of_a_listener_neither_ends_an_operation_nor_the_telling(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world() as w:

        def spoil(event: Event) -> None:
            raise ValueError(event.action)

        w.manager.subscribe(spoil)
        heard: list[Event] = []
        w.manager.subscribe(heard.append)
        await started(w)
        assert [event.action.value for event in heard] == ["created", "running"] == w.actions
        assert caplog.text.count("a bug in a listener") == 2


async def test_always_comes_back_after_a_manual_stop_as_in_the_original() -> None:
    async with world() as w:
        await started(w, policy="always")
        await w.manager.stop("c1")
        await w.until(lambda: w.state("c1").status is Status.RUNNING)
        assert w.actions == ["created", "running", "stopped", "running"]


async def test_a_policy_that_changes_on_a_stopped_container_applies_at_once() -> None:
    async with world() as w:
        await started(w)
        await w.manager.stop("c1")
        await w.manager.update("c1", UpdateOptions(restart_policy=RestartPolicy(type="always")))
        await w.until(lambda: w.state("c1").status is Status.RUNNING)
        assert w.actions[-2:] == ["updated", "running"]


async def test_rename_keeps_the_host_name_and_the_same_name_is_no_change() -> None:
    async with world() as w:
        made = await w.manager.create(described())
        await w.manager.rename("c1", "c1")
        await w.manager.rename("c1", "")
        await w.manager.rename("c1", "b")
        renamed = w.manager.get("c1")
        assert renamed is not None
        assert (renamed.name, renamed.host_name) == ("b", made.host_name)
        assert w.actions == ["created", "renamed"]


async def test_memory_limits_are_changed_live_and_stored() -> None:
    async with world() as w:
        await started(w)
        await w.manager.update("c1", UpdateOptions(resources=Resources(memory="64M")))
        assert w.runtime.updates[0][1]["memory"]["limit"] == 64 * 1024 * 1024
        assert w.store.saved["c1"].host_config.resources == Resources(memory="64M")  # type: ignore[union-attr]
        await w.manager.update("c1", UpdateOptions(resources=Resources(memory="64M")))
        assert w.actions.count("updated") == 1
        await w.manager.update("c1", UpdateOptions(resources=Resources()))
        assert w.runtime.updates[1][1]["memory"]["limit"] == -1
        assert w.store.saved["c1"].host_config.resources is None  # type: ignore[union-attr]


async def test_update_over_the_wire_that_carries_the_filled_in_swap_limit_along_drops_it() -> None:
    async with world() as w:
        await started(w, resources=Resources(memory="64M", cpus="1"))
        assert w.store.saved["c1"].host_config.resources == Resources(  # type: ignore[union-attr]
            memory="64M", memory_swap="128M", cpus="1"
        )
        await w.manager.update("c1", UpdateOptions(resources=Resources(memory_swap="128M", cpus="1")))
        assert w.runtime.updates[-1][1]["memory"] == {"limit": -1, "swap": -1}
        assert w.store.saved["c1"].host_config.resources == Resources(cpus="1")  # type: ignore[union-attr]
        with pytest.raises(InvalidInputError, match="memory must be set as well"):
            await w.manager.update("c1", UpdateOptions(resources=Resources(memory_swap="128M")))


async def test_a_full_disk_refuses_an_update_and_changes_nothing() -> None:
    async with world() as w:
        await w.manager.create(described())
        w.store.full = True
        with pytest.raises(OperationFailedError):
            await w.manager.rename("c1", "b")
        assert w.manager.list()[0].name == "c1"


async def test_an_exit_is_told_though_the_disk_is_full_and_written_later() -> None:
    async with world() as w:
        await started(w)
        w.store.full = True
        w.runtime.end("c1", 3)
        await w.until(lambda: w.state("c1").status is Status.EXITED and bool(w.manager._catalog._unsaved))
        assert w.store.saved["c1"].state.status is Status.RUNNING
        w.store.full = False
        await w.manager._catalog.save_refused()
        assert w.store.saved["c1"].state.status is Status.EXITED


async def test_remove_refuses_a_running_container_without_force() -> None:
    async with world() as w:
        await started(w)
        with pytest.raises(ConflictError, match="must set the force flag to true"):
            await w.manager.remove("c1")
        await w.manager.remove("c1", force=True)
        assert w.manager.get("c1") is None
        assert not w.store.saved
        assert not w.runtime.snapshots
        assert not w.runtime.live
        assert w.actions == ["created", "running", "removed"]
        assert w.events[-1].container.state.status is Status.DEAD


async def test_a_removal_that_fails_leaves_the_container_as_it_was() -> None:
    async with world() as w:
        await w.manager.create(described())
        w.runtime.fail["remove"] = OperationFailedError("busy")
        with pytest.raises(OperationFailedError, match="busy"):
            await w.manager.remove("c1")
        assert w.state("c1").status is Status.CREATED
        assert w.store.saved["c1"].state.status is Status.CREATED


async def test_a_caller_that_goes_away_does_not_stop_what_it_began() -> None:
    async with world() as w:
        await started(w)
        w.runtime.stubborn.add("c1")
        call = asyncio.create_task(w.manager.stop("c1", StopOptions(force=True)))
        await w.until(lambda: ("signal", "c1") in w.runtime.calls)
        call.cancel()
        await w.until(lambda: w.state("c1").status is Status.STOPPED)


async def test_list_answers_while_a_stop_waits() -> None:
    async with world() as w:
        await started(w)
        w.runtime.stubborn.add("c1")
        call = asyncio.create_task(w.manager.stop("c1", StopOptions(force=True)))
        await w.until(lambda: ("signal", "c1") in w.runtime.calls)
        assert w.manager.list()[0].state.status is Status.RUNNING
        await call


async def test_only_so_many_are_started_at_once_and_a_start_that_hangs_holds_up_no_other_operation() -> None:
    ids = [f"c{n}" for n in range(3 * PARALLEL)]
    async with world() as w:
        await asyncio.gather(*(w.manager.create(described(i)) for i in ids))
        go, under_way, most = asyncio.Event(), 0, 0
        real = w.runtime.start

        async def start(request: object, created: object = None) -> int:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await go.wait()
            under_way -= 1
            return await real(request)  # type: ignore[arg-type]

        w.runtime.start = start  # type: ignore[method-assign]
        starts = asyncio.gather(*(w.manager.start(i) for i in ids))
        await w.until(lambda: under_way == PARALLEL)
        await w.manager.create(described("other"))
        await w.manager.remove("other")
        go.set()
        await starts
        assert most == PARALLEL
        assert len(w.runtime.live) == len(ids)
