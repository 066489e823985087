# SPDX-License-Identifier: Apache-2.0
"""Answer Kanto's gRPC calls, and turn failures into gRPC's.

Every expected failure is status UNKNOWN with its text, as Kanto's clients expect it. A bug is INTERNAL with one line,
and is logged; a request that is not a proper message says so. What grpclib's own functions lack is added: a bound on
the length and time of requests, and an end for clients that do not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from typing import TYPE_CHECKING, Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError
from grpclib.const import Cardinality, Handler, Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError
from h2.errors import ErrorCodes

from pycm import __version__
from pycm.api.proto.api.services.containers import containers_pb2 as m
from pycm.api.proto.api.services.sysinfo import system_info_pb2 as sysinfo
from pycm.api.proto.api.types.sysinfo.types_pb2 import ProjectInfo
from pycm.api.protocol import API_VERSION, UNKNOWN_BUILD
from pycm.api.server.clients import SMALL
from pycm.api.server.operations import EncodedContainers, Operations, beside, message_of
from pycm.errors import PycmError
from pycm.model import records
from pycm.model.container import Container, StopOptions, UpdateOptions
from pycm.waiting import within

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

    from grpclib.server import Stream

    from pycm.api.server.operations import Attached, Rooms

    Unary = Callable[[Any], Awaitable[Any]]
    Streaming = Callable[[Any], AsyncGenerator[Any, None]]

log = logging.getLogger("pycm.api")

_SERVICES = "github.com.eclipse_kanto.container_management.containerm.api.services"
CONTAINERS = f"/{_SERVICES}.containers.Containers/"
PROJECT_INFO = f"/{_SERVICES}.sysinfo.SystemInfo/ProjectInfo"
#: Trailing metadata of Attach with the exit code of a container that has ended: an addition to Kanto's API.
EXIT_CODE = "pycm-exit-code"
#: Longest message in bytes (the default of gRPC in Go), and what precedes each: a flag (not compressed) and the
#: length.
MAX_MESSAGE = 4 * 1024 * 1024
PREFIX, PREFIX_SIZE = ">?I", 5
#: Calls whose answer is encoded when the client reads it, so that a connection holds one such answer at a time.
FROM_MEMORY = ("Get", "List", "ProjectInfo")
#: Seconds for a request once its call, or its first bytes, have come, and for a client to take one message.
TIMEOUT, STALLED = 30.0, 30.0
CUT_SHORT = "the request ended before its message was complete"
#: Tag of field 1 with a message: every answer has its containers there.
_FIELD_1 = b"\x0a"


class Codec(CodecBase):
    """Protobuf; answers that are bytes already are sent as they are."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:  # noqa: ARG002 - the base class names it
        return message if isinstance(message, bytes) else message.SerializeToString()

    def decode(self, data: bytes, message_type: Any) -> Any:
        return message_type.FromString(data)


class Service:
    """Kanto's services; grpclib asks for `__mapping__`."""

    def __init__(self, rooms: Rooms) -> None:
        self.operations = Operations(rooms)
        self._containers = rooms.containers
        self._encoded = EncodedContainers(rooms.containers, answer_of)

    def closing(self) -> None:
        """The calls that end from now on are not ended by their clients."""
        self.operations.closing = True

    def __mapping__(self) -> dict[str, Handler]:
        do, request = self.operations, records.from_message
        # fmt: off
        unary: tuple[tuple[str, Any, Any, Unary], ...] = (
            ("Create", m.CreateContainerRequest, m.CreateContainerResponse, self.create),
            ("Get", m.GetContainerRequest, m.GetContainerResponse, self.get),
            ("List", m.ListContainersRequest, m.ListContainersResponse, self.list),
            ("Start", m.StartContainerRequest, Empty, lambda r: do.start(r.id)),
            ("Stop", m.StopContainerRequest, Empty, lambda r: do.stop(r.id, _stop_options(r))),
            ("Restart", m.RestartContainerRequest, Empty, lambda r: do.restart(r.id)),
            ("Pause", m.PauseContainerRequest, Empty, lambda r: do.pause(r.id)),
            ("Unpause", m.UnpauseContainerRequest, Empty, lambda r: do.unpause(r.id)),
            ("Rename", m.RenameContainerRequest, Empty, lambda r: do.rename(r.id, r.name)),
            ("Update", m.UpdateContainerRequest, Empty, lambda r: do.update(r.id, request(UpdateOptions, r.updateOptions))),
            ("Remove", m.RemoveContainerRequest, Empty, lambda r: do.remove(r.id, force=r.force, options=_stop_options(r))),
        )
        streaming: tuple[tuple[str, Any, Any, Streaming], ...] = (
            ("ListStream", m.ListContainersRequest, m.ListContainerMessage, self.list_stream),
            ("Logs", m.GetLogsRequest, m.GetLogsResponse, self.logs),
        )
        both = Cardinality.STREAM_STREAM
        return {
            **{CONTAINERS + name: self._unary(name, *row) for name, *row in unary},
            **{CONTAINERS + name: self._streaming(name, *row) for name, *row in streaming},
            CONTAINERS + "Attach": Handler(self._attach, both, m.AttachContainerRequest, m.AttachContainerResponse),
            PROJECT_INFO: self._unary("ProjectInfo", Empty, sysinfo.ProjectInfoResponse, project_info),
        }
        # fmt: on

    # ── between calls and the library ──

    def _unary(self, name: str, request_type: Any, reply_type: Any, work: Unary) -> Handler:
        async def handle(stream: Stream[Any, Any]) -> None:
            with _failures_as_status(name):
                request = await receive(stream, request_type)
                if name in FROM_MEMORY:
                    async with answering(stream):
                        await send(stream, await work(request))
                else:
                    answer = await work(request)
                    await send(stream, Empty() if answer is None else answer)

        return Handler(handle, Cardinality.UNARY_UNARY, request_type, reply_type)

    def _streaming(self, name: str, request_type: Any, reply_type: Any, work: Streaming) -> Handler:
        async def handle(stream: Stream[Any, Any]) -> None:
            with _failures_as_status(name):
                request = await receive(stream, request_type)
                async with contextlib.aclosing(work(request)) as messages:
                    async for message in messages:
                        await stream.send_message(message)  # waits while the client does not read

        return Handler(handle, Cardinality.UNARY_STREAM, request_type, reply_type)

    # ── calls ──

    async def get(self, request: Any) -> bytes:
        """An unknown id is not an error: clients look whether the container is set."""
        container = self._containers.get(request.id)
        return self._encoded.one(container) if container else b""

    async def list(self, _request: Any) -> bytes:
        return b"".join(map(self._encoded.one, self._containers.list()))

    async def list_stream(self, _request: Any) -> AsyncGenerator[bytes, None]:
        for container in self._containers.list():
            yield self._encoded.one(container)

    async def logs(self, request: Any) -> AsyncGenerator[Any, None]:
        # closed at once when the client leaves, so that no file stays open until the next collection
        async with contextlib.aclosing(self.operations.logs(request.id, request.tail)) as texts:
            async for text in texts:
                yield m.GetLogsResponse(log=text)

    async def create(self, request: Any) -> bytes:
        wanted = records.from_message(Container, request.container)
        # not kept: the container may be removed before the client of its creation is answered
        return answer_of(await self._containers.create(wanted))

    # ── attach ──

    async def _attach(self, stream: Stream[Any, Any]) -> None:
        with _failures_as_status("Attach"):
            request = await receive(stream, m.AttachContainerRequest)
            try:
                exit_code = await self._join(stream, request)
            except PycmError as error:
                # clients show what they read; only some look at the status
                text = str(error).encode(errors="replace") + b"\r\n"
                await send(stream, m.AttachContainerResponse(read_data=text))
                raise
            if exit_code is not None:
                await stream.send_trailing_metadata(metadata={EXIT_CODE: str(exit_code)})

    async def _join(self, stream: Stream[Any, Any], request: Any) -> int | None:
        async with self.operations.attached(request.id, wants_input=request.std_in) as attached:
            # a client that wants to start the container after this waits for it
            await stream.send_initial_metadata()
            await beside(_show(stream, attached, request), _take(stream, attached, request))
        return attached.exit_code


async def _show(stream: Stream[Any, Any], attached: Attached, request: Any) -> None:
    first: dict[str, Any] = {"id": request.id, "std_in": request.std_in}
    while data := await attached.read():
        await send(stream, m.AttachContainerResponse(read_data=data, **first))
        first = {}


async def _take(stream: Stream[Any, Any], attached: Attached, request: Any) -> None:
    """The end of a client's messages, or `finish_write`, is the end of the container's stdin."""
    finished = False
    while request is not None and not finished:
        await attached.write(request.data_to_write)
        finished = request.finish_write
        if not finished:
            request = await receive_next(stream, m.AttachContainerRequest)
    await attached.end_input()


async def project_info(_request: Any) -> sysinfo.ProjectInfoResponse:
    info = ProjectInfo(
        project_version=__version__,
        build_time=UNKNOWN_BUILD,
        api_version=API_VERSION,
        git_commit=UNKNOWN_BUILD,
    )
    return sysinfo.ProjectInfoResponse(project_info=info)


def _stop_options(request: Any) -> StopOptions | None:
    return records.from_message(StopOptions, request.stopOptions) if request.HasField("stopOptions") else None


def answer_of(container: Container) -> bytes:
    """Return an answer with *container* in its field 1, as bytes of the wire."""
    message = message_of(container).SerializeToString()
    return _FIELD_1 + _varint(len(message)) + message


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


@contextlib.contextmanager
def _failures_as_status(method: str) -> Iterator[None]:
    try:
        yield
    except PycmError as error:
        raise GRPCError(Status.UNKNOWN, str(error)) from None
    except GRPCError:
        raise
    except Exception as error:
        log.error("a bug in the call %s: %r", method, error, exc_info=error)
        raise GRPCError(
            Status.INTERNAL, f"internal error in {method}: {type(error).__name__}; see the agent's log"
        ) from None


# ── requests with a bound, and an end for clients that do not read ──


async def receive(stream: Stream[Any, Any], request_type: Any) -> Any:
    """Return the first request of a call. Errors: GRPCError."""
    source = stream._stream  # noqa: SLF001 - the only way to look at the length before the message is read
    return await _message(source, await _timely(source, PREFIX_SIZE), request_type)


async def receive_next(stream: Stream[Any, Any], request_type: Any) -> Any | None:
    """Return the next of a client's many requests, None when it has sent all. Errors: GRPCError."""
    source = stream._stream  # noqa: SLF001 - as above
    prefix = await source.recv_data(PREFIX_SIZE)
    return await _message(source, prefix, request_type) if prefix else None


async def _message(source: Any, prefix: bytes, request_type: Any) -> Any:
    if len(prefix) != PREFIX_SIZE:
        raise GRPCError(Status.INTERNAL, CUT_SHORT)
    compressed, length = struct.unpack(PREFIX, prefix)
    if compressed:
        raise GRPCError(
            Status.UNIMPLEMENTED, "compressed messages are not supported: send without compression"
        )
    if length > MAX_MESSAGE:
        text = f"grpc: received message larger than max ({length} vs. {MAX_MESSAGE})"
        raise GRPCError(Status.RESOURCE_EXHAUSTED, text)
    if length <= SMALL:
        data = await _timely(source, length)
    else:
        async with source.connection.client.peer.large:
            data = await _timely(source, length)
    if len(data) != length:
        raise GRPCError(Status.INTERNAL, CUT_SHORT)
    try:
        return request_type.FromString(data)
    except DecodeError as error:
        raise GRPCError(
            Status.INTERNAL, f"the request is not a valid {request_type.DESCRIPTOR.name} message: {error}"
        ) from None


async def _timely(source: Any, size: int) -> bytes:
    read = source.recv_data(size)
    try:
        return await (read if source.buffer.has(size) else within(TIMEOUT, read))
    except asyncio.TimeoutError:
        text = f"the request did not come within {TIMEOUT:g} s"
        raise GRPCError(Status.DEADLINE_EXCEEDED, text) from None


async def send(stream: Stream[Any, Any], message: Any) -> None:
    """Send one message. A client that does not take it is cut off: nothing may wait for it for ever."""
    timer = asyncio.get_running_loop().call_later(STALLED, _cut_off, stream)
    try:
        await stream.send_message(message)
    finally:
        timer.cancel()


def _cut_off(stream: Stream[Any, Any]) -> None:
    # the usual end, trailers, would wait for the client too
    stream._cancel_done = True  # noqa: SLF001
    source = stream._stream  # noqa: SLF001
    if source.closable:
        source.reset_nowait(ErrorCodes.ENHANCE_YOUR_CALM)
    source.__terminated__(f"the client did not read for {STALLED:g} s")


def answering(stream: Stream[Any, Any]) -> asyncio.Lock:
    """Return the connection's lock for answers from memory, so that a client makes the agent hold one at a time."""
    return stream._stream.connection.client.answering  # type: ignore[attr-defined, no-any-return] # noqa: SLF001
