# SPDX-License-Identifier: Apache-2.0
"""Calls, time-outs, and every way a peer can fail, turned into pycm's own errors."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
from typing import TYPE_CHECKING, Any

import pytest
from fake_containerd import FakeContainerd, refuse
from google.protobuf.empty_pb2 import Empty
from grpclib.client import Channel
from grpclib.const import Status
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import StreamEnded
from h2.settings import SettingCodes

from pycm.containerd import rpc
from pycm.containerd.client import MESSAGE_LIMIT, Client, from_status
from pycm.containerd.proto import content_pb2, version_pb2
from pycm.errors import ConflictError, NotFoundError, OperationFailedError, PycmError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path


SECONDS = 60.0


@pytest.fixture
async def client(fake: FakeContainerd) -> AsyncIterator[Client]:
    made = Client(fake.path, "ns")
    yield made
    made.close()


async def test_a_call_carries_namespace_and_lease(fake: FakeContainerd, client: Client) -> None:
    fake.answers[rpc.VERSION] = lambda _: version_pb2.VersionResponse(version="9")
    assert (await client.call(rpc.VERSION, Empty())).version == "9"
    await client.call(rpc.VERSION, Empty(), lease="mine")
    assert [item.get("containerd-namespace") for item in fake.metadata] == ["ns", "ns"]
    assert [item.get("containerd-lease") for item in fake.metadata] == [None, "mine"]


async def test_what_is_remembered_of_ended_calls_has_a_bound(fake: FakeContainerd, client: Client) -> None:
    fake.answers[rpc.VERSION] = lambda _: version_pb2.VersionResponse(version="9")
    for _ in range(400):
        await client.call(rpc.VERSION, Empty())
    kept = [len(made._closed_streams) for made in gc.get_objects() if isinstance(made, H2Connection)]
    assert max(kept) == H2Connection.MAX_CLOSED_STREAMS


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (Status.NOT_FOUND, NotFoundError),
        (Status.ALREADY_EXISTS, ConflictError),
        (Status.FAILED_PRECONDITION, ConflictError),
        (Status.UNAVAILABLE, UnavailableError),
        (Status.DEADLINE_EXCEEDED, UnavailableError),
        (Status.UNKNOWN, OperationFailedError),
        (Status.INVALID_ARGUMENT, OperationFailedError),
    ],
)
async def test_a_status_becomes_an_error_with_method_and_text(
    fake: FakeContainerd, client: Client, status: Status, error: type
) -> None:
    fake.answers[rpc.TASK_START] = refuse(status, "runc:\n  it\tbroke")
    with pytest.raises(error) as caught:
        await client.call(rpc.TASK_START, rpc.TASK_START.request())
    assert type(caught.value) is error
    assert str(caught.value) == "containerd's Tasks.Start failed: runc: it broke"


NESTED = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            NESTED + 'exec: "/nope": stat /nope: no such file or directory: unknown',
            (
                'exec: "/nope": stat /nope: no such file or directory'
                f" (containerd's Tasks.Create: {NESTED.removesuffix(': ')})"
            ),
        ),
        (
            NESTED
            + 'error during container init: error mounting "/x" to rootfs at "/y": not a directory: unknown',
            (
                'error mounting "/x" to rootfs at "/y": not a directory'
                f" (containerd's Tasks.Create: {NESTED}error during container init)"
            ),
        ),
        (
            "OCI runtime create failed: crun: executable file `x` not found in $PATH: No such file or directory: unknown",
            (
                "crun: executable file `x` not found in $PATH: No such file or directory"
                " (containerd's Tasks.Create: OCI runtime create failed)"
            ),
        ),
        (
            (
                "rpc error: code = Unknown desc = OCI runtime create failed: container_linux.go:380: starting container"
                ' process caused: exec: "x": executable file not found in $PATH: unknown'
            ),
            (
                'exec: "x": executable file not found in $PATH (containerd\'s Tasks.Create: rpc error: code = Unknown desc ='
                " OCI runtime create failed: container_linux.go:380: starting container process caused)"
            ),
        ),
        (
            "failed to start shim: start failed: fork/exec: permission denied",
            "fork/exec: permission denied (containerd's Tasks.Create: failed to start shim: start failed)",
        ),
        ("runc create failed", "containerd's Tasks.Create failed: runc create failed"),
        (
            "OCI runtime create failed: runc create failed",
            "runc create failed (containerd's Tasks.Create: OCI runtime create failed)",
        ),
        (
            'container "a" in namespace "b": not found',
            'containerd\'s Tasks.Create failed: container "a" in namespace "b": not found',
        ),
        ("unknown", "containerd's Tasks.Create failed: unknown"),
    ],
)
def test_error_of_nested_layers_names_the_cause_first(text: str, said: str) -> None:
    assert str(from_status("Tasks.Create", Status.UNKNOWN, text)) == said


def test_shortened_text_keeps_the_cause_and_its_end() -> None:
    path = "/p" * 1000
    said = str(from_status("Tasks.Create", Status.UNKNOWN, f'{NESTED}exec: "{path}": no such file: unknown'))
    assert said.startswith('exec: "/p/p')
    assert "…" in said
    assert ": no such file (containerd's Tasks.Create: failed to create shim task: " in said
    assert len(said) < MESSAGE_LIMIT + 50
    said = str(from_status("X.Y", Status.UNKNOWN, "x" * 2000 + ": no such file"))
    assert said.endswith("x: no such file")
    exact = "y" * MESSAGE_LIMIT
    assert str(from_status("X.Y", Status.UNKNOWN, exact)).endswith(": " + exact)
    assert "…" in str(from_status("X.Y", Status.UNKNOWN, exact + "y"))


def test_a_long_text_is_cut_and_a_missing_one_replaced() -> None:
    assert len(str(from_status("X.Y", Status.UNKNOWN, "a" * 100_000))) < MESSAGE_LIMIT + 50
    assert str(from_status("X.Y", Status.ABORTED, None)) == "containerd's X.Y failed: ABORTED"


async def test_a_call_that_hangs_ends_by_its_time_out_and_the_next_one_works(
    fake: FakeContainerd, client: Client
) -> None:
    async def never(_: Any) -> None:
        await asyncio.Event().wait()

    fake.answers[rpc.VERSION] = never
    short = copy.copy(rpc.VERSION)
    short.seconds = 0.05
    with pytest.raises(UnavailableError, match=r"did not finish Version.Version within 0.05 s"):
        await client.call(short, Empty())
    del fake.answers[rpc.VERSION]
    await client.call(rpc.VERSION, Empty())


async def test_no_socket_is_unavailable_until_there_is_one(tmp_path: Path) -> None:
    client = Client(str(tmp_path / "s"), "ns")
    with pytest.raises(
        UnavailableError, match=r"containerd at .*/s does not answer \(Version.Version\): No such file"
    ):
        await client.call(rpc.VERSION, Empty())
    fake = FakeContainerd(client.address)
    await fake.start()
    await client.call(rpc.VERSION, Empty())
    await fake.stop()
    with pytest.raises(UnavailableError):
        await client.call(rpc.VERSION, Empty())
    client.close()
    client.close()


async def test_a_stream_gives_messages_and_then_the_loss(fake: FakeContainerd, client: Client) -> None:
    chunks = [content_pb2.ReadContentResponse(data=data) for data in (b"a", b"b")]
    fake.answers[rpc.CONTENT_READ] = lambda _: chunks
    read = rpc.CONTENT_READ.request(digest="d")
    assert [chunk.data async for chunk in client.stream(rpc.CONTENT_READ, read)] == [b"a", b"b"]
    fake.answers[rpc.CONTENT_READ] = refuse(Status.NOT_FOUND)
    with pytest.raises(NotFoundError):
        _ = [chunk async for chunk in client.stream(rpc.CONTENT_READ, read)]
    events = client.stream(rpc.EVENT_SUBSCRIBE, rpc.EVENT_SUBSCRIBE.request())
    waiting = asyncio.create_task(anext(events))
    while not fake.subscribers:
        await asyncio.sleep(0)
    await fake.stop()
    with pytest.raises(UnavailableError):
        await waiting
    await fake.start()


class OddPeer(asyncio.Protocol):
    """Talks HTTP/2 as far as `answer` lets it, or, if that is bytes, sends these and hangs up."""

    def __init__(self, answer: bytes | Callable[[H2Connection, int], None], transports: set[Any]) -> None:
        self.answer = answer
        self.transports = transports
        self.h2 = H2Connection(H2Configuration(client_side=False, validate_outbound_headers=False))

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.transports.add(transport)
        if callable(self.answer):
            self.h2.initiate_connection()

    def data_received(self, data: bytes) -> None:
        if isinstance(self.answer, bytes):
            self.transport.write(self.answer)
            self.transport.close()
            return
        for event in self.h2.receive_data(data):
            if isinstance(event, StreamEnded):
                self.answer(self.h2, event.stream_id)
        self.transport.write(self.h2.data_to_send())


@contextlib.asynccontextmanager
async def odd_peer(path: Path, answer: bytes | Callable[[H2Connection, int], None]) -> AsyncIterator[Client]:
    transports: set[Any] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: OddPeer(answer, transports), path)
    client = Client(str(path), "ns")
    try:
        yield client
    finally:
        client.close()
        for transport in transports:
            transport.abort()
        server.close()
        await asyncio.sleep(0)  # transports close in the loop's next round
        await server.wait_closed()


async def error_with(path: Path, answer: bytes | Callable[[H2Connection, int], None]) -> type:
    async with odd_peer(path, answer) as client:
        with pytest.raises(PycmError) as caught:
            await client.call(rpc.VERSION, Empty())
    return type(caught.value)


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\4", b"\0\0\0\4\0\0\0\0\0"]
)
async def test_a_peer_that_is_no_grpc_server_is_unavailable(tmp_path: Path, answer: bytes) -> None:
    assert await error_with(tmp_path / "s", answer) is UnavailableError


async def test_client_reports_unavailable_when_connection_closes_before_the_call_begins(
    fake: FakeContainerd, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a socket unit, or of a containerd that is starting: the connection is taken and closed at once."""
    connect = Channel._create_connection

    async def closed(channel: Channel) -> Any:
        protocol = await connect(channel)
        protocol.connection._transport.abort()
        while not protocol.connection.is_closing() or protocol.handler.connection_lost is False:
            await asyncio.sleep(0)
        return protocol

    monkeypatch.setattr(Channel, "_create_connection", closed)
    lost = pytest.raises(UnavailableError, match=r"does not answer \([A-Za-z.]+\): AttributeError")
    with lost:
        await client.call(rpc.VERSION, Empty())
    with lost:
        _ = [chunk async for chunk in client.stream(rpc.CONTENT_READ, rpc.CONTENT_READ.request())]
    with lost:
        async with client.exchange(rpc.CONTENT_WRITE) as stream:
            await stream.send_message(rpc.CONTENT_WRITE.request())
    monkeypatch.undo()
    await client.call(rpc.VERSION, Empty())


async def test_client_keeps_own_errors_of_an_exchange(fake: FakeContainerd, client: Client) -> None:
    with pytest.raises(ConflictError, match=r"^mine$"):
        async with client.exchange(rpc.CONTENT_WRITE):
            raise ConflictError("mine")


async def test_client_fails_calls_that_wait_for_room_when_the_connection_is_lost(tmp_path: Path) -> None:
    """A call without a time-out that has not sent its headers yet is in no list of the library's."""
    transports: set[Any] = set()

    class Clogged(OddPeer):
        """Admits 256 MiB, and reads none of it."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1 << 28})
            self.h2.increment_flow_control_window(1 << 28)
            transport.write(self.h2.data_to_send())

        def data_received(self, data: bytes) -> None:
            self.transport.pause_reading()

    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: Clogged(reply(b""), transports), tmp_path / "s")
    client = Client(str(tmp_path / "s"), "ns")

    async def write() -> None:
        async with client.exchange(rpc.CONTENT_WRITE) as stream:
            for _ in range(100):
                await stream.send_message(rpc.CONTENT_WRITE.request(data=bytes(1 << 20)))

    async def late() -> None:
        async with client.exchange(rpc.CONTENT_WRITE) as stream:
            await stream.send_message(rpc.CONTENT_WRITE.request())

    first = asyncio.create_task(write())
    while not (client._channel and client._channel._connected) or _writes(client):
        await asyncio.sleep(0.001)
    second = asyncio.create_task(late())
    for _ in range(10):
        await asyncio.sleep(0)
    for transport in transports:
        transport.abort()
    results = await asyncio.wait_for(asyncio.gather(first, second, return_exceptions=True), SECONDS)
    client.close()
    server.close()
    assert [type(result) for result in results] == [UnavailableError, UnavailableError]


def _writes(client: Client) -> bool:
    """Whether the connection still takes what it is to send."""
    assert client._channel
    protocol: Any = client._channel._protocol
    return bool(protocol.connection.write_ready.is_set())


HEADERS = [(":status", "200"), ("content-type", "application/grpc")]


def reply(message: bytes, status: str = "0") -> Callable[[H2Connection, int], None]:
    def send(connection: H2Connection, stream: int) -> None:
        connection.send_headers(stream, HEADERS)
        if message:
            connection.send_data(stream, message)
        connection.send_headers(stream, [("grpc-status", status)], end_stream=True)

    return send


def headers(*pairs: tuple[str, str | bytes]) -> Callable[[H2Connection, int], None]:
    def send(connection: H2Connection, stream: int) -> None:
        connection.send_headers(stream, list(pairs), end_stream=True)

    return send


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(b""), OperationFailedError),
        (reply(b"\0\0\0\0\4\xff\xff\xff\xff"), OperationFailedError),
        (reply(b"\0\0\0\0\4\xff"), OperationFailedError),
        (reply(b"\1\0\0\0\4\xff\xff\xff\xff"), OperationFailedError),
        (reply(b"", "none"), OperationFailedError),
        (headers((":status", "none")), OperationFailedError),
        (headers(("server", "no status")), UnavailableError),
        (headers(*HEADERS, ("x-bin", "not base64!")), UnavailableError),
        (headers(*HEADERS, ("x", b"\xff")), UnavailableError),
        (lambda connection, stream: connection.reset_stream(stream), UnavailableError),
        (lambda connection, _: connection.close_connection(), UnavailableError),
    ],
)
async def test_a_grpc_peer_that_answers_nonsense_is_an_error_of_ours(
    tmp_path: Path, answer: Callable[[H2Connection, int], None], error: type
) -> None:
    assert await error_with(tmp_path / "s", answer) is error


def frame(kind: int, payload: bytes, stream: int = 0, flags: int = 0) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def after(raw: bytes) -> Callable[[H2Connection, int], None]:
    """The bytes, then a good answer."""
    message = version_pb2.VersionResponse(version="9").SerializeToString()

    def send(connection: H2Connection, stream: int) -> None:
        connection._data_to_send += raw
        reply(b"\0" + len(message).to_bytes(4, "big") + message)(connection, stream)

    return send


async def test_client_ignores_frames_of_unknown_types(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with odd_peer(tmp_path / "s", after(frame(0xFA, b"x" * 20))) as client:
        assert (await client.call(rpc.VERSION, Empty())).version == "9"
    assert caplog.records == []


@pytest.mark.parametrize(
    "raw",
    [
        frame(0x5, b"\0\0\0\2\x88", stream=1, flags=4),  # PUSH_PROMISE
        frame(0x1, b"\x08\x03100", stream=1, flags=4),  # an interim answer
        frame(0x1, b"\xff\xff\xff\xff\xff\xff\xff", stream=1, flags=4),  # no HPACK
        frame(0xA, b"\0\4abcd", stream=0),  # ALTSVC
        frame(0x4, b"odd"),  # SETTINGS
    ],
    ids=["push", "interim", "hpack", "altsvc", "settings"],
)
async def test_client_takes_unreadable_frames_for_a_lost_connection(
    tmp_path: Path, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a traceback of asyncio's in the log, which is what an exception in `data_received` leads to."""
    async with odd_peer(tmp_path / "s", after(raw)) as client:
        with contextlib.suppress(UnavailableError):  # some of it the library ignores
            await client.call(rpc.VERSION, Empty())
    assert [record for record in caplog.records if record.name == "asyncio"] == []
