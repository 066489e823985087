# SPDX-License-Identifier: Apache-2.0
"""The calls of pycm's own service `pycm.v1.Agent`. Imported with the first of them: an agent that nobody asks does not pay for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.empty_pb2 import Empty

from pycm.api.proto.pycm.v1 import agent_pb2 as m
from pycm.api.server.exec import Exec
from pycm.api.server.grpc import receive
from pycm.api.server.images import ImageCalls
from pycm.api.server.watching import Watching

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from grpclib.server import Stream

    from pycm.api.server.operations import Rooms

    Call = Callable[[Stream[Any, Any]], Awaitable[None]]


def calls(rooms: Rooms) -> dict[str, Call]:
    """By the name of the method. Errors of every call: those of pycm.errors, GRPCError."""
    images = ImageCalls(rooms.images)
    watching = Watching(rooms.containers, rooms.metrics)

    async def resize(stream: Stream[Any, Any]) -> None:
        request = await receive(stream, m.ResizeRequest)
        await rooms.sessions.resize(request.container_id, request.size.columns, request.size.rows)
        await stream.send_message(Empty())

    return {
        "Exec": Exec(rooms.sessions),
        "Resize": resize,
        "Events": watching.events,
        "Stats": watching.stats,
        "Wait": watching.wait,
        "ListImages": images.list,
        "PullImage": images.pull,
        "RemoveImage": images.remove,
        "PruneImages": images.prune,
    }
