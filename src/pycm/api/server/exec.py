# SPDX-License-Identifier: Apache-2.0
"""Exec of `pycm.v1.Agent`: a command in a running container, its streams on one call."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING, Any

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from pycm.api.proto.pycm.v1 import agent_pb2 as m
from pycm.api.server.grpc import receive, receive_next
from pycm.api.server.operations import beside
from pycm.errors import InvalidInputError, OperationFailedError
from pycm.ports import Command
from pycm.waiting import within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from grpclib.server import Stream

    from pycm.ports import Session, Sessions

#: Seconds for a command to start; our command line waits a little longer.
START_TIMEOUT = 50.0
#: Exit codes as shells give them, by what runc or crun say of a program that they cannot start.
NOT_FOUND, NOT_EXECUTABLE = 127, 126
_MISSING = re.compile("not found|no such file", re.IGNORECASE)
#: Nothing of it is a program, or may be one.
_REFUSED = re.compile("permission denied|exec format error|is a directory", re.IGNORECASE)


class Exec:
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def __call__(self, stream: Stream[Any, Any]) -> None:
        request = await receive(stream, m.ExecRequest)
        if request.WhichOneof("request") != "start":
            raise InvalidInputError("the first message must be start")
        try:
            async with contextlib.AsyncExitStack() as stack:
                started = stack.enter_async_context(self._sessions.exec(_command(request.start)))
                try:
                    session = await within(START_TIMEOUT, started)
                except asyncio.TimeoutError:
                    text = f"the command did not start within {START_TIMEOUT:g} s"
                    raise GRPCError(Status.DEADLINE_EXCEEDED, text) from None
                await stream.send_message(m.ExecResponse(started=True))
                code = await beside(session.exit_code(), self._streams(stream, session))
            end = m.ExecEnd(exit_code=code)
        except OperationFailedError as error:
            failure = start_failure(str(error))
            if failure is None:
                raise
            end = m.ExecEnd(exit_code=failure, error=str(error))
        await stream.send_message(m.ExecResponse(end=end))

    async def _streams(self, stream: Stream[Any, Any], session: Session) -> None:
        sending = asyncio.Lock()
        works = (
            self._copy(stream, session, 0, sending),
            self._copy(stream, session, 1, sending),
            self._input(stream, session),
        )
        tasks = [asyncio.ensure_future(work) for work in works]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _copy(
        self, stream: Stream[Any, Any], session: Session, number: int, sending: asyncio.Lock
    ) -> None:
        while data := await session.read(number):
            message = m.ExecResponse(stderr=data) if number else m.ExecResponse(stdout=data)
            async with sending:  # waits while the client does not read, and the command with it
                await stream.send_message(message)

    async def _input(self, stream: Stream[Any, Any], session: Session) -> None:
        async for request in self._requests(stream):
            kind = request.WhichOneof("request")
            if kind == "stdin" and request.stdin:
                await session.write(request.stdin)
            elif kind == "stdin":
                await session.end_input()
            elif kind == "resize":
                await session.resize(request.resize.columns, request.resize.rows)
            elif kind == "signal":
                await session.signal(request.signal)
            else:
                raise InvalidInputError("a message after the first must be stdin, resize or signal")
        await session.end_input()

    async def _requests(self, stream: Stream[Any, Any]) -> AsyncIterator[Any]:
        while (request := await receive_next(stream, m.ExecRequest)) is not None:
            yield request


def start_failure(text: str) -> int | None:
    """The exit code for a program that could not be started; None if *text* says something else."""
    if "Tasks.Start" not in text and "Tasks.Exec" not in text:
        return None
    return NOT_FOUND if _MISSING.search(text) and not _REFUSED.search(text) else NOT_EXECUTABLE


def _command(start: Any) -> Command:
    return Command(
        container_id=start.container_id,
        args=tuple(start.command),
        terminal=start.tty,
        stdin=start.stdin,
        env=tuple(start.env),
        user=start.user,
        cwd=start.working_dir,
        width=start.size.columns,
        height=start.size.rows,
    )
