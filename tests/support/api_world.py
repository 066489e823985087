# SPDX-License-Identifier: Apache-2.0
"""A server over faked containers, with clients of another make: grpclib's, and a raw one on the level of HTTP/2."""

from __future__ import annotations

import asyncio
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
from pycm.model.container import (
    Container,
    HostConfig,
    Image,
    LogConfiguration,
    LogDriverConfiguration,
    State,
)
from pycm.model.states import Status as ContainerStatus
from support.fake_containers import FakeSessions, RecordingContainers
from support.fake_metrics import FakeMetrics
from support.fakes import FakeImages, FakeLogs
from support.served_agent import Listen

if TYPE_CHECKING:
    from collections.abc import Callable

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


class World:
    def __init__(self, path: str) -> None:
        self.path = path
        self.containers, self.logs = RecordingContainers(), FakeLogs()
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
        parts: tuple[Any, ...] = (
            RecordingContainers(),
            FakeLogs(),
            FakeSessions(),
            FakeMetrics(),
            FakeImages(),
        )
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
