# SPDX-License-Identifier: Apache-2.0
"""The command line's client against servers that misbehave: every one ends in a clear error, none in a hang."""

import os
import signal
import threading
from pathlib import Path

import pytest

from pycm.api.protocol import EXIT, PROBLEM, RESIZE, STDERR, STDIN, STDOUT
from pycm.cli import wire
from pycm.cli.client import Client, NotStartedError, TimeExpiredError
from pycm.cli.wire import LOST
from pycm.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    OperationFailedError,
    PycmError,
    UnavailableError,
)
from support.http_peer import WAIT, Peer, Script, greeted, served


def failure(path: str, script: Script, *, deadline: float | None = None) -> PycmError:
    with served(path, greeted(script)), pytest.raises(PycmError) as caught:
        Client(path, timeout=5).call("POST", "/v1/x", deadline=deadline)
    return caught.value


# ── calls ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_client_sends_a_body_and_returns_the_answer(path: str) -> None:
    seen: list[object] = []

    def script(peer: Peer) -> None:
        seen.append(peer.request())
        peer.answer('{"a":"ü"}'.encode())

    def second(peer: Peer) -> None:
        seen.append(peer.request())
        peer.answer(status=204)

    with served(path, greeted(script), second):
        client = Client(path)
        assert client.call("POST", "/v1/x", {"b": ["ä", 1, True]}) == {"a": "ü"}
        assert client.call("DELETE", "/v1/y") is None
    assert seen == [("POST /v1/x", {"b": ["ä", 1, True]}), ("DELETE /v1/y", None)]


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("invalid-input", 400, InvalidInputError),
        ("not-found", 404, NotFoundError),
        ("conflict", 409, ConflictError),
        ("busy", 429, OperationFailedError),
        ("operation-failed", 500, OperationFailedError),
        ("unavailable", 503, UnavailableError),
        ("timeout", 504, TimeExpiredError),
        ("of-the-future", 418, OperationFailedError),
    ],
)
def test_client_raises_the_error_of_a_problem(
    path: str, code: str, status: int, kind: type[PycmError]
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.problem(status, code=code, detail="why", hint="what to do")

    error = failure(path, script)
    assert (type(error), str(error), error.hint) == (kind, "why", "what to do")


def test_client_recognises_an_agent_that_lacks_a_call(path: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.problem(404, code="unknown-path", detail="/v1/x")

    error = failure(path, script)
    assert (type(error), str(error)) == (OperationFailedError, "the agent does not know this call")
    assert error.hint == "it is older than this command line"


@pytest.mark.parametrize("body", [b"no json", b"[1]", b"", b"\xff", b"[" * 100_000])
def test_client_survives_a_problem_without_sense(path: str, body: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.answer(body, 500)

    assert str(failure(path, script)).startswith("the agent ")


def test_client_puts_the_words_of_kantos_client_before_texts(path: str) -> None:
    def refuse(peer: Peer) -> None:
        peer.request()
        peer.problem(404, code="not-found", detail="why")

    with served(path, greeted(refuse), lambda peer: peer.until_closed()):
        client = Client(path, rpc=True)
        with pytest.raises(NotFoundError, match=r"^rpc error: code = Unknown desc = why$"):
            client.call("POST", "/v1/x")
        with pytest.raises(TimeExpiredError, match=r"^rpc error: code = DeadlineExceeded desc = no answer"):
            client.call("POST", "/v1/x", deadline=0.05)


def test_client_names_a_connection_that_ends_during_the_call(path: str) -> None:
    error = failure(path, lambda peer: [peer.request()][:0])
    assert (type(error), str(error)) == (UnavailableError, LOST)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xff" * 100, "does not speak HTTP/1.1"),
        (b"HTTP/1.1 abc\r\n\r\n", "a number"),
        (b"HTTP/1.1\r\n\r\n", "a number"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "a number"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "a number"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", "wrong length"),
        (b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000, "more than 65536 bytes"),
    ],
)
def test_client_names_an_answer_that_is_not_http(path: str, data: bytes, text: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(data)
        peer.until_closed()

    error = failure(path, script)
    assert isinstance(error, UnavailableError)
    assert text in str(error)


def test_client_bounds_the_answer(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.answer(b'"' + b"x" * 98 + b'"')

    monkeypatch.setattr(wire, "MAX_ANSWER", 100)
    with served(path, greeted(script)):
        assert Client(path).call("GET", "/x") == "x" * 98
    monkeypatch.setattr(wire, "MAX_ANSWER", 99)
    Path(path).unlink()
    assert "more than 99 bytes" in str(failure(path, script))


def test_client_cancels_by_closing_at_the_deadline(path: str) -> None:
    closed = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.until_closed()
        closed.set()

    with served(path, greeted(script)), pytest.raises(TimeExpiredError, match=r"^no answer within 0\.05 s$"):
        Client(path).call("GET", "/x", deadline=0.05)
    assert closed.is_set()


def test_client_cancels_the_call_when_interrupted(path: str) -> None:
    closed = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        os.kill(os.getpid(), signal.SIGINT)
        peer.until_closed()
        closed.set()

    with served(path, greeted(script)), pytest.raises(KeyboardInterrupt):
        Client(path).call("GET", "/x")
    assert closed.is_set()


def test_client_reads_what_the_agent_said_before_it_refused_a_long_request(path: str) -> None:
    def script(peer: Peer) -> None:
        peer.socket.recv(10)
        peer.problem(413, code="body-too-large", detail="too long")

    with served(path, greeted(script)), pytest.raises(OperationFailedError, match=r"^too long$"):
        Client(path).call("POST", "/x", {"a": "x" * 4_000_000})


# ── streams ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_client_joins_the_chunks_of_a_stream_and_splits_it_at_its_lines(path: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.begin_stream()
        for data in (b'{"n":1}\n{"n"', b":2", b"}\n", b'{"n":3}\n', b""):
            peer.chunk(data)

    with served(path, greeted(script)):
        assert [value["n"] for value in Client(path).stream("GET", "/x")] == [1, 2, 3]


def test_client_raises_the_problem_at_the_end_of_a_stream(path: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.begin_stream()
        peer.chunk(b'{"n":1}\n{"problem":{"code":"not-found","detail":"gone"}}\n')
        peer.chunk()

    with served(path, greeted(script)):
        values = Client(path).stream("GET", "/x")
        assert next(values) == {"n": 1}
        with pytest.raises(NotFoundError, match=r"^gone$"):
            next(values)


def test_client_raises_the_problem_instead_of_a_stream(path: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.problem(409, code="conflict", detail="no")

    with served(path, greeted(script)), pytest.raises(ConflictError, match=r"^no$"):
        list(Client(path).stream("GET", "/x"))


def test_client_names_a_stream_that_breaks(path: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.begin_stream()
        peer.chunk(b'{"n":1}\n')

    with served(path, greeted(script)):
        values = Client(path).stream("GET", "/x")
        assert next(values) == {"n": 1}
        with pytest.raises(UnavailableError, match="closed the connection before the call was done"):
            next(values)


def test_client_that_leaves_a_stream_early_closes_the_connection(path: str) -> None:
    closed = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.begin_stream()
        peer.chunk(b'{"n":1}\n')
        peer.until_closed()
        closed.set()

    with served(path, greeted(script)):
        values = Client(path).stream("GET", "/x")
        next(values)
        values.close()  # type: ignore[attr-defined]
    assert closed.is_set()


# ── upgraded connections ────────────────────────────────────────────────────────────────────────────────────────────


def test_channel_carries_frames_in_both_directions(path: str) -> None:
    seen: list[object] = []

    def script(peer: Peer) -> None:
        seen.append(peer.request())
        peer.upgrade()
        peer.frame(STDOUT, b"out")
        seen.extend(peer.frames(3))
        peer.frame(STDERR, b"err")
        peer.frame(EXIT, b'{"exit_code":7}')

    with served(path, greeted(script)):
        channel = Client(path).upgrade("/v1/x/exec", {"command": ["sh"]})
        channel.write(STDIN, b"typed")
        channel.write(RESIZE, b"{}")
        assert channel.hungry
        channel.write(STDIN)
        assert not channel.hungry
        output = []
        while not channel.done:
            channel.receive()
            output += channel.take()
        channel.close()
    assert (output, channel.exit) == ([(STDOUT, b"out"), (STDERR, b"err")], {"exit_code": 7})
    assert seen == [
        ("POST /v1/x/exec", {"command": ["sh"]}), (STDIN, b"typed"), (RESIZE, b"{}"), (STDIN, b""),
    ]  # fmt: skip


def end_of_channel(path: str, script: Script) -> PycmError:
    with served(path, greeted(script)):
        channel = Client(path).upgrade("/x", None)
        while not channel.done:
            channel.receive()
        assert channel.take() == [(STDOUT, b"last")]
        with pytest.raises(PycmError) as caught:
            channel.take()
        channel.close()
    return caught.value


def test_channel_raises_the_problem_after_the_output(path: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.upgrade()
        peer.frame(STDOUT, b"last")
        peer.frame(PROBLEM, b'{"code":"conflict","detail":"cut off"}')

    error = end_of_channel(path, script)
    assert (type(error), str(error)) == (ConflictError, "cut off")


@pytest.mark.parametrize(
    ("tail", "text"), [(b"", "closed the connection"), (b"\1\xff\xff\xff\xff", "malformed")]
)
def test_channel_that_breaks_is_an_error_after_the_output(path: str, tail: bytes, text: str) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.upgrade()
        peer.frame(STDOUT, b"last")
        peer.send(tail)

    assert text in str(end_of_channel(path, script))


def test_channel_keeps_what_the_agent_does_not_read_and_asks_for_no_more(path: str) -> None:
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.upgrade()
        go_on.wait(WAIT)
        frames = peer.frames(100)
        assert b"".join(payload for _, payload in frames) == b"x" * 65536 * 100
        peer.frame(EXIT, b"{}")

    with served(path, greeted(script)):
        channel = Client(path).upgrade("/x", None)
        for _ in range(100):
            channel.write(STDIN, b"x" * 65536)
        assert channel.unsent
        assert not channel.hungry
        go_on.set()
        while channel.unsent:
            channel.flush()
        assert channel.hungry
        while not channel.done:
            channel.receive()
        assert channel.exit == {}
        channel.close()


@pytest.mark.parametrize("members", [{"exit_code": 127}, {}])
def test_client_keeps_the_exit_code_of_a_command_that_does_not_start(
    path: str, members: dict[str, int]
) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.problem(422, code="not-started", detail="no such file", **members)

    with served(path, greeted(script)), pytest.raises(NotStartedError, match=r"^no such file$") as caught:
        Client(path).upgrade("/x", None)
    assert caught.value.exit_code == members.get("exit_code", 126)
