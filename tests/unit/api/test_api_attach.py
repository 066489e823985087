# SPDX-License-Identifier: Apache-2.0
"""Attach: output and input on one stream, and clients that go, stall or ask for what is not there."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from grpclib.client import Stream, StreamStreamMethod
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from h2.exceptions import StreamClosedError

from pycm.api.proto.api.services.containers import containers_pb2 as m
from pycm.api.server import grpc
from pycm.api.server.grpc import CONTAINERS, EXIT_CODE
from pycm.errors import OperationFailedError
from pycm.model.container import IOConfig, State
from pycm.model.states import Status as ContainerStatus
from pycm.ports import Action
from support.api_world import WAIT, Raw, World, eventually, running
from support.fakes import FakeAttachment


@asynccontextmanager
async def attached(
    world: World, *, std_in: bool = True, io: IOConfig | None = None, data: bytes = b""
) -> AsyncIterator[tuple[Stream[Any, Any], FakeAttachment]]:
    world.containers.present["a"] = running("a", io_config=io or IOConfig(open_stdin=True))
    method = StreamStreamMethod(
        world.channel, CONTAINERS + "Attach", m.AttachContainerRequest, m.AttachContainerResponse
    )
    with contextlib.suppress(GRPCError, StreamTerminatedError):
        async with method.open(timeout=WAIT) as stream:
            await stream.send_message(m.AttachContainerRequest(id="a", std_in=std_in, data_to_write=data))
            await stream.recv_initial_metadata()
            yield stream, world.sessions.attachments[-1]
            with contextlib.suppress(StreamClosedError, ProtocolError):
                await stream.cancel()


async def trailers(stream: Stream[Any, Any]) -> dict[str, str]:
    """The library's own function wants the client to have ended."""
    return dict(await asyncio.wait_for(stream._stream.recv_trailers(), WAIT))


async def test_output_comes_as_it_is_and_the_first_message_names_the_container(world: World) -> None:
    async with attached(world) as (stream, attachment):
        attachment.out.put_nowait(b"one")
        first = await stream.recv_message()
        assert (first.id, first.std_in, first.read_data) == ("a", True, b"one")
        attachment.out.put_nowait(b"\xff\x00")
        second = await stream.recv_message()
        assert (second.id, second.std_in, second.read_data) == ("", False, b"\xff\x00")
        attachment.out.put_nowait(b"")
        assert await stream.recv_message() is None
        assert (await trailers(stream))["grpc-status"] == "0"
    assert attachment.closed
    assert world.watchers == []


async def test_the_exit_code_stands_in_the_trailers(world: World) -> None:
    async with attached(world) as (stream, attachment):
        ended = State(status=ContainerStatus.EXITED, exited=True, exit_code=7)
        world.containers.tell(Action.EXITED, running("a", state=ended))
        attachment.out.put_nowait(b"")
        assert await stream.recv_message() is None
        assert (await trailers(stream))[EXIT_CODE] == "7"


async def test_input_of_every_message_is_written_that_of_the_first_too(world: World) -> None:
    async with attached(world, data=b"0") as (stream, attachment):
        await stream.send_message(m.AttachContainerRequest())  # keep-alive
        await stream.send_message(m.AttachContainerRequest(data_to_write=b"1"))
        await stream.send_message(m.AttachContainerRequest(data_to_write=b"2"))
        await eventually(lambda: attachment.written == [b"0", b"1", b"2"])
        assert world.sessions.asked == []
        await stream.end()
        await eventually(lambda: world.sessions.asked == [("close_stdin", "a")])
        attachment.out.put_nowait(b"after the end of input")
        assert (await stream.recv_message()).read_data == b"after the end of input"


async def test_finish_write_is_the_end_of_input(world: World) -> None:
    async with attached(world) as (stream, attachment):
        await stream.send_message(m.AttachContainerRequest(data_to_write=b"x", finish_write=True))
        await eventually(lambda: world.sessions.asked == [("close_stdin", "a")])
        assert attachment.written == [b"x"]


@pytest.mark.parametrize(("std_in", "open_stdin"), [(False, True), (True, False)])
async def test_input_is_taken_only_if_both_want_it(world: World, std_in: bool, open_stdin: bool) -> None:
    async with attached(world, std_in=std_in, io=IOConfig(open_stdin=open_stdin)) as (stream, attachment):
        await stream.send_message(m.AttachContainerRequest(data_to_write=b"x"))
        await stream.end()
        attachment.out.put_nowait(b"still there")
        assert (await stream.recv_message()).read_data == b"still there"
        assert (attachment.written, world.sessions.asked) == ([], [])


@pytest.mark.parametrize(("once", "asked"), [(True, [("close_stdin", "a")]), (False, [])])
async def test_a_client_that_goes_leaves_stdin_open_unless_it_was_for_one_only(
    world: World, once: bool, asked: list[tuple[str, str]]
) -> None:
    async with attached(world, io=IOConfig(open_stdin=True, stdin_once=once)) as (stream, attachment):
        await stream.cancel()
        await eventually(lambda: attachment.closed)
    await world.is_well()
    assert world.sessions.asked == asked


async def test_the_end_of_the_agent_is_not_the_end_of_stdin(world: World) -> None:
    with contextlib.suppress(StreamTerminatedError, ConnectionError):
        async with attached(world, io=IOConfig(open_stdin=True, stdin_once=True)) as (_, attachment):
            await world.server.close()
            await eventually(lambda: attachment.closed)
    assert world.sessions.asked == []


@pytest.mark.parametrize(
    ("identifier", "text"),
    [("nope", "no such container with id = nope exists"), ("../x", "invalid container id format : ../x")],
)
async def test_errors_are_told_twice_as_clients_expect(raw: Raw, identifier: str, text: str) -> None:
    raw.request(CONTAINERS + "Attach")
    request = m.AttachContainerRequest(id=identifier).SerializeToString()
    raw.h2.send_data(1, b"\0" + len(request).to_bytes(4, "big") + request)
    assert await raw.status() == ("2", text)
    assert m.AttachContainerResponse.FromString(raw.received[5:]).read_data.decode() == text + "\r\n"


async def test_a_client_that_is_cut_off_gets_what_came_before_and_the_reason(world: World) -> None:
    async with attached(world) as (stream, attachment):
        attachment.out.put_nowait(b"before")
        attachment.out.put_nowait(OperationFailedError("the client reads too slowly"))
        assert (await stream.recv_message()).read_data == b"before"
        assert (await stream.recv_message()).read_data == b"the client reads too slowly\r\n"
        assert (await trailers(stream))["grpc-message"] == "the client reads too slowly"


async def test_a_message_that_makes_no_sense_ends_the_call(world: World) -> None:
    async with attached(world) as (stream, attachment):
        await stream._stream.send_data(b"\0\0\0\0\2\xff\xff")
        assert "is not a valid AttachContainerRequest message" in (await trailers(stream))["grpc-message"]
        await eventually(lambda: attachment.closed)


async def test_a_client_that_never_reads_is_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc, "STALLED", 0.05)
    async with attached(world) as (_, attachment):
        for _ in range(8):
            attachment.out.put_nowait(bytes(1024 * 1024))  # more than the window that is open
        await eventually(lambda: attachment.closed)
        monkeypatch.setattr(grpc, "STALLED", WAIT)
    await world.is_well()
