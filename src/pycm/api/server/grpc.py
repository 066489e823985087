# SPDX-License-Identifier: Apache-2.0
"""What each call of the gRPC API does: a request to the manager or the logs, and the answer back.

Every expected failure is status UNKNOWN with its text, as Kanto's clients expect it. A bug is INTERNAL with one line, and stands in
the log; a request that never was a proper message says so. `list` and `get` answer from memory.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from google.protobuf.empty_pb2 import Empty
from grpclib.const import Cardinality, Handler, Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError

from pycm import __version__
from pycm.api.methods import (
    AGENT,
    API_VERSION,
    CONTAINERS,
    PROJECT_INFO,
    UNKNOWN_BUILD,
)
from pycm.api.proto.api.services.containers import containers_pb2 as m
from pycm.api.proto.api.services.sysinfo import system_info_pb2 as sysinfo
from pycm.api.proto.api.types.containers import types_pb2 as types
from pycm.api.proto.api.types.sysinfo.types_pb2 import ProjectInfo
from pycm.api.server.attach import Attach
from pycm.api.server.streams import answering, receive, send
from pycm.errors import (
    BusyError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    OperationFailedError,
    PycmError,
    UnavailableError,
)
from pycm.model import records
from pycm.model.container import Container, LogConfiguration, StopOptions, UpdateOptions
from pycm.model.states import ALIVE
from pycm.model.states import Status as ContainerStatus
from pycm.model.validation import check_id
from pycm.ports import Action

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence

    from grpclib.server import Stream

    from pycm.ports import Containers, Event, Images, Logs, Metrics, Sessions

    Unary = Callable[[Any], Awaitable[Any]]
    Streaming = Callable[[Any], AsyncGenerator[Any, None]]
    Call = Callable[[Stream[Any, Any]], Awaitable[None]]

log = logging.getLogger("pycm.api")

#: The calls of pycm's own service, and what its failures are there. Kanto's clients know UNKNOWN only.
OWN_CALLS = (
    "Exec", "Resize", "Events", "Stats", "Wait", "ListImages", "PullImage", "RemoveImage", "PruneImages",
)  # fmt: skip
#: Calls that have their answer at once: it is made when the client takes it, so that no more than one waits.
FROM_MEMORY = ("Get", "List", "ProjectInfo")
STATUS = {
    InvalidInputError: Status.INVALID_ARGUMENT,
    NotFoundError: Status.NOT_FOUND,
    ConflictError: Status.FAILED_PRECONDITION,
    BusyError: Status.RESOURCE_EXHAUSTED,
    OperationFailedError: Status.ABORTED,
    UnavailableError: Status.UNAVAILABLE,
}


class Codec(CodecBase):
    """Protobuf, but what is bytes already goes out as it is."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:  # noqa: ARG002 - the base class names it
        return message if isinstance(message, bytes) else message.SerializeToString()

    def decode(self, data: bytes, message_type: Any) -> Any:
        return message_type.FromString(data)


@dataclass(frozen=True)
class Rooms:
    """What the calls work on."""

    containers: Containers
    logs: Logs
    sessions: Sessions
    metrics: Metrics
    images: Images


class Service:
    """All services of the API; grpclib asks it for `__mapping__`."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._containers = rooms.containers
        self._logs = rooms.logs
        self._encoded = EncodedContainers(rooms.containers)
        self._attach = Attach(rooms.containers, rooms.sessions)
        self._own: dict[str, Call] | None = None

    def closing(self) -> None:
        """The calls that end from now on are not ended by their clients."""
        self._attach.closing = True

    def __mapping__(self) -> dict[str, Handler]:
        unary: tuple[tuple[str, Unary, Any, Any], ...] = (
            ("Create", self.create, m.CreateContainerRequest, m.CreateContainerResponse),
            ("Get", self.get, m.GetContainerRequest, m.GetContainerResponse),
            ("List", self.list, m.ListContainersRequest, m.ListContainersResponse),
            ("Start", self.start, m.StartContainerRequest, Empty),
            ("Stop", self.stop, m.StopContainerRequest, Empty),
            ("Restart", self.restart, m.RestartContainerRequest, Empty),
            ("Pause", self.pause, m.PauseContainerRequest, Empty),
            ("Unpause", self.unpause, m.UnpauseContainerRequest, Empty),
            ("Rename", self.rename, m.RenameContainerRequest, Empty),
            ("Update", self.update, m.UpdateContainerRequest, Empty),
            ("Remove", self.remove, m.RemoveContainerRequest, Empty),
        )
        streaming: tuple[tuple[str, Streaming, Any, Any], ...] = (
            ("ListStream", self.list_stream, m.ListContainersRequest, m.ListContainerMessage),
            ("Logs", self.logs, m.GetLogsRequest, m.GetLogsResponse),
        )
        attach = Handler(
            self._attach_call, Cardinality.STREAM_STREAM, m.AttachContainerRequest, m.AttachContainerResponse
        )
        return {
            **{CONTAINERS + name: self._unary(name, *row) for name, *row in unary},
            **{CONTAINERS + name: self._streaming(name, *row) for name, *row in streaming},
            CONTAINERS + "Attach": attach,
            **{AGENT + name: self._own_call(name) for name in OWN_CALLS},
            PROJECT_INFO: self._unary("ProjectInfo", project_info, Empty, sysinfo.ProjectInfoResponse),
        }

    # ── between calls and the library ──

    def _unary(self, name: str, work: Unary, request_type: Any, reply_type: Any) -> Handler:
        async def handle(stream: Stream[Any, Any]) -> None:
            with _failures_as_status(name):
                request = await receive(stream, request_type)
                if name in FROM_MEMORY:
                    async with answering(stream):
                        await send(stream, await work(request))
                else:
                    await send(stream, await work(request))

        return Handler(handle, Cardinality.UNARY_UNARY, request_type, reply_type)

    def _streaming(self, name: str, work: Streaming, request_type: Any, reply_type: Any) -> Handler:
        async def handle(stream: Stream[Any, Any]) -> None:
            with _failures_as_status(name):
                request = await receive(stream, request_type)
                async with contextlib.aclosing(work(request)) as messages:
                    async for message in messages:
                        await stream.send_message(message)  # waits while the client does not read

        return Handler(handle, Cardinality.UNARY_STREAM, request_type, reply_type)

    def _own_call(self, name: str) -> Handler:
        async def handle(stream: Stream[Any, Any]) -> None:
            if self._own is None:
                from pycm.api.server.own import calls

                self._own = calls(self._rooms)
            with _failures_as_status(name, STATUS):
                await self._own[name](stream)

        return Handler(handle, Cardinality.STREAM_STREAM, cast("Any", None), cast("Any", None))

    async def _attach_call(self, stream: Stream[Any, Any]) -> None:
        with _failures_as_status("Attach"):
            await self._attach(stream)

    # ── reading ──

    async def get(self, request: Any) -> bytes:
        """An unknown id is no error: clients look if the container is set."""
        container = self._containers.get(request.id)
        return self._encoded.one(container) if container else b""

    async def list(self, _request: Any) -> bytes:
        return self._encoded.all(self._containers.list())

    async def list_stream(self, _request: Any) -> AsyncGenerator[bytes, None]:
        for container in self._containers.list():
            yield self._encoded.one(container)

    async def logs(self, request: Any) -> AsyncGenerator[Any, None]:
        container = self._containers.get(request.id)
        if container is None:
            raise NotFoundError(f"no such container with id = {_known_form(request.id)} exists")
        texts = self._logs.read(container.id, log_configuration(container), request.tail)
        # closed at once when the client goes away, so that no file stays open until the next collection
        async with contextlib.aclosing(cast("AsyncGenerator[str, None]", texts)):
            async for text in texts:
                yield m.GetLogsResponse(log=text)

    # ── changing ──

    async def create(self, request: Any) -> bytes:
        container = await self._containers.create(records.from_message(Container, request.container))
        return encode(container)

    async def start(self, request: Any) -> Empty:
        await self._containers.start(_known_form(request.id))
        return Empty()

    async def stop(self, request: Any) -> Empty:
        await self._containers.stop(_known_form(request.id), _stop_options(request))
        return Empty()

    async def restart(self, request: Any) -> Empty:
        identifier = _known_form(request.id)
        container = self._containers.get(identifier)
        if container is not None and container.state.status in ALIVE:
            await self._containers.stop(identifier, StopOptions(force=True))
        try:
            await self._containers.start(identifier)
        except ConflictError:
            container = self._containers.get(identifier)
            # a restart policy may have been faster
            if container is None or container.state.status is not ContainerStatus.RUNNING:
                raise
        return Empty()

    async def pause(self, request: Any) -> Empty:
        await self._containers.pause(_known_form(request.id))
        return Empty()

    async def unpause(self, request: Any) -> Empty:
        await self._containers.unpause(_known_form(request.id))
        return Empty()

    async def rename(self, request: Any) -> Empty:
        await self._containers.rename(_known_form(request.id), request.name)
        return Empty()

    async def update(self, request: Any) -> Empty:
        identifier = _known_form(request.id)
        await self._containers.update(identifier, records.from_message(UpdateOptions, request.updateOptions))
        return Empty()

    async def remove(self, request: Any) -> Empty:
        identifier = _known_form(request.id)
        await self._containers.remove(identifier, force=request.force, options=_stop_options(request))
        return Empty()


async def project_info(_request: Any) -> sysinfo.ProjectInfoResponse:
    info = ProjectInfo(
        project_version=__version__,
        build_time=UNKNOWN_BUILD,
        api_version=API_VERSION,
        git_commit=UNKNOWN_BUILD,
    )
    return sysinfo.ProjectInfoResponse(project_info=info)


def _known_form(identifier: str) -> str:
    check_id(identifier)
    return identifier


def _stop_options(request: Any) -> StopOptions | None:
    return records.from_message(StopOptions, request.stopOptions) if request.HasField("stopOptions") else None


def log_configuration(container: Container) -> LogConfiguration:
    """Where the container's log is. Errors, with the original's texts: it never ran, or keeps no log."""
    name = container.id
    if container.state.status is ContainerStatus.CREATED:
        raise ConflictError('there are no logs for container with status "Created"')
    if container.host_config is None:
        raise NotFoundError(f"no host config for container {name}")
    config = container.host_config.log_config
    if config is None:
        raise NotFoundError(f"no log config for container {name}")
    if config.driver_config is None:
        raise NotFoundError(f"log driver config is not set for container {name}")
    if config.driver_config.type == "none":
        raise NotFoundError(f"there are not any logs for container {name} with log type none")
    if config.driver_config.type != "json-file":
        raise InvalidInputError(f"unknown log type {config.driver_config.type}")
    return config


@contextlib.contextmanager
def _failures_as_status(method: str, codes: Mapping[type[PycmError], Status] = {}) -> Iterator[None]:
    try:
        yield
    except PycmError as error:
        raise GRPCError(codes.get(type(error), Status.UNKNOWN), str(error)) from None
    except GRPCError:
        raise
    except Exception as error:
        log.error("a bug in the call %s: %r", method, error, exc_info=error)
        raise GRPCError(
            Status.INTERNAL, f"internal error in {method}: {type(error).__name__}; see the agent's log"
        ) from None


# ── containers as bytes of the wire ──

#: Tag of field 1 holding a message: that is where every answer has its containers.
_FIELD_1 = b"\x0a"


class EncodedContainers:
    """At most one entry for each container that exists: an event of its removal ends it."""

    def __init__(self, containers: Containers) -> None:
        self._kept: dict[str, tuple[Container, bytes]] = {}
        containers.subscribe(self._forget_removed)

    def one(self, container: Container) -> bytes:
        """A whole answer (of Get, ListStream) with this container, which must exist, in its field 1."""
        kept = self._kept.get(container.id)
        if kept is None or kept[0] is not container:
            kept = container, encode(container)
            self._kept[container.id] = kept
        return kept[1]

    def all(self, containers: Sequence[Container]) -> bytes:
        """The answer of List."""
        return b"".join(map(self.one, containers))

    def _forget_removed(self, event: Event) -> None:
        if event.action is Action.REMOVED:
            self._kept.pop(event.container.id, None)


def encode(container: Container) -> bytes:
    """The same answer, not kept: a container may be removed before the client of its creation is answered."""
    return _field(_encode(container))


def _encode(container: Container) -> bytes:
    try:
        return records.to_message(container, types.Container()).SerializeToString()  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        # a text or number from a file of someone else that the wire cannot carry; List must not fail for all
        log.warning("container %s: sent without its details: %s", ascii(container.id), error)
        return _bare(container).SerializeToString()


def _bare(container: Container) -> types.Container:
    state = types.State(status=container.state.status.word, running=container.state.running)
    image = types.Image(name=_clean(container.image.name))
    return types.Container(id=_clean(container.id), name=_clean(container.name), image=image, state=state)


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _field(message: bytes) -> bytes:
    return _FIELD_1 + _varint(len(message)) + message


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
