# SPDX-License-Identifier: Apache-2.0
"""Do what the calls ask for, the same for both languages of the socket. `get` and `list` answer from memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar, cast

from pycm.api.proto.api.types.containers import types_pb2 as types
from pycm.errors import ConflictError, InvalidInputError, NotFoundError, shorten
from pycm.model import records
from pycm.model.container import Container, IOConfig, LogConfiguration, StopOptions
from pycm.model.states import ALIVE, Status
from pycm.model.validation import check_id
from pycm.ports import Action
from pycm.waiting import cancel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine

    from pycm.ports import Attachment, Containers, Event, Images, Logs, Metrics, Sessions

T = TypeVar("T")
P = ParamSpec("P")
log = logging.getLogger("pycm.api")


class Rooms(NamedTuple):
    """What the calls work on."""

    containers: Containers
    logs: Logs
    sessions: Sessions
    metrics: Metrics
    images: Images


class Operations:
    """Errors of every call: those of `pycm.errors`. `closing`: clients lost from now on did not leave by themselves."""

    def __init__(self, rooms: Rooms) -> None:
        self.rooms = rooms
        self.containers = rooms.containers
        self.closing = False
        self.start = _checking(rooms.containers.start)
        self.stop = _checking(rooms.containers.stop)
        self.pause = _checking(rooms.containers.pause)
        self.unpause = _checking(rooms.containers.unpause)
        self.rename = _checking(rooms.containers.rename)
        self.update = _checking(rooms.containers.update)
        self.remove = _checking(rooms.containers.remove)
        self._background: set[asyncio.Future[None]] = set()

    def known(self, container_id: str) -> Container:
        container = self.containers.get(container_id)
        if container is None:
            bare = shorten(container_id).strip("'")
            raise NotFoundError(f"no such container with id = {bare} exists")  # compat
        return container

    def logs(self, container_id: str, tail: int) -> AsyncGenerator[str, None]:
        """Yield the log as Kanto's call does: one record a text, or with *tail* < 0 the whole log in large texts."""
        if self.containers.get(container_id) is None:
            check_id(container_id)
        container = self.known(container_id)
        texts = self.rooms.logs.read(container.id, log_configuration(container), tail)
        return cast("AsyncGenerator[str, None]", texts)

    async def restart(self, container_id: str) -> None:
        check_id(container_id)
        container = self.containers.get(container_id)
        if container is not None and container.state.status in ALIVE:
            await self.containers.stop(container_id, StopOptions(force=True))
        try:
            await self.containers.start(container_id)
        except ConflictError:
            container = self.containers.get(container_id)
            # a restart policy may have been faster
            if container is None or container.state.status is not Status.RUNNING:
                raise

    # ── attach ──

    @contextlib.asynccontextmanager
    async def attached(self, container_id: str, *, wants_input: bool) -> AsyncIterator[Attached]:
        """Attach a client to the container's run, or to its next one, until the end of the block.

        A client that leaves without `end_input` keeps the container's stdin open for the next one, unless the container
        has `stdin_once`.
        """
        check_id(container_id)
        container = self.known(container_id)
        io = container.io_config or IOConfig()
        takes_input = wants_input and io.open_stdin
        attachment = await self.rooms.sessions.attach(container.id)
        attached = Attached(self.rooms.sessions, container.id, attachment, takes_input=takes_input)
        unsubscribe = self.containers.subscribe(attached.note_exit)
        try:
            yield attached
        except asyncio.CancelledError:
            if takes_input and io.stdin_once and not self.closing:
                self._later(attached)
            raise
        finally:
            unsubscribe()
            attachment.close()

    def _later(self, attached: Attached) -> None:
        task = asyncio.ensure_future(attached.end_input())
        self._background.add(task)
        task.add_done_callback(self._background.discard)


class Attached:
    """A client that is attached to a container. `exit_code`: of the run that ended meanwhile, None if none did."""

    def __init__(
        self, sessions: Sessions, container_id: str, attachment: Attachment, *, takes_input: bool
    ) -> None:
        self._sessions = sessions
        self._container_id = container_id
        self._attachment = attachment
        self._takes_input = takes_input
        self.exit_code: int | None = None

    async def read(self) -> bytes:
        """Return output as soon as there is some, b"" at its end."""
        return await self._attachment.read()

    async def write(self, data: bytes) -> None:
        if self._takes_input and data:
            await self._attachment.write(data)

    async def end_input(self) -> None:
        if self._takes_input:
            await self._sessions.close_stdin(self._container_id)

    def note_exit(self, event: Event) -> None:
        if event.container.id == self._container_id and event.action in (Action.EXITED, Action.STOPPED):
            self.exit_code = event.container.state.exit_code


async def beside(work: Coroutine[Any, Any, T], side: Coroutine[Any, Any, None]) -> T:
    """Return the result of *work*. *side* ends with it; if *side* fails, its error ends both."""
    main: asyncio.Future[Any] = asyncio.ensure_future(work)
    other: asyncio.Future[Any] = asyncio.ensure_future(side)
    try:
        await asyncio.wait((main, other), return_when=asyncio.FIRST_COMPLETED)
        if not main.done():
            other.result()
        return cast("T", await main)
    finally:
        await cancel(main, other)


def _checking(
    change: Callable[Concatenate[str, P], Awaitable[None]],
) -> Callable[Concatenate[str, P], Awaitable[None]]:
    """Check the id before *change* uses it as a path or in containerd."""

    async def checked(container_id: str, /, *args: P.args, **options: P.kwargs) -> None:
        check_id(container_id)
        await change(container_id, *args, **options)

    return checked


def log_configuration(container: Container) -> LogConfiguration:
    """Return where the container's log is. Errors: it never ran, or keeps no log."""
    name = container.id
    if container.state.status is Status.CREATED:
        raise ConflictError('there are no logs for container with status "Created"')  # compat
    if container.host_config is None:
        raise NotFoundError(f"no host config for container {name}")  # compat
    config = container.host_config.log_config
    if config is None:
        raise NotFoundError(f"no log config for container {name}")  # compat
    if config.driver_config is None:
        raise NotFoundError(f"log driver config is not set for container {name}")  # compat
    if config.driver_config.type == "none":
        raise NotFoundError(f"there are not any logs for container {name} with log type none")  # compat
    if config.driver_config.type != "json-file":
        raise InvalidInputError(f"unknown log type {config.driver_config.type}")  # compat
    return config


# ── containers as clients see them ──


class EncodedContainers:
    """Keep containers encoded, at most one entry for each that exists.

    Containers are frozen: a change makes a new object, so the identity of the object is its revision. Clients that ask
    for the list seven times a second (kantui does) cost a join of bytes that exist already.
    """

    def __init__(self, containers: Containers, encode: Callable[[Container], bytes]) -> None:
        self._encode = encode
        self._kept: dict[str, tuple[Container, bytes]] = {}
        containers.subscribe(self._forget_removed)

    def one(self, container: Container) -> bytes:
        """Return the bytes of *container*, which must exist."""
        kept = self._kept.get(container.id)
        if kept is None or kept[0] is not container:
            kept = container, self._encode(container)
            self._kept[container.id] = kept
        return kept[1]

    def _forget_removed(self, event: Event) -> None:
        if event.action is Action.REMOVED:
            self._kept.pop(event.container.id, None)


def message_of(container: Container) -> types.Container:
    """Return *container* as a message of Kanto's API, without details if the message cannot hold them."""
    try:
        return cast("types.Container", records.to_message(container, types.Container()))
    except (TypeError, ValueError) as error:
        # a text or number from a file of someone else that the wire cannot carry; List must not fail for all
        name = ascii(container.id)
        log.warning("container %s: not sent in full: %s (clients get its name, image and state)", name, error)
        return _bare(container)


def _bare(container: Container) -> types.Container:
    state = types.State(status=container.state.status.word, running=container.state.running)
    image = types.Image(name=_clean(container.image.name))
    return types.Container(id=_clean(container.id), name=_clean(container.name), image=image, state=state)


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
