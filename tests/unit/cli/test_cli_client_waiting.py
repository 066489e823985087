# SPDX-License-Identifier: Apache-2.0
"""The command line's client and an agent that comes late, is another one, takes its time or hangs."""

import errno
import socket
import threading
from pathlib import Path

import pytest

from pycm.cli import client as module
from pycm.cli import wire
from pycm.cli.agent import quote_path
from pycm.cli.client import Client, TimeExpiredError, parse_host
from pycm.cli.wire import SILENT
from pycm.errors import (
    InvalidInputError,
    PycmError,
    UnavailableError,
)
from support.http_peer import WAIT, Peer, Script, greeted, served


def failure(path: str, script: Script, *, deadline: float | None = None) -> PycmError:
    with served(path, greeted(script)), pytest.raises(PycmError) as caught:
        Client(path, timeout=5).call("POST", "/v1/x", deadline=deadline)
    return caught.value


# ── connecting ──────────────────────────────────────────────────────────────────────────────────────────────────────


def unreachable(path: str, timeout: float = 0) -> UnavailableError:
    with pytest.raises(UnavailableError) as caught:
        Client(path, timeout=timeout).call("GET", "/x")
    return caught.value


def test_client_waits_for_a_socket_that_does_not_exist(path: str) -> None:
    appeared = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.answer(b'"here"')

    def appear() -> None:
        with served(path, greeted(script)):
            appeared.wait(WAIT)

    original = module.time.sleep
    threads: list[threading.Thread] = []

    def sleep(seconds: float) -> None:
        if not threads:  # the first attempt has failed: now the agent comes
            threads.append(threading.Thread(target=appear))
            threads[0].start()
        original(seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.time, "sleep", sleep)
        assert Client(path, timeout=WAIT).call("GET", "/x") == "here"
    appeared.set()
    threads[0].join(WAIT)


def test_client_names_the_cause_of_a_failed_connection(path: str, tmp_path: Path) -> None:
    error = unreachable(path)
    assert str(error) == f"cannot connect to the agent at {path}: No such file or directory (waited 0 s)"
    assert error.hint == "is the agent running?"
    (tmp_path / "file").touch()
    assert "Connection refused" in str(unreachable(str(tmp_path / "file")))
    assert "Not a directory" in str(unreachable(str(tmp_path / "file" / "s"), timeout=30))


def test_client_does_not_wait_for_missing_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: str, _seconds: float) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(wire, "_connect", refuse)
    error = unreachable("/x", timeout=3600)
    assert str(error) == "cannot connect to the agent at /x: Permission denied (waited 0 s)"
    assert error.hint == "run it as root or as a member of the socket's group"


def test_client_gives_up_a_server_that_says_nothing(path: str) -> None:
    with served(path, Peer.until_closed):
        assert "it does not answer" in str(unreachable(path, timeout=0.05))


def test_client_retries_a_server_that_closes_at_once(path: str) -> None:
    def serve(peer: Peer) -> None:
        peer.request()
        peer.answer(b'"third"')

    with served(path, lambda _: None, lambda _: None, greeted(serve)) as peers:
        assert Client(path).call("GET", "/x") == "third"
    assert len(peers) == 3


@pytest.mark.parametrize("first", [b"\0\0\x12\x04\0\0\0\0\0" + bytes(18), b"\0"])
def test_client_recognises_an_agent_without_json(path: str, first: bytes) -> None:
    def speak_http2(peer: Peer) -> None:
        peer.send(first)
        peer.until_closed()

    with served(path, speak_http2):
        error = unreachable(path, timeout=3600)
    assert str(error) == f"the agent at {path} has no JSON API: it does not speak HTTP/1.1"
    assert "restart the agent" in error.hint


@pytest.mark.parametrize(
    ("host", "path"), [("/a", "/a"), ("unix:///a", "/a"), ("unix:/a", "/a"), ("unix:////a", "/a"), ("a", "a")]
)
def test_parse_host_accepts_paths(host: str, path: str) -> None:
    assert parse_host(host) == path


@pytest.mark.parametrize("host", ["", "http://h:1", "unix:", "a\0b"])
def test_parse_host_refuses_what_is_not_a_path(host: str) -> None:
    with pytest.raises(InvalidInputError, match=r"^--host must be a path or unix://path, got "):
        parse_host(host)


@pytest.mark.parametrize("host", ["tcp://h:1", "tcp4://127.0.0.1:1", "tcp6://[::1]:1"])
def test_parse_host_refuses_tcp_with_the_way_around_it(host: str) -> None:
    with pytest.raises(InvalidInputError, match="needs the agent's unix socket, got") as caught:
        parse_host(host)
    assert "ssh -L" in caught.value.hint


def test_quote_path_leaves_no_character_that_has_a_meaning() -> None:
    assert quote_path("aZ9-._~") == "aZ9-._~"
    assert quote_path("a/b?c=d&e%ü \n") == "a%2Fb%3Fc%3Dd%26e%25%C3%BC%20%0A"


# ── long waits ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_client_gives_up_an_agent_that_hangs(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "QUIET", 0.05)
    monkeypatch.setattr(wire, "PATIENCE", 0.05)

    def hang(peer: Peer) -> None:
        peer.request()
        peer.until_closed()

    error = failure(path, hang)
    assert (type(error), str(error)) == (UnavailableError, SILENT)


def test_channel_gives_up_an_agent_that_hangs(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "QUIET", 0.05)
    monkeypatch.setattr(wire, "PATIENCE", 0.05)

    def hang(peer: Peer) -> None:
        peer.request()
        peer.upgrade()
        peer.until_closed()

    with served(path, greeted(hang)):
        channel = Client(path).upgrade("/x", None)
        while not channel.done:
            channel.check()
        with pytest.raises(UnavailableError, match="does not answer any more"):
            channel.take()
        channel.close()


def test_client_waits_for_an_agent_that_answers_its_probes(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "QUIET", 0.01)
    monkeypatch.setattr(wire, "LATER_QUIET", 0.01)
    monkeypatch.setattr(wire, "PATIENCE", 0.2)
    first: list[Peer] = []

    def slow(peer: Peer) -> None:
        peer.request()
        first.append(peer)
        peer.socket = peer.socket.dup()  # it stays open while the probes are answered

    def probed(peer: Peer) -> None:
        peer.greet()
        peer.until_closed()

    def last(peer: Peer) -> None:
        probed(peer)
        first[0].answer(b'"at last"')
        first[0].socket.close()

    with served(path, greeted(slow), probed, probed, last):
        assert Client(path).call("GET", "/x") == "at last"


def test_client_gives_up_an_agent_that_reads_nothing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PATIENCE", 0.05)
    given_up = threading.Event()

    with served(path, greeted(lambda _peer: [given_up.wait(WAIT)][:0])):
        with pytest.raises(UnavailableError, match="does not answer any more"):
            Client(path).call("POST", "/x", {"a": "x" * 4_000_000})
        given_up.set()


def test_client_reports_that_it_still_waits(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STILL_WAITING", 0.02)
    told: list[float] = []
    enough = threading.Event()

    def hear(seconds: float) -> None:
        told.append(seconds)
        if len(told) == 3:
            enough.set()

    def slow(peer: Peer) -> None:
        peer.request()
        enough.wait(WAIT)
        peer.answer(b"{}")

    with served(path, greeted(slow), Peer.until_closed):
        client = Client(path, waiting=hear)
        client.call("POST", "/x")
        assert told[:3] == [0.02, 0.04, 0.08]
        told.clear()
        with pytest.raises(TimeExpiredError, match=r"no answer within 0\.1 s"):
            client.call("GET", "/x", deadline=0.1, patient=True)
    assert told == []


def test_client_gives_up_an_exec_that_does_not_begin(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEGIN", 0.05)
    closed = threading.Event()

    def hang(peer: Peer) -> None:
        peer.request()
        peer.until_closed()
        closed.set()

    with served(path, greeted(hang)), pytest.raises(TimeExpiredError, match=r"no answer within 0\.05 s"):
        Client(path).upgrade("/x", None)
    assert closed.is_set(), "the agent must notice that nobody waits any more"
