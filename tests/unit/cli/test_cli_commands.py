# SPDX-License-Identifier: Apache-2.0
"""Commands against a served agent: what they send, what they print, and what they refuse before anything is sent."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pycm.cli import main, state
from pycm.errors import InvalidInputError, OperationFailedError
from pycm.model.container import (
    Resources,
    RestartPolicy,
    StopOptions,
)
from pycm.model.states import Status
from support.command_line import Cli, container
from support.served_agent import ServedAgent

# ── start, stop, restart, pause ─────────────────────────────────────────────────────────────────────────────────────


def test_the_life_of_a_container(agent: ServedAgent, cli: Cli, make: Callable[..., str]) -> None:
    identifier = make("-n", "x", "--rp", "no")

    def after(*words: str) -> Status:
        assert cli(*words) == (0, "", "")
        return container(agent, identifier).state.status

    assert after("start", "-n", "x") is Status.RUNNING
    assert after("pause", identifier) is Status.PAUSED
    assert cli("start", identifier).err == (
        f"Error: the container with ID = {identifier} is paused - cannot start it - use unpause instead\n"
    )
    assert after("unpause", "-n", "x") is Status.RUNNING
    pid = container(agent, identifier).state.pid
    assert after("restart", "-n", "x") is Status.RUNNING
    assert container(agent, identifier).state.pid != pid
    assert after("stop", "-n", "x", "-f", "--timeout", "5") is Status.STOPPED
    assert after("restart", identifier) is Status.RUNNING
    assert cli("remove", "-f", "-n", "x") == (0, "", "")
    assert agent.manager.list() == []


def test_start_passes_on_what_the_agent_says_if_it_was_started_meanwhile(
    cli: Cli, make: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    identifier = make("--rp", "no")
    cli("start", identifier)
    stale = {"container_id": identifier, "state": {"status": Status.STOPPED}}
    monkeypatch.setattr(state, "find_chosen", lambda _line: stale)
    text = f"rpc error: code = Unknown desc = the container with id = {identifier} is already running"
    assert cli("start", identifier) == (1, "", f"Error: {text}\n")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 0), ("15s", 15), ("1m15s", 75), ("500ms", 1), ("499ms", 0), ("1.5s", 2), ("0", 0)],
)
def test_stop_times_are_rounded_to_seconds_half_up(text: str, seconds: int) -> None:
    assert state.whole_seconds(text) == seconds


def test_a_negative_stop_time_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"^the timeout = -5 shouldn't be negative$"):
        state.whole_seconds("-5s")


def test_stop_sends_its_options(
    agent: ServedAgent, cli: Cli, make: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    identifier = make()
    seen = []

    async def record(container_id: str, options: StopOptions | None = None) -> None:
        seen.append((container_id, options))

    monkeypatch.setattr(agent.server._service.operations, "stop", record)
    assert cli("stop", identifier).code == 0
    assert cli("stop", identifier, "-ft", "3s", "-s", "9").code == 0
    assert seen == [
        (identifier, StopOptions(timeout=0, force=False, signal="SIGTERM")),
        (identifier, StopOptions(timeout=3, force=True, signal="9")),
    ]


def test_stop_of_a_container_that_does_not_run_says_its_state(cli: Cli, make: Callable[..., str]) -> None:
    identifier = make()
    text = f"cannot perform stop operation for container: {identifier}, with state: Created"
    assert cli("stop", identifier).err == f"Error: rpc error: code = Unknown desc = {text}\n"


# ── remove ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_remove_goes_on_after_one_that_fails(agent: ServedAgent, cli: Cli, make: Callable[..., str]) -> None:
    first, second = make(), make()
    result = cli("remove", first, "nope", second)
    assert result == (1, "", "Error: The requested container with ID = nope was not found.\n")
    assert agent.manager.list() == []


def test_remove_lists_several_failures(cli: Cli) -> None:
    result = cli("remove", "a", "b")
    assert (result.code, result.out) == (1, "")
    assert result.err.rstrip("\n") == (
        "Error: containers couldn't be removed due to the following reasons: \n\n"
        "* The requested container with ID = a was not found.\n"
        "* The requested container with ID = b was not found."
    )


def test_remove_sends_stop_options_with_force_only(
    agent: ServedAgent, cli: Cli, make: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    identifier = make()
    seen = []

    async def record(_id: str, *, force: bool = False, options: StopOptions | None = None) -> None:
        seen.append((force, options))

    monkeypatch.setattr(agent.server._service.operations, "remove", record)
    cli("remove", identifier, "-t", "5s")
    cli("remove", identifier, "-f", "-t", "5s")
    monkeypatch.undo()
    assert seen == [(False, None), (True, StopOptions(force=True, timeout=5))]


def test_list_says_by_its_own_name_only_that_a_container_never_started(
    agent: ServedAgent, cli: Cli, own: Cli, make: Callable[..., str]
) -> None:
    identifier = make()
    agent.runtime.fail["start"] = OperationFailedError("no such program")
    try:
        assert cli("start", identifier).code == 1
    finally:
        agent.runtime.fail.clear()
    assert "Never started" in own("list").out
    assert "|Stopped " in cli("list").out
    assert "Never started" not in cli("list").out
    assert own("list", "-q", "--filter", "status=stopped").out == f"{identifier}\n"


# ── rename, update, logs ────────────────────────────────────────────────────────────────────────────────────────────


def test_rename_by_name_and_its_refusals(agent: ServedAgent, cli: Cli, make: Callable[..., str]) -> None:
    identifier = make("-n", "old")
    assert cli("rename", "-n", "old", "new") == (0, "", "")
    assert container(agent, identifier).name == "new"
    assert cli("rename", identifier, "new").err == "Error: the new name = new shouldn't be the same\n"
    assert cli("rename").err == "Error: accepts 1 or 2 arg(s), received 0\n"
    assert cli("rename", "a", "b", "c").err == "Error: accepts at most 2 arg(s), received 3\n"
    assert cli("rename", "only").err.startswith("Error: You must provide either an ID or a name")
    assert cli("rename", "-n", "new", identifier, "x").err.startswith("Error: Container ID and --name (-n)")


def limits(agent: ServedAgent, identifier: str) -> Resources | None:
    host = container(agent, identifier).host_config
    assert host is not None
    return host.resources


def test_update_merges_limits_and_minus_one_takes_one_away(
    agent: ServedAgent, cli: Cli, make: Callable[..., str]
) -> None:
    identifier = make("-m", "64M", "--memory-reservation", "32M")
    assert cli("update", identifier, "-m", "96M").code == 0
    assert limits(agent, identifier) == Resources(memory="96M", memory_reservation="32M", memory_swap="128M")
    assert cli("update", identifier, "--memory-reservation", "-1", "--memory-swap=-1").code == 0
    assert limits(agent, identifier) == Resources(memory="96M")
    assert cli("update", identifier, "-m", "-1").code == 0
    assert limits(agent, identifier) is None


def test_update_without_a_memory_limit_takes_the_filled_in_swap_limit_away(
    agent: ServedAgent, cli: Cli, make: Callable[..., str]
) -> None:
    identifier = make("-m", "200M")
    assert cli("update", identifier, "-m", "-1") == (0, "", "")
    assert limits(agent, identifier) is None
    identifier = make("-m", "64M", "--memory-reservation", "32M")
    assert cli("update", identifier, "-m", "96M").code == 0
    assert cli("update", identifier, "-m", "-1") == (0, "", ""), "128M was filled in for 64M"
    assert limits(agent, identifier) == Resources(memory_reservation="32M")
    assert cli("update", identifier, "-m", "64M").code == 0
    assert limits(agent, identifier) == Resources(memory="64M", memory_reservation="32M")


def test_update_beyond_the_filled_in_swap_limit_raises_it(
    agent: ServedAgent, cli: Cli, make: Callable[..., str]
) -> None:
    identifier = make("-m", "64M")
    assert cli("update", identifier, "-m", "200M") == (0, "", "")
    assert limits(agent, identifier) == Resources(memory="200M", memory_swap="400M")


def test_update_leaves_a_swap_limit_that_was_asked_for_to_who_asked(
    agent: ServedAgent, cli: Cli, make: Callable[..., str]
) -> None:
    identifier = make("-m", "64M", "--memory-swap", "96M")
    refused = cli("update", identifier, "-m", "-1")
    assert (refused.code, "swap memory - 96M, memory must be set as well" in refused.err) == (1, True)
    assert "swap memory - 96M is less than memory - 97M" in cli("update", identifier, "-m", "97M").err
    assert limits(agent, identifier) == Resources(memory="64M", memory_swap="96M")
    text = "Error: swap memory - 64M is less than memory - 65M\n"
    assert cli("update", identifier, "-m", "65M", "--memory-swap", "64M").err == text
    assert cli("update", identifier, "-m", "-1", "--memory-swap", "-1").code == 0
    assert limits(agent, identifier) is None


def test_update_changes_limits_of_cpu_time_and_processes(
    agent: ServedAgent, cli: Cli, make: Callable[..., str]
) -> None:
    identifier = make("-m", "64M", "--cpus", "2", "--pids-limit", "9")
    assert cli("update", identifier, "--cpus", "0.5", "--cpu-shares", "2", "--cpuset-cpus", "0").code == 0
    wanted = Resources(
        memory="64M", memory_swap="128M", cpus="0.5", cpu_shares=2, cpuset_cpus="0", pids_limit=9
    )
    assert limits(agent, identifier) == wanted
    assert cli("update", identifier, "--cpus", "-1", "--cpu-shares=-1", "--pids-limit", "-1").code == 0
    assert limits(agent, identifier) == Resources(memory="64M", memory_swap="128M", cpuset_cpus="0")
    assert cli("update", identifier, "--cpus", "none").err == (
        "Error: cpus 'none' is not a number of CPUs from 0.01 on, such as 1.5\n"
    )


def test_update_takes_0_for_no_limit_and_an_empty_text_for_no_change(
    agent: ServedAgent, cli: Cli, make: Callable[..., str]
) -> None:
    identifier = make("-m", "64M", "--pids-limit", "9", "--cpu-shares", "512")
    assert cli("update", identifier, "--pids-limit", "0", "--cpu-shares", "0", "-m", "").code == 0
    assert limits(agent, identifier) == Resources(memory="64M", memory_swap="128M")


def test_taking_away_a_limit_that_is_not_there_is_no_error(cli: Cli, make: Callable[..., str]) -> None:
    assert cli("update", make(), "-m", "-1") == (0, "", "")


def policy(agent: ServedAgent, identifier: str) -> RestartPolicy | None:
    host = container(agent, identifier).host_config
    assert host is not None
    return host.restart_policy


def test_update_without_a_flag_is_an_error(cli: Cli, make: Callable[..., str]) -> None:
    identifier = make("-m", "96M", "-n", "a")
    told = (
        "Error: nothing to update: give at least one of --rp, --rp-cnt, --rp-to, --memory, --memory-reservation,"
        " --memory-swap, --cpus, --cpu-shares, --cpuset-cpus, --pids-limit\n"
    )
    assert cli("update", identifier) == (1, "", told)
    assert cli("update", "-n", "a") == (1, "", told)
    assert cli("update", identifier, "-m", "") == (0, "", "")
    assert "was not found" in cli("update", "absent").err


def test_update_lays_the_given_policy_over_the_present_one(
    agent: ServedAgent, cli: Cli, make: Callable[..., str]
) -> None:
    identifier = make("--rp", "on-failure", "--rp-cnt", "3")
    assert cli("update", identifier, "--rp-to", "60").code == 0
    wanted = RestartPolicy(type="on-failure", maximum_retry_count=3, retry_timeout=60_000_000_000)
    assert policy(agent, identifier) == wanted
    assert cli("update", identifier, "--rp", "no").code == 0
    assert policy(agent, identifier) == RestartPolicy(type="no")
    text = "cannot use max retry count when the restart policy is no"
    assert cli("update", identifier, "--rp-cnt", "2").err == f"Error: {text}\n"
    assert cli("update", identifier, "--rp", "never").err == "Error: unsupported restart policy type never\n"


def test_logs_prints_one_record_a_line(agent: ServedAgent, cli: Cli, make: Callable[..., str]) -> None:
    identifier = make("-n", "talker", "--rp", "no")
    assert cli("logs", identifier).err == (
        'Error: rpc error: code = Unknown desc = there are no logs for container with status "Created"\n'
    )
    cli("start", identifier)
    agent.logs.lines[identifier] = ['{"log":"ä"}', '{"log":"b"}', '{"log":"c"}']
    assert cli("logs", identifier) == (0, '{"log":"ä"}\n{"log":"b"}\n{"log":"c"}\n', "")
    assert cli("--name", "talker", "logs", "-t", "1") == (0, '{"log":"c"}\n', "")
    assert cli("logs", "-t", "x", identifier).err == (
        'Error: invalid argument "x" for "-t, --tail" flag: strconv.ParseInt: parsing "x": invalid syntax\n'
    )


# ── the frame ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_containers_of_one_name_are_told_apart_by_id_only(cli: Cli, make: Callable[..., str]) -> None:
    make("-n", "twin")
    make("-n", "twin")
    assert cli("get", "-n", "twin").err == (
        "Error: There are more than one containers with name = twin. Try using an ID instead.\n"
    )


@pytest.mark.parametrize("words", [(), ("help",), ("-h",), ("--help",), ("--host", "x", "--debug")])
def test_help_is_printed_without_a_command(cli: Cli, words: tuple[str, ...]) -> None:
    result = cli(*words)
    assert (result.code, result.err) == (0, "")
    assert all(f"  {command}" in result.out for command in main.KANTO_COMMANDS)
    assert "daemon" not in result.out


@pytest.mark.parametrize("command", sorted(main.KANTO_COMMANDS))
def test_every_command_has_help_with_usage_and_two_ways_to_it(cli: Cli, command: str) -> None:
    result = cli(command, "--help")
    assert (result.code, result.err) == (0, "")
    assert f"Usage:\n  kanto-cm {command}" in result.out
    assert "Examples:\n  kanto-cm" in result.out
    assert cli("help", command) == result


def test_help_wins_over_too_many_words_but_not_over_wrong_flags(cli: Cli) -> None:
    assert cli("get", "a", "b", "--help").code == 0
    assert cli("get", "--bogus", "--help").err == "Error: unknown flag: --bogus\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("lst",), 'unknown command "lst" for "kanto-cm"\n\nDid you mean this?\n\tget\n\tlist\n'),
        (("help", "foo"), 'unknown command "foo" for "kanto-cm"'),
        (("daemon",), 'unknown command "daemon" for "kanto-cm"'),
        (("list", "x"), 'unknown command "x" for "kanto-cm list"'),
        (("sysinfo", "x"), 'unknown command "x" for "kanto-cm sysinfo"'),
        (("get", "a", "b"), "accepts at most 1 arg(s), received 2"),
        (("--bogus",), "unknown flag: --bogus"),
        (("--timeout", "5s", "list"), 'invalid argument "5s" for "--timeout" flag: strconv.ParseInt: parsing "5s": invalid syntax'),
        (("get", "\udcff"), "the argument \\xff is not valid UTF-8"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_refused(cli: Cli, words: tuple[str, ...], text: str) -> None:
    assert cli(*words) == (1, "", f"Error: {text}\n")


def test_an_agent_that_is_not_there_is_named_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "none")
    assert main.run("pycm", ["list", "--host", path, "--timeout", "0"]) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert (
        err
        == f"Error: cannot connect to the agent at {path}: No such file or directory (waited 0 s)\nhint: is the agent running?\n"
    )


def test_debug_says_what_is_called_on_stderr_only(cli: Cli) -> None:
    result = cli("--debug", "list")
    assert result.out == "No containers found.\n"
    assert 'level=debug msg="start client at debug level"' in result.err
    assert 'level=debug msg="call GET /v1/containers"' in result.err


def test_an_interrupt_ends_with_the_code_of_a_signal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_line: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(state, "find_chosen", interrupted)
    assert cli("start", "x") == (130, "", "")
