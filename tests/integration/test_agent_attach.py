# SPDX-License-Identifier: Apache-2.0
"""Attaching to real containers: at a terminal, through pipes, over an agent's end, and with clients that go away."""

import signal
import subprocess
from pathlib import Path

import pytest
from agent_process import AgentProcess
from containerd_server import wait_until
from images import IMAGE
from pty_process import PtyProcess

pytestmark = pytest.mark.integration

FOREVER = "trap 'exit 143' TERM; while :; do sleep 0.1; done"
ECHO = "while read line; do echo got $line; [ $line = end ] && exit 5; done; echo eof; exit 6"


def create(agent: AgentProcess, script: str, *flags: str) -> str:
    return agent.cm("create", "--network", "host", "--rp", "no", *flags, IMAGE, "/bin/sh", "-c", script)


def shell(agent: AgentProcess) -> str:
    return agent.cm("create", "--network", "host", "--rp", "no", "--t", "--i", IMAGE, "/bin/sh")


def attached(agent: AgentProcess, container_id: str, *flags: str) -> "subprocess.Popen[str]":
    """`pycm attach` with pipes."""
    process = subprocess.Popen(
        agent.command("attach", container_id, *flags, program="pycm"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert process.stdin
    assert process.stdout
    return process


# ── at a terminal ──


def test_a_shell_at_a_terminal_from_start_to_exit(agent: AgentProcess) -> None:
    container_id = shell(agent)
    with PtyProcess(agent.command("start", "--a", "--i", container_id), columns=91, rows=31) as terminal:
        terminal.until("# ")
        assert terminal.raw
        terminal.type("stty size\n")
        terminal.until("31 91")
        terminal.resize(101, 33)
        terminal.signal(signal.SIGWINCH)
        terminal.until("# ")
        terminal.type("while [ \"$(stty size)\" = '31 91' ]; do sleep 0.05; done; stty size\n")
        terminal.until("33 101")
        terminal.until("# ")
        terminal.type("trap 'echo caug''ht' INT; echo rea''dy; cat\n")
        terminal.until("ready\r\n")
        terminal.type("on\n")
        terminal.until("on\r\non\r\n")  # cat runs: an interrupt before that would wait for its end
        terminal.type("\x03")  # Ctrl-C is for the container
        terminal.until("caught\r\n")
        terminal.type("exit 7\n")
        assert terminal.wait() == 7
        assert terminal.restored
    assert agent.wait_for(container_id, status=5)["exit_code"] == 7


def test_detaching_leaves_the_container_running_and_attach_takes_it_up_again(agent: AgentProcess) -> None:
    container_id = shell(agent)
    with PtyProcess(agent.command("start", "--a", "--i", container_id)) as terminal:
        terminal.until("# ")
        terminal.type("X=kept\n")
        terminal.until("# ")
        terminal.type("\x10")
        terminal.type("\x11")
        assert terminal.wait() == 0
        assert "keeps running" in terminal.seen
        assert terminal.restored
    assert agent.state(container_id)["running"]
    with PtyProcess(agent.command("attach", container_id[:8], program="pycm")) as terminal:
        terminal.type("echo $X; exit 3\n")
        terminal.until("kept")
        assert terminal.wait() == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_terminal_is_restored_however_it_ends(
    agent: AgentProcess, number: signal.Signals, code: int
) -> None:
    container_id = shell(agent)
    with PtyProcess(agent.command("start", "--a", "--i", container_id)) as terminal:
        terminal.until("# ")
        assert terminal.raw
        terminal.signal(number)
        assert terminal.wait() == code
        assert terminal.restored
    assert agent.state(container_id)["running"]


def test_the_terminal_is_restored_when_the_agent_is_killed(agent: AgentProcess) -> None:
    container_id = shell(agent)
    with PtyProcess(agent.command("start", "--a", "--i", container_id)) as terminal:
        terminal.until("# ")
        agent.kill()
        assert terminal.wait() == 1
        assert "closed the connection" in terminal.seen
        assert terminal.restored
    agent.start()
    assert agent.state(container_id)["running"]
    with PtyProcess(agent.command("attach", container_id, program="pycm")) as terminal:  # over the restart
        terminal.type("echo again; exit 4\n")
        terminal.until("again\r\n")
        assert terminal.wait() == 4


def test_a_terminal_is_wanted_for_a_container_with_one(agent: AgentProcess) -> None:
    done = agent.call("start", "--a", shell(agent))
    assert (done.returncode, done.stderr) == (1, "Error: the input device is not a TTY\n")


# ── through pipes ──


def test_input_and_its_end_through_pipes_and_the_exit_code(agent: AgentProcess) -> None:
    container_id = create(agent, ECHO, "--i")
    done = agent.call("start", "--a", "--i", container_id, stdin="one\ntwo\n")
    assert (done.stdout, done.stderr, done.returncode) == ("got one\ngot two\neof\n", "", 6)
    assert agent.logged(container_id) == ["got one", "got two", "eof"]


def test_more_input_than_the_container_takes_at_once_arrives_whole(agent: AgentProcess) -> None:
    container_id = create(agent, "sleep 1; cat | dd bs=1M 2>/dev/null; exit 2", "--i")
    text = "".join(f"{number:07d}\n" for number in range(300_000))
    done = agent.call("start", "--a", "--i", container_id, stdin=text)
    assert done.returncode == 2
    assert done.stdout == text


def test_start_a_shows_both_streams_from_the_first_word(agent: AgentProcess) -> None:
    container_id = create(agent, "echo out; echo err >&2; exit 9")
    done = agent.call("start", "--a", container_id)
    assert (sorted(done.stdout.split()), done.returncode) == (["err", "out"], 9)
    again = agent.call("start", "--a", container_id)
    assert (sorted(again.stdout.split()), again.returncode) == (["err", "out"], 9)


def test_two_clients_see_the_same_and_a_killed_one_leaves_input_open(agent: AgentProcess) -> None:
    container_id = create(agent, ECHO, "--i")
    agent.cm("start", container_id)
    first, second = attached(agent, container_id), attached(agent, container_id)
    for number, process in enumerate((first, second)):
        assert process.stdin
        process.stdin.write(f"{number}\n")
        assert process.stdout
        assert process.stdout.readline().startswith("got ")
    first.kill()
    first.communicate()
    third = attached(agent, container_id)
    assert third.stdin
    third.stdin.write("end\n")
    assert third.wait(120) == 5
    assert second.communicate(timeout=120)[0].endswith("got end\n")
    assert second.returncode == 5
    third.communicate()


def test_stdin_once_ends_with_its_first_client(agent: AgentProcess, tmp_path: Path) -> None:
    descriptor = tmp_path / "once.json"
    descriptor.write_text(
        f"""{{"image": {{"name": "{IMAGE}"}}, "config": {{"cmd": ["/bin/sh", "-c", "{ECHO}"]}},
        "host_config": {{"network_mode": "host", "restart_policy": {{"type": "no"}}}},
        "io_config": {{"open_stdin": true, "stdin_once": true}}}}"""
    )
    container_id = agent.cm("create", "--file", descriptor)
    agent.cm("start", container_id)
    client = attached(agent, container_id)
    assert client.stdin
    assert client.stdout
    client.stdin.write("x\n")
    assert client.stdout.readline() == "got x\n"
    client.kill()
    client.communicate()
    assert agent.wait_for(container_id, status=5)["exit_code"] == 6


def test_ctrl_c_detaches_from_pipes(agent: AgentProcess) -> None:
    container_id = create(agent, "echo ready; " + FOREVER)
    process = subprocess.Popen(agent.command("start", "--a", container_id), stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    process.stdout.close()
    assert agent.state(container_id)["running"]


def test_attach_names_what_cannot_be(agent: AgentProcess) -> None:
    container_id = create(agent, FOREVER, "-n", "sleeper")
    done = agent.pycm("attach", "sleeper")
    assert done.returncode == 5
    assert done.stderr.startswith(
        'Error: container "sleeper" is not running, it is Created\nhint: start --a --i'
    )
    assert agent.pycm("attach", "leep").returncode == 4
    assert "did you mean sleeper?" in agent.pycm("attach", "leep").stderr
    assert agent.pycm("attach").returncode == 2
    done = agent.pycm("attach", container_id[:4], "--host", str(agent.directory / "none"), "--timeout", "0")
    assert done.returncode == 3


def test_the_container_never_waits_for_a_client_that_does_not_read(agent: AgentProcess) -> None:
    container_id = create(
        agent, "sleep 1; dd if=/dev/zero bs=64k count=200 2>/dev/null; echo done", "--log-driver", "none"
    )
    process = subprocess.Popen(
        agent.command("start", "--a", container_id), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    agent.wait_for(container_id, status=5, exit_code=0)
    _, errors = process.communicate(timeout=120)
    assert b"reads too slowly" in errors
    assert process.returncode == 1


def test_descriptors_and_clients_are_as_before_when_all_have_gone(agent: AgentProcess) -> None:
    container_id = create(agent, "echo ready; " + FOREVER, "--i")
    agent.cm("start", container_id)
    assert agent.process
    fds = Path(f"/proc/{agent.process.pid}/fd")
    before = len(list(fds.iterdir()))
    for _ in range(2):
        clients = [attached(agent, container_id) for _ in range(10)]
        # the connection of the last command may have been among those before
        wait_until(lambda: len(list(fds.iterdir())) >= before + 9, 30, "all are attached")
        for client in clients:
            client.kill()
            client.communicate()
        wait_until(lambda: len(list(fds.iterdir())) <= before, 30, "descriptors are as before")
