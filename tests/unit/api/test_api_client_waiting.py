# SPDX-License-Identifier: Apache-2.0
"""The blocking client and an agent that takes its time, or hangs: each call ends or shows a sign of life."""

import threading
import time

import pytest
from h2.events import PingReceived
from h2.settings import SettingCodes

from pycm.api import client as module
from pycm.api import duplex as duplex_module
from pycm.api.call import CallError
from pycm.api.client import SILENT, Client
from pycm.cli.line import still_waiting
from support.api_peer import WAIT, Peer, failure, served, until_closed


def test_client_gives_up_an_agent_that_answers_no_ping(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET", 0.05)
    monkeypatch.setattr(module, "PATIENCE", 0.05)

    def hang(peer: Peer) -> None:
        peer.greet()
        until_closed(peer)

    assert failure(path, hang).text == SILENT
    with served(path + "2", hang):
        client = Client(path + "2")
        duplex = client.duplex("/x")
        while not duplex.done:
            duplex.check()
        with pytest.raises(CallError, match="does not answer any more"):
            duplex.take()
        client.close()


def test_client_waits_for_an_agent_that_answers_pings(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET", 0.01)
    monkeypatch.setattr(module, "LATER_QUIET", 0.01)
    monkeypatch.setattr(module, "PATIENCE", WAIT)
    pings = 0

    def slow(peer: Peer) -> None:
        nonlocal pings
        peer.greet()
        stream = peer.request()
        while pings < 5:
            events = peer.h2.receive_data(peer.socket.recv(65536))
            pings += sum(isinstance(event, PingReceived) for event in events)
            peer.flush()
        peer.answer(stream, b"at last")
        until_closed(peer)

    with served(path, slow):
        client = Client(path)
        assert client.unary("/x", b"") == b"at last"
        client.close()


def test_client_gives_up_an_agent_that_reads_nothing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    given_up = threading.Event()

    def deaf(peer: Peer) -> None:
        peer.greet()
        peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 30})
        peer.h2.increment_flow_control_window(1 << 30)
        peer.flush()
        given_up.wait(WAIT)

    with served(path, deaf):
        client = Client(path)
        with pytest.raises(CallError, match="does not answer any more"):
            client.unary("/x", bytes(4_000_000))
        given_up.set()
        client.close()


def test_client_tells_a_caller_that_it_still_waits(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STILL_WAITING", 0.02)
    told: list[tuple[str, float]] = []

    def slow(peer: Peer) -> None:
        peer.greet()
        stream = peer.request()
        while len(told) < 3:
            time.sleep(0.01)
        peer.answer(stream, b"")
        peer.request()
        until_closed(peer)

    with served(path, slow):
        client = Client(path, waiting=lambda *what: told.append(what))
        client.unary("/a/Stop", b"")
        assert told[:3] == [("Stop", 0.02), ("Stop", 0.04), ("Stop", 0.08)]
        told.clear()
        with pytest.raises(CallError, match=r"no answer within 0\.1 s"):
            client.unary("/a/Wait", b"", deadline=0.1, patient=True)
        assert told == []
        client.close()


def test_duplex_gives_up_a_call_that_is_not_taken(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplex_module, "BEGIN", 0.05)

    def hang(peer: Peer) -> None:
        peer.greet()
        peer.request()
        until_closed(peer)

    with served(path, hang) as peers:
        client = Client(path)
        duplex = client.duplex("/x")
        with pytest.raises(CallError, match=r"no answer within 0\.05 s"):
            duplex.begin()
        duplex.close()
        client.close()
    assert peers[0].resets == [8], "the agent hears that nobody waits any more"


def test_client_connects_again_when_it_has_not_called_for_long(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_call(peer: Peer) -> None:
        peer.greet()
        peer.answer(peer.request(), b"")
        until_closed(peer)

    with served(path, one_call, one_call) as peers:
        client = Client(path)
        client.unary("/x", b"")
        now = time.monotonic()
        monkeypatch.setattr(module.time, "monotonic", lambda: now + module.QUIET + 1)
        client.unary("/x", b"")
        client.close()
    assert len(peers) == 2


def test_command_line_says_on_stderr_that_it_waits(capsys: pytest.CaptureFixture[str]) -> None:
    still_waiting("Stop", 60.0)
    assert capsys.readouterr() == ("", "still waiting for the agent: Stop takes more than 60 s\n")
