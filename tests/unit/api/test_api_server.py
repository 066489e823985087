# SPDX-License-Identifier: Apache-2.0
"""The server with a client of another make (grpclib's): every call, every kind of failure, and clients that mean no good."""

import asyncio
import contextlib
import logging
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived

from pycm import __version__
from pycm.api import receiver
from pycm.api import server as module
from pycm.api.encoded import EncodedContainers
from pycm.api.methods import CONTAINERS, MAX_MESSAGE, PROJECT_INFO
from pycm.api.proto.api.services.containers import containers_pb2 as m
from pycm.api.proto.api.services.sysinfo.system_info_pb2 import ProjectInfoResponse
from pycm.api.proto.api.types.containers import types_pb2 as types
from pycm.api.server import Server
from pycm.errors import ConfigError, ConflictError, NotFoundError, OperationFailedError
from pycm.model.container import (
    Container,
    Hook,
    HostConfig,
    Image,
    LogConfiguration,
    LogDriverConfiguration,
    Resources,
    RestartPolicy,
    State,
    StopOptions,
    UpdateOptions,
)
from pycm.model.states import Status as ContainerStatus
from support.served_agent import Listen

WAIT = 10
JSON_FILE = LogConfiguration(driver_config=LogDriverConfiguration(type="json-file"))


def running(identifier: str, **fields: Any) -> Container:
    state = State(status=ContainerStatus.RUNNING, running=True, pid=7)
    return Container(
        id=identifier,
        name=f"name of {identifier}",
        image=Image(name="x:1"),
        host_config=fields.pop("host_config", HostConfig(log_config=JSON_FILE)),
        state=fields.pop("state", state),
        **fields,
    )


class FakeContainers:
    """ports.Containers in memory: remembers what was asked; `error` is what the next change raises."""

    def __init__(self) -> None:
        self.present: dict[str, Container] = {}
        self.asked: list[tuple[Any, ...]] = []
        self.error: BaseException | None = None
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()

    def _ask(self, *what: Any) -> None:
        self.asked.append(what)
        if self.error is not None:
            raise self.error

    def get(self, container_id: str) -> Container | None:
        return self.present.get(container_id)

    def list(self) -> list[Container]:
        return list(self.present.values())

    async def create(self, container: Container) -> Container:
        self._ask("create", container)
        return replace(container, id=container.id or "made")

    async def start(self, container_id: str) -> None:
        self._ask("start", container_id)
        if container_id == "slow":
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()

    async def stop(self, container_id: str, options: StopOptions | None = None) -> None:
        self._ask("stop", container_id, options)

    async def pause(self, container_id: str) -> None:
        self._ask("pause", container_id)

    async def unpause(self, container_id: str) -> None:
        self._ask("unpause", container_id)

    async def rename(self, container_id: str, name: str) -> None:
        self._ask("rename", container_id, name)

    async def update(self, container_id: str, options: UpdateOptions) -> None:
        self._ask("update", container_id, options)

    async def remove(
        self, container_id: str, *, force: bool = False, options: StopOptions | None = None
    ) -> None:
        self._ask("remove", container_id, force, options)

    def subscribe(self, listener: Callable[..., None]) -> Callable[[], None]:
        return lambda: None


class FakeLogs:
    """Yields `texts`; counts what was taken and if the reading was closed."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.taken = 0
        self.closed = asyncio.Event()
        self.error: Exception | None = None
        self.kept: list[AsyncIterator[str]] = []

    def read(self, container_id: str, config: LogConfiguration | None, tail: int) -> AsyncIterator[str]:
        self.kept.append(self._read(tail))  # so that no garbage collection closes it in place of the server
        return self.kept[-1]

    async def _read(self, tail: int) -> AsyncIterator[str]:
        try:
            if self.error is not None:
                raise self.error
            for text in self.texts[-tail:] if tail > 0 else self.texts:
                self.taken += 1
                yield text
        finally:
            self.closed.set()


class World:
    def __init__(self, path: str) -> None:
        self.path = path
        self.containers, self.logs = FakeContainers(), FakeLogs()
        self.server = Server(self.containers, self.logs, Listen(path))  # type: ignore[arg-type]
        self.channel = Channel(path=path)

    async def call(self, method: str, request: Any, reply: Any = Empty, **options: Any) -> Any:
        path = method if method.startswith("/") else CONTAINERS + method
        return await UnaryUnaryMethod(self.channel, path, type(request), reply)(request, **options)

    async def stream(self, method: str, request: Any, reply: Any) -> list[Any]:
        return await UnaryStreamMethod(self.channel, CONTAINERS + method, type(request), reply)(request)

    async def failure(self, method: str, request: Any, reply: Any = Empty) -> tuple[Status, str | None]:
        with pytest.raises(GRPCError) as caught:
            await self.call(method, request, reply)
        return caught.value.status, caught.value.message

    async def is_well(self) -> None:
        await self.call("List", m.ListContainersRequest(), m.ListContainersResponse, timeout=WAIT)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(str(tmp_path / "run" / "s"))
    await made.server.start()
    yield made
    made.channel.close()
    await made.server.close()


async def eventually(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), WAIT)


# ── what the calls do ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_list_and_get_show_the_containers_of_now(world: World) -> None:
    world.containers.present = {"a": running("a"), "b": running("b")}
    answer = await world.call("List", m.ListContainersRequest(), m.ListContainersResponse)
    assert [(c.id, c.state.status, c.state.pid) for c in answer.containers] == [
        ("a", "Running", 7),
        ("b", "Running", 7),
    ]
    world.containers.present["b"] = replace(running("b"), name="new")
    del world.containers.present["a"]
    answer = await world.call("List", m.ListContainersRequest(), m.ListContainersResponse)
    assert [(c.id, c.name) for c in answer.containers] == [("b", "new")]
    answer = await world.call("Get", m.GetContainerRequest(id="b"), m.GetContainerResponse)
    assert answer.container.name == "new"
    streamed = await world.stream("ListStream", m.ListContainersRequest(), m.ListContainerMessage)
    assert [message.container.id for message in streamed] == ["b"]


@pytest.mark.parametrize("identifier", ["nope", "", "../../x"])
async def test_get_of_an_unknown_id_is_an_answer_without_container(world: World, identifier: str) -> None:
    answer = await world.call("Get", m.GetContainerRequest(id=identifier), m.GetContainerResponse)
    assert not answer.HasField("container")


async def test_create_hands_on_what_was_sent_and_answers_with_what_was_made(world: World) -> None:
    request = m.CreateContainerRequest()
    request.container.image.name = "x:1"
    request.container.host_config.restart_policy.retry_timeout = 30
    request.container.host_config.restart_policy.type = "on-failure"
    answer = await world.call("Create", request, m.CreateContainerResponse)
    assert answer.container.id == "made"
    [(_, container)] = world.containers.asked
    assert container.image == Image(name="x:1")
    assert container.host_config.restart_policy == RestartPolicy(
        type="on-failure", retry_timeout=30_000_000_000
    )


async def test_create_without_a_container_reaches_the_validation_of_the_manager(world: World) -> None:
    await world.call("Create", m.CreateContainerRequest(), m.CreateContainerResponse)
    assert world.containers.asked == [("create", Container())]


async def test_create_with_a_number_out_of_range_is_refused(world: World) -> None:
    request = m.CreateContainerRequest()
    request.container.host_config.port_mappings.add(host_port=70000)
    status, text = await world.failure("Create", request, m.CreateContainerResponse)
    assert (status, text) == (
        Status.UNKNOWN,
        "host_config.port_mappings[0].host_port: 70000 is not between 0 and 65535",
    )


async def test_changes_are_handed_on_with_their_options(world: World) -> None:
    options = types.StopOptions(timeout=5, force=True, signal="SIGINT")
    update = types.UpdateOptions(resources=types.Resources(memory="64M"))
    await world.call("Start", m.StartContainerRequest(id="a"))
    await world.call("Stop", m.StopContainerRequest(id="a"))
    await world.call("Stop", m.StopContainerRequest(id="a", stopOptions=options))
    await world.call("Pause", m.PauseContainerRequest(id="a"))
    await world.call("Unpause", m.UnpauseContainerRequest(id="a"))
    await world.call("Rename", m.RenameContainerRequest(id="a", name="x"))
    await world.call("Update", m.UpdateContainerRequest(id="a", updateOptions=update))
    await world.call(
        "Update", m.UpdateContainerRequest(id="a", updateOptions=types.UpdateOptions(resources={}))
    )
    await world.call("Remove", m.RemoveContainerRequest(id="a"))
    await world.call("Remove", m.RemoveContainerRequest(id="a", force=True, stopOptions=options))
    stop = StopOptions(timeout=5, force=True, signal="SIGINT")
    assert world.containers.asked == [
        ("start", "a"),
        ("stop", "a", None),
        ("stop", "a", stop),
        ("pause", "a"),
        ("unpause", "a"),
        ("rename", "a", "x"),
        ("update", "a", UpdateOptions(resources=Resources(memory="64M"))),
        ("update", "a", UpdateOptions(resources=Resources())),
        ("remove", "a", False, None),
        ("remove", "a", True, stop),
    ]


async def test_restart_stops_what_runs_and_starts_what_does_not(world: World) -> None:
    world.containers.present["a"] = running("a")
    world.containers.present["b"] = replace(running("b"), state=State(status=ContainerStatus.STOPPED))
    await world.call("Restart", m.RestartContainerRequest(id="a"))
    await world.call("Restart", m.RestartContainerRequest(id="b"))
    assert world.containers.asked == [("stop", "a", StopOptions(force=True)), ("start", "a"), ("start", "b")]


async def test_restart_is_content_if_the_restart_policy_was_faster(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.containers.present["a"] = running("a")

    async def refuse(_id: str) -> None:
        raise ConflictError("already running")

    monkeypatch.setattr(world.containers, "start", refuse)
    await world.call("Restart", m.RestartContainerRequest(id="a"))
    world.containers.present["a"] = replace(running("a"), state=State(status=ContainerStatus.DEAD))
    assert await world.failure("Restart", m.RestartContainerRequest(id="a")) == (
        Status.UNKNOWN,
        "already running",
    )


async def test_project_info_has_no_blanks_in_its_values(world: World) -> None:
    answer = await world.call(PROJECT_INFO, Empty(), ProjectInfoResponse)
    info = answer.project_info
    assert (info.project_version, info.api_version) == (__version__, "1.0.0")
    assert " " not in info.project_version + info.api_version + info.git_commit + info.build_time


async def test_attach_is_refused_clearly(world: World) -> None:
    status, text = await world.failure("Attach", m.AttachContainerRequest(), m.AttachContainerResponse)
    assert status is Status.UNIMPLEMENTED
    assert "read its output with logs" in str(text)


# ── logs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_logs_sends_one_record_a_message(world: World) -> None:
    world.containers.present["a"] = running("a")
    world.logs.texts = ["one", "zwei ä", "three"]
    answer = await world.stream("Logs", m.GetLogsRequest(id="a", tail=2), m.GetLogsResponse)
    assert [message.log for message in answer] == ["zwei ä", "three"]
    assert world.logs.closed.is_set()


@pytest.mark.parametrize(
    ("container", "text"),
    [
        (None, "no such container with id = a exists"),
        (running("a", state=State(status=ContainerStatus.CREATED)), 'there are no logs for container with status "Created"'),
        (running("a", host_config=None), "no host config for container a"),
        (running("a", host_config=HostConfig()), "no log config for container a"),
        (running("a", host_config=HostConfig(log_config=LogConfiguration())), "log driver config is not set for container a"),
        (
            running("a", host_config=HostConfig(log_config=LogConfiguration(driver_config=LogDriverConfiguration(type="none")))),
            "there are not any logs for container a with log type none",
        ),
        (
            running("a", host_config=HostConfig(log_config=LogConfiguration(driver_config=LogDriverConfiguration(type="x")))),
            "unknown log type x",
        ),
    ],
)  # fmt: skip
async def test_logs_that_do_not_exist_say_why(world: World, container: Container | None, text: str) -> None:
    if container is not None:
        world.containers.present["a"] = container
    assert await world.failure("Logs", m.GetLogsRequest(id="a"), m.GetLogsResponse) == (Status.UNKNOWN, text)


async def test_a_log_file_that_is_missing_is_an_error_of_the_call(world: World) -> None:
    world.containers.present["a"] = running("a")
    world.logs.error = NotFoundError("log file not found /x/json.log")
    failure = await world.failure("Logs", m.GetLogsRequest(id="a"), m.GetLogsResponse)
    assert failure == (Status.UNKNOWN, "log file not found /x/json.log")


async def test_a_slow_reader_of_logs_holds_up_the_reading_and_nothing_else(world: World) -> None:
    world.containers.present["a"] = running("a")
    world.logs.texts = ["x" * 100_000] * 1000
    method = UnaryStreamMethod(world.channel, CONTAINERS + "Logs", m.GetLogsRequest, m.GetLogsResponse)
    async with method.open() as stream:
        await stream.send_message(m.GetLogsRequest(id="a", tail=-1), end=True)
        await stream.recv_message()
        before = -1
        while world.logs.taken != before:  # until the server has filled all there is to fill
            before = world.logs.taken
            for _ in range(10):
                await world.is_well()
        assert world.logs.taken < 200
        await stream.cancel()
    await asyncio.wait_for(world.logs.closed.wait(), WAIT)


# ── failures ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "error", [ConflictError("texte ä\nzwei"), NotFoundError("x"), OperationFailedError("100 %")]
)
async def test_every_expected_failure_is_unknown_with_its_text(world: World, error: Exception) -> None:
    world.containers.error = error
    assert await world.failure("Start", m.StartContainerRequest(id="a")) == (Status.UNKNOWN, str(error))


async def test_a_bug_is_internal_in_one_line_and_stands_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.containers.error = ZeroDivisionError("secret inside")
    status, text = await world.failure("Start", m.StartContainerRequest(id="a"))
    assert (status, text) == (
        Status.INTERNAL,
        "internal error in Start: ZeroDivisionError; see the agent's log",
    )
    assert "a bug in the call Start" in caplog.text
    world.containers.error = None
    await world.is_well()


@pytest.mark.parametrize("identifier", ["../x", "", "a/b", "a\0b", "x" * 77, "-a", "a\nb"])
@pytest.mark.parametrize(
    "method", ["Start", "Stop", "Restart", "Pause", "Unpause", "Rename", "Update", "Remove"]
)
async def test_an_id_that_could_leave_a_directory_never_reaches_the_manager(
    world: World, method: str, identifier: str
) -> None:
    request = getattr(m, f"{method}ContainerRequest")(id=identifier)
    status, text = await world.failure(method, request)
    assert status is Status.UNKNOWN
    assert str(text).startswith("invalid container id format : ")
    assert "\n" not in str(text)
    assert world.containers.asked == []


async def test_a_client_that_gives_up_ends_its_call(world: World) -> None:
    with pytest.raises(asyncio.TimeoutError):
        await world.call("Start", m.StartContainerRequest(id="slow"), timeout=0.05)
    await asyncio.wait_for(world.containers.cancelled.wait(), WAIT)
    await world.is_well()


async def test_a_client_killed_in_the_middle_ends_its_call(world: World) -> None:
    doomed = World(world.path)
    task = asyncio.ensure_future(doomed.call("Start", m.StartContainerRequest(id="slow")))
    await asyncio.wait_for(world.containers.waiting.wait(), WAIT)
    doomed.channel.close()
    with contextlib.suppress(Exception):
        await task
    await asyncio.wait_for(world.containers.cancelled.wait(), WAIT)
    await world.is_well()


async def test_a_thousand_calls_at_once_are_all_answered(world: World) -> None:
    world.containers.present = {str(i): running(str(i)) for i in range(10)}
    channels = [World(world.path) for _ in range(10)]
    calls = [
        other.call("List", m.ListContainersRequest(), m.ListContainersResponse)
        for other in channels
        for _ in range(100)
    ]
    answers = await asyncio.wait_for(asyncio.gather(*calls), 60)
    assert {len(answer.containers) for answer in answers} == {10}
    for other in channels:
        other.channel.close()


# ── foreign bytes ───────────────────────────────────────────────────────────────────────────────────────────────────


class Raw:
    """A client on the level of HTTP/2."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = H2Connection(
            H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
        )
        self.h2.initiate_connection()

    @classmethod
    async def connect(cls, path: str) -> "Raw":
        return cls(*await asyncio.open_unix_connection(path))

    def request(self, path: str, *, authority: str = "localhost", leave_out: str = "") -> None:
        headers = {
            ":method": "POST", ":scheme": "http", ":path": path, ":authority": authority,
            "te": "trailers", "content-type": "application/grpc",
        }  # fmt: skip
        self.h2.send_headers(1, [(name, value) for name, value in headers.items() if name != leave_out])

    async def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())
        await self.writer.drain()

    async def status(self) -> tuple[str, str]:
        """grpc-status and grpc-message of the answer."""
        await self.flush()
        found: dict[str, str] = {}
        while "grpc-status" not in found:
            data = await asyncio.wait_for(self.reader.read(65536), WAIT)
            assert data, "the server closed the connection"
            for event in self.h2.receive_data(data):
                if hasattr(event, "headers") and not isinstance(event, DataReceived):
                    found |= dict(event.headers)
            await self.flush()
        return found["grpc-status"], found.get("grpc-message", "")

    async def closed(self) -> None:
        while await asyncio.wait_for(self.reader.read(65536), WAIT):
            pass

    def close(self) -> None:
        self.writer.close()


@pytest.fixture
async def raw(world: World) -> AsyncIterator[Raw]:
    client = await Raw.connect(world.path)
    yield client
    client.close()
    with contextlib.suppress(ConnectionError):
        await client.writer.wait_closed()
    await world.is_well()


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
        (b"\0\0\0\0\2\xff\xff", "13", "is no CreateContainerRequest message"),
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
    monkeypatch.setattr(receiver, "LARGE_TIMEOUT", 0.02)
    slow = [await Raw.connect(world.path) for _ in range(receiver.LARGE_AT_ONCE + 1)]
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
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0" * 1000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0" + b"\0\0\5\1\4\0\0\0\1\xff\xff\xff\xff\xff",
    ],
)
async def test_bytes_that_are_no_http2_end_that_connection_without_traceback(
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
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 2)
    second = await Raw.connect(world.path)
    await second.flush()
    await asyncio.wait_for(second.reader.read(1), WAIT)
    third = await Raw.connect(world.path)
    with contextlib.suppress(ConnectionError):
        await third.closed()
    second.close()
    connections = world.server._grpc.connections  # type: ignore[union-attr]
    await eventually(lambda: len(connections) == 1)
    fourth = World(world.path)
    await fourth.is_well()
    fourth.channel.close()
    third.close()


# ── start and end ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_socket_is_for_owner_and_group_and_gone_at_the_end(world: World) -> None:
    assert stat.S_IMODE(os.stat(world.path).st_mode) == 0o660
    assert stat.S_IMODE(os.stat(os.path.dirname(world.path)).st_mode) == 0o711
    await world.server.close()
    assert not Path(world.path).exists()
    await world.server.close()


async def test_an_end_does_not_wait_for_clients_that_stay(world: World) -> None:
    idle = await Raw.connect(world.path)
    await idle.flush()
    call = asyncio.ensure_future(world.call("Start", m.StartContainerRequest(id="slow")))
    await asyncio.wait_for(world.containers.waiting.wait(), WAIT)
    await asyncio.wait_for(world.server.close(), WAIT)
    with contextlib.suppress(ConnectionError):
        await idle.closed()
    idle.close()
    assert world.containers.cancelled.is_set()
    with contextlib.suppress(Exception):
        await asyncio.wait_for(call, WAIT)


@pytest.mark.parametrize("protocol", ["tcp", "tcp4"])
async def test_tcp_is_served_too(tmp_path: Path, protocol: str) -> None:
    server = Server(FakeContainers(), FakeLogs(), Listen("127.0.0.1:0", protocol))  # type: ignore[arg-type]
    await server.start()
    port = server.sockets[0].getsockname()[1]
    channel = Channel("127.0.0.1", port)
    method = UnaryUnaryMethod(channel, CONTAINERS + "List", m.ListContainersRequest, m.ListContainersResponse)
    assert not (await method(m.ListContainersRequest())).containers
    channel.close()
    await server.close()


@pytest.mark.parametrize(
    ("protocol", "address"),
    [
        ("udp", "/x"),
        ("tcp", "nowhere"),
        ("tcp", "127.0.0.1:99999"),
        ("tcp4", "127.0.0.1:x"),
        ("unix", "/dev/null/s"),
    ],
)
async def test_an_address_that_cannot_be_used_is_named(protocol: str, address: str) -> None:
    server = Server(FakeContainers(), FakeLogs(), Listen(address, protocol))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^grpc_server"):
        await server.start()
    await server.close()


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"cannot listen at {address}"):
            await Server(FakeContainers(), FakeLogs(), Listen(address, "tcp")).start()  # type: ignore[arg-type]


# ── encoded containers ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_bytes_of_a_container_are_made_once_for_each_of_its_objects() -> None:
    encoded = EncodedContainers()
    first = running("a")
    assert encoded.one(first) is encoded.one(first)
    assert encoded.all([first]) == encoded.one(first)
    assert m.GetContainerResponse.FromString(encoded.one(replace(first, name="n"))).container.name == "n"


def test_bytes_of_removed_containers_are_forgotten() -> None:
    encoded = EncodedContainers()
    encoded.all([running(str(i)) for i in range(100)])
    encoded.all([running("1")])
    assert len(encoded._kept) == 1


def test_a_container_that_the_wire_cannot_carry_is_listed_without_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    odd = running("a", hooks=(Hook(timeout=2**40),))
    answer = m.ListContainersResponse.FromString(EncodedContainers().all([odd, running("b")]))
    assert [(c.id, c.state.status) for c in answer.containers] == [("a", "Running"), ("b", "Running")]
    assert "container 'a': sent without its details" in caplog.text


def test_the_library_logs_no_tracebacks(caplog: pytest.LogCaptureFixture) -> None:
    module._quiet_library()
    try:
        raise KeyError(":path")
    except KeyError:
        logging.getLogger("grpclib.server").exception("Server error")
    assert "Server error: KeyError(':path')" in caplog.text
    assert "Traceback" not in caplog.text
