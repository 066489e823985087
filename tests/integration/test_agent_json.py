# SPDX-License-Identifier: Apache-2.0
"""The JSON API of a real agent: curl as the client, the examples of docs/api.md, and abuse from outside."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from containerd_server import wait_until
from images import IMAGE

from pycm.api.protocol import EXIT, RESIZE, SIGNAL, STDERR, STDIN, STDOUT, UPGRADE, Frames, frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent_process import AgentProcess

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[2] / "docs/api.md"
SIZES = "for size in '20 70' '33 99'; do until [ \"$(stty size)\" = \"$size\" ]; do sleep 0.05; done; stty size; done; exec sleep 1000"
FOREVER = "trap 'exit 143' TERM; echo ready; while :; do sleep 0.1; done"


def curl(agent: AgentProcess, path: str, *flags: str) -> tuple[int, str]:
    """Status and body of a call."""
    words = ("curl", "-sS", "-m", "60", "--unix-socket", str(agent.socket), "-w", "\n%{http_code}", *flags)
    done = subprocess.run([*words, f"http://localhost{path}"], capture_output=True, text=True, check=True)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def value(agent: AgentProcess, path: str, *flags: str) -> Any:
    return json.loads(curl(agent, path, *flags)[1])


@pytest.fixture
def box(agent: AgentProcess) -> str:
    return agent.run_container(IMAGE, "/bin/sh", "-c", FOREVER, name="box")


class Talk:
    """Exec or attach over a socket of our own, to be closed by the fixture `talk`."""

    def __init__(self, agent: AgentProcess, path: str, body: Any = None) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(agent.socket))
        data = json.dumps(body or {}).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {UPGRADE}\r\nContent-Length: {len(data)}\r\n\r\n"
        self.socket.sendall(head.encode() + data)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self.socket.recv(65536)
        self.head, _, rest = received.partition(b"\r\n\r\n")
        self._frames = Frames()
        self._frames.feed(rest)

    def send(self, kind: int, payload: bytes = b"") -> None:
        self.socket.sendall(frame(kind, payload))

    def frames(self) -> Iterator[tuple[int, bytes]]:
        yield from self._frames.take()
        while data := self.socket.recv(65536):
            self._frames.feed(data)
            yield from self._frames.take()

    def until(self, text: bytes) -> bytes:
        found = b""
        for kind, payload in self.frames():
            assert kind == STDOUT, payload
            found += payload
            if text in found:
                break
        return found

    def rest(self) -> dict[int, bytes]:
        """All frames until the end, joined by kind."""
        found: dict[int, bytes] = {}
        for kind, payload in self.frames():
            found[kind] = found.get(kind, b"") + payload
        return found


@pytest.fixture
def talk(agent: AgentProcess) -> Iterator[Callable[..., Talk]]:
    talks: list[Talk] = []

    def begin(path: str, body: Any = None) -> Talk:
        talks.append(Talk(agent, path, body))
        return talks[-1]

    yield begin
    for one in talks:
        one.socket.close()


# ── curl ──


def test_examples_of_the_page_work_as_they_are_written(agent: AgentProcess) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    script = "set -eu\n" + "".join(blocks)
    script = re.sub(r"^S=.*$", f"S={agent.socket}", script, count=1, flags=re.MULTILINE)
    script = script.replace("registry.test/demo/app:1.0", IMAGE).replace(
        "curl ", "curl -sS --fail-with-body "
    )
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"container_name":"seat"' in done.stdout
    assert '{"log":' in done.stdout
    assert '"memory_used_bytes":' in done.stdout
    assert '"status":"Running"' in done.stdout
    assert agent.ids() == []


def test_get_is_what_the_command_line_prints(agent: AgentProcess, box: str) -> None:
    assert value(agent, f"/v1/containers/{box}") == json.loads(agent.cm("get", box))


def test_life_of_a_container_by_curl(agent: AgentProcess) -> None:
    command = ["/bin/sh", "-c", FOREVER]
    descriptor = {"container_name": "by-curl", "image": {"name": IMAGE}, "config": {"cmd": command}}
    status, body = curl(agent, "/v1/containers", "-d", json.dumps(descriptor))
    identifier = json.loads(body)["container_id"]
    path = f"/v1/containers/{identifier}"
    assert status == 201
    assert curl(agent, path + "/start", "-X", "POST") == (204, "")
    assert curl(agent, path + "/start", "-X", "POST")[0] == 409
    assert curl(agent, path + "/pause", "-X", "POST")[0] == 204
    assert value(agent, path)["state"]["paused"] is True
    assert curl(agent, path + "/unpause", "-X", "POST")[0] == 204
    assert curl(agent, path + "/rename", "-d", '{"name":"renamed"}')[0] == 204
    assert curl(agent, path + "/update", "-d", '{"resources":{"memory":"64M"}}')[0] == 204
    found = value(agent, path)
    assert found["container_name"] == "renamed"
    assert found["host_config"]["resources"]["memory"] == "64M"
    assert value(agent, path + "/wait?for=running")["status"] == "Running"
    assert curl(agent, path + "/restart", "-X", "POST")[0] == 204
    assert curl(agent, path, "-X", "DELETE")[0] == 409
    assert curl(agent, path + "/stop", "-d", '{"timeout":5,"signal":"SIGTERM"}')[0] == 204
    assert value(agent, path + "/wait")["exit_code"] == 143
    assert curl(agent, path, "-X", "DELETE")[0] == 204
    assert curl(agent, path)[0] == 404


def test_events_and_stats_flow_while_curl_listens(agent: AgentProcess, box: str) -> None:
    words = ["curl", "-sSN", "--unix-socket", str(agent.socket), f"http://localhost/v1/events?id={box}"]
    with subprocess.Popen([*words, "-D", "-"], stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout
        while listener.stdout.readline().strip():
            pass  # the head: from here on nothing is missed
        agent.cm("stop", box)
        assert json.loads(listener.stdout.readline())["action"] == "stopped"
        listener.terminate()
    sample = value(agent, "/v1/stats?samples=1&interval_ms=500")
    assert sample["containers"] == []


def test_long_answers_and_bodies_pass_through_curl(agent: AgentProcess, tmp_path: Path) -> None:
    env = [f"V{n}={'x' * 1000}" for n in range(200)]
    descriptor = {"container_name": "long", "image": {"name": IMAGE}, "config": {"env": env}}
    file = tmp_path / "descriptor.json"
    file.write_text(json.dumps(descriptor))
    identifiers = []
    for _ in range(10):
        status, body = curl(agent, "/v1/containers", "-d", f"@{file}", "-H", "Expect: 100-continue")
        assert status == 201
        identifiers.append(json.loads(body)["container_id"])
    listed = value(agent, "/v1/containers")
    assert [one["container_id"] for one in listed] == identifiers
    assert listed[0]["config"]["env"] == env


# ── exec and attach ──


def test_exec_carries_streams_and_exit_code(box: str, talk: Callable[..., Talk]) -> None:
    client = talk(
        f"/v1/containers/{box}/exec",
        {"command": ["sh", "-c", "cat; echo err >&2; exit 7"], "stdin": True},
    )
    assert client.head.startswith(b"HTTP/1.1 101 ")
    sent = os.urandom(3_000_000)
    with ThreadPoolExecutor() as pool:
        pool.submit(_feed, client, sent)
        found = client.rest()
    assert found[STDOUT] == sent
    assert found[STDERR] == b"err\n"
    assert found[EXIT] == b'{"exit_code":7}'


def _feed(client: Talk, data: bytes) -> None:
    for start in range(0, len(data), 60_000):
        client.send(STDIN, data[start : start + 60_000])
    client.send(STDIN)


def test_exec_has_a_terminal_with_a_size_and_signals(box: str, talk: Callable[..., Talk]) -> None:
    body = {
        "command": ["sh", "-c", SIZES],
        "tty": True,
        "stdin": True,
        "columns": 70,
        "rows": 20,
    }
    client = talk(f"/v1/containers/{box}/exec", body)
    client.until(b"20 70")
    client.send(RESIZE, b'{"columns":99,"rows":33}')
    client.until(b"33 99")
    client.send(SIGNAL, b'{"number":15}')
    assert client.rest()[EXIT] == b'{"exit_code":143}'


def test_exec_of_a_missing_program_is_a_problem_with_an_exit_code(
    box: str, talk: Callable[..., Talk]
) -> None:
    client = talk(f"/v1/containers/{box}/exec", {"command": ["nope"]})
    assert client.head.startswith(b"HTTP/1.1 422 ")


def test_command_ends_when_its_client_is_killed(box: str, talk: Callable[..., Talk]) -> None:
    client = talk(f"/v1/containers/{box}/exec", {"command": ["sh", "-c", "echo here; exec sleep 4321"]})
    client.until(b"here")
    wait_until(lambda: bool(_sleepers()), 30, "the command runs")
    client.socket.close()
    wait_until(lambda: not _sleepers(), 30, "the command has ended")


def test_command_ends_when_its_client_is_killed_with_input_under_way(
    box: str, talk: Callable[..., Talk]
) -> None:
    """The agent does not read then: the command does not take its input."""
    client = talk(
        f"/v1/containers/{box}/exec",
        {"command": ["sh", "-c", "echo here; exec sleep 4321"], "stdin": True},
    )
    client.until(b"here")
    client.socket.settimeout(1)
    with pytest.raises(TimeoutError):
        client.socket.sendall(frame(STDIN, bytes(60_000)) * 100)
    client.socket.close()
    wait_until(lambda: not _sleepers(), 30, "the command has ended")


def _sleepers() -> list[str]:
    done = subprocess.run(["pgrep", "-f", "^sleep 4321$"], capture_output=True, text=True, check=False)
    return done.stdout.split()


def test_attach_shows_output_passes_input_on_and_ends_with_the_exit_code(
    agent: AgentProcess, talk: Callable[..., Talk]
) -> None:
    box = agent.cm(
        "create",
        "--network",
        "host",
        "--rp",
        "no",
        "--i",
        IMAGE,
        "/bin/sh",
        "-c",
        "read line; echo got $line; exit 5",
    )
    client = talk(f"/v1/containers/{box}/attach?stdin=true")
    assert client.head.startswith(b"HTTP/1.1 101 ")
    assert curl(agent, f"/v1/containers/{box}/start", "-X", "POST")[0] == 204
    client.send(STDIN, b"it\n")
    found = client.rest()
    assert found == {STDOUT: b"got it\n", EXIT: b'{"exit_code":5}'}


# ── abuse ──


def test_agent_survives_malformed_http_from_many_clients(agent: AgentProcess, box: str) -> None:
    seeds = [
        b"GET / HTTP/1.1\r\n\r\n", b"GET " + b"/" * 70_000, b"POST /v1/containers HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n",
        b"POST /v1/images/pull HTTP/1.1\r\nHost: x\r\nContent-Length: 4194305\r\n\r\n", b"G" + os.urandom(5000),
        b"POST /v1/containers/" + box.encode() + b"/exec HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: pycm-frames\r\nContent-Length: 22\r\n\r\n"
        + b'{"command":["sleep 1"]' + b"}" + bytes(100),
    ]  # fmt: skip
    assert agent.process
    before = len(os.listdir(f"/proc/{agent.process.pid}/fd"))
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: _hit(agent, seeds[number % len(seeds)]), range(300)))
    assert curl(agent, "/v1/version")[0] == 200
    assert value(agent, f"/v1/containers/{box}")["state"]["running"] is True
    wait_until(
        lambda: len(os.listdir(f"/proc/{agent.process.pid}/fd")) <= before + 2, 30, "descriptors are closed"
    )  # type: ignore[union-attr]
    log = agent.log.read_text()
    assert "Traceback" not in log
    assert len(re.findall("API client", log)) <= 22


def _hit(agent: AgentProcess, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(agent.socket))
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
        except OSError:
            pass
