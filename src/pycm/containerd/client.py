# SPDX-License-Identifier: Apache-2.0
"""One gRPC connection to containerd, and the only place where gRPC's errors become pycm's.

grpclib connects with the first call, and again with the first call after a loss. A stream that was open at the loss
ends with UnavailableError; its reader opens it again (`events.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Any, cast

from google.protobuf.message import DecodeError
from grpclib.client import Channel, Stream, StreamStreamMethod, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.config import Configuration
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.protocol import H2Protocol
from h2.connection import H2Connection
from h2.events import UnknownFrameReceived
from h2.exceptions import H2Error

from pycm.errors import (
    ConflictError,
    NotFoundError,
    OperationFailedError,
    PycmError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator

    from pycm.containerd.rpc import Call, Reply, Request

#: Bytes that containerd may send before pycm reads them; then HTTP/2 makes it wait. One unread stream cannot use up the
#: connection's.
CONNECTION_WINDOW = 4 << 20
STREAM_WINDOW = 1 << 20
#: h2 remembers how each of the last 65536 calls of a connection ended, at 100 bytes a call, also for the API's clients.
#: Only calls with a frame that may still be on its way matter, and a connection has at most 100 calls open.
H2Connection.MAX_CLOSED_STREAMS = 256
#: Characters of an error. containerd forwards runc's output; more than this adds no information.
MESSAGE_LIMIT = 1000

#: What grpclib raises for a truncated, empty or compressed answer, and for one that is not protobuf.
MALFORMED = (AssertionError, DecodeError, NotImplementedError)


class UnsupportedError(OperationFailedError):
    """The running containerd does not have the service or method."""


ERRORS: dict[Status, type[PycmError]] = {
    Status.NOT_FOUND: NotFoundError,
    Status.ALREADY_EXISTS: ConflictError,
    Status.FAILED_PRECONDITION: ConflictError,
    Status.UNIMPLEMENTED: UnsupportedError,
    Status.UNAVAILABLE: UnavailableError,
    Status.DEADLINE_EXCEEDED: UnavailableError,
}

#: What containerd, its shim and runc write before the cause: the name of the step, without details.
_STEP = re.compile(
    r"(rpc error|(code = \w+ desc = )?([\w ]+ (failed|caused)|failed to (create|start|exec) [\w ]+)"
    r"|unable to start container process|error during container init|\w+\.go:\d+|\w+\.go:\d+ [\w ]+ caused)"
)


def from_status(name: str, status: Status, message: str | None) -> PycmError:
    """Return the error for a call that failed with *status*; its text is one line and begins with the cause."""
    text = " ".join((message or status.name).split())
    return ERRORS.get(status, OperationFailedError)(_cause_first(name, text))


def _cause_first(call: str, text: str) -> str:
    """Move the cause before the steps that led to it, so that a reader who shortens the text keeps the cause.

    Go writes the cause last. A text longer than MESSAGE_LIMIT loses its middle.
    """
    parts = text.removesuffix(": unknown").split(": ")
    steps = next((number for number, part in enumerate(parts) if not _STEP.fullmatch(part)), len(parts) - 1)
    if not steps:
        return f"containerd's {call} failed: {_cut_middle(': '.join(parts), MESSAGE_LIMIT)}"
    cause, context = ": ".join(parts[steps:]), ": ".join(parts[:steps])
    least = MESSAGE_LIMIT // 4
    context = _cut_middle(context, max(MESSAGE_LIMIT - len(cause), least))
    return f"{_cut_middle(cause, MESSAGE_LIMIT - least)} (containerd's {call}: {context})"


def _cut_middle(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    head = limit // 2
    return f"{text[:head]}…{text[head + 1 - limit :]}"


class _ContainerdProtocol(H2Protocol):
    """A connection whose loss ends every call at once, also when grpclib cannot read what containerd sends."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # RFC 9113, 4.1: a client ignores frames of unknown types; grpclib fails on them
        self.processor.processors[cast("Any", UnknownFrameReceived)] = lambda _: None

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except Exception as error:  # noqa: BLE001 - the library raises errors of any class
            self.processor.close(f"containerd sent invalid HTTP/2: {error!r}")

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        # grpclib does not wake calls that wait before sending their headers: let them continue, and fail on the closed
        # connection
        with contextlib.suppress(H2Error):
            self.connection._connection.close_connection()  # noqa: SLF001
        self.connection.write_ready.set()
        self.connection.stream_close_waiter.set()


class _ContainerdChannel(Channel):
    def _protocol_factory(self) -> H2Protocol:
        plain = super()._protocol_factory()
        return _ContainerdProtocol(plain.handler, plain.config, plain.h2_config)


class _LeavingError(Exception):
    """Ends an exchange early: grpclib resets the call on an error."""


class Client:
    """Calls into one namespace of the containerd that listens at *address*."""

    def __init__(self, address: str, namespace: str) -> None:
        self.address = address
        self.namespace = namespace
        self._channel: Channel | None = None

    async def call(self, call: Call[Request, Reply], request: Request, *, lease: str = "") -> Reply:
        """Make one call. With *lease*, what containerd makes for it stays until it is removed or the lease ends."""
        with self._translated(call):
            method = UnaryUnaryMethod(self._connection(), call.path, call.request, call.reply)
            return await method(request, timeout=call.seconds, metadata=self._metadata(lease))

    async def stream(self, call: Call[Request, Reply], request: Request) -> AsyncGenerator[Reply, None]:
        """Yield the answers of a streaming call. Close it (contextlib.aclosing) when leaving early."""
        with self._translated(call):
            method = UnaryStreamMethod(self._connection(), call.path, call.request, call.reply)
            async with method.open(timeout=call.seconds, metadata=self._metadata("")) as stream:
                await stream.send_message(request, end=True)
                async for message in stream:
                    yield message

    @contextlib.asynccontextmanager
    async def exchange(
        self, call: Call[Request, Reply], *, lease: str = ""
    ) -> AsyncIterator[Stream[Request, Reply]]:
        """Open a call with requests and answers in turns; the end of the block ends the call.

        Every error in the block that is not pycm's own counts as containerd's.
        """
        with self._translated(call), contextlib.suppress(_LeavingError):
            method = StreamStreamMethod(self._connection(), call.path, call.request, call.reply)
            async with method.open(timeout=call.seconds, metadata=self._metadata(lease)) as stream:
                yield stream
                raise _LeavingError

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _connection(self) -> Channel:
        if self._channel is None:  # not in __init__: a Channel needs the running loop
            config = Configuration(
                http2_connection_window_size=CONNECTION_WINDOW, http2_stream_window_size=STREAM_WINDOW
            )
            self._channel = _ContainerdChannel(path=self.address, config=config)
        return self._channel

    def _metadata(self, lease: str) -> dict[str, str | bytes]:
        metadata: dict[str, str | bytes] = {"containerd-namespace": self.namespace}
        return {**metadata, "containerd-lease": lease} if lease else metadata

    @contextlib.contextmanager
    def _translated(self, call: Call[Any, Any]) -> Iterator[None]:
        """Raise every failure of *call* as an error of pycm: UnavailableError for unexpected classes."""
        try:
            yield
        except PycmError:
            raise
        except GRPCError as error:
            raise from_status(call.name, error.status, error.message) from None
        except asyncio.TimeoutError:  # before OSError, of which it is a subclass from Python 3.11 on
            raise UnavailableError(
                f"containerd did not finish {call.name} within {call.seconds:g} s"
            ) from None
        except MALFORMED as error:
            reason = str(error) or "no message in it"
            raise OperationFailedError(f"containerd's answer to {call.name} is malformed: {reason}") from None
        except Exception as error:  # noqa: BLE001 - grpclib fails in many ways when a connection is lost
            known = isinstance(error, (StreamTerminatedError, H2Error, OSError))
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UnavailableError(
                f"containerd at {self.address} does not answer ({call.name}): {reason if known else repr(error)}"
            ) from None
