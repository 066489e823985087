# SPDX-License-Identifier: Apache-2.0
"""Clients that mean no good, or speak no gRPC: refused in one line, and the others never notice."""

import asyncio
import contextlib
import struct

import pytest

from pycm.api.proto.api.services.containers import containers_pb2 as m
from pycm.api.server import clients, grpc
from pycm.api.server import grpc_connection as module
from pycm.api.server.grpc import CONTAINERS, MAX_MESSAGE
from support.api_world import WAIT, Raw, World, eventually


@pytest.mark.parametrize(
    "authority",
    [
        "localhost",
        "[::]:50051",
        "%2Frun%2Fx%2Fcontainer-management.sock",
        "/run/container-management/container-management.sock",
    ],
)
async def test_any_authority_is_served(raw: Raw, authority: str) -> None:
    raw.request(CONTAINERS + "List", authority=authority)
    raw.h2.send_data(1, bytes(5), end_stream=True)
    assert (await raw.status())[0] == "0"


async def test_a_message_beyond_the_limit_is_refused_before_it_is_read(raw: Raw) -> None:
    raw.request(CONTAINERS + "Create")
    raw.h2.send_data(1, b"\0" + struct.pack(">I", MAX_MESSAGE + 1))
    assert await raw.status() == ("8", "grpc: received message larger than max (4194305 vs. 4194304)")


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (b"\1\0\0\0\0", "12", "compressed"),
        (b"\0\0\0", "13", "before its message was complete"),
        (b"\0\0\0\0\5ab", "13", "before its message was complete"),
        (b"", "13", "before its message was complete"),
        (b"\0\0\0\0\2\xff\xff", "13", "is not a valid CreateContainerRequest message"),
    ],
)
async def test_a_request_that_is_no_message_is_answered(raw: Raw, data: bytes, code: str, text: str) -> None:
    raw.request(CONTAINERS + "Create")
    raw.h2.send_data(1, data, end_stream=True)
    status, message = await raw.status()
    assert status == code
    assert text in message


async def test_a_request_as_long_as_allowed_is_taken(world: World) -> None:
    request = m.CreateContainerRequest()
    request.container.name = "x" * (MAX_MESSAGE - 100)
    await world.call("Create", request, m.CreateContainerResponse, timeout=WAIT)
    assert len(world.containers.asked[0][1].name) == MAX_MESSAGE - 100


async def test_slow_senders_of_large_requests_lose_their_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc, "TIMEOUT", 0.02)
    slow = [await Raw.connect(world.path) for _ in range(clients.LARGE_AT_ONCE + 1)]
    for client in slow:
        client.request(CONTAINERS + "Create")
        client.h2.send_data(1, b"\0" + struct.pack(">I", MAX_MESSAGE))
    answers = await asyncio.gather(*(client.status() for client in slow))
    assert {status for status, _ in answers} == {"4"}
    for client in slow:
        client.close()


async def test_an_unknown_method_is_unimplemented(raw: Raw) -> None:
    raw.request("/x/Y")
    assert (await raw.status())[0] == "12"


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"\0" * 1000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0" + b"\0\0\5\1\4\0\0\0\1\xff\xff\xff\xff\xff",
    ],
)
async def test_malformed_bytes_end_that_connection_without_traceback(
    raw: Raw, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    raw.writer.write(data)
    await raw.closed()
    assert "Traceback" not in caplog.text


async def test_frames_of_unknown_types_are_ignored(raw: Raw) -> None:
    await raw.flush()
    raw.writer.write(b"\0\0\6\xfa\0\0\0\0\0grease")
    raw.request(CONTAINERS + "List")
    raw.h2.send_data(1, bytes(5), end_stream=True)
    assert (await raw.status())[0] == "0"


@pytest.mark.parametrize("header", [":method", ":path", "te", "content-type"])
async def test_a_request_with_a_header_missing_hurts_nobody_and_leaves_no_traceback(
    world: World, raw: Raw, header: str, caplog: pytest.LogCaptureFixture
) -> None:
    raw.request(CONTAINERS + "List", leave_out=header)
    await raw.flush()
    await world.is_well()
    assert "Traceback" not in caplog.text


async def test_a_client_that_sends_and_never_reads_is_cut_off(
    world: World, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_UNSENT", 100_000)
    await raw.flush()
    raw.reader._transport.pause_reading()  # type: ignore[attr-defined]

    async def flood() -> None:
        while True:
            raw.writer.write((b"\0\0\x08\6\0\0\0\0\0" + bytes(8)) * 1000)  # pings
            await raw.writer.drain()

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(flood(), WAIT)
    await world.is_well()


async def test_one_client_too_many_is_turned_away_and_room_is_made_when_another_goes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.is_well()
    monkeypatch.setattr(clients, "MAX_CONNECTIONS", 2)
    second = await Raw.connect(world.path)
    await second.flush()
    await asyncio.wait_for(second.reader.read(1), WAIT)
    third = await Raw.connect(world.path)
    with contextlib.suppress(ConnectionError):
        await third.closed()
    second.close()
    connections = world.server._grpc.clients.connections  # type: ignore[union-attr]
    await eventually(lambda: len(connections) == 1)
    fourth = World(world.path)
    await fourth.is_well()
    fourth.channel.close()
    third.close()
