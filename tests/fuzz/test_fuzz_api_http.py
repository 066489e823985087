# SPDX-License-Identifier: Apache-2.0
"""Fuzz target of the JSON API's connection.

Contract: whatever bytes a client sends, in whatever pieces, the agent answers with complete HTTP/1.1 answers or frames, logs no bug, and
holds nothing for the client when it has left.
"""

import asyncio
import json
import logging

import h11
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pycm.api.protocol import UPGRADE, frame
from pycm.api.server.clients import Clients
from pycm.api.server.handlers import Handlers
from pycm.api.server.http import Connection
from pycm.api.server.operations import Operations, Rooms
from pycm.api.server.routes import ROUTES
from support.api_world import running
from support.fake_containers import FakeSessions, RecordingContainers
from support.fake_metrics import FakeMetrics
from support.fakes import FakeImages, FakeLogs

STEPS = 60
METHODS = ["GET", "POST", "DELETE", "HEAD", "get", "OPTIONS"]
QUERIES = [
    "",
    "?tail=1",
    "?samples=1",
    "?for=running",
    "?within=0.001",
    "?stdin=true",
    "?reference=x",
    "?id=a",
    "?x",
    "?%ff=%",
]
BODIES = [
    "",
    "{}",
    '{"command":["x"]}',
    '{"name":"n"}',
    '{"reference":"x"}',
    '{"image":{"name":"x"}}',
    "[",
    "null",
    '{"columns":1e9}',
]
HEADERS = ["Host: x", "Connection: close", "Connection: Upgrade", f"Upgrade: {UPGRADE}", "Expect: 100-continue", "Transfer-Encoding: chunked", "X"]  # fmt: skip

requests = st.builds(
    lambda method, path, query, headers, body: (
        f"{method} {path}{query} HTTP/1.1\r\n" + "".join(f"{one}\r\n" for one in headers)
        + f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode(),
    st.sampled_from(METHODS),
    st.sampled_from([route.path.replace("{id}", "a") for route in ROUTES] + ["/", "*", "/v1/containers/%00", "http://x/v1"]),
    st.sampled_from(QUERIES),
    st.lists(st.sampled_from(HEADERS), max_size=4).map(lambda more: ["Host: x", *more]) | st.lists(st.sampled_from(HEADERS)),
    st.sampled_from(BODIES),
)  # fmt: skip
frames = st.builds(
    frame, st.integers(0, 8), st.sampled_from([b"", b"x", b"{}", b'{"columns":1,"rows":2}', b'{"number":9}'])
)
EXEC = b"POST /v1/containers/a/exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: pycm-frames\r\nContent-Length: 17\r\n\r\n"
pieces = st.lists(requests | frames | st.binary(max_size=40), min_size=1, max_size=6)


class Transport(asyncio.Transport):
    """Takes everything at once and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = self.half = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.half, "written after the end"
        self.sent += bytes(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def write_eof(self) -> None:
        self.half = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


async def served(data: bytes, size: int) -> tuple[bytes, Clients]:
    containers, logs = RecordingContainers(), FakeLogs()
    containers.present["a"] = running("a")
    logs.texts = ["one"]
    operations = Operations(Rooms(containers, logs, FakeSessions(), FakeMetrics(), FakeImages()))
    clients, transport = Clients(), Transport()
    connection = Connection(clients, Handlers(operations))
    connection.peer_key = connection.name = "fuzz"
    clients.admit(connection)
    connection.connection_made(transport)
    for start in range(0, len(data), size):
        if not transport.closed:
            connection.data_received(data[start : start + size])
            await asyncio.sleep(0)
    for _ in range(STEPS):
        await asyncio.sleep(0)
    connection.eof_received()
    connection.connection_lost(None)
    task = connection.finish()
    assert task is not None
    await asyncio.wait({task})
    return transport.sent, clients


def check_answers(sent: bytes) -> None:
    """Read answers until the bytes end or become frames."""
    while sent:
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Upgrade", UPGRADE), ("Connection", "Upgrade")]))  # fmt: skip
        reader.send(h11.EndOfMessage())
        reader.receive_data(sent)
        event = reader.next_event()
        while isinstance(event, h11.InformationalResponse):
            if event.status_code == 101:
                return
            event = reader.next_event()
        if event is h11.NEED_DATA:
            return  # only a 100
        assert isinstance(event, h11.Response)
        body = b""
        while isinstance(event := reader.next_event(), h11.Data):
            body += event.data
        if event is h11.NEED_DATA:
            return  # a feed that was under way
        for line in body.splitlines():
            json.loads(line)
        sent = reader.trailing_data[0]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=pieces, size=st.sampled_from([1, 7, 100_000]))
@example(sent=[EXEC, b'{"command":["x"]}', frame(7)], size=1)
@example(sent=[b"GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n"] * 20, size=100_000)
def test_whatever_a_client_sends_is_answered_in_http_or_frames_and_leaves_nothing(
    sent: list[bytes], size: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    answered, clients = asyncio.run(served(b"".join(sent), size))
    check_answers(answered)
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR] == []
    assert clients.held == 0
    assert clients.connections == set()
