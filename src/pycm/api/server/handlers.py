# SPDX-License-Identifier: Apache-2.0
"""Answer the calls of the JSON API: one method for each row of `routes.ROUTES`, which names and types its arguments."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pycm import __version__
from pycm.api import protocol
from pycm.api.proto.api.types.containers import types_pb2 as types
from pycm.api.server.feeds import Feeds, image_of
from pycm.api.server.operations import EncodedContainers, beside, message_of
from pycm.api.server.routes import SIGNAL, SIZE, ApiError, json_bytes, read_body
from pycm.errors import InvalidInputError, OperationFailedError, PycmError
from pycm.model import gojson, records
from pycm.model.container import Container, StopOptions, UpdateOptions, read_descriptor
from pycm.ports import Command
from pycm.waiting import together, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from pycm.api.server.operations import Attached, Operations
    from pycm.api.server.routes import Value
    from pycm.ports import Session

T = TypeVar("T", bound=records.Record)

#: Seconds for a command to start; the command line waits a little longer.
START_TIMEOUT = 50.0
#: Exit codes as shells give them, by what runc or crun say of a program that they cannot start.
NOT_FOUND, NOT_EXECUTABLE = 127, 126
_MISSING = re.compile("not found|no such file", re.IGNORECASE)
_REFUSED = re.compile("permission denied|exec format error|is a directory", re.IGNORECASE)


class Talk(Protocol):
    """The client's end of an exec or attach."""

    async def begin(self) -> None:
        """Upgrade the connection. Before that, an error of the handler is a plain answer."""

    async def send(self, kind: int, data: bytes, *, patient: bool = False) -> None:
        """Send frames with *data*, and wait until the client has read them; without a limit if *patient*."""

    def frames(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield what the client sends, until it leaves, which cancels the handler."""


class Handlers:
    """Results are what the answer's body says: an object, bytes of JSON, or None for no body."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._containers = operations.containers
        self._sessions = operations.rooms.sessions
        self._images = operations.rooms.images
        self._feeds = Feeds(operations)
        self._encoded = EncodedContainers(operations.containers, json_of)
        self.watch_events = self._feeds.events
        self.watch_stats = self._feeds.stats
        self.wait_for_container = self._feeds.wait
        self.pull_image = self._feeds.pull
        self.start_container = operations.start
        self.restart_container = operations.restart
        self.pause_container = operations.pause
        self.unpause_container = operations.unpause
        self.rename_container = operations.rename
        self.resize_container = operations.rooms.sessions.resize
        self.remove_image = operations.rooms.images.remove

    async def get_version(self) -> dict[str, str]:
        return {
            "project_version": __version__,
            "build_time": protocol.UNKNOWN_BUILD,
            "api_version": protocol.API_VERSION,
            "git_commit": protocol.UNKNOWN_BUILD,
        }

    # ── containers ──

    async def list_containers(self) -> bytes:
        return b"[" + b",".join(map(self._encoded.one, self._containers.list())) + b"]"

    async def get_container(self, container_id: str) -> bytes:
        return self._encoded.one(self._operations.known(container_id))

    async def create_container(self, body: bytes) -> bytes:
        wanted = as_on_the_wire(read_descriptor(body), types.Container())
        return json_of(await self._containers.create(wanted))

    async def remove_container(self, container_id: str, *, timeout: int, force: bool, signal: str) -> None:
        options = StopOptions(timeout=timeout, force=force, signal=signal)
        await self._operations.remove(
            container_id, force=force, options=options if options != StopOptions() else None
        )

    async def stop_container(self, container_id: str, *, timeout: int, force: bool, signal: str) -> None:
        await self._operations.stop(container_id, StopOptions(timeout=timeout, force=force, signal=signal))

    async def update_container(self, container_id: str, **body: Any) -> None:
        options = as_on_the_wire(records.decode(UpdateOptions, body), types.UpdateOptions())
        await self._operations.update(container_id, options)

    @contextlib.asynccontextmanager
    async def read_logs(self, container_id: str, tail: int) -> AsyncIterator[AsyncIterator[dict[str, str]]]:
        """The first text is read before the answer begins, so that a log that cannot be read is a plain problem."""
        async with contextlib.aclosing(self._operations.logs(container_id, tail)) as texts:
            first = await anext(texts, None)

            async def lines() -> AsyncIterator[dict[str, str]]:
                if first is not None:
                    yield {"log": first}
                    async for text in texts:
                        yield {"log": text}

            yield lines()

    # ── images ──

    async def list_images(self) -> list[dict[str, Any]]:
        return [image_of(image) for image in await self._images.list()]

    async def prune_images(self) -> dict[str, list[str]]:
        return {"references": list(await self._images.prune())}

    # ── attach and exec ──

    async def attach(self, talk: Talk, container_id: str, *, stdin: bool) -> None:
        async with self._operations.attached(container_id, wants_input=stdin) as attached:
            await talk.begin()  # a client that wants to start the container after this waits for it
            await beside(self._show(talk, attached), self._take(talk, attached, container_id))
        code = attached.exit_code
        await talk.send(protocol.EXIT, json_bytes({} if code is None else {"exit_code": code}))

    async def _show(self, talk: Talk, attached: Attached) -> None:
        while data := await attached.read():
            await talk.send(protocol.STDOUT, data)

    async def _take(self, talk: Talk, attached: Attached, container_id: str) -> None:
        async for kind, payload in talk.frames():
            if kind == protocol.RESIZE:
                with contextlib.suppress(PycmError):  # the container may have ended, or not begun
                    await self._sessions.resize(container_id, **_members(SIZE, payload))
            elif kind != protocol.STDIN:
                raise _unexpected(kind)
            elif payload:
                await attached.write(payload)
            else:
                await attached.end_input()

    async def exec(self, talk: Talk, container_id: str, **body: Any) -> None:
        async with contextlib.AsyncExitStack() as stack:
            session = await self._started(stack, Command(container_id, **body))
            await talk.begin()
            streams = (self._copy(talk, session, 0), self._copy(talk, session, 1), self._feed(talk, session))
            code = await beside(session.exit_code(), _all(*streams))
        await talk.send(protocol.EXIT, json_bytes({"exit_code": code}), patient=True)

    async def _started(self, stack: contextlib.AsyncExitStack, command: Command) -> Session:
        try:
            return await within(START_TIMEOUT, stack.enter_async_context(self._sessions.exec(command)))
        except asyncio.TimeoutError:
            raise ApiError("timeout", f"the command did not start within {START_TIMEOUT:g} s") from None
        except OperationFailedError as error:
            code = start_failure(str(error))
            if code is None:
                raise
            raise ApiError("not-started", str(error), more={"exit_code": code}) from None

    async def _copy(self, talk: Talk, session: Session, number: int) -> None:
        kind = protocol.STDERR if number else protocol.STDOUT
        while data := await session.read(number):
            await talk.send(
                kind, data, patient=True
            )  # waits while the client does not read, and the command with it

    async def _feed(self, talk: Talk, session: Session) -> None:
        async for kind, payload in talk.frames():
            if kind == protocol.STDIN and payload:
                await session.write(payload)
            elif kind == protocol.STDIN:
                await session.end_input()
            elif kind == protocol.RESIZE:
                await session.resize(**_members(SIZE, payload))
            elif kind == protocol.SIGNAL:
                await session.signal(_members(SIGNAL, payload)["number"])
            else:
                raise _unexpected(kind)


async def _all(*works: Awaitable[None]) -> None:
    await together(*works)


def start_failure(text: str) -> int | None:
    """Return the exit code for a program that could not be started, None if *text* says something else."""
    if "Tasks.Start" not in text and "Tasks.Exec" not in text:
        return None
    return NOT_FOUND if _MISSING.search(text) and not _REFUSED.search(text) else NOT_EXECUTABLE


def _members(values: tuple[Value, ...], payload: bytes) -> dict[str, Any]:
    return read_body(values, gojson.read(payload))


def _unexpected(kind: int) -> InvalidInputError:
    return InvalidInputError.of("frame", f"kind {kind}", "is not one that a client may send here")


def json_of(container: Container) -> bytes:
    """Return *container* in Kanto's JSON form, without what Kanto's API does not carry: `get` prints the same for both
    languages.
    """
    message = message_of(container)
    return json_bytes(records.encode(records.from_message(Container, message)))


def as_on_the_wire(record: T, message: Any) -> T:
    """Return *record* without what *message* does not carry, so that both languages of the socket create and update the
    same.
    """
    try:
        return records.from_message(type(record), records.to_message(record, message))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"the container has a value that cannot be sent: {error}") from None
