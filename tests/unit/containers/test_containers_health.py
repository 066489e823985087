# SPDX-License-Identifier: Apache-2.0
"""Health checks: the table of their results, and what the manager makes of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pycm.containers import health as runner
from pycm.errors import OperationFailedError, UnavailableError
from pycm.model.container import Container, ContainerConfiguration, HealthCheck
from pycm.model.frozen import replace
from pycm.model.restart import HEALTHY, STARTING, TRANSITIONS, UNHEALTHY, Progress, Result, printed, step
from pycm.ports import Action, Event
from support.fakes import FakeRuntime
from support.managers import World, described, world


@pytest.mark.parametrize(
    ("results", "health"),
    [
        ("", STARTING),
        ("+", HEALTHY),
        ("--", STARTING),
        ("---", UNHEALTHY),
        ("+--", HEALTHY),
        ("+--+--", HEALTHY),
        ("+---", UNHEALTHY),
        ("---+", HEALTHY),
        ("-----", UNHEALTHY),
        ("eeeee", STARTING),
        ("eeeee--", STARTING),
        ("eeeee---", UNHEALTHY),
        ("+eee", UNHEALTHY),  # once healthy, the start period is over
    ],
)
def test_results_lead_to_a_health(results: str, health: str) -> None:
    """+ passed, - failed, e failed in the start period; three in a row make it unhealthy."""
    progress = Progress()
    for result in results:
        progress = step(progress, "" if result == "+" else "no", early=result == "e", retries=3)
    assert progress.health == health


def test_every_result_has_a_row_but_those_that_cannot_be() -> None:
    possible = {(h, r) for h in (STARTING, HEALTHY, UNHEALTHY) for r in Result}
    assert possible - set(TRANSITIONS) == {(HEALTHY, Result.EARLY), (UNHEALTHY, Result.EARLY)}


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (b"", ""),
        (b" \n\n", ""),
        (b"no route\n", "no route"),
        (b"1\n2\n3\n4\n5\n", "1\\n2\\n3\\n4\\n5"),
        (b"0\n1\n2\n3\n4\n5", "1\\n2\\n3\\n4\\n5"),
        (b"\x1b[31mred\x07\x00\tx", "\\x1b[31mred\\x07\\x00\\tx"),
        ("läuft \u202enicht".encode(), "läuft \\u202enicht"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"x" * 500, "x" * 500),
        (b"a" + b"x" * 500, "…" + "x" * 499),
    ],
)
def test_printed_is_one_bounded_line_of_the_last_lines_without_control_characters(
    output: bytes, text: str
) -> None:
    assert printed(output) == text


def with_check(policy: str = "no", **fields: Any) -> Container:
    check = HealthCheck(**({"exec": ("/bin/check",), "interval": "1s", "retries": 2} | fields))
    return replace(described(policy=policy), config=ContainerConfiguration(health_check=check))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of a check takes a hundredth."""
    seconds = runner._seconds
    monkeypatch.setattr(runner, "_seconds", lambda text: seconds(text) / 100)


async def run(w: World, container: Container) -> None:
    await w.manager.create(container)
    await w.manager.start(container.id)


async def test_a_check_that_passes_makes_a_container_healthy_and_tells_once() -> None:
    async with world() as w:
        await run(w, with_check())
        running = next(event.container.state for event in w.events if event.action.value == "running")
        assert running.health == STARTING
        await w.until(lambda: len(w.runtime.execs) > 3)
        assert w.state("c1").health == HEALTHY
        assert w.actions.count("health") == 1
        assert w.runtime.execs[0].args == ("/bin/check",)
        assert w.store.saved["c1"].state.health == HEALTHY
        await w.manager.stop("c1")
        assert w.state("c1").health == ""


async def test_an_unhealthy_container_is_shown_and_left_alone_if_its_policy_is_no() -> None:
    async with world() as w:
        w.runtime.exec_codes["c1"] = 3
        await run(w, with_check())
        await w.until(lambda: w.state("c1").health == UNHEALTHY)
        assert w.state("c1").health_error == "exit code 3"
        w.runtime.exec_codes["c1"] = 0
        await w.until(lambda: w.state("c1").health == HEALTHY)
        assert (w.state("c1").health_error, "exited" in w.actions) == ("", False)


@pytest.mark.parametrize("policy", ["always", "unless-stopped", "on-failure"])
async def test_an_unhealthy_container_is_restarted_by_the_other_policies(policy: str) -> None:
    async with world() as w:
        w.runtime.exec_codes["c1"] = 1

        def mend(event: Event) -> None:
            if event.action is Action.EXITED:
                w.runtime.exec_codes["c1"] = 0

        w.manager.subscribe(mend)
        await run(w, with_check(policy))
        await w.until(lambda: w.actions.count("running") == 2 and w.state("c1").health == HEALTHY)
        ended = next(event.container.state for event in w.events if event.action.value == "exited")
        assert (ended.error, ended.health) == ("unhealthy: exit code 1", "")
        container = w.manager.get("c1")
        assert container is not None
        assert (container.restart_count, container.manually_stopped) == (1, False)


async def test_health_error_has_the_end_of_what_the_check_printed() -> None:
    async with world() as w:
        w.runtime.exec_codes["c1"] = 3
        w.logs.printed = (b"x" * 9000 + b"\nno route\n", b"")
        await run(w, with_check())
        await w.until(lambda: w.state("c1").health == UNHEALTHY)
        error = w.state("c1").health_error
        assert error.startswith("exit code 3: …xxx")
        assert error.endswith("xxx\\nno route")
        assert len(error) == len("exit code 3: ") + 500
        w.runtime.exec_codes["c1"] = 0
        await w.until(lambda: w.state("c1").health == HEALTHY)
        assert w.state("c1").health_error == ""
        assert w.runtime.execs[0].io.stdout
        await w.manager.stop("c1")
        await w.until(lambda: all(pipes.closed for pipes in w.logs.made_pipes))
        assert all(pipes.begun for pipes in w.logs.made_pipes)


async def test_output_that_differs_each_time_is_no_reason_to_write_the_record() -> None:
    async with world() as w:
        w.runtime.exec_codes["c1"] = 3
        await run(w, with_check())
        await w.until(lambda: w.state("c1").health == UNHEALTHY)
        told = w.actions.count("health")
        assert told == 2, "the first failure, and the end of the retries"
        w.logs.printed = (b"another time\n", b"")
        made = len(w.logs.made_pipes)
        await w.until(lambda: len(w.logs.made_pipes) > made + 3)
        assert w.actions.count("health") == told
        w.runtime.exec_codes["c1"] = 4
        await w.until(lambda: w.actions.count("health") == told + 1)
        assert w.state("c1").health_error == "exit code 4: another time"


async def test_check_that_leaves_its_output_open_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LAST_OUTPUT", 0.01)
    async with world() as w:
        w.logs.held, w.logs.printed = True, (b"out ", b"err")
        w.runtime.exec_codes["c1"] = 3
        await run(w, with_check(policy="no"))
        await w.until(lambda: w.state("c1").health == UNHEALTHY)
        assert w.state("c1").health_error == "exit code 3: out err"


async def test_check_is_made_without_pipes_when_there_are_none() -> None:
    async with world() as w:
        w.logs.fail_pipes = OperationFailedError("cannot make FIFOs: No space left on device")
        await run(w, with_check())
        await w.until(lambda: w.state("c1").health == HEALTHY)
        w.runtime.exec_codes["c1"] = 3
        await w.until(lambda: w.state("c1").health == UNHEALTHY)
        assert w.state("c1").health_error == "exit code 3"


async def test_log_has_nothing_of_what_a_check_printed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "pycm.containers")
    async with world() as w:
        w.runtime.exec_codes["c1"] = 1
        w.logs.printed = (b"PASSWORD=geheim", b"")
        await run(w, with_check("always"))
        await w.until(lambda: "exited" in w.actions)
        ended = next(event.container.state for event in w.events if event.action.value == "exited")
        assert ended.error == "unhealthy: exit code 1: PASSWORD=geheim"
    assert "exit code 1" in caplog.text
    assert "geheim" not in caplog.text


async def test_a_command_that_cannot_be_run_or_takes_too_long_is_a_failure() -> None:
    async with world() as w:
        w.runtime.fail["exec"] = OperationFailedError("the command did not end within 5 s and was killed")
        await run(w, with_check())
        await w.until(lambda: w.state("c1").health == UNHEALTHY)
        assert w.state("c1").health_error == "the command did not end within 5 s and was killed"


async def test_a_lost_containerd_and_a_paused_container_say_nothing_of_health() -> None:
    async with world() as w:
        await run(w, with_check())
        await w.until(lambda: w.state("c1").health == HEALTHY)
        w.runtime.fail["exec"] = UnavailableError("containerd does not answer")
        asked = len(w.runtime.calls)
        await w.until(lambda: len(w.runtime.calls) > asked + 5)
        assert w.state("c1").health == HEALTHY
        w.runtime.fail["exec"] = OperationFailedError("cannot exec in a paused container")
        await w.manager.pause("c1")
        asked = w.runtime.calls.count(("exec", "c1"))
        await asyncio.sleep(0.05)
        assert w.runtime.calls.count(("exec", "c1")) == asked
        assert w.state("c1").health == HEALTHY


async def test_checks_go_on_after_a_bug_in_one_of_them(caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        await run(w, with_check())
        await w.until(lambda: w.state("c1").health == HEALTHY)
        w.runtime.fail["exec"] = ValueError("a bug")
        await w.until(lambda: "its health could not be checked" in caplog.text)
        del w.runtime.fail["exec"]
        w.runtime.exec_codes["c1"] = 3
        await w.until(lambda: w.state("c1").health == UNHEALTHY)


async def test_a_port_that_takes_a_connection_is_healthy_and_a_closed_one_is_not() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with world() as w:
        await run(w, with_check(exec=(), tcp=port, timeout="100s"))
        await w.until(lambda: w.state("c1").health == HEALTHY)
        server.close()
        await server.wait_closed()
        await w.until(lambda: w.state("c1").health == UNHEALTHY)
        assert f"no connection to 127.0.0.1:{port}" in w.state("c1").health_error
        assert w.runtime.execs == []


async def test_a_container_found_running_is_checked_again() -> None:
    runtime = FakeRuntime()
    async with world(runtime=runtime) as first:
        await run(first, with_check())
        await first.until(lambda: first.store.saved["c1"].state.health == HEALTHY)
        stored = first.store.saved["c1"]
    runtime.execs.clear()
    async with world(stored, runtime=runtime) as second:
        assert second.state("c1").health == HEALTHY
        await second.until(lambda: bool(runtime.execs))


async def test_without_a_check_there_is_no_watcher_and_with_one_none_is_left() -> None:
    async with world() as w:
        await run(w, described())
        assert w.manager._catalog.unit("c1")._health is None
        await w.manager.remove("c1", force=True)
        await run(w, with_check())
        watcher = w.manager._catalog.unit("c1")._health
        assert watcher is not None
        await w.manager.remove("c1", force=True)
        await w.until(watcher.cancelled)
