# SPDX-License-Identifier: Apache-2.0
"""Commands that only pycm has: how a container is named, what is printed, and the exit codes."""

import asyncio
import json
from collections.abc import Callable

import pytest

from pycm.cli import main, tables
from pycm.cli.daemon import help_text
from pycm.model.measurements import CPU_UTILIZATION, MEMORY_TOTAL, MEMORY_USED, PIDS
from pycm.ports import Measurement
from support.command_line import Cli, container
from support.served_agent import ServedAgent


def test_kanto_cm_has_kantos_commands_only(cli: Cli, own: Cli) -> None:
    assert cli("events").err.startswith('Error: unknown command "events" for "kanto-cm"')
    assert "events" not in cli("--help").out
    assert all(f"  {name}" in own("--help").out for name in main.OWN_COMMANDS)


@pytest.mark.parametrize("command", sorted(main.OWN_COMMANDS))
def test_every_command_has_two_examples(own: Cli, command: str) -> None:
    result = own(command, "--help")
    assert (result.code, result.err) == (0, "")
    examples = result.out.partition("Examples:\n")[2].partition("\n\n")[0].splitlines()
    assert len(examples) >= 2
    assert all(line.startswith(f"  pycm {command}") for line in examples)


def test_the_agent_has_help_too(own: Cli, cli: Cli) -> None:
    assert own("help", "daemon") == (0, help_text(), "")
    assert cli("help", "daemon").code == 1


# ── wait ──


def test_wait_prints_the_exit_codes(agent: ServedAgent, own: Cli, make: Callable[..., str]) -> None:
    names = ["one", "two"]
    for name in names:
        identifier = make("-n", name, "--rp", "no")
        own("start", identifier)
        agent.runtime.end(identifier, 7)
        agent.run(_until_ended(agent, identifier))
    assert own("wait", *names) == (0, "7\n7\n", "")


async def _until_ended(agent: ServedAgent, identifier: str) -> None:
    while container(agent, identifier).state.running:
        await asyncio.sleep(0.005)


def test_wait_gives_up_in_time(own: Cli, make: Callable[..., str]) -> None:
    identifier = make("-n", "x", "--rp", "no")
    result = own("wait", "--for", "running", "--within", "50ms", "x")
    assert result == (6, "", f"Error: container {identifier} did not reach the condition running in time\n")


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("wait",), 2, "name at least one container to wait for"),
        (("wait", "nope"), 4, 'there is no container "nope"'),
        (
            ("wait", "--for", "rain", "x"),
            2,
            '--for must be one of stopped, next-exit, removed, running, got "rain"',
        ),
        (("wait", "--for", "next-exit", "a", "b"), 2, "--for next-exit accepts one container, got 2"),
        (("wait", "--within", "-1s", "x"), 2, "--within must be more than 0s, got -1s"),
        (("wait", "--within", "0s", "x"), 2, "--within must be more than 0s, got 0s"),
        (("stats", "--interval", "0s"), 2, "--interval must be between 500ms and 24h, got 0s"),
        (("stats", "--no-stream", "-i", "-1s"), 2, "--interval must be between 500ms and 24h, got -1s"),
        (("events", "--action", "burst"), 2, "action: 'burst' is not one of created"),
        (("events", "--format", "xml"), 2, '--format: "xml" is neither table nor json'),
        (("stats", "--interval", "1ms"), 2, "interval_ms: 1 is not between 500 and 86400000"),
        (("attach", "nope"), 4, 'there is no container "nope"'),
    ],
)
def test_what_cannot_be_has_its_exit_code_and_one_line(
    own: Cli, words: tuple[str, ...], code: int, text: str
) -> None:
    result = own(*words)
    assert (result.code, result.out) == (code, "")
    assert text in result.err
    error, *hint = result.err.splitlines()
    assert error.startswith("Error: ")
    assert all(line.startswith("hint: ") for line in hint[:1])
    assert len(hint) <= 1


def test_a_container_is_named_by_id_by_name_or_by_the_beginning_of_its_id(
    own: Cli, make: Callable[..., str]
) -> None:
    identifier = make("-n", "databroker", "--rp", "no")
    for word in (identifier, "databroker", identifier[:6]):
        assert own("wait", word) == (0, "0\n", "")
    assert (
        own("wait", "broker").err == 'Error: there is no container "broker"\nhint: did you mean databroker?\n'
    )
    make("-n", "databroker")
    result = own("wait", "databroker")
    assert result.code == 2
    assert result.err.startswith('Error: "databroker" matches 2 containers: ')


# ── stats ──


def test_stats_as_table_and_as_json(agent: ServedAgent, own: Cli, make: Callable[..., str]) -> None:
    identifier = make("-n", "x", "--rp", "no")
    own("start", identifier)
    agent.metrics.figures = {
        identifier: [
            Measurement(CPU_UTILIZATION, 12.34),
            Measurement(MEMORY_TOTAL, 64 * 1024 * 1024),
            Measurement(MEMORY_USED, 16 * 1024 * 1024),
            Measurement(PIDS, 3),
        ]
    }
    table = own("stats", "--no-stream", "--interval", "500ms")
    assert [line.split() for line in table.out.splitlines()] == [
        [
            "NAME",
            "CPU",
            "%",
            "MEMORY",
            "LIMIT",
            "MEM",
            "%",
            "NET",
            "IN",
            "NET",
            "OUT",
            "READ",
            "WRITTEN",
            "PIDS",
        ],
        ["x", "12.3", "16", "MiB", "64", "MiB", "25.0", "-", "-", "-", "-", "3"],
    ]
    result = own("stats", "--no-stream", "--interval", "500ms", "--format", "json", "x")
    (one,) = json.loads(result.out)["containers"]
    assert one["container_id"] == identifier
    assert (one["cpu_percent"], one["memory_used_bytes"], one["net_read_bytes"]) == (12.34, 16777216, None)


# ── tables ──


def test_a_table_is_cut_to_the_terminal_in_the_middle_of_its_widest_cells() -> None:
    rows = [("short", "sha256:" + "0123456789" * 4, "7")]
    text = tables.table(("NAME", "DIGEST", "N"), rows, width=30, right="LLR")
    assert text.splitlines() == ["NAME   DIGEST                N", "short  sha256:01…0123456789  7"]
    assert tables.table(("NAME", "DIGEST", "N"), rows).splitlines()[1].split() == list(rows[0])


def test_control_characters_of_others_stay_out_of_the_terminal() -> None:
    assert tables.table(("NAME",), [("a\x1b[31mb\n",)]) == "NAME\na?[31mb?\n"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (123 << 20, "123 MiB"),
        (3 << 40, "3 TiB"),
    ],
)
def test_sizes_for_people(number: int, text: str) -> None:
    assert tables.size(number) == text


@pytest.mark.parametrize(("values", "text"), [([], "[]\n"), ([{"a": 1}], '[\n {"a": 1}\n]\n')])
def test_a_list_is_always_a_list(values: list[object], text: str) -> None:
    assert tables.json_list(values) == text


# ── exec ──


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "a container and a command are expected"),
        (("box",), "a container and a command are expected"),
        (("--bogus", "box", "true"), "unknown flag: --bogus"),
        (("-t=maybe", "box", "true"), 'invalid argument "maybe" for "-t, --tty" flag'),
        (("box", "true"), 'there is no container "box"'),
    ],
)
def test_exec_says_by_its_code_that_it_was_not_the_command_that_failed(
    own: Cli, words: tuple[str, ...], text: str
) -> None:
    result = own("exec", *words)
    assert (result.code, result.out) == (125, "")
    assert result.err.startswith(f"Error: {text}")
    assert result.err.count("\n") == 1
