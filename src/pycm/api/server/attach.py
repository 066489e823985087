# SPDX-License-Identifier: Apache-2.0
"""The call Attach: a container's output as it comes, and its stdin, on one stream (shared specification, grpc-cli-config 1.9).

The end of a client's messages, or `finish_write`, is the end of the container's stdin. A client that goes away without it leaves
stdin open for the next one, unless the container asked for `stdin_once`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from pycm.api.methods import EXIT_CODE
from pycm.api.proto.api.services.containers import containers_pb2 as m
from pycm.api.server.streams import beside, receive, receive_next, send
from pycm.errors import NotFoundError, PycmError
from pycm.model.container import IOConfig
from pycm.model.validation import check_id
from pycm.ports import Action

if TYPE_CHECKING:
    from grpclib.server import Stream

    from pycm.model.container import Container
    from pycm.ports import Attachment, Containers, Event, Sessions


class Attach:
    """`closing`: the agent ends, and clients that are lost through that have not gone by themselves."""

    def __init__(self, containers: Containers, sessions: Sessions) -> None:
        self._containers = containers
        self._sessions = sessions
        self._background: set[asyncio.Future[None]] = set()
        self.closing = False

    async def __call__(self, stream: Stream[Any, Any]) -> None:
        request = await receive(stream, m.AttachContainerRequest)
        try:
            exit_code = await self._serve(stream, request)
        except PycmError as error:
            # clients show what they read; only some look at the status
            text = str(error).encode(errors="replace") + b"\r\n"
            await send(stream, m.AttachContainerResponse(read_data=text))
            raise GRPCError(Status.UNKNOWN, str(error)) from None
        if exit_code is not None:
            await stream.send_trailing_metadata(metadata={EXIT_CODE: str(exit_code)})

    async def _serve(self, stream: Stream[Any, Any], request: Any) -> int | None:
        check_id(request.id)
        container = self._containers.get(request.id)
        if container is None:
            raise NotFoundError(f"no such container with id = {request.id} exists")
        io = container.io_config or IOConfig()
        takes_input = request.std_in and io.open_stdin
        attachment = await self._sessions.attach(container.id)
        codes: list[int] = []
        unsubscribe = self._containers.subscribe(lambda event: _note_exit(event, container, codes))
        try:
            await stream.send_initial_metadata()  # who wants to start the container after this, waits for it
            out = self._output(stream, attachment, request)
            await beside(out, self._input(stream, attachment, request, takes_input=takes_input))
        except asyncio.CancelledError:
            if takes_input and io.stdin_once and not self.closing:
                self._end_input(container.id)
            raise
        finally:
            unsubscribe()
            attachment.close()
        return codes[-1] if codes else None

    async def _output(self, stream: Stream[Any, Any], attachment: Attachment, request: Any) -> None:
        first: dict[str, Any] = {"id": request.id, "std_in": request.std_in}
        while data := await attachment.read():
            await send(stream, m.AttachContainerResponse(read_data=data, **first))
            first = {}

    async def _input(
        self, stream: Stream[Any, Any], attachment: Attachment, request: Any, *, takes_input: bool
    ) -> None:
        container_id, finished = request.id, False
        while request is not None and not finished:
            if takes_input and request.data_to_write:
                await attachment.write(request.data_to_write)
            finished = request.finish_write
            if not finished:
                request = await receive_next(stream, m.AttachContainerRequest)
        if takes_input:
            await self._sessions.close_stdin(container_id)

    def _end_input(self, container_id: str) -> None:
        task = asyncio.ensure_future(self._sessions.close_stdin(container_id))
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _note_exit(event: Event, container: Container, codes: list[int]) -> None:
    if event.container.id == container.id and event.action in (Action.EXITED, Action.STOPPED):
        codes.append(event.container.state.exit_code)
