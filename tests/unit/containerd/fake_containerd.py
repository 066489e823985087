# SPDX-License-Identifier: Apache-2.0
"""A containerd made of functions: a gRPC server on a unix socket whose every call a test may replace.

It answers what nobody replaced with an empty message, records all calls in order, and can go away and come back.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from grpclib.const import Cardinality, Handler
from grpclib.exceptions import GRPCError
from grpclib.server import Server

from pycm.containerd import rpc

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS = {call.path: call for call in vars(rpc).values() if isinstance(call, rpc.Call)}
STREAMING = {rpc.CONTENT_READ.path, rpc.EVENT_SUBSCRIBE.path}


class FakeContainerd:
    """`answers`: call to a function of the request; it returns the reply, or raises GRPCError. May be async."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.answers: dict[Any, Callable[[Any], Any]] = {}
        self.calls: list[tuple[str, Any]] = []
        self.metadata: list[dict[str, Any]] = []
        self.subscribers: list[asyncio.Queue[Any]] = []
        self.subscribe: Callable[[Any], Any] | None = None
        self._server: Server | None = None
        self._transports: set[Any] = set()

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    async def start(self) -> None:
        self._server = Server([self])
        await self._server.start(path=self.path)

    async def stop(self) -> None:
        """Go away, connections and all."""
        assert self._server
        self._server.close()
        for transport in self._transports:
            transport.abort()
        self._transports.clear()
        await self._server.wait_closed()

    def __mapping__(self) -> dict[str, Handler]:
        return {path: self._handler(call) for path, call in CALLS.items()}

    def _handler(self, call: Any) -> Handler:
        streaming = call.path in STREAMING
        cardinality = Cardinality.UNARY_STREAM if streaming else Cardinality.UNARY_UNARY

        async def handle(stream: Any) -> None:
            request = await stream.recv_message()
            self._transports.add(stream._stream._transport)
            self.calls.append((call.name, request))
            self.metadata.append(dict(stream.metadata))
            if call is rpc.EVENT_SUBSCRIBE:
                await self._serve_events(stream)
                return
            answer = self.answers.get(call, lambda _: call.reply())(request)
            answer = await answer if asyncio.iscoroutine(answer) else answer
            for message in answer if streaming else [answer]:
                await stream.send_message(message)

        return Handler(handle, cardinality, call.request, call.reply)

    async def _serve_events(self, stream: Any) -> None:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        if self.subscribe:
            await self.subscribe(queue)
        self.subscribers.append(queue)
        while (envelope := await queue.get()) is not None:
            await stream.send_message(envelope)
        self.subscribers.remove(queue)

    def emit(self, envelope: Any) -> None:
        for queue in self.subscribers:
            queue.put_nowait(envelope)


def refuse(status: Any, message: str = "no") -> Callable[[Any], Any]:
    """An answer that is an error."""

    def answer(_: Any) -> Any:
        raise GRPCError(status, message)

    return answer
