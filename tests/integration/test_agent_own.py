# SPDX-License-Identifier: Apache-2.0
"""pycm's own commands on a real containerd: exec, events, stats, wait."""

import json
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from agent_process import AgentProcess
from containerd_server import wait_until
from google.protobuf.empty_pb2 import Empty
from grpclib.exceptions import GRPCError
from images import IMAGE
from pty_process import PtyProcess

from pycm.api.proto.api.services.containers import containers_pb2 as m
from support.grpc_calls import call

pytestmark = pytest.mark.integration

FOREVER = "trap 'exit 143' TERM; while :; do sleep 0.1; done"


@pytest.fixture
def box(agent: AgentProcess) -> str:
    """A running container named box."""
    return agent.run_container(IMAGE, "/bin/sh", "-c", FOREVER, name="box", flags=("--e", "FROM=container"))


def descriptors(agent: AgentProcess) -> int:
    assert agent.process
    return len(list(Path(f"/proc/{agent.process.pid}/fd").iterdir()))


# ── exec ──


@pytest.mark.parametrize(
    ("words", "code", "out", "err"),
    [
        (("box", "echo", "hello"), 0, "hello\n", ""),
        (("box", "sh", "-c", "echo out; echo err >&2; exit 7"), 7, "out\n", "err\n"),
        (("box", "sh", "-c", "kill -TERM $$"), 143, "", ""),
        (("-e", "A=1", "-e", "B=x y", "box", "sh", "-c", "echo $A $B $FROM"), 0, "1 x y container\n", ""),
        (("-w", "/etc", "box", "cat", "passwd"), 0, "root:x:0:0:root:/:/bin/sh\n", ""),
        (("-u", "12:34", "box", "id", "-u"), 0, "12\n", ""),
        (("-u", "root", "box", "id", "-u"), 0, "0\n", ""),
        (("box", "cat"), 0, "", ""),  # no stdin: it is empty
    ],
)
def test_exec_is_as_if_the_command_ran_here(
    agent: AgentProcess, box: str, words: tuple[str, ...], code: int, out: str, err: str
) -> None:
    done = agent.pycm("exec", *words)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


def test_exec_says_as_a_shell_what_it_cannot_start(agent: AgentProcess, box: str) -> None:
    done = agent.pycm("exec", "box", "nope")
    assert (done.returncode, done.stdout) == (127, ""), done.stderr
    assert '"nope"' in done.stderr
    assert done.stderr.count("\n") == 1
    assert agent.pycm("exec", "box", "/etc/passwd").returncode == 126
    done = agent.pycm("exec", "-u", "nobody", "box", "true")
    assert done.returncode == 125
    assert "'nobody' is not in its /etc/passwd" in done.stderr
    done = agent.pycm("exec", "other", "true")
    assert (done.returncode, done.stderr) == (125, 'Error: there is no container "other"\n')
    agent.cm("stop", box)
    done = agent.pycm("exec", "box", "true")
    assert done.returncode == 125
    assert done.stderr == f"Error: container with id = {box} is not running - current status is Stopped\n"


def test_exec_passes_input_of_any_size_through_and_its_end(agent: AgentProcess, box: str) -> None:
    text = "".join(f"{number:07d}\n" for number in range(400_000))  # 3.2 MB
    done = agent.pycm("exec", "-i", "box", "cat", stdin=text)
    assert done.returncode == 0
    assert done.stdout == text


def test_the_last_output_is_there_though_the_reader_is_slow(agent: AgentProcess, box: str) -> None:
    command = agent.command(
        "exec",
        "box",
        "sh",
        "-c",
        "dd if=/dev/zero bs=64k count=100 2>/dev/null; echo; echo last",
        program="pycm",
    )
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout
    time.sleep(1)  # not for luck: the reader is to be late
    out = process.stdout.read()
    assert process.wait(120) == 0
    process.stdout.close()
    assert len(out) == 100 * 65536 + 6
    assert out.endswith(b"\nlast\n")


def test_exec_does_not_wait_for_what_the_command_leaves_running(agent: AgentProcess, box: str) -> None:
    done = agent.pycm("exec", "box", "sh", "-c", "sleep 1000 & echo started; exit 3")
    assert (done.returncode, done.stdout) == (3, "started\n")


def test_a_shell_at_a_terminal(agent: AgentProcess, box: str) -> None:
    with PtyProcess(
        agent.command("exec", "-it", "box", "/bin/sh", program="pycm"), columns=99, rows=33
    ) as terminal:
        terminal.until("# ")
        assert terminal.raw
        terminal.type("stty size; echo $TERM\n")
        terminal.until("33 99\r\n")
        terminal.resize(77, 22)
        terminal.signal(signal.SIGWINCH)
        terminal.type("while [ \"$(stty size)\" = '33 99' ]; do sleep 0.05; done; stty size\n")
        terminal.until("22 77\r\n")
        terminal.type("exit 5\n")
        assert terminal.wait() == 5
        assert terminal.restored
    assert agent.pycm("exec", "-it", "box", "sh", stdin="").stderr.startswith(
        "Error: the input device is not a TTY"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_command_ends_with_its_client(agent: AgentProcess, box: str, number: signal.Signals) -> None:
    before = descriptors(agent)
    process = subprocess.Popen(
        agent.command("exec", "box", "sh", "-c", "echo ready; sleep 98765", program="pycm"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.wait(120) == (130 if number is signal.SIGINT else -9)
    process.communicate()
    wait_until(lambda: not list((agent.run / "exec").iterdir()), 30, "the command is ended")
    wait_until(lambda: descriptors(agent) <= before, 30, "descriptors are as before")
    assert list((agent.run / "pipes").iterdir()) == []


def test_a_flood_of_commands_is_bounded_and_leaves_nothing(agent: AgentProcess, box: str) -> None:
    agent.pycm("exec", "box", "true")
    before = descriptors(agent)
    script = "until [ -e /tmp/go ]; do sleep 0.05; done; exit 9"
    with ThreadPoolExecutor(12) as pool:
        calls = [pool.submit(agent.pycm, "exec", "box", "sh", "-c", script) for _ in range(12)]
        wait_until(lambda: sum(call.done() for call in calls) == 4, 30, "those that are too many are refused")
        assert agent.pycm("exec", "box", "true").returncode == 125
        Path(f"/proc/{agent.state(box)['pid']}/root", "tmp/go").touch()
    results = [call.result() for call in calls]
    assert sorted(done.returncode for done in results) == [9] * 8 + [125] * 4
    assert all("too many commands run already" in done.stderr for done in results if done.returncode == 125)
    wait_until(lambda: descriptors(agent) <= before, 30, "descriptors are as before")
    assert agent.pycm("exec", "box", "true").returncode == 0


def test_commands_of_a_killed_agent_are_ended_by_the_next(agent: AgentProcess, box: str) -> None:
    process = subprocess.Popen(
        agent.command("exec", "box", "sh", "-c", "echo ready; exec sleep 87654", program="pycm"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    agent.kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 125
    assert "closed the connection" in err
    agent.start()
    wait_until(lambda: not list((agent.run / "exec").iterdir()), 30, "the command is ended")
    assert not (agent.run / "pipes").exists() or list((agent.run / "pipes").iterdir()) == []
    assert agent.state(box)["running"]


# ── what Kanto's service has and does not do: Restart, ListStream ──


def test_restart_ends_what_does_not_want_to_and_starts_it_again(agent: AgentProcess, box: str) -> None:
    deaf = agent.run_container(
        IMAGE, "/bin/sh", "-c", "trap '' TERM; " + FOREVER.partition("; ")[2], name="deaf"
    )
    for identifier in (box, deaf):
        before = agent.state(identifier)["pid"]
        agent.cm("restart", identifier)
        after = agent.state(identifier)
        assert after["running"]
        assert after["pid"] not in (before, -1)
        assert not agent.get(identifier)["manually_stopped"]
    agent.cm("stop", box)
    agent.cm("restart", "-n", "box")
    assert agent.state(box)["running"]
    with pytest.raises(GRPCError, match="no such container with id = nope exists"):
        call(str(agent.socket), "Restart", m.RestartContainerRequest(id="nope"), Empty)
    listed = call(str(agent.socket), "ListStream", Empty(), m.ListContainerMessage)
    assert [one.container.id for one in listed] == agent.ids()
    assert [one.container.state.status for one in listed] == ["Running", "Running"]


# ── events, wait, stats ──


def test_events_tell_a_containers_life(agent: AgentProcess) -> None:
    process = subprocess.Popen(
        agent.command("events", "--format", "json", program="pycm"), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    try:
        wait_until(lambda: _listening(agent, process), 30, "events are listened to")
        container_id = agent.run_container(IMAGE, "/bin/sh", "-c", "exit 7", name="short")
        seen = []
        while "exited" not in [event["action"] for event in seen]:
            seen.append(json.loads(process.stdout.readline()))
        agent.cm("remove", container_id)
        seen.append(json.loads(process.stdout.readline()))
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
        process.stdout.close()
    mine = [event for event in seen if event["container_id"] == container_id]
    assert [event["action"] for event in mine] == ["created", "running", "exited", "removed"]
    assert (mine[2]["exit_code"], mine[2]["container_name"], mine[2]["status"]) == (7, "short", "Exited")


def _listening(agent: AgentProcess, process: "subprocess.Popen[str]") -> bool:
    """A rename that changes nothing is no event, so make containers until one is seen."""
    import select

    assert process.stdout
    agent.cm("create", "--network", "host", "-n", "probe", IMAGE, "true")
    return bool(select.select([process.stdout], [], [], 0.2)[0])


def test_wait_returns_the_exit_code_of_a_real_container(agent: AgentProcess) -> None:
    agent.run_container(IMAGE, "/bin/sh", "-c", "sleep 1; exit 42", name="short")
    done = agent.pycm("wait", "short")
    assert (done.returncode, done.stdout) == (0, "42\n")
    assert agent.pycm("wait", "--for", "running", "--within", "100ms", "short").returncode == 6


def test_stats_of_a_container_that_works_and_of_one_that_sleeps(agent: AgentProcess) -> None:
    agent.run_container(IMAGE, "/bin/sh", "-c", "while :; do :; done", name="busy")
    agent.run_container(IMAGE, "/bin/sleep", "1000", name="idle", flags=("-m", "64M"))
    done = agent.pycm("stats", "--no-stream", "--format", "json")
    found = {one["container_name"]: one for one in json.loads(done.stdout)["containers"]}
    assert found["busy"]["cpu_percent"] > found["idle"]["cpu_percent"]
    assert found["idle"]["memory_total_bytes"] == 64 * 1024 * 1024
    assert found["idle"]["pids"] == 1
    table = agent.pycm("stats", "--no-stream", "idle").stdout
    assert table.splitlines()[1].startswith("idle")
