# SPDX-License-Identifier: Apache-2.0
"""Exec of pycm's own service: streams, input, sizes and signals of a command on one call, and how it ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from grpclib.client import Stream, StreamStreamMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from h2.exceptions import StreamClosedError

from pycm.api.methods import AGENT
from pycm.api.proto.pycm.v1 import agent_pb2 as m
from pycm.api.server import exec as module
from pycm.api.server.exec import start_failure
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
from support.api_world import WAIT, FakeSession, World, eventually

RUNC = "OCI runtime exec failed: exec failed: unable to start container process: "
CRUN = "OCI runtime exec failed: crun: "


def failed(text: str) -> str:
    """As the client of containerd says it."""
    return str(from_status("Tasks.Start", Status.UNKNOWN, text))


@asynccontextmanager
async def called(world: World) -> AsyncIterator[Stream[Any, Any]]:
    method = StreamStreamMethod(world.channel, AGENT + "Exec", m.ExecRequest, m.ExecResponse)
    with suppress(StreamTerminatedError, ProtocolError):
        async with method.open(timeout=WAIT) as stream:
            yield stream
            with suppress(StreamClosedError, ProtocolError):
                await stream.cancel()


@asynccontextmanager
async def running(world: World, **start: Any) -> AsyncIterator[tuple[Stream[Any, Any], FakeSession]]:
    async with called(world) as stream:
        await stream.send_message(m.ExecRequest(start=m.ExecStart(container_id="a", command=["x"], **start)))
        assert (await stream.recv_message()).started
        yield stream, world.sessions.commands[-1]


async def refusal(world: World, *requests: m.ExecRequest) -> tuple[Status, str | None]:
    """Why a call of these messages fails."""
    with pytest.raises(GRPCError) as caught:
        await _say(world, requests)
    return caught.value.status, caught.value.message


async def _say(world: World, requests: tuple[m.ExecRequest, ...]) -> None:
    async with called(world) as stream:
        for request in requests:
            await stream.send_message(request)
        while await stream.recv_message() is not None:
            pass


async def test_the_command_is_handed_on_as_it_was_asked_for(world: World) -> None:
    size = m.TerminalSize(columns=80, rows=25)
    async with running(world, tty=True, stdin=True, env=["A=1"], user="u", working_dir="/w", size=size) as (
        _,
        session,
    ):
        command = session.command
        assert (command.container_id, command.args, command.terminal, command.stdin) == (
            "a",
            ("x",),
            True,
            True,
        )
        assert (command.env, command.user, command.cwd) == (("A=1",), "u", "/w")
        assert (command.width, command.height) == (80, 25)


async def test_both_outputs_come_as_they_are_and_the_exit_code_last(world: World) -> None:
    async with running(world) as (stream, session):
        session.out.put_nowait(b"\xffout")
        assert (await stream.recv_message()).stdout == b"\xffout"
        session.err.put_nowait(b"err")
        assert (await stream.recv_message()).stderr == b"err"
        for output in session.streams:
            output.put_nowait(b"")
        session.code.set_result(7)
        last = await stream.recv_message()
        assert (last.WhichOneof("response"), last.end.exit_code, last.end.error) == ("end", 7, "")
        assert await stream.recv_message() is None
    assert session.left


async def test_input_sizes_and_signals_arrive_in_their_order(world: World) -> None:
    async with running(world, stdin=True, tty=True) as (stream, session):
        await stream.send_message(m.ExecRequest(stdin=b"one"))
        await stream.send_message(m.ExecRequest(resize=m.TerminalSize(columns=99, rows=33)))
        await stream.send_message(m.ExecRequest(signal=15))
        await stream.send_message(m.ExecRequest(stdin=b""))
        await eventually(lambda: session.asked == [b"one", (99, 33), 15, "end of input"])


async def test_the_end_of_the_clients_messages_is_the_end_of_input_and_not_of_the_command(
    world: World,
) -> None:
    async with running(world, stdin=True) as (stream, session):
        await stream.end()
        await eventually(lambda: session.asked == ["end of input"])
        session.out.put_nowait(b"still there")
        assert (await stream.recv_message()).stdout == b"still there"


async def test_a_client_that_goes_ends_its_command(world: World) -> None:
    async with running(world) as (stream, session):
        await stream.cancel()
        await eventually(lambda: session.left)
    await world.is_well()


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (m.ExecRequest(), "the first message must be start"),
        (m.ExecRequest(stdin=b"x"), "the first message must be start"),
    ],
)
async def test_a_call_begins_with_start(world: World, request_: m.ExecRequest, text: str) -> None:
    assert await refusal(world, request_) == (Status.INVALID_ARGUMENT, text)
    assert world.sessions.commands == []


@pytest.mark.parametrize("request_", [m.ExecRequest(), m.ExecRequest(start=m.ExecStart(container_id="b"))])
async def test_a_second_start_or_an_empty_message_ends_call_and_command(
    world: World, request_: m.ExecRequest
) -> None:
    start = m.ExecRequest(start=m.ExecStart(container_id="a", command=["x"]))
    text = "a message after the first must be stdin, resize or signal"
    assert await refusal(world, start, request_) == (Status.INVALID_ARGUMENT, text)
    assert world.sessions.commands[0].left


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (NotFoundError("why"), Status.NOT_FOUND),
        (ConflictError("why"), Status.FAILED_PRECONDITION),
        (InvalidInputError("why"), Status.INVALID_ARGUMENT),
        (BusyError("why"), Status.RESOURCE_EXHAUSTED),
        (UnavailableError("why"), Status.UNAVAILABLE),
        (OperationFailedError("why"), Status.ABORTED),
    ],
)
async def test_a_refusal_has_its_status(world: World, failure: PycmError, status: Status) -> None:
    world.sessions.failure = failure
    start = m.ExecStart(container_id="a", command=["x"])
    assert await refusal(world, m.ExecRequest(start=start)) == (status, "why")


async def test_a_program_that_is_not_there_is_an_end_as_of_a_shell(world: World) -> None:
    world.sessions.failure = OperationFailedError(
        failed(RUNC + 'exec: "x": executable file not found in $PATH')
    )
    async with called(world) as stream:
        await stream.send_message(m.ExecRequest(start=m.ExecStart(container_id="a", command=["x"])))
        end = (await stream.recv_message()).end
        assert (end.exit_code, end.error) == (127, str(world.sessions.failure))


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
def test_what_the_runtimes_say_of_programs_that_do_not_start(text: str, code: int | None) -> None:
    assert start_failure(text) == code


async def test_exec_that_does_not_start_in_time_is_an_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "START_TIMEOUT", 0.05)
    left = asyncio.Event()

    @asynccontextmanager
    async def never(_command: object) -> AsyncIterator[None]:
        try:
            await asyncio.Event().wait()
            yield
        finally:
            left.set()

    monkeypatch.setattr(world.sessions, "exec", never)
    start = m.ExecRequest(start=m.ExecStart(container_id="a", command=["x"]))
    status = await refusal(world, start)
    assert status == (Status.DEADLINE_EXCEEDED, "the command did not start within 0.05 s")
    assert left.is_set()
