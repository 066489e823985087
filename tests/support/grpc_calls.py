# SPDX-License-Identifier: Apache-2.0
"""Calls of Kanto's gRPC services as other programs make them: with grpclib's client, one connection a call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from grpclib.client import Channel
from grpclib.const import Cardinality

from pycm.api.proto.api.services.containers import containers_pb2 as m

if TYPE_CHECKING:
    from google.protobuf.message import Message

M = TypeVar("M", bound="Message")
_CONTAINERS = m.DESCRIPTOR.services_by_name["Containers"].full_name
SECONDS = 120.0


def call(socket_path: str, method: str, request: Message, answer: type[M]) -> list[M]:
    """Return all messages that the call of the service Containers answers with. Raises grpclib's GRPCError."""
    return asyncio.run(asyncio.wait_for(_call(socket_path, method, request, answer), SECONDS))


async def _call(socket_path: str, method: str, request: Message, answer: type[M]) -> list[M]:
    async with Channel(path=socket_path) as channel:
        name = f"/{_CONTAINERS}/{method}"
        async with channel.request(name, Cardinality.UNARY_STREAM, type(request), answer) as stream:
            await stream.send_message(request, end=True)
            return [message async for message in stream]
