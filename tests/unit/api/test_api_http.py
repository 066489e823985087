# SPDX-License-Identifier: Apache-2.0
"""What a client of the JSON API may make the agent hold and wait for, and what malformed HTTP/1 leads to."""

import asyncio
import contextlib
import gc
import logging
import re
import socket
import subprocess
import sys
import weakref

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pycm.api import protocol, server
from pycm.api.server import HTTP1, HTTP2, PREFACE, clients, http, language_of
from pycm.api.server.clients import Clients
from support.api_world import WAIT, World, eventually, running, served
from support.json_peer import Answer, JsonPeer, connected

GET = b"GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /v1/containers/a/stop HTTP/1.1\r\nHost: x\r\n"


def clients_of(world: World) -> Clients:
    return world.server._grpc.clients  # type: ignore[union-attr]


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        one.getMessage()
        for one in caplog.records
        if one.name == "pycm.api" and one.levelno >= logging.WARNING
    ]


async def answer_to(peer: JsonPeer, data: bytes) -> Answer:
    """What the server says to raw bytes."""
    peer.http.send(
        h11.Request(method="GET", target="/", headers=[("Host", "x")])
    )  # so that h11 expects an answer
    peer.http.send(h11.EndOfMessage())
    peer.writer.write(data)
    return await peer.answer()


async def said(world: World, data: bytes) -> bytes:
    """Everything that the server says until it closes."""
    async with connected(world.path) as peer:
        peer.writer.write(data)
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(peer.reader.read(), WAIT)
    return b""


# ── which language ──


@pytest.mark.parametrize(
    ("first", "language"),
    [
        (b"", ""), (b"P", ""), (b"PR", ""), (b"PRI", HTTP2), (PREFACE, HTTP2), (PREFACE + b"x", HTTP2), (b"PO", HTTP1),
        (b"G", HTTP1), (b"get", HTTP1), (b"PRX", HTTP1), (b"\0", HTTP2), (b"\x16\x03\x01", HTTP2), (b" GET", HTTP2),
    ],
)  # fmt: skip
def test_language_is_told_by_the_first_bytes(first: bytes, language: str) -> None:
    assert language_of(first) == language


async def test_both_languages_are_served_beside_each_other_byte_by_byte(world: World) -> None:
    async with connected(world.path) as peer:
        for byte in GET:
            peer.writer.write(bytes((byte,)))
            await peer.writer.drain()
            await asyncio.sleep(0)
        await world.is_well()
        assert (await asyncio.wait_for(peer.reader.readline(), WAIT)) == b"HTTP/1.1 200 OK\r\n"


async def test_tcp_refuses_http1_and_closes(caplog: pytest.LogCaptureFixture) -> None:
    """Browsers can send HTTP/1.1 to any TCP address, and the API has no login."""
    made = served("127.0.0.1:0", "tcp")
    await made.start()
    peer = JsonPeer(*await asyncio.open_connection(*made.sockets[0].getsockname()))
    answer = await answer_to(peer, GET)
    assert (answer.code, answer.headers["connection"]) == ("unix-socket-only", "close")
    assert await peer.reader.read() == b""
    assert complaints(caplog) == ["API client (127.0.0.1): connection closed: HTTP/1.1 on a TCP address"]
    peer.close()
    await peer.writer.wait_closed()
    await made.close()


def test_json_api_is_imported_with_its_first_client() -> None:
    code = "import sys; from pycm.api.server import Server; print(*(set(sys.modules) & {'h11', 'pycm.api.server.http'}))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    assert done.stdout.split() == []


# ── one connection, many requests ──


async def test_requests_sent_ahead_are_answered_in_their_order(world: World) -> None:
    world.containers.present["a"] = running("a")
    sent = GET * 2 + b"GET /v1/containers/a HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET /nope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"  # fmt: skip
    assert re.findall(rb"HTTP/1.1 [0-9]+ [\w ]+", await said(world, sent)) == [
        b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK", b"HTTP/1.1 404 Not found",
    ]  # fmt: skip


async def test_http_1_0_client_is_answered_and_the_connection_closed(world: World) -> None:
    world.containers.present["a"] = running("a")
    world.logs.texts = ["one", "two"]
    answer = await said(world, b"GET /v1/containers/a/logs HTTP/1.0\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body == b'{"log":"one"}\n{"log":"two"}\n'


async def test_client_that_waits_for_100_continue_gets_it(world: World) -> None:
    async with connected(world.path) as peer:
        peer.writer.write(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert (
            await asyncio.wait_for(peer.reader.readuntil(b"\r\n\r\n"), WAIT)
            == b"HTTP/1.1 100 Continue\r\n\r\n"
        )
        peer.writer.write(b"{}")
        assert (await asyncio.wait_for(peer.reader.readline(), WAIT)) == b"HTTP/1.1 204 No Content\r\n"


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_body_may_come_in_chunks(world: World, size: int) -> None:
    body = b'{"timeout": 3}'
    chunks = b"".join(
        b"%x\r\n%s\r\n" % (len(part), part)
        for part in (body[i : i + size] for i in range(0, len(body), size))
    )
    async with connected(world.path) as peer:
        answer = await answer_to(peer, POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")
        assert answer.status == 204
    assert world.containers.asked[0][2].timeout == 3


async def test_connection_leaves_nothing_when_it_ends(world: World) -> None:
    async with connected(world.path) as peer:
        await peer.ask("POST", "/v1/containers/slow/start")
        await asyncio.wait_for(world.containers.waiting.wait(), WAIT)
        (connection,) = (one for one in clients_of(world).connections if one.calls)
        kept = weakref.ref(connection)
        del connection
    await asyncio.wait_for(world.containers.cancelled.wait(), WAIT)
    await eventually(lambda: not any(one.calls for one in clients_of(world).connections))
    assert clients_of(world).held == 0
    await asyncio.sleep(0)
    gc.collect()
    assert kept() is None


async def test_held_bytes_are_given_back_after_each_request(world: World, peer: JsonPeer) -> None:
    for _ in range(3):
        await peer.call("POST", "/v1/containers", {"container_name": "n" * 100_000, "image": {"name": "x:1"}})
    await eventually(lambda: clients_of(world).held == 0)


# ── malformed ──

MALFORMED = [
    b"GET\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",  # no Host
    b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n folded: y\r\nbroken\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: \0\r\n\r\n",
    POST + b"Content-Length: x\r\n\r\n",
    POST + b"Content-Length: -1\r\n\r\n",
    POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    POST + b"Transfer-Encoding: gzip\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n",
]


@pytest.mark.parametrize("data", MALFORMED)
async def test_malformed_request_is_answered_once_and_the_connection_closed(
    world: World, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await said(world, data)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 413 ", b"HTTP/1.1 501 "))
    assert b"\r\nConnection: close\r\n" in answer
    assert b"problem+json" in answer
    assert "Traceback" not in caplog.text
    assert len(complaints(caplog)) <= 1
    await world.is_well()


@pytest.mark.parametrize("tail", [b"", b"\r\n\r\n"])
async def test_head_has_a_bound(world: World, tail: bytes) -> None:
    answer = await said(world, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000 + tail)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'"code":"head-too-large"' in answer


async def test_head_below_the_bound_is_taken(world: World, peer: JsonPeer) -> None:
    await peer.ask("GET", "/v1/version", None, X="a" * (http.MAX_HEAD - 1000))
    assert (await peer.answer()).status == 200


async def test_body_has_a_bound_that_is_told_before_it_is_read(world: World) -> None:
    answer = await said(world, POST + b"Content-Length: %d\r\n\r\n" % (protocol.MAX_BODY + 1))
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"more than 4194304 bytes" in answer


async def test_chunked_body_has_the_same_bound(world: World) -> None:
    async with connected(world.path) as peer:
        peer.writer.write(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(65):
                peer.writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                await peer.writer.drain()
        assert (await asyncio.wait_for(peer.reader.readline(), WAIT)).startswith(b"HTTP/1.1 413 ")


async def test_body_of_the_longest_size_is_taken(world: World, peer: JsonPeer) -> None:
    body = b'{"timeout": 3}'.ljust(protocol.MAX_BODY)
    await peer.ask("POST", "/v1/containers/a/stop", body)
    assert (await peer.answer()).status == 204


async def test_body_in_tiny_chunks_is_refused(world: World) -> None:
    chunks = b"1\r\n \r\n" * (http.MOST_CHUNKS + 10)
    answer = await said(world, POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
    assert b"the body has too many chunks" in answer


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
async def test_no_bytes_hurt_the_server(world: World, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(world.path)
        client.sendall(b"GET " + data)
        client.shutdown(socket.SHUT_WR)
        await world.is_well()


# ── time ──


@pytest.mark.parametrize(
    ("sent", "limit", "said_"),
    [
        (b"GET", "GREETING_TIMEOUT", "head of a request within"),
        (GET[:-1], "GREETING_TIMEOUT", "head of a request within"),
        (GET + b"G", "FRAME_TIMEOUT", "head of a request within"),
        (GET + GET[:-1], "FRAME_TIMEOUT", "head of a request within"),
    ],
)
async def test_client_that_stops_in_a_head_is_cut_off(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sent: bytes,
    limit: str,
    said_: str,
) -> None:
    monkeypatch.setattr(http, limit, 0.05)
    await said(world, sent)
    assert [said_ in line for line in complaints(caplog)] == [True]


async def test_head_that_comes_byte_by_byte_does_not_get_more_time(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http, "GREETING_TIMEOUT", 0.2)
    async with connected(world.path) as peer:
        with contextlib.suppress(ConnectionError):
            for byte in GET * 1000:
                peer.writer.write(bytes((byte,)))
                await peer.writer.drain()
                await asyncio.sleep(0.02)
                if complaints(caplog):
                    break
    assert len(complaints(caplog)) == 1


async def test_body_that_does_not_come_is_a_problem(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_TIMEOUT", 0.05)
    answer = await said(world, POST + b"Content-Length: 10\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"late-request"' in answer
    assert world.containers.asked == []


async def test_client_without_a_call_is_told_to_leave_and_one_with_a_call_stays(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http, "IDLE_TIMEOUT", 0.05)
    async with connected(world.path) as busy:
        await busy.ask("GET", "/v1/events")
        await busy.head()
        for _ in range(2):
            assert (await said(world, GET)).startswith(b"HTTP/1.1 200 ")
        assert len(world.watchers) == 1
    assert complaints(caplog) == []


async def test_answer_that_is_not_taken_ends_the_connection(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http, "STALLED", 0.05)
    world.containers.present = {str(n): running(str(n), domain_name="x" * 100_000) for n in range(20)}
    async with connected(world.path) as peer:
        await peer.ask("GET", "/v1/containers")
        await eventually(lambda: bool(complaints(caplog)))
    assert "it did not read for 0.05 s" in complaints(caplog)[0]


# ── shares ──


async def test_long_bodies_of_one_peer_take_turns(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_TIMEOUT", 0.3)
    slow = [await JsonPeer.connect(world.path) for _ in range(clients.LARGE_AT_ONCE)]
    head = POST + b"Content-Length: %d\r\n\r\n" % (clients.SMALL + 10)
    for one in slow:
        one.writer.write(head + bytes(clients.SMALL + 1))
    await eventually(lambda: any(one.peer.large.locked() for one in clients_of(world).connections))
    async with connected(world.path) as patient:
        await patient.ask("POST", "/v1/containers/a/stop", b'{"timeout":1}'.ljust(clients.SMALL + 10))
        assert (await patient.answer()).status == 204
    for one in slow:
        assert (await one.reader.readline()).startswith(b"HTTP/1.1 408 ")
        one.close()


async def test_bytes_that_nobody_asked_for_are_not_read_and_the_client_is_not_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "LOOK", 0.01)
    async with connected(world.path) as peer:
        await peer.ask("POST", "/v1/containers/slow/start")
        await asyncio.wait_for(world.containers.waiting.wait(), WAIT)
        peer.writer.write(GET * 100_000)
        (connection,) = (one for one in clients_of(world).connections if one.calls)
        await eventually(lambda: not connection.transport.is_reading())  # type: ignore[union-attr]
        assert connection.held < 1024 * 1024
        peer.writer.transport.abort()
        await asyncio.wait_for(world.containers.cancelled.wait(), WAIT)
    await world.is_well()


async def test_clients_of_both_languages_make_room_for_each_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.is_well()
    monkeypatch.setattr(clients, "MAX_PER_PEER", 3)
    async with connected(world.path) as first, connected(world.path) as second:
        await first.call("GET", "/v1/version")
        await second.call("GET", "/v1/version")
        async with connected(world.path) as third:
            assert (await third.call("GET", "/v1/version")).status == 200
            assert len(clients_of(world).connections) == 3


async def test_clients_that_hold_most_are_cut_off(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(clients, "MAX_HELD", 300_000)
    async with connected(world.path) as peer:
        peer.writer.write(POST + b"Content-Length: 1000000\r\n\r\n" + bytes(900_000))
        await peer.closed()
    assert "bytes of unread requests are its own" in complaints(caplog)[0]
    assert clients_of(world).held == 0


async def test_server_ends_calls_and_connections_when_it_closes(world: World) -> None:
    async with connected(world.path) as feed, connected(world.path) as idle, connected(world.path) as silent:
        await feed.ask("GET", "/v1/events")
        await feed.head()
        await idle.call("GET", "/v1/version")
        await asyncio.wait_for(world.server.close(), server.CLOSE_TIMEOUT)
        assert world.watchers == []
        for one in (feed, idle, silent):
            await one.closed()
