# SPDX-License-Identifier: Apache-2.0
"""What the agent's log says when containers end, start and do not start."""

from __future__ import annotations

import logging

import pytest

from pycm.errors import OperationFailedError, UnavailableError
from pycm.model import restart, states
from pycm.model.container import ContainerConfiguration, RestartPolicy, State, StopOptions
from pycm.model.frozen import replace
from pycm.model.states import Status
from pycm.model.units import exit_text
from pycm.ports import TaskOOM
from support.fakes import FakeRuntime
from support.managers import World, described, started, world


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pycm.containers")


def told(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [
        record.message.removeprefix("container c1: ")
        for record in caplog.records
        if record.levelno == level and record.message.startswith("container c1: ")
    ]


async def ended(w: World, code: int) -> None:
    w.runtime.end("c1", code)
    await w.until(lambda: w.state("c1").status is Status.EXITED and w.manager._jobs.idle)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "exit code 0"),
        (3, "exit code 3"),
        (128, "exit code 128"),
        (129, "exit code 129 (SIGHUP)"),
        (137, "exit code 137 (SIGKILL)"),
        (143, "exit code 143 (SIGTERM)"),
        (255, "exit code 255"),
    ],
)
def test_exit_text_names_the_signal_of_a_code(code: int, text: str) -> None:
    assert exit_text(code) == text


@pytest.mark.parametrize(
    ("policy", "ended_as", "reason"),
    [
        (None, restart.Ended(1, manually_stopped=False, restarts=0), "no policy"),
        (RestartPolicy(type="no"), restart.Ended(1, manually_stopped=False, restarts=0), "policy no"),
        (
            RestartPolicy(type="unless-stopped"),
            restart.Ended(1, manually_stopped=True, restarts=0),
            "policy unless-stopped, stopped by hand",
        ),
        (
            RestartPolicy(type="on-failure"),
            restart.Ended(143, manually_stopped=True, restarts=0),
            "policy on-failure, stopped by hand",
        ),
        (
            RestartPolicy(type="on-failure"),
            restart.Ended(0, manually_stopped=False, restarts=0),
            "policy on-failure, no failure",
        ),
        (
            RestartPolicy(type="on-failure", maximum_retry_count=2),
            restart.Ended(1, manually_stopped=False, restarts=2),
            "policy on-failure, 2 of 2 restarts used",
        ),
    ],
)
def test_refusal_says_why_a_policy_does_not_restart(
    policy: RestartPolicy | None, ended_as: restart.Ended, reason: str
) -> None:
    assert not restart.wants_restart(policy, ended_as)
    assert restart.refusal(policy, ended_as) == reason


async def test_exit_is_logged_with_code_and_policy(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        state = await started(w)
        await ended(w, 3)
        assert told(caplog) == [f"started: pid {state.pid}", "exited: exit code 3 (not restarted: policy no)"]


async def test_oom_kill_is_logged_with_its_signal(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        await started(w)
        w.runtime.emit(TaskOOM("c1"))
        await ended(w, 137)
        assert told(caplog)[-1] == "exited: exit code 137 (SIGKILL), OOM kill (not restarted: policy no)"


async def test_restart_is_logged_before_and_after_its_pause(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        await started(w, policy="unless-stopped")
        w.runtime.end("c1", 0)
        await w.until(lambda: len(told(caplog)) == 3)
        pid = w.state("c1").pid
        assert told(caplog)[1:] == [
            "exited: exit code 0 (restart in 0.1 s)",
            f"restarted: pid {pid} (automatic restart 1)",
        ]


async def test_stop_by_hand_is_logged_and_so_is_one_in_the_pause(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        await started(w, policy="unless-stopped")
        await w.manager.stop("c1")
        said = (
            "stopped by hand: exit code 143 (SIGTERM) (not restarted: policy unless-stopped, stopped by hand)"
        )
        assert told(caplog)[-1] == said
        await w.manager.start("c1")
        w.manager._catalog.unit("c1").restart_delay = 10_000.0
        w.runtime.end("c1", 3)
        await w.until(lambda: w.state("c1").status is Status.EXITED and w.manager._jobs.idle)
        assert told(caplog)[-1] == "exited: exit code 3 (restart in 60 s)"
        await w.manager.stop("c1")
        assert told(caplog)[-1] == "stopped by hand: pending restart cancelled"


async def test_removal_of_a_running_container_is_logged_with_its_exit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world() as w:
        await started(w)
        w.runtime.stubborn.add("c1")
        await w.manager.remove("c1", force=True, options=StopOptions(force=True))
        assert told(caplog)[-1] == "stopped to be removed: exit code 137 (SIGKILL)"


async def test_end_that_was_missed_and_lost_task_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    state = states.running(State(), pid=99, started_at="2026-11-23T18:39:26.5Z")
    lost = replace(described(), state=state, started_successfully_before=True)
    async with world(lost):
        (line,) = told(caplog)
        assert line.startswith("exited: exit code 255: the task was lost")
        assert line.endswith(" (not restarted: policy no)")


async def test_stop_at_the_end_of_the_agent_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with world(live_restore=False) as w:
        await started(w, policy="always")
    assert told(caplog)[-1] == "stopped: exit code 143 (SIGTERM) (not restarted: the agent ends)"


# ── a start that fails ──


async def failing(w: World, policy: str = "no") -> None:
    await w.manager.create(described(policy=policy))
    w.runtime.fail["start"] = OperationFailedError("runc says no")


async def test_failed_first_start_says_so_in_the_log_and_in_the_state(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world() as w:
        await failing(w, "always")
        with pytest.raises(OperationFailedError, match=r"^runc says no$"):
            await w.manager.start("c1")
        state = w.state("c1")
        assert (state.status, state.exit_code) == (Status.STOPPED, 0), "as the original"
        assert state.error == "runc says no (never started)"
        assert told(caplog) == ["failed to start: runc says no (not restarted: start by hand)"]


async def test_failed_start_by_hand_of_a_container_that_ran_before(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        await started(w)
        await w.manager.stop("c1")
        w.runtime.fail["start"] = OperationFailedError("runc says no")
        with pytest.raises(OperationFailedError):
            await w.manager.start("c1")
        assert w.state("c1").error == "runc says no (did not start again)"
        assert told(caplog)[-1] == "failed to start: runc says no (not restarted: start by hand)"


async def test_failed_restart_is_logged_with_the_next_attempt(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        await started(w, policy="always")
        w.runtime.fail["start"] = OperationFailedError("runc says no")
        w.runtime.end("c1", 1)
        await w.until(lambda: w.actions.count("stopped") == 2)
        await w.until(lambda: w.manager._catalog.unit("c1").restart_timer is not None)
        assert w.state("c1").error == "runc says no (did not start again)"
    assert told(caplog, logging.WARNING)[:2] == [
        "automatic start failed: runc says no (restart in 0.2 s)",
        "automatic start failed: runc says no (restart in 0.4 s)",
    ]


async def test_last_attempt_of_on_failure_is_logged_as_the_last(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        container = described(policy="on-failure")
        host = container.host_config
        assert host is not None
        policy = RestartPolicy(type="on-failure", maximum_retry_count=1)
        await w.manager.create(replace(container, host_config=replace(host, restart_policy=policy)))
        await w.manager.start("c1")
        w.runtime.fail["start"] = OperationFailedError("runc says no")
        w.runtime.end("c1", 1)
        await w.until(lambda: w.actions[-1] == "stopped" and w.manager._jobs.idle)
    said = "automatic start failed: runc says no (not restarted: policy on-failure, 1 of 1 restarts used)"
    assert told(caplog, logging.WARNING) == [said]


async def test_start_with_the_agent_that_fails_is_logged_with_the_next_attempt(
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = states.exited(State(), exit_code=1, finished_at="2026-11-23T18:39:26.5Z")
    record = replace(described(policy="always"), state=state, started_successfully_before=True)
    runtime = FakeRuntime()
    runtime.fail["start"] = UnavailableError("containerd is away")
    async with world(record, runtime=runtime) as w:
        await w.until(lambda: bool(told(caplog, logging.ERROR)))
    assert told(caplog, logging.ERROR) == [
        "start with the agent failed: containerd is away (restart in 0.1 s)"
    ]


async def test_log_has_no_values_of_environment_variables(caplog: pytest.LogCaptureFixture) -> None:
    runtime = FakeRuntime()
    runtime.fail["start"] = OperationFailedError("bad variable A=geheim", masked="bad variable A=***")
    async with world(runtime=runtime) as w:
        secret = ContainerConfiguration(env=("A=geheim",))
        await w.manager.create(replace(described(policy="always"), config=secret))
        with pytest.raises(OperationFailedError):
            await w.manager.start("c1")
        runtime.fail.clear()
        await w.manager.start("c1")
        runtime.fail["start"] = OperationFailedError("bad variable A=geheim", masked="bad variable A=***")
        runtime.end("c1", 1)
        await w.until(lambda: w.actions.count("stopped") == 2)
    assert "A=***" in caplog.text
    assert "geheim" not in caplog.text


@pytest.mark.parametrize("room", ["logs", "network"])
async def test_container_restarts_though_its_run_cannot_be_released(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, room: str
) -> None:
    async def broken(_: str) -> None:
        raise ValueError("a bug")

    async with world() as w:
        await started(w, policy="always")
        peers = w.manager._peers
        monkeypatch.setattr(
            peers.logs if room == "logs" else peers.network,
            {"logs": "finish", "network": "disconnect"}[room],
            broken,
        )
        w.runtime.end("c1", 3)
        await w.until(lambda: w.actions.count("running") == 2)
        assert "cannot release what its run held" in caplog.text


async def test_record_that_a_bug_kept_from_the_disk_is_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world() as w:
        await started(w)
        catalog = w.manager._catalog
        catalog._unsaved.add("c1")
        save = catalog.save
        monkeypatch.setattr(catalog, "save", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await catalog.save_refused()
        assert catalog._retry is not None
        monkeypatch.setattr(catalog, "save", save)
        catalog._cancel_retry()
        await catalog.save_refused()
        assert not catalog._unsaved
