# SPDX-License-Identifier: Apache-2.0
"""What one client may make the agent hold or do, how long it may be silent, and that all of it is gone with the client."""

import asyncio
import contextlib
import gc
import logging
import os
import socket
import weakref
from typing import Any

import pytest
from grpclib.client import Channel, StreamStreamMethod
from h2.events import ConnectionTerminated, StreamReset
from h2.settings import SettingCodes

from pycm.api import server
from pycm.api.proto.api.services.containers import containers_pb2 as m
from pycm.api.server import clients, grpc
from pycm.api.server import grpc_connection as module
from pycm.api.server.clients import Clients
from pycm.api.server.grpc import CONTAINERS
from pycm.api.server.grpc_connection import Connection
from support.api_world import WAIT, Raw, World, eventually, running, served

CANCEL = (8).to_bytes(4, "big")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
HEADERS = [
    (":method", "POST"), (":scheme", "http"), (":path", CONTAINERS + "List"), (":authority", "localhost"), ("te", "trailers"),
    ("content-type", "application/grpc"),
]  # fmt: skip


def clients_of(world: World) -> Clients:
    return world.server._grpc.clients  # type: ignore[union-attr]


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        one.getMessage()
        for one in caplog.records
        if one.name == "pycm.api" and one.levelno >= logging.WARNING
    ]


async def opened(world: World) -> tuple[Raw, Connection]:
    """A client that has greeted, and the server's side of it."""
    known = set(clients_of(world).connections)
    client = await Raw.connect(world.path)
    await client.flush()
    await eventually(lambda: any(one.greeted for one in clients_of(world).connections - known))
    return client, next(iter(clients_of(world).connections - known))


def begin(client: Raw, number: int, *extra: tuple[str, str]) -> int:
    stream = 2 * number + 1
    client.h2.send_headers(stream, [*HEADERS, *extra])
    return stream


def begin_and_reset(client: Raw, numbers: range) -> None:
    for number in numbers:
        client.h2.reset_stream(begin(client, number), 8)


async def events_until(client: Raw, kind: type) -> Any:
    while True:
        data = await asyncio.wait_for(client.reader.read(65536), WAIT)
        assert data, "the server closed the connection"
        for event in client.h2.receive_data(data):
            if isinstance(event, kind):
                return event


# ── what a call or a connection has used is gone with it ──


async def test_connection_releases_calls_that_are_reset_before_their_first_step(world: World) -> None:
    client, connection = await opened(world)
    streams: list[weakref.ref[Any]] = []
    accept = connection.handler.accept
    connection.handler.accept = lambda stream, *rest: (  # type: ignore[method-assign]
        streams.append(weakref.ref(stream)), accept(stream, *rest),
    )[1]  # fmt: skip
    begin_and_reset(client, range(300))
    client.h2.send_data(begin(client, 300), bytes(5), end_stream=True)
    assert (await client.status())[0] == "0"
    await eventually(lambda: not connection.calls)
    assert len(streams) == 301
    assert connection.held == clients_of(world).held == 0
    assert not connection.handler._tasks
    assert not connection.handler._cancelled
    gc.collect()
    assert sum(one() is not None for one in streams) <= 1, "the last one may be in a local variable"
    client.close()


async def test_connection_leaves_nothing_when_it_ends_with_calls_open(world: World) -> None:
    client, *connections = await opened(world)
    for number in range(50):
        stream = begin(client, number)
        client.h2.send_data(stream, bytes(2))
    await client.flush()
    await eventually(lambda: connections[0].calls == 50)
    assert clients_of(world).held > 50 * clients.CALL_COST
    kept = weakref.ref(connections.pop())
    client.close()
    await eventually(lambda: not clients_of(world).connections)
    await eventually(lambda: not world.server._grpc._handlers)  # type: ignore[union-attr]
    assert clients_of(world).held == 0
    assert not clients_of(world)._peers
    gc.collect()
    assert kept() is None


# ── abuse is counted ──


@pytest.mark.parametrize(
    ("frame", "name"),
    [
        (b"\0\0\0\4\0\0\0\0\0", "SETTINGS"), (b"\0\0\x08\6\0\0\0\0\0" + bytes(8), "PING"), (b"\0\0\0\0\0\0\0\0\1", "DATA"),
        (b"\0\0\x05\2\0\0\0\0\3" + bytes(5), "PRIORITY"), (b"\0\0\4\x08\0\0\0\0\0\0\0\0\1", "WINDOW_UPDATE"),
        (b"\0\0\0\xfa\0\0\0\0\0", "type 250"),
    ],
)  # fmt: skip
async def test_connection_cuts_off_a_flood_of_frames_without_use(
    world: World, caplog: pytest.LogCaptureFixture, frame: bytes, name: str
) -> None:
    client, _ = await opened(world)
    begin(client, 0)
    await client.flush()
    client.writer.write(frame * module.ALLOWANCE * 2)
    with contextlib.suppress(ConnectionError):
        await client.closed()
    (line,) = complaints(caplog)
    assert f"are {name})" in line
    assert f"uid {os.getuid()}, pid {os.getpid()}" in line
    await world.is_well()
    client.close()


async def test_connection_cuts_off_rapid_resets(world: World, caplog: pytest.LogCaptureFixture) -> None:
    client, _ = await opened(world)
    begin_and_reset(client, range(module.ALLOWANCE))
    client.writer.write(client.h2.data_to_send())
    with contextlib.suppress(ConnectionError):
        await client.closed()
    (line,) = complaints(caplog)
    assert "too many frames without use" in line
    await eventually(lambda: not clients_of(world).connections)
    assert clients_of(world).held == 0
    client.close()


async def test_connection_gives_credit_for_calls_that_are_answered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ALLOWANCE", 20)
    monkeypatch.setattr(module, "PER_SECOND", 0)
    for _ in range(100):
        await world.is_well()
    assert len(clients_of(world).connections) == 1


@pytest.mark.parametrize(("size", "taken"), [(0, True), (1, False)])
async def test_connection_bounds_the_list_of_headers(
    world: World, caplog: pytest.LogCaptureFixture, size: int, taken: bool
) -> None:
    client, _ = await opened(world)
    plain = sum(len(name) + len(value) + 32 for name, value in HEADERS)
    value = "x" * (module.MAX_HEADERS - plain - len("long") - 32 + size)  # Huffman: on the wire it is shorter
    client.h2.send_data(begin(client, 0, ("long", value)), bytes(5), end_stream=True)
    if taken:
        assert (await client.status())[0] == "0"
    else:
        await client.flush()
        with contextlib.suppress(ConnectionError):
            await client.closed()
        assert "Oversized" in complaints(caplog)[0]
    client.close()


async def test_connection_keeps_no_larger_table_or_frames_than_it_wants(world: World) -> None:
    client, connection = await opened(world)
    client.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 1 << 30, SettingCodes.MAX_FRAME_SIZE: 1 << 23})
    client.h2.send_data(begin(client, 0), bytes(5), end_stream=True)
    assert (await client.status())[0] == "0"
    assert connection._h2.encoder.header_table_size == module.MAX_TABLE
    assert connection._h2.max_outbound_frame_size == module.MAX_FRAME
    client.close()


async def test_connection_with_most_unread_requests_is_cut_off_at_the_bound_of_all(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    small, first = await opened(world)
    large, second = await opened(world)
    for client, size in ((small, 5), (large, 16_000)):
        stream = begin(client, 0)
        client.h2.send_data(stream, b"\0\0\0\xff\0" + bytes(size - 5))
        if size > 5:
            client.h2.send_data(stream, bytes(16_000))
        await client.flush()
    await eventually(lambda: first.calls == second.calls == 1)
    calls = [*first.processor.streams.values(), *second.processor.streams.values()]
    await eventually(lambda: [len(call.buffer._data) for call in calls] == [0, 31_995])  # 5 are read
    monkeypatch.setattr(clients, "MAX_HELD", clients_of(world).held)
    small.h2.send_data(1, b"x")
    await small.flush()
    with contextlib.suppress(ConnectionError):
        await large.closed()
    assert "bytes of unread requests are its own" in complaints(caplog)[0]
    await eventually(lambda: clients_of(world).connections == {first})
    assert clients_of(world).held == first.held
    small.close()
    large.close()


async def test_connection_makes_one_long_answer_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    listing = world.containers.list
    monkeypatch.setattr(world.containers, "list", lambda: (made.append(1), listing())[1])
    world.containers.present["a"] = running("a")
    client, connection = await opened(world)
    client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    for number in range(50):
        client.h2.send_data(begin(client, number), bytes(5), end_stream=True)
    await client.flush()
    await eventually(lambda: connection.calls == 50 and bool(made))
    await world.is_well()  # on another connection
    assert len(made) == 2
    client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 65535})
    await client.flush()
    await eventually(lambda: len(made) == 51)
    client.close()


async def test_call_whose_answer_is_not_read_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc, "STALLED", 0.05)
    world.containers.present["a"] = running("a")
    client, connection = await opened(world)
    client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    client.h2.send_data(begin(client, 0), bytes(5), end_stream=True)
    await client.flush()
    assert (await events_until(client, StreamReset)).error_code == 11
    await eventually(lambda: not connection.calls)
    client.close()


async def test_calls_without_a_path_are_reset_and_leave_nothing(world: World) -> None:
    client, connection = await opened(world)
    client.h2.send_headers(1, [one for one in HEADERS if one[0] != ":path"])
    await client.flush()
    assert (await events_until(client, StreamReset)).error_code == 1
    assert connection.held == connection.calls == 0
    client.close()


async def test_calls_that_fail_in_the_library_are_reset(world: World) -> None:
    client, _ = await opened(world)
    begin(client, 0, ("x-bin", "A"))  # not base64
    await client.flush()
    assert (await events_until(client, StreamReset)).error_code == 2
    client.close()


# ── time ──


@pytest.mark.parametrize(
    ("sent", "limit", "said"),
    [
        (b"", "GREETING_TIMEOUT", "it sent nothing"),
        (PREFACE[:-1], "GREETING_TIMEOUT", "preface and settings"),
        (PREFACE, "GREETING_TIMEOUT", "preface and settings"),
        (PREFACE + SETTINGS[:-1], "GREETING_TIMEOUT", "preface and settings"),
        (PREFACE + SETTINGS + b"\0", "FRAME_TIMEOUT", "rest of a frame or of headers"),
        (PREFACE + SETTINGS + b"\0\0\2\0\0\0\0\0\1x", "FRAME_TIMEOUT", "rest of a frame or of headers"),
        (PREFACE + SETTINGS + b"\0\0\1\1\0\0\0\0\1\x82", "FRAME_TIMEOUT", "rest of a frame or of headers"),
    ],
)
async def test_connection_that_stops_midway_is_cut_off(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sent: bytes,
    limit: str,
    said: str,
) -> None:
    monkeypatch.setattr(module, limit, 0.05)
    monkeypatch.setattr(server, limit, 0.05, raising=False)
    client = await Raw.connect(world.path)
    client.writer.write(sent)
    with contextlib.suppress(ConnectionError):
        await client.closed()
    assert [said in line for line in complaints(caplog)] == [True]
    client.close()


async def test_connection_without_a_call_is_told_to_leave_and_one_with_a_call_stays(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "IDLE_TIMEOUT", 0.2)
    busy = Channel(path=world.path)
    world.containers.present["a"] = running("a")
    method = StreamStreamMethod(
        busy, CONTAINERS + "Attach", m.AttachContainerRequest, m.AttachContainerResponse
    )
    async with method.open() as stream:
        await stream.send_message(m.AttachContainerRequest(id="a"))
        await stream.recv_initial_metadata()
        for _ in range(3):
            client = await Raw.connect(world.path)
            await client.flush()
            left = await events_until(client, ConnectionTerminated)
            assert left.error_code == 0
            await client.closed()
            client.close()
        world.sessions.attachments[0].out.put_nowait(b"still there")
        answer = await asyncio.wait_for(stream.recv_message(), WAIT)
        assert answer is not None
        assert answer.read_data == b"still there"
        await stream.cancel()
    await eventually(lambda: not clients_of(world).connections)
    busy.close()
    for _ in range(2):  # a client that was told to leave connects again
        await world.is_well()
        await eventually(lambda: not world.channel._connected)
    assert complaints(caplog) == []


async def test_connection_that_pings_without_a_call_is_idle(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_TIMEOUT", 0.05)
    client = await Raw.connect(world.path)

    async def ping() -> None:
        with contextlib.suppress(ConnectionError):  # the server closes between two pings
            while True:
                client.h2.ping(bytes(8))
                await client.flush()
                await asyncio.sleep(0.01)

    await asyncio.wait_for(ping(), WAIT)
    client.close()


async def test_connection_of_a_client_that_says_goodbye_and_does_not_read_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CLOSING_TIMEOUT", 0.05)
    world.logs.texts = ["x" * 100_000] * 100
    world.containers.present["a"] = running("a")
    client, connection = await opened(world)
    client.reader._transport.pause_reading()  # type: ignore[attr-defined]
    client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 24})
    client.h2.increment_flow_control_window(1 << 24)
    client.h2.send_headers(1, [(name, value.replace("List", "Logs")) for name, value in HEADERS])
    request = m.GetLogsRequest(id="a", tail=-1).SerializeToString()
    client.h2.send_data(1, b"\0" + len(request).to_bytes(4, "big") + request, end_stream=True)
    await client.flush()
    await eventually(
        lambda: connection.transport is not None and not connection.connection.write_ready.is_set()
    )
    client.h2.close_connection()
    await client.flush()
    await eventually(lambda: not clients_of(world).connections)
    client.close()


async def test_call_without_a_request_ends(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc, "TIMEOUT", 0.05)
    raw.request(CONTAINERS + "List")
    assert await raw.status() == ("4", "the request did not come within 0.05 s")


async def test_call_ends_when_the_rest_of_a_later_request_does_not_come(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc, "TIMEOUT", 0.05)
    world.containers.present["a"] = running("a")
    client, _ = await opened(world)
    client.h2.send_headers(1, [(name, value.replace("List", "Attach")) for name, value in HEADERS])
    request = m.AttachContainerRequest(id="a").SerializeToString()
    client.h2.send_data(1, b"\0" + len(request).to_bytes(4, "big") + request + b"\0\0\0\0\7x")
    assert (await client.status())[0] == "4"
    client.close()


# ── shares ──


def pretend(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Clients are, in the order of their coming, who *names* says."""
    left = list(names)
    monkeypatch.setattr(server, "introduced", lambda _transport: (left[0], left.pop(0)))


@pytest.mark.parametrize("bound", ["MAX_PER_PEER", "MAX_CONNECTIONS"])
async def test_clients_without_a_call_make_room_and_silent_ones_first(
    world: World, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    monkeypatch.setattr(clients, bound, 3)
    polite, first = await opened(world)
    silent = await Raw.connect(world.path)
    await eventually(lambda: len(clients_of(world).connections) == 2)
    second, _ = await opened(world)
    third, _ = await opened(world)
    with contextlib.suppress(ConnectionError):
        await silent.closed()
    assert first in clients_of(world).connections
    another, _ = await opened(world)
    assert (await events_until(polite, ConnectionTerminated)).error_code == 0
    await eventually(lambda: len(clients_of(world).connections) == 3)
    for client in (silent, polite, second, third, another):
        client.close()


async def test_clients_that_come_at_once_make_room_one_by_one(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(clients, "MAX_PER_PEER", 3)
    silent = [socket.socket(socket.AF_UNIX) for _ in range(10)]
    for one in silent:  # all are in the backlog before the server looks at the first
        one.connect(world.path)
    client, _ = await opened(world)
    assert len(clients_of(world).connections) == 3
    assert not [record for record in caplog.records if record.name == "asyncio"]
    for other in (client, *silent):
        other.close()


async def test_clients_with_calls_fill_the_share_of_their_peer_only(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(clients, "MAX_PER_PEER", 2)
    pretend(monkeypatch, "uid 7", "uid 7", "uid 7", "uid 8", "uid 7")
    busy = [(await opened(world)) for _ in range(2)]
    for client, connection in busy:
        begin(client, 0)
        await client.flush()
        await eventually(lambda: connection.calls == 1)  # noqa: B023
    refused = await Raw.connect(world.path)
    with contextlib.suppress(ConnectionError):
        await refused.closed()
    assert complaints(caplog) == ["API client (uid 7): connection refused: 2 are busy"]
    other, _ = await opened(world)
    busy[0][0].close()
    await eventually(lambda: len(clients_of(world).connections) == 2)
    again, _ = await opened(world)
    for client in (refused, other, again, busy[1][0]):
        client.close()


async def test_connection_over_tcp_finds_out_that_its_client_is_gone() -> None:
    server = served("127.0.0.1:0", "tcp")
    await server.start()
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    crowd = server._grpc.clients  # type: ignore[union-attr]
    await eventually(lambda: bool(crowd.connections))
    (connection,) = crowd.connections
    assert connection.transport is not None
    sock = connection.transport.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    for option, value in clients.KEEPALIVE:
        assert sock.getsockopt(socket.IPPROTO_TCP, option) == value
    assert connection.peer_key == connection.name == "127.0.0.1"
    writer.close()
    await server.close()
