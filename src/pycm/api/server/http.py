# SPDX-License-Identifier: Apache-2.0
"""Serve one client of the JSON API per connection: HTTP/1.1, one request at a time.

h11 implements the protocol. This module moves the bytes and bounds what a client may make the agent hold or wait for.
It is imported with the first connection that needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import h11

from pycm import __version__
from pycm.api import protocol
from pycm.api.server import routes
from pycm.api.server.clients import (
    CALL_COST,
    CLOSING_TIMEOUT,
    FRAME_TIMEOUT,
    GREETING_TIMEOUT,
    IDLE_TIMEOUT,
    SMALL,
    Client,
)
from pycm.api.server.routes import PROBLEMS, ApiError, Target, json_bytes, problem_of
from pycm.errors import InvalidInputError, PycmError
from pycm.model import gojson

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from pycm.api.server.clients import Clients
    from pycm.api.server.handlers import Handlers

log = logging.getLogger("pycm.api")

#: Longest head of a request in bytes: room for MOST_IDS ids in a query.
MAX_HEAD = 64 * 1024
#: Bytes that a client may send before the agent has use for them; then the agent stops reading.
MAX_AHEAD = 64 * 1024
#: Chunks of a body beyond one for each KiB. More cost the agent much more than the client.
MOST_CHUNKS = 1000
#: Seconds for a body once its head has come, and for a client to take an answer or a line of a feed.
BODY_TIMEOUT, STALLED = 30.0, 30.0
#: Seconds between looks whether a client is still there whose bytes are not being read.
LOOK = 1.0

JSON, LINES, PROBLEM = "application/json", "application/jsonl", "application/problem+json"
_REASONS = {101: "Switching Protocols", 200: "OK", 201: "Created", 204: "No Content"}
#: Answers that a client need not take at once: it may show them to a user who reads.
PATIENT = ("read_logs",)


class Connection(Client, asyncio.Protocol):
    """A client of the JSON API. Its task reads a request, answers it, and reads the next one."""

    def __init__(self, clients: Clients, handlers: Handlers) -> None:
        super().__init__(clients)
        self.transport: asyncio.Transport | None = None
        self._handlers = handlers
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._frames: protocol.Frames | None = None
        self._received, self._writable = asyncio.Event(), asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None
        self._stage = "greeting"
        self._served = 0
        self._ahead = 0  # bytes received before the task wanted them
        self._busy = self._paused = self._late = self._dropping = False

    # ── what asyncio calls ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(0)  # so that `_taken` waits until the client has everything
        self._task = self.loop.create_task(self._serve())
        self.changed()

    def data_received(self, data: bytes) -> None:
        if self._dropping:
            return
        self.hold(len(data))
        (self._frames.feed if self._frames else self._http.receive_data)(data)
        self._ahead += len(data)
        if self._ahead > MAX_AHEAD and self.transport is not None and not self._paused:
            self._paused = True
            self.transport.pause_reading()
            self.loop.call_later(LOOK, self._look)
        self._received.set()

    def eof_received(self) -> None:
        """A client that sends no more has left, even if it would still read."""
        self._cancel()

    def connection_lost(self, _error: BaseException | None) -> None:
        self.clients.remove(self)
        self.transport = None
        self._cancel()
        self.changed()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _look(self) -> None:
        """See whether the client is still there: while the agent does not read, asyncio does not notice."""
        if not self._paused or self.transport is None or self.transport.is_closing():
            return
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket"), 0)
        if poll.poll(0):  # POLLHUP or POLLERR
            self.transport.abort()
        else:
            self.loop.call_later(LOOK, self._look)

    # ── what the server asks ──

    @property
    def calls(self) -> int:
        return int(self._busy)

    @property
    def greeted(self) -> bool:
        return self._busy or self._served > 0

    def state(self) -> tuple[str, int]:
        if self.transport is None:
            return "", 0
        return ("closing" if self.transport.is_closing() else self._stage), self._served

    def limits(self) -> dict[str, tuple[float, Callable[[], None]]]:
        late = "it did not send the head of a request within {:g} s"
        return {
            "greeting": (GREETING_TIMEOUT, partial(self.cut_off, late.format(GREETING_TIMEOUT))),
            "frame": (FRAME_TIMEOUT, partial(self.cut_off, late.format(FRAME_TIMEOUT))),
            "body": (BODY_TIMEOUT, self._be_late),
            "idle": (IDLE_TIMEOUT, partial(self.leave, f"no call for {IDLE_TIMEOUT:g} s")),
            "closing": (CLOSING_TIMEOUT, self.end),
        }

    def leave(self, why: str) -> None:
        log.debug("API client (%s): connection closed: %s", self.name, why)
        self._close()

    def finish(self) -> asyncio.Task[None] | None:
        """End what is under way; return what is to be waited for."""
        self._cancel()
        return self._task

    def _be_late(self) -> None:
        self._late = True
        self._received.set()

    def _drop_the_rest(self) -> None:
        """Let a client that still sends read the answer: closing at once would end it with an error of its own."""
        if self.transport is not None and not self.transport.is_closing():
            self._dropping = True
            self._go_on_reading()
            self.transport.write_eof()
            self._set_stage("closing")

    def _go_on_reading(self) -> None:
        self._ahead = 0
        if self._paused and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.close()
            self.changed()

    # ── one request after the other ──

    async def _serve(self) -> None:
        try:
            while await self._exchange():
                pass
        except h11.RemoteProtocolError as error:
            self.clients.complain(f"API client ({self.name}): connection closed: malformed HTTP/1: {error}")
            code = "head-too-large" if error.error_status_hint == 431 else "malformed"
            if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                await self._send_problem(ApiError(code, f"malformed HTTP/1: {error}"))
        finally:
            if self._http.their_state in (h11.SEND_BODY, h11.ERROR):
                self._drop_the_rest()
            else:
                self._close()

    async def _exchange(self) -> bool:
        """Answer one request; return whether there may be another."""
        request = await self._head()
        if request is None:
            return False
        self._busy = True
        self.hold(CALL_COST)
        try:
            await self._answer(request)
        finally:
            self._busy = False
        self._served += 1
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        self._keep(len(self._http.trailing_data[0]))
        return True

    def _keep(self, size: int) -> None:
        """*size* bytes are held for this client from now on."""
        self.hold(size - self.held)

    async def _data(self, stage: str) -> None:
        """Wait for bytes. *stage*: what they belong to, which bounds the time."""
        self._received.clear()
        self._go_on_reading()
        self._set_stage(stage)
        await self._received.wait()

    def _set_stage(self, stage: str) -> None:
        self._stage = stage
        self.changed()

    async def _head(self) -> h11.Request | None:
        """Return the next request without its body, None if the client is done."""
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                self._set_stage("")
                return event if isinstance(event, h11.Request) else None
            waiting = "frame" if self._http.trailing_data[0] else "idle"
            await self._data(waiting if self._served else "greeting")

    async def _body(self, request: h11.Request) -> bytes:
        if int(_header(request, b"content-length") or 0) > protocol.MAX_BODY:
            raise _too_large()
        if self._http.they_are_waiting_for_100_continue:
            self._send(h11.InformationalResponse(status_code=100, headers=[], reason="Continue"))
        body, chunks = bytearray(), 0
        async with contextlib.AsyncExitStack() as turn:
            while not isinstance(event := await self._part(), h11.EndOfMessage):
                body += event.data
                chunks += event.chunk_start
                if len(body) > protocol.MAX_BODY:
                    raise _too_large()
                if chunks > MOST_CHUNKS + len(body) // 1024:
                    raise ApiError("malformed", f"the body has too many chunks: {chunks}")
                if len(body) > SMALL >= len(body) - len(event.data):
                    self._set_stage("")
                    await turn.enter_async_context(self.peer.large)
        self._set_stage("")
        return bytes(body)

    async def _part(self) -> h11.Data | h11.EndOfMessage:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._late:
                raise ApiError("late-request", f"the request did not come within {BODY_TIMEOUT:g} s")
            await self._data("body")
        return cast("h11.Data | h11.EndOfMessage", event)

    # ── answers ──

    async def _answer(self, request: h11.Request) -> None:
        try:
            body = await self._body(request)
            target = routes.find(request.method.decode(), request.target.decode("latin-1"))
            await self._run(request, target, body)
        except PycmError as error:
            self._set_stage("")
            await self._send_problem(error)
        except h11.ProtocolError:
            raise
        except Exception as error:  # noqa: BLE001  whatever a bug raises ends this call and no more
            await self._send_problem(_bug(request.target.decode("latin-1"), error))

    async def _run(self, request: h11.Request, target: Target, body: bytes) -> None:
        route = target.route
        arguments = routes.read_query(route.query, target.query)
        if route.body is None:
            arguments["body"] = body
        else:
            arguments |= routes.read_body(route.body, gojson.read(body) if body.strip() else {})
        handler = getattr(self._handlers, route.handler)
        if route.answer == "frames":
            await self._talk(request, partial(handler, **arguments), target.ids)
        elif route.answer == "lines":
            async with handler(*target.ids, **arguments) as lines:
                await self._send_lines(lines, patient=route.handler in PATIENT)
        else:
            result = await handler(*target.ids, **arguments)
            await self._send_value(route.status if result is not None else 204, result)

    async def _send_value(self, status: int, value: Any, kind: str = JSON, *more: tuple[str, str]) -> None:
        """*value*: bytes of JSON, or an object; None for an answer without a body."""
        body = b"" if value is None else value if isinstance(value, bytes) else json_bytes(value)
        headers = [("Content-Type", kind), ("Content-Length", str(len(body)))] if body else []
        if self._http.their_state in (h11.SEND_BODY, h11.ERROR):
            headers.append(("Connection", "close"))  # the rest of the request will not be read
        self._begin(status, [*headers, *more])
        self._send(h11.Data(data=body), h11.EndOfMessage())
        await self._taken()

    async def _send_problem(self, error: PycmError) -> None:
        problem = problem_of(error)
        await self._send_value(problem["status"], problem, PROBLEM, *getattr(error, "headers", ()))

    async def _send_lines(self, lines: AsyncIterator[dict[str, Any]], *, patient: bool) -> None:
        self._begin(200, [("Content-Type", LINES)])
        await self._taken()
        try:
            async for line in lines:
                self._send(h11.Data(data=json_bytes(line) + b"\n"))
                await self._taken(patient=patient)
        except PycmError as error:
            self._send(h11.Data(data=json_bytes({"problem": problem_of(error)}) + b"\n"))
        except Exception as error:  # noqa: BLE001  as above
            self._send(h11.Data(data=json_bytes({"problem": problem_of(_bug("a feed", error))}) + b"\n"))
        self._send(h11.EndOfMessage())
        await self._taken(patient=patient)

    def _begin(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        reason = _REASONS.get(status) or next(title for code, title in PROBLEMS.values() if code == status)
        kind = h11.InformationalResponse if status < 200 else h11.Response
        named = [("Server", f"pycm/{__version__}"), *headers]
        self._send(kind(status_code=status, headers=named, reason=reason))

    def _send(self, *events: h11.Event) -> None:
        data = b"".join(self._http.send(event) or b"" for event in events)
        if self.transport is not None and data:
            self.transport.write(data)

    async def _taken(self, *, patient: bool = False) -> None:
        """Wait until the client has read what was sent. If it does not, cut it off, unless it is a patient call."""
        if self._writable.is_set():
            await asyncio.sleep(
                0
            )  # a feed that never waits must not keep the loop from others, or from its own end
            return
        stalled = f"it did not read for {STALLED:g} s"
        timer = None if patient else self.loop.call_later(STALLED, self.cut_off, stalled)
        try:
            await self._writable.wait()
        finally:
            if timer is not None:
                timer.cancel()

    # ── exec and attach ──

    async def _talk(self, request: h11.Request, handler: Callable[..., Any], ids: tuple[str, ...]) -> None:
        if _header(request, b"upgrade").lower() != protocol.UPGRADE.encode():
            needed = f"this call needs the header Upgrade: {protocol.UPGRADE}"
            raise ApiError("upgrade-required", needed, headers=(("Upgrade", protocol.UPGRADE),))
        try:
            await handler(self, *ids)
        except PycmError as error:
            if self._frames is None:
                raise
            await self.send(protocol.PROBLEM, json_bytes(problem_of(error)))
        except Exception as error:
            if self._frames is None:
                raise
            await self.send(protocol.PROBLEM, json_bytes(problem_of(_bug("exec or attach", error))))

    async def begin(self) -> None:
        """Upgrade the connection."""
        self._begin(101, [("Connection", "Upgrade"), ("Upgrade", protocol.UPGRADE)])
        self._frames = protocol.Frames()
        self._frames.feed(self._http.trailing_data[0])

    async def send(self, kind: int, data: bytes, *, patient: bool = False) -> None:
        """Send *data* in frames, and wait until the client has read them."""
        for start in range(0, len(data), protocol.MAX_PAYLOAD):
            if self.transport is not None:
                self.transport.write(protocol.frame(kind, data[start : start + protocol.MAX_PAYLOAD]))
        await self._taken(patient=patient)

    async def frames(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield what the client sends, until the connection ends."""
        assert self._frames is not None
        while True:
            try:
                for frame in self._frames.take():
                    yield frame
            except protocol.FrameError as error:
                raise InvalidInputError(str(error)) from None
            self._keep(CALL_COST)
            await self._data("")


def _header(request: h11.Request, name: bytes) -> bytes:
    return next((value for key, value in request.headers if key == name), b"")


def _too_large() -> ApiError:
    return ApiError("body-too-large", f"the body has more than {protocol.MAX_BODY} bytes")


def _bug(call: str, error: Exception) -> ApiError:
    log.error("API: bug in the call %s: %r (please report it)", call, error, exc_info=error)
    return ApiError(
        "internal", f"internal error: {type(error).__name__}", hint="The agent's log has the details."
    )
