# SPDX-License-Identifier: Apache-2.0
"""Exec and attach of the JSON API: an upgraded connection, frames both ways, and how it ends."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpclib.const import Status

from pycm.api.protocol import EXIT, MAX_PAYLOAD, PROBLEM, RESIZE, SIGNAL, STDERR, STDIN, STDOUT, UPGRADE
from pycm.api.server import handlers, http
from pycm.api.server.handlers import start_failure
from pycm.containerd.client import from_status
from pycm.errors import (
    BusyError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    OperationFailedError,
    PycmError,
    UnavailableError,
)
from pycm.model.container import IOConfig, State
from pycm.model.states import Status as ContainerStatus
from pycm.ports import Action
from support.api_world import WAIT, World, eventually, running
from support.fake_containers import FakeSession
from support.fakes import FakeAttachment
from support.json_peer import JsonPeer, connected

RUNC = "OCI runtime exec failed: exec failed: unable to start container process: "
CRUN = "OCI runtime exec failed: crun: "


def failed(text: str) -> str:
    """As the client of containerd says it."""
    return str(from_status("Tasks.Start", Status.UNKNOWN, text))


@contextlib.asynccontextmanager
async def executing(world: World, **body: Any) -> AsyncIterator[tuple[JsonPeer, FakeSession]]:
    async with connected(world.path) as peer:
        head = await peer.upgrade("/v1/containers/a/exec", {"command": ["x"], **body})
        assert head.status_code == 101
        assert (b"upgrade", UPGRADE.encode()) in head.headers
        yield peer, world.sessions.commands[-1]


async def problem(peer: JsonPeer) -> dict[str, Any]:
    kind, payload = await peer.frame()
    assert kind == PROBLEM
    await peer.closed()
    found: dict[str, Any] = json.loads(payload)
    return found


# ── exec ──


async def test_exec_hands_the_command_on_as_it_was_asked_for(world: World) -> None:
    asked = {
        "tty": True,
        "stdin": True,
        "env": ["A=1"],
        "user": "u",
        "working_dir": "/w",
        "columns": 80,
        "rows": 25,
    }
    async with executing(world, **asked) as (_, session):
        command = session.command
        assert (command.container_id, command.args, command.terminal, command.stdin) == (
            "a",
            ("x",),
            True,
            True,
        )
        assert (command.env, command.user, command.cwd) == (("A=1",), "u", "/w")
        assert (command.width, command.height) == (80, 25)


async def test_exec_sends_both_outputs_as_they_are_and_the_exit_code_last(world: World) -> None:
    async with executing(world) as (peer, session):
        session.out.put_nowait(b"\xffout")
        assert await peer.frame() == (STDOUT, b"\xffout")
        session.err.put_nowait(b"err")
        assert await peer.frame() == (STDERR, b"err")
        for output in session.streams:
            output.put_nowait(b"")
        session.code.set_result(7)
        assert await peer.frame() == (EXIT, b'{"exit_code":7}')
        assert await peer.reader.read() == b""
    assert session.left


async def test_exec_splits_output_that_is_longer_than_a_frame(world: World) -> None:
    async with executing(world) as (peer, session):
        session.out.put_nowait(bytes(MAX_PAYLOAD) + b"x")
        assert await peer.frame() == (STDOUT, bytes(MAX_PAYLOAD))
        assert await peer.frame() == (STDOUT, b"x")


async def test_exec_passes_input_sizes_and_signals_on_in_their_order(world: World) -> None:
    async with executing(world, stdin=True, tty=True) as (peer, session):
        await peer.send(STDIN, b"one")
        await peer.send(RESIZE, b'{"columns":99,"rows":33}')
        await peer.send(SIGNAL, b'{"number":15}')
        await peer.send(STDIN)
        await eventually(lambda: session.asked == [b"one", (99, 33), 15, "end of input"])


async def test_exec_goes_on_after_the_end_of_input(world: World) -> None:
    async with executing(world, stdin=True) as (peer, session):
        await peer.send(STDIN)
        await eventually(lambda: session.asked == ["end of input"])
        session.out.put_nowait(b"still there")
        assert await peer.frame() == (STDOUT, b"still there")


@pytest.mark.parametrize("half", [True, False])
async def test_exec_ends_with_its_client(world: World, half: bool) -> None:
    async with executing(world) as (peer, session):
        if half:
            peer.writer.write_eof()
        else:
            peer.close()
        await eventually(lambda: session.left)
    await world.is_well()


async def test_exec_ends_with_a_client_whose_input_nobody_takes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent does not read then, so it has to look whether the client is still there."""
    monkeypatch.setattr(http, "LOOK", 0.01)
    async with executing(world, stdin=True) as (peer, session):
        stuck = asyncio.Event()

        async def never(_data: bytes) -> None:
            stuck.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(session, "write", never)
        sent = asyncio.ensure_future(_flood(peer))
        await asyncio.wait_for(stuck.wait(), WAIT)
        (client,) = (one for one in world.server._grpc.clients.connections if one.calls)  # type: ignore[union-attr]
        await eventually(lambda: not client.transport.is_reading())  # type: ignore[union-attr]
        assert client.held < 1024 * 1024
        assert not session.left
        sent.cancel()
        peer.writer.transport.abort()
        await eventually(lambda: session.left)
    await world.is_well()


async def _flood(peer: JsonPeer) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            await peer.send(STDIN, bytes(MAX_PAYLOAD))


async def test_exec_reads_on_when_the_command_takes_its_input(world: World) -> None:
    async with executing(world, stdin=True) as (peer, session):
        for _ in range(64):
            await peer.send(STDIN, b"x" * MAX_PAYLOAD)
        await eventually(lambda: len(b"".join(session.asked)) == 64 * MAX_PAYLOAD)


async def test_exec_waits_for_a_client_that_does_not_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "STALLED", 0.02)
    async with executing(world) as (peer, session):
        for _ in range(40):
            session.out.put_nowait(bytes(MAX_PAYLOAD))
        await asyncio.sleep(0.1)
        assert session.out.qsize() > 20
        session.out.put_nowait(b"")
        session.err.put_nowait(b"")
        found = 0
        while found < 40 * MAX_PAYLOAD:
            found += len((await peer.frame())[1])
        session.code.set_result(0)
        assert await peer.frame() == (EXIT, b'{"exit_code":0}')


@pytest.mark.parametrize(
    ("kind", "payload", "text"),
    [
        (STDOUT, b"x", "frame: kind 1 is not one that a client may send here"),
        (EXIT, b"{}", "kind 3 is not"),
        (77, b"", "kind 77 is not"),
        (RESIZE, b"{", "not valid JSON"),
        (RESIZE, b"", "not valid JSON"),
        (RESIZE, b'{"columns":-1}', "columns: -1 is not between 0 and 65535"),
        (SIGNAL, b"{}", "number is missing"),
        (SIGNAL, b'{"number":65}', "number: 65 is not between 1 and 64"),
    ],
)
async def test_exec_ends_with_a_problem_for_a_frame_that_makes_no_sense(
    world: World, kind: int, payload: bytes, text: str
) -> None:
    async with executing(world) as (peer, session):
        await peer.send(kind, payload)
        found = await problem(peer)
        assert found["code"] == "invalid-input"
        assert text in found["detail"]
        await eventually(lambda: session.left)


async def test_exec_refuses_a_frame_that_is_too_long_at_its_head(world: World) -> None:
    async with executing(world) as (peer, session):
        peer.writer.write(b"\0" + (MAX_PAYLOAD + 1).to_bytes(4, "big"))
        assert "65537 bytes, at most 65536" in (await problem(peer))["detail"]
        await eventually(lambda: session.left)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (NotFoundError("why"), "not-found"),
        (ConflictError("why"), "conflict"),
        (InvalidInputError("why"), "invalid-input"),
        (BusyError("why"), "busy"),
        (UnavailableError("why"), "unavailable"),
        (OperationFailedError("why"), "operation-failed"),
    ],
)
async def test_exec_that_is_refused_is_a_plain_problem(
    world: World, peer: JsonPeer, failure: PycmError, code: str
) -> None:
    world.sessions.failure = failure
    await peer.ask("POST", "/v1/containers/a/exec", {"command": ["x"]}, Connection="Upgrade", Upgrade=UPGRADE)
    assert (await peer.answer()).code == code


async def test_exec_of_a_program_that_does_not_exist_has_the_exit_code_of_a_shell(
    world: World, peer: JsonPeer
) -> None:
    text = failed(RUNC + 'exec: "x": executable file not found in $PATH')
    world.sessions.failure = OperationFailedError(text)
    await peer.ask("POST", "/v1/containers/a/exec", {"command": ["x"]}, Connection="Upgrade", Upgrade=UPGRADE)
    answer = await peer.answer()
    assert (answer.status, answer.code) == (422, "not-started")
    assert (answer.value["exit_code"], answer.value["detail"]) == (127, text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (failed(RUNC + 'exec: "x": executable file not found in $PATH: unknown'), 127),
        (failed(RUNC + 'exec: "/x": stat /x: no such file or directory: unknown'), 127),
        (failed(RUNC + 'exec: "/etc/passwd": permission denied: unknown'), 126),
        (failed(RUNC + 'exec: "/etc": is a directory: unknown'), 126),
        (failed(RUNC + "exec /x: exec format error: unknown"), 126),
        (failed(CRUN + "executable file `x` not found in $PATH: No such file or directory: unknown"), 127),
        (failed(CRUN + "open executable: Permission denied: unknown"), 126),
        ("cannot make FIFOs in /run/x: no such file or directory", None),
    ],
)
def test_start_failure_knows_what_the_runtimes_say(text: str, code: int | None) -> None:
    assert start_failure(text) == code


async def test_exec_that_does_not_start_in_time_is_a_problem(
    world: World, peer: JsonPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "START_TIMEOUT", 0.05)
    left = asyncio.Event()

    @contextlib.asynccontextmanager
    async def never(_command: object) -> AsyncIterator[None]:
        try:
            await asyncio.Event().wait()
            yield
        finally:
            left.set()

    monkeypatch.setattr(world.sessions, "exec", never)
    await peer.ask("POST", "/v1/containers/a/exec", {"command": ["x"]}, Connection="Upgrade", Upgrade=UPGRADE)
    answer = await peer.answer()
    assert (answer.code, answer.value["detail"]) == ("timeout", "the command did not start within 0.05 s")
    assert left.is_set()


@pytest.mark.parametrize("headers", [{}, {"Connection": "Upgrade", "Upgrade": "websocket"}])
async def test_exec_and_attach_need_the_upgrade(
    world: World, peer: JsonPeer, headers: dict[str, str]
) -> None:
    for path, body in (("exec", {"command": ["x"]}), ("attach", None)):
        await peer.ask("POST", f"/v1/containers/a/{path}", body, **headers)
        answer = await peer.answer()
        assert (answer.code, answer.headers["upgrade"]) == ("upgrade-required", UPGRADE)
    assert (world.sessions.commands, world.sessions.attachments) == ([], [])


async def test_an_upgrade_that_a_call_does_not_know_is_ignored(peer: JsonPeer) -> None:
    await peer.ask("GET", "/v1/version", None, Connection="Upgrade, HTTP2-Settings", Upgrade="h2c")
    assert (await peer.answer()).status == 200


# ── attach ──


@contextlib.asynccontextmanager
async def attached(
    world: World, *, stdin: bool = True, io: IOConfig | None = None
) -> AsyncIterator[tuple[JsonPeer, FakeAttachment]]:
    world.containers.present["a"] = running("a", io_config=io or IOConfig(open_stdin=True))
    async with connected(world.path) as peer:
        head = await peer.upgrade(f"/v1/containers/a/attach?stdin={str(stdin).lower()}")
        assert head.status_code == 101
        yield peer, world.sessions.attachments[-1]


async def test_attach_sends_output_as_it_is(world: World) -> None:
    async with attached(world) as (peer, attachment):
        attachment.out.put_nowait(b"\xff\x00")
        assert await peer.frame() == (STDOUT, b"\xff\x00")
        attachment.out.put_nowait(b"")
        assert await peer.frame() == (EXIT, b"{}")
        assert await peer.reader.read() == b""
    assert attachment.closed
    assert world.watchers == []


async def test_attach_ends_with_the_exit_code_of_the_container(world: World) -> None:
    async with attached(world) as (peer, attachment):
        ended = State(status=ContainerStatus.EXITED, exited=True, exit_code=7)
        world.containers.tell(Action.EXITED, running("a", state=ended))
        attachment.out.put_nowait(b"")
        assert await peer.frame() == (EXIT, b'{"exit_code":7}')


async def test_attach_writes_input_until_its_end(world: World) -> None:
    async with attached(world) as (peer, attachment):
        await peer.send(STDIN, b"1")
        await peer.send(STDIN, b"2")
        await eventually(lambda: attachment.written == [b"1", b"2"])
        assert world.sessions.asked == []
        await peer.send(STDIN)
        await eventually(lambda: world.sessions.asked == [("close_stdin", "a")])
        attachment.out.put_nowait(b"after the end of input")
        assert await peer.frame() == (STDOUT, b"after the end of input")


async def test_attach_passes_sizes_on_and_survives_that_there_is_no_terminal(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with attached(world) as (peer, attachment):
        await peer.send(RESIZE, b'{"columns":80,"rows":24}')
        await eventually(lambda: world.sessions.asked == [("resize", "a", 80, 24)])

        async def fail(*_: object, **_sizes: object) -> None:
            raise ConflictError("it does not run")

        monkeypatch.setattr(world.sessions, "resize", fail)
        await peer.send(RESIZE, b'{"columns":80,"rows":24}')
        await peer.send(STDIN, b"x")
        await eventually(lambda: attachment.written == [b"x"])


@pytest.mark.parametrize(("stdin", "open_stdin"), [(False, True), (True, False)])
async def test_attach_takes_input_only_if_both_want_it(world: World, stdin: bool, open_stdin: bool) -> None:
    async with attached(world, stdin=stdin, io=IOConfig(open_stdin=open_stdin)) as (peer, attachment):
        await peer.send(STDIN, b"x")
        await peer.send(STDIN)
        attachment.out.put_nowait(b"still there")
        assert await peer.frame() == (STDOUT, b"still there")
        assert (attachment.written, world.sessions.asked) == ([], [])


@pytest.mark.parametrize(("once", "asked"), [(True, [("close_stdin", "a")]), (False, [])])
async def test_attach_leaves_stdin_open_for_the_next_client_unless_it_was_for_one_only(
    world: World, once: bool, asked: list[tuple[str, str]]
) -> None:
    async with attached(world, io=IOConfig(open_stdin=True, stdin_once=once)) as (peer, attachment):
        peer.close()
        await eventually(lambda: attachment.closed)
    await world.is_well()
    assert world.sessions.asked == asked


async def test_attach_leaves_stdin_open_when_the_agent_stops(world: World) -> None:
    async with attached(world, io=IOConfig(open_stdin=True, stdin_once=True)) as (peer, attachment):
        await world.server.close()
        await eventually(lambda: attachment.closed)
        await peer.closed()
    assert world.sessions.asked == []


async def test_attach_signals_nothing(world: World) -> None:
    async with attached(world) as (peer, _):
        await peer.send(SIGNAL, b'{"number":15}')
        assert "kind 5 is not one" in (await problem(peer))["detail"]


async def test_attach_to_an_unknown_container_is_a_plain_problem(peer: JsonPeer) -> None:
    for identifier, code in (("nope", "not-found"), ("..%2Fx", "invalid-input")):
        target = f"/v1/containers/{identifier}/attach"
        await peer.ask("POST", target, None, Connection="Upgrade", Upgrade=UPGRADE)
        assert (await peer.answer()).code == code


async def test_attach_tells_a_client_that_is_cut_off_the_reason(world: World) -> None:
    async with attached(world) as (peer, attachment):
        attachment.out.put_nowait(b"before")
        attachment.out.put_nowait(OperationFailedError("the client reads too slowly"))
        assert await peer.frame() == (STDOUT, b"before")
        assert (await problem(peer))["detail"] == "the client reads too slowly"


async def test_attach_cuts_a_client_off_that_never_reads(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "STALLED", 0.05)
    async with attached(world) as (_, attachment):
        for _ in range(8):
            attachment.out.put_nowait(bytes(1024 * 1024))  # more than the kernel keeps
        await eventually(lambda: attachment.closed)
        monkeypatch.setattr(http, "STALLED", WAIT)
    await world.is_well()


async def test_frames_that_come_with_the_request_are_taken(world: World) -> None:
    """A client should wait for the 101; one that does not loses nothing."""
    world.containers.present["a"] = running("a", io_config=IOConfig(open_stdin=True))
    async with connected(world.path) as peer:
        head = f"POST /v1/containers/a/attach?stdin=true HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: {UPGRADE}\r\n\r\n"  # fmt: skip
        peer.writer.write(head.encode() + b"\0\0\0\0\1x")
        await eventually(lambda: bool(world.sessions.attachments and world.sessions.attachments[0].written))
        assert world.sessions.attachments[0].written == [b"x"]


def test_half_close_and_close_look_the_same_to_a_server() -> None:
    """Why a client that sends no more counts as gone: a unix socket tells both with the same empty read."""
    one, other = socket.socketpair()
    other.shutdown(socket.SHUT_WR)
    assert one.recv(1) == b""
    one.close()
    other.close()
