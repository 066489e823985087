# SPDX-License-Identifier: Apache-2.0
"""A client of the JSON API over asyncio's streams: h11's client side reads the answers, so the server's bytes are judged by others."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import h11

from pycm.api.protocol import UPGRADE, Frames, frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WAIT = 60


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.split(b"\n") if line]

    @property
    def code(self) -> str:
        """Of a problem."""
        assert self.headers["content-type"] == "application/problem+json"
        problem = self.value
        assert problem["status"] == self.status
        assert problem["type"] == "urn:pycm:problem:" + problem["code"]
        return str(problem["code"])


class JsonPeer:
    """One connection. *raw* bytes can be sent with `writer`, answers read with `answer`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.http = h11.Connection(h11.CLIENT)
        self._frames = Frames()
        self._taken: list[tuple[int, bytes]] = []

    @classmethod
    async def connect(cls, path: str) -> JsonPeer:
        return cls(*await asyncio.open_unix_connection(path))

    async def ask(self, method: str, target: str, body: Any = None, **headers: str) -> None:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = [("Host", "x"), ("Content-Length", str(len(data)))] if data else [("Host", "x")]
        fields += [(name.replace("_", "-"), value) for name, value in headers.items()]
        sent = self.http.send(h11.Request(method=method, target=target, headers=fields)) or b""
        sent += self.http.send(h11.Data(data=data)) or b""
        self.writer.write(sent + (self.http.send(h11.EndOfMessage()) or b""))
        await self.writer.drain()

    async def event(self) -> Any:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await asyncio.wait_for(self.reader.read(65536), WAIT))
        return event

    async def head(self) -> Any:
        while isinstance(event := await self.event(), h11.InformationalResponse) and event.status_code == 100:
            pass
        return event

    async def answer(self) -> Answer:
        head = await self.head()
        body = b""
        while isinstance(event := await self.event(), h11.Data):
            body += event.data
        with contextlib.suppress(h11.LocalProtocolError):  # the connection will be closed
            self.http.start_next_cycle()
        names = {name.decode(): value.decode() for name, value in head.headers}
        return Answer(head.status_code, names, body)

    async def call(self, method: str, target: str, body: Any = None) -> Answer:
        await self.ask(method, target, body)
        return await self.answer()

    async def line(self) -> Any:
        """The next line of a feed whose head was read; each comes in a chunk of its own."""
        event = await self.event()
        assert isinstance(event, h11.Data), event
        return json.loads(event.data)

    # ── exec and attach ──

    async def upgrade(self, target: str, body: Any = None) -> Any:
        await self.ask("POST", target, body, Connection="Upgrade", Upgrade=UPGRADE)
        head = await self.head()
        if head.status_code == 101:
            self._frames.feed(self.http.trailing_data[0])
        return head

    async def send(self, kind: int, payload: bytes = b"") -> None:
        self.writer.write(frame(kind, payload))
        await self.writer.drain()

    async def frame(self) -> tuple[int, bytes]:
        while not self._taken:
            self._taken += self._frames.take()
            if not self._taken:
                data = await asyncio.wait_for(self.reader.read(65536), WAIT)
                assert data, "the server closed the connection"
                self._frames.feed(data)
        return self._taken.pop(0)

    async def closed(self) -> None:
        with contextlib.suppress(ConnectionError):
            while await asyncio.wait_for(self.reader.read(65536), WAIT):
                pass

    def close(self) -> None:
        self.writer.close()


@contextlib.asynccontextmanager
async def connected(path: str) -> AsyncIterator[JsonPeer]:
    peer = await JsonPeer.connect(path)
    try:
        yield peer
    finally:
        peer.close()
        with contextlib.suppress(ConnectionError):
            await peer.writer.wait_closed()
