# SPDX-License-Identifier: Apache-2.0
"""A server over faked containers, with clients of another make: grpclib's, and a raw one on the level of HTTP/2."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.empty_pb2 import Empty
from grpclib.client import Channel, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.exceptions import GRPCError
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived

from pycm.api.proto.api.services.containers import containers_pb2 as m
from pycm.api.server import Server
from pycm.api.server.grpc import CONTAINERS
from pycm.api.server.operations import EncodedContainers, Rooms
from pycm.errors import PycmError
from pycm.model.container import (
    Container,
    HostConfig,
    Image,
    LogConfiguration,
    LogDriverConfiguration,
    State,
    StopOptions,
    UpdateOptions,
)
from pycm.model.frozen import replace
from pycm.model.states import Status as ContainerStatus
from pycm.ports import Action, Command, Event
from support.fakes import FakeImages, FakeMetrics
from support.served_agent import Listen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from grpclib.const import Status

WAIT = 60
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
        self.listeners: list[Callable[..., None]] = []

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
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def tell(self, action: Action, container: Container) -> None:
        self.present[container.id] = container
        for listener in tuple(self.listeners):
            listener(Event(action, container))


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


class FakeAttachment:
    """Output is what a test puts into `out` (b"" ends it, an error is raised); input gathers in `written`."""

    def __init__(self) -> None:
        self.out: asyncio.Queue[bytes | PycmError] = asyncio.Queue()
        self.written: list[bytes] = []
        self.closed = False

    async def read(self) -> bytes:
        item = await self.out.get()
        if isinstance(item, PycmError):
            raise item
        return item

    async def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True


class FakeSession:
    """A command: a test puts output into `out` and `err` (b"" ends them) and its end into `code`; `asked` has what the client wanted."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.streams: tuple[asyncio.Queue[bytes], ...] = (asyncio.Queue(), asyncio.Queue())
        self.out, self.err = self.streams
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.asked: list[Any] = []
        self.left = False

    async def read(self, stream: int) -> bytes:
        return await self.streams[stream].get()

    async def write(self, data: bytes) -> None:
        self.asked.append(data)

    async def end_input(self) -> None:
        self.asked.append("end of input")

    async def resize(self, width: int, height: int) -> None:
        self.asked.append((width, height))

    async def signal(self, number: int) -> None:
        self.asked.append(number)

    async def exit_code(self) -> int:
        return await self.code


class FakeSessions:
    """ports.Sessions: the attachments and commands that were asked for, and what else was. `failure`: of the next commands."""

    def __init__(self) -> None:
        self.attachments: list[FakeAttachment] = []
        self.commands: list[FakeSession] = []
        self.failure: PycmError | None = None
        self.asked: list[tuple[Any, ...]] = []

    @asynccontextmanager
    async def exec(self, command: Command) -> AsyncIterator[FakeSession]:
        if self.failure is not None:
            raise self.failure
        session = FakeSession(command)
        self.commands.append(session)
        try:
            yield session
        finally:
            session.left = True

    async def attach(self, container_id: str) -> FakeAttachment:
        self.attachments.append(FakeAttachment())
        return self.attachments[-1]

    async def close_stdin(self, container_id: str) -> None:
        self.asked.append(("close_stdin", container_id))

    async def resize(self, container_id: str, width: int, height: int) -> None:
        self.asked.append(("resize", container_id, width, height))


class World:
    def __init__(self, path: str) -> None:
        self.path = path
        self.containers, self.logs = FakeContainers(), FakeLogs()
        self.sessions, self.metrics = FakeSessions(), FakeMetrics()
        self.images = FakeImages()
        self.server = served(path, world=self)
        self.channel = Channel(path=path)

    @property
    def watchers(self) -> list[Callable[..., None]]:
        """Listeners to container events that calls of clients have registered."""
        kept = EncodedContainers
        return [
            one for one in self.containers.listeners if not isinstance(getattr(one, "__self__", None), kept)
        ]

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


def served(address: str, protocol: str = "unix", world: World | None = None) -> Server:
    """A server that was not started, over the fakes of *world* or over new ones."""
    if world is None:
        parts: tuple[Any, ...] = FakeContainers(), FakeLogs(), FakeSessions(), FakeMetrics(), FakeImages()
    else:
        parts = world.containers, world.logs, world.sessions, world.metrics, world.images
    return Server(Rooms(*parts), Listen(address, protocol))


async def eventually(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), WAIT)


class Raw:
    """A client on the level of HTTP/2."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.received = b""
        self.h2 = H2Connection(
            H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
        )
        self.h2.initiate_connection()

    @classmethod
    async def connect(cls, path: str) -> Raw:
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
                if isinstance(event, DataReceived):
                    self.received += event.data
                if hasattr(event, "headers") and not isinstance(event, DataReceived):
                    found |= dict(event.headers)
            await self.flush()
        return found["grpc-status"], found.get("grpc-message", "")

    async def closed(self) -> None:
        while await asyncio.wait_for(self.reader.read(65536), WAIT):
            pass

    def close(self) -> None:
        self.writer.close()
