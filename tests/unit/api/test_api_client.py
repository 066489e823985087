# SPDX-License-Identifier: Apache-2.0
"""The blocking client against servers that misbehave: every one ends in a clear error, none in a hang."""

import errno
import os
import signal
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from h2.events import StreamEnded

from pycm.api import client as module
from pycm.api.call import DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, UNKNOWN, CallError
from pycm.api.client import Client
from pycm.errors import InvalidInputError, UnavailableError
from support.api_peer import OK, WAIT, Peer, failure, served, until_closed


def test_answers_and_errors_of_several_calls_on_one_connection(path: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.answer(peer.request(), b"one")
        peer.answer(peer.request(), status="2")
        peer.answer(peer.request(), b"a", b"b", b"c")
        until_closed(peer)

    with served(path, script) as peers:
        client = Client(path)
        assert client.unary("/x", b"") == b"one"
        with pytest.raises(CallError, match=r"^rpc error: code = Unknown desc = why$") as caught:
            client.unary("/x", b"")
        assert caught.value.code == UNKNOWN
        assert list(client.stream("/x", b"")) == [b"a", b"b", b"c"]
        client.close()
    assert len(peers) == 1


def test_no_answer_and_two_answers_to_one_question_are_errors(path: str) -> None:
    def none(peer: Peer) -> None:
        peer.greet()
        peer.answer(peer.request())
        peer.answer(peer.request(), b"a", b"b")

    with served(path, none):
        client = Client(path)
        for count in (0, 2):
            with pytest.raises(CallError, match=f"sent {count} answers"):
                client.unary("/x", b"")
        client.close()


def test_a_reset_is_an_error(path: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.h2.reset_stream(peer.request(), ErrorCodes.PROTOCOL_ERROR)
        peer.flush()
        until_closed(peer)

    error = failure(path, script)
    assert (error.code, error.text) == (INTERNAL, "the agent reset the call (HTTP/2 error code 1)")


def test_a_connection_that_ends_during_the_call_is_an_error_and_the_next_call_connects_anew(
    path: str,
) -> None:
    def drop(peer: Peer) -> None:
        peer.greet()
        peer.request()

    def serve(peer: Peer) -> None:
        peer.greet()
        peer.answer(peer.request(), b"back")

    with served(path, drop, serve) as peers:
        client = Client(path)
        with pytest.raises(CallError, match="closed the connection before the call was done") as caught:
            client.unary("/x", b"")
        assert caught.value.code == UNAVAILABLE
        assert client.unary("/x", b"") == b"back"
        client.close()
    assert len(peers) == 2


def test_goaway_ends_a_call_that_was_not_begun(path: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.request()
        peer.socket.sendall(b"\0\0\x08\x07\0\0\0\0\0" + struct.pack(">II", 0, 0))
        until_closed(peer)

    error = failure(path, script)
    assert error.code == UNAVAILABLE
    assert "being stopped or restarted" in error.text


def test_garbage_in_the_middle_is_an_error(path: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.request()
        peer.socket.sendall(b"\xff" * 100)
        until_closed(peer)

    error = failure(path, script)
    assert error.code == UNAVAILABLE
    assert "not proper HTTP/2" in error.text


def test_silence_ends_at_the_deadline_and_the_agent_is_told(path: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.request()
        peer.request()

    with served(path, script) as peers:
        client = Client(path)
        with pytest.raises(CallError, match="no answer within") as caught:
            client.unary("/x", b"", deadline=0.05)
        assert caught.value.code == DEADLINE_EXCEEDED
        client.close()
    assert peers[0].resets == [8]


def test_leaving_a_stream_early_cancels_it(path: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        stream = peer.request()
        peer.h2.send_headers(stream, OK)
        peer.h2.send_data(stream, b"\0\0\0\0\1x")
        peer.flush()
        peer.request()
        peer.answer(peer.request(), b"next")

    with served(path, script) as peers:
        client = Client(path)
        messages = client.stream("/x", b"")
        assert next(messages) == b"x"
        messages.close()
        assert client.unary("/x", b"") == b"next"
        client.close()
    assert peers[0].resets == [8]


def test_an_interrupt_cancels_the_call(path: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.request()
        os.kill(os.getpid(), signal.SIGINT)
        peer.request()

    with served(path, script) as peers:
        client = Client(path)
        with pytest.raises(KeyboardInterrupt):
            client.unary("/x", b"")
        client.close()
    assert peers[0].resets == [8]


def test_a_request_longer_than_the_window_arrives(path: str) -> None:
    body = os.urandom(1024 * 1024)
    got = bytearray()

    def script(peer: Peer) -> None:
        peer.greet()
        ended = False
        while not ended:
            for event in peer.h2.receive_data(peer.socket.recv(65536)):
                ended = ended or isinstance(event, StreamEnded)
                if hasattr(event, "data") and hasattr(event, "flow_controlled_length"):
                    got.extend(event.data)
                    peer.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            peer.flush()
        peer.answer(1, b"")
        until_closed(peer)

    with served(path, script):
        client = Client(path)
        client.unary("/x", body)
        client.close()
    assert bytes(got[5:]) == body


# ── connecting ──────────────────────────────────────────────────────────────────────────────────────────────────────


def unreachable(host: str, timeout: float = 0) -> str:
    with pytest.raises(UnavailableError) as caught:
        Client(host, timeout=timeout).unary("/x", b"")
    return str(caught.value)


def test_a_socket_that_does_not_exist_is_waited_for(path: str) -> None:
    appeared = threading.Event()

    def script(peer: Peer) -> None:
        peer.greet()
        peer.answer(peer.request(), b"here")
        until_closed(peer)

    def appear() -> None:
        with served(path, script):
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
        client = Client(path, timeout=WAIT)
        assert client.unary("/x", b"") == b"here"
    client.close()
    appeared.set()
    threads[0].join(WAIT)


def test_the_real_cause_is_named(path: str, tmp_path: Path) -> None:
    assert unreachable(path) == (
        f"error while dialing {path}: No such file or directory (waited 0 s); is the agent running?"
    )
    (tmp_path / "file").touch()
    assert "Connection refused" in unreachable(str(tmp_path / "file"))
    assert "Not a directory" in unreachable(str(tmp_path / "file" / "s"), timeout=30)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        assert "Connection refused (waited 0 s); nobody listens there" in unreachable(
            f"tcp://127.0.0.1:{port}"
        )


def test_missing_rights_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_address: object, _seconds: float) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(module, "_open", refuse)
    assert unreachable("/x", timeout=3600) == (
        "error while dialing /x: Permission denied (waited 0 s); run it as root or as a member of the socket's group"
    )


def test_a_server_that_says_nothing_is_given_up_after_the_timeout(path: str) -> None:
    with served(path, until_closed):
        assert "it does not answer" in unreachable(path, timeout=0.05)


def test_a_server_that_closes_at_once_is_tried_again(path: str) -> None:
    def serve(peer: Peer) -> None:
        peer.greet()
        peer.answer(peer.request(), b"third")

    with served(path, lambda _: None, lambda _: None, serve) as peers:
        client = Client(path)
        assert client.unary("/x", b"") == b"third"
        client.close()
    assert len(peers) == 3


def test_a_server_of_another_kind_is_recognised_at_once(path: str) -> None:
    def script(peer: Peer) -> None:
        peer.socket.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        until_closed(peer)

    began = time.monotonic()
    with served(path, script):
        assert "does not speak HTTP/2" in unreachable(path, timeout=3600)
    assert time.monotonic() - began < WAIT


@pytest.mark.parametrize("host", ["unix://{}", "unix:{}", "{}", "unix:///{}"])
def test_ways_to_write_the_address_of_a_socket(path: str, host: str) -> None:
    def script(peer: Peer) -> None:
        peer.greet()
        peer.answer(peer.request(), b"x")

    with served(path, script):
        client = Client(host.format(path))
        assert client.unary("/x", b"") == b"x"
        client.close()


@pytest.mark.parametrize(
    "host", ["", "tcp://", "tcp://h", "tcp://:1", "tcp://h:0", "tcp://h:99999", "http://h:1", "unix:", "a\0b"]
)
def test_an_address_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(InvalidInputError, match="--host"):
        Client(host)
