# SPDX-License-Identifier: Apache-2.0
"""One gRPC connection to containerd, and the only place where gRPC's errors become pycm's.

grpclib connects on the first call and again on the first call after a loss; a stream that was open at the loss ends with
UnavailableError and has to be opened anew by whoever reads it (`events.py`).
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

#: What containerd may send ahead of us: at this bound HTTP/2 makes it wait. A stream that nobody reads cannot use up the connection's.
CONNECTION_WINDOW = 4 << 20
STREAM_WINDOW = 1 << 20
#: h2 remembers how each of the last 65536 calls of a connection ended, 100 bytes each: of containerd's and of every API client's. Needed
#: are those for which a frame may still be on its way, and a connection has at most 100 calls open.
H2Connection.MAX_CLOSED_STREAMS = 256
#: containerd passes on what runc printed; more than this says nothing further.
MESSAGE_LIMIT = 1000

#: What grpclib raises for an answer that is cut short, empty, compressed or no protobuf.
GARBLED = (AssertionError, DecodeError, NotImplementedError)


class UnsupportedError(OperationFailedError):
    """The version of containerd lacks the service or method."""


ERRORS: dict[Status, type[PycmError]] = {
    Status.NOT_FOUND: NotFoundError,
    Status.ALREADY_EXISTS: ConflictError,
    Status.FAILED_PRECONDITION: ConflictError,
    Status.UNIMPLEMENTED: UnsupportedError,
    Status.UNAVAILABLE: UnavailableError,
    Status.DEADLINE_EXCEEDED: UnavailableError,
}


def from_status(name: str, status: Status, message: str | None) -> PycmError:
    """The error for a call that containerd answered with *status*; its text is on one line and names the cause first."""
    text = " ".join((message or status.name).split())
    return ERRORS.get(status, OperationFailedError)(failure(name, text, MESSAGE_LIMIT))


class _ContainerdProtocol(H2Protocol):
    """A connection that ends for every call at once, also when the library cannot read what containerd sends."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # frames of unknown types have to be ignored (RFC 9113, 4.1); the library fails on them
        self.processor.processors[cast("Any", UnknownFrameReceived)] = _ignore

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except Exception as error:  # noqa: BLE001 - the library raises errors of any class
            self.processor.close(f"containerd sent invalid HTTP/2: {error!r}")

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        # The library does not wake calls that wait until they may send their headers: they go on, and fail on a closed connection.
        with contextlib.suppress(H2Error):
            self.connection._connection.close_connection()  # noqa: SLF001
        self.connection.write_ready.set()
        self.connection.stream_close_waiter.set()


def _ignore(_event: Any) -> None:
    pass


class _ContainerdChannel(Channel):
    def _protocol_factory(self) -> H2Protocol:
        plain = super()._protocol_factory()
        return _ContainerdProtocol(plain.handler, plain.config, plain.h2_config)


class _LeavingError(Exception):
    """The client has heard enough: the call is reset, as grpclib does on an error."""


class Client:
    """Calls into one namespace of the containerd that listens at *address*."""

    def __init__(self, address: str, namespace: str) -> None:
        self.address = address
        self.namespace = namespace
        self._channel: Channel | None = None

    async def call(self, call: Call[Request, Reply], request: Request, *, lease: str = "") -> Reply:
        """Make one call. With *lease*, what containerd makes for it stays until it is removed or the lease ends."""
        with self.translated(call):
            method = UnaryUnaryMethod(self._connection(), call.path, call.request, call.reply)
            return await method(request, timeout=call.seconds, metadata=self._metadata(lease))

    async def stream(self, call: Call[Request, Reply], request: Request) -> AsyncGenerator[Reply, None]:
        """The answers of a streaming call. Close it (contextlib.aclosing) when leaving early."""
        with self.translated(call):
            method = UnaryStreamMethod(self._connection(), call.path, call.request, call.reply)
            async with method.open(timeout=call.seconds, metadata=self._metadata("")) as stream:
                await stream.send_message(request, end=True)
                async for message in stream:
                    yield message

    @contextlib.asynccontextmanager
    async def exchange(
        self, call: Call[Request, Reply], *, lease: str = ""
    ) -> AsyncIterator[Stream[Request, Reply]]:
        """An open call with requests and answers in turns; whatever ends the block ends the call.

        All errors of the block but pycm's own are taken for containerd's.
        """
        with self.translated(call), contextlib.suppress(_LeavingError):
            method = StreamStreamMethod(self._connection(), call.path, call.request, call.reply)
            async with method.open(timeout=call.seconds, metadata=self._metadata(lease)) as stream:
                yield stream
                raise _LeavingError

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _connection(self) -> Channel:
        if self._channel is None:  # not in __init__: a Channel wants the running loop
            config = Configuration(
                http2_connection_window_size=CONNECTION_WINDOW, http2_stream_window_size=STREAM_WINDOW
            )
            self._channel = _ContainerdChannel(path=self.address, config=config)
        return self._channel

    def _metadata(self, lease: str) -> dict[str, str | bytes]:
        metadata: dict[str, str | bytes] = {"containerd-namespace": self.namespace}
        return {**metadata, "containerd-lease": lease} if lease else metadata

    @contextlib.contextmanager
    def translated(self, call: Call[Any, Any]) -> Iterator[None]:
        """Raise whatever fails in *call* as an error of pycm: UnavailableError for errors of an unexpected class."""
        try:
            yield
        except PycmError:
            raise
        except GRPCError as error:
            raise from_status(call.name, error.status, error.message) from None
        except asyncio.TimeoutError:  # before OSError, of which it is one from Python 3.11 on
            raise UnavailableError(
                f"containerd did not finish {call.name} within {call.seconds:g} s"
            ) from None
        except (StreamTerminatedError, H2Error, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UnavailableError(
                f"containerd at {self.address} does not answer ({call.name}): {reason}"
            ) from None
        except GARBLED as error:
            reason = str(error) or "no message in it"
            raise OperationFailedError(
                f"containerd's answer to {call.name} makes no sense: {reason}"
            ) from None
        except Exception as error:  # noqa: BLE001 - a connection lost at a bad moment has the library fail in many ways
            raise UnavailableError(
                f"containerd at {self.address} does not answer ({call.name}): {error!r}"
            ) from None


#: What containerd, its shim and runc put before a cause: what they were doing, without any detail of it.
_LAYER = re.compile(
    r"(rpc error|(code = \w+ desc = )?([\w ]+ (failed|caused)|failed to (create|start|exec) [\w ]+)"
    r"|unable to start container process|error during container init|\w+\.go:\d+|\w+\.go:\d+ [\w ]+ caused)"
)


def failure(call: str, text: str, limit: int) -> str:
    """What containerd says of a failed *call*, the cause first, so that whoever shortens the text keeps it.

    Go puts the cause at the end, behind what each layer was doing. A text longer than *limit* is cut in its middle.
    """
    parts = text.removesuffix(": unknown").split(": ")
    layers = next((n for n, part in enumerate(parts) if not _LAYER.fullmatch(part)), len(parts) - 1)
    layers = min(layers, len(parts) - 1)
    if not layers:
        return f"containerd's {call} failed: {_without_middle(': '.join(parts), limit)}"
    cause, context = ": ".join(parts[layers:]), ": ".join(parts[:layers])
    rest = max(limit - len(cause), limit // 4)
    return f"{_without_middle(cause, limit - limit // 4)} (containerd's {call}: {_without_middle(context, rest)})"


def _without_middle(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    head = limit // 2
    return f"{text[:head]}…{text[head + 1 - limit :]}"
