# SPDX-License-Identifier: Apache-2.0
"""Worker processes as the agent sees them: a job goes in, news come out, and whatever happens the process is gone at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

import pycm
from pycm.errors import OperationFailedError, PycmError, UnavailableError
from pycm.ports import PullProgress, PullStep
from pycm.registry.job import LINE_LIMIT, LINES_LIMIT, Job, News, parse_news
from pycm.waiting import within

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Awaitable, Callable

    Listener = Callable[[PullProgress], None]
    Work = Callable[[str, Listener], Awaitable[None]]

#: Workers at one time; further jobs wait. Each is 45 MiB at most.
PARALLEL = 2
#: Seconds without a line after which a worker, which gives signs of life, counts as hanging; seconds that its end may take.
SILENCE, END = 60.0, 10.0
#: What the worker executes. Python is isolated (-I): no module comes from the working directory, PYTHONPATH or a user's site directory.
#: pycm itself comes from where the agent has it; the directory around it (its argument) is searched last, for libraries beside it.
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); import pycm; sys.path.append(sys.path.pop(0)); "
    "from pycm.registry.worker import main; main()"
)
_AROUND_PYCM = os.path.dirname(os.path.dirname(os.path.abspath(pycm.__file__)))


class WorkerKilledError(UnavailableError):
    """By whom is not known; most likely by the kernel, for want of memory."""


class Workers:
    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(PARALLEL)

    async def run(self, job: Job, told: Callable[[News], None]) -> News:
        """The last news; *told* hears those before it. What the worker failed with is raised. Cancelled, it is ended."""
        if self._slots.locked():
            told(News(PullStep.QUEUED.value))
        async with self._slots:
            process = await _start()
            try:
                return await _follow(process, job, told)
            finally:
                await _end(process)


async def _start() -> Process:
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-c",
            _START,
            _AROUND_PYCM,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
        )
    except OSError as error:
        raise OperationFailedError(f"a pull worker cannot be started: {error.strerror}") from None


async def _follow(process: Process, job: Job, told: Callable[[News], None]) -> News:
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):
        process.stdin.write(job.line())  # left open: the worker ends when it is closed
        await process.stdin.drain()
    last = await _news(process, told)
    if isinstance(last, PycmError):
        raise last
    if last is not None:
        return last
    try:
        code = await within(END, process.wait())
    except asyncio.TimeoutError:
        raise OperationFailedError(
            f"the pull worker closed its output without a result, and did not end within {END:g} s"
        ) from None
    if code == -signal.SIGKILL:
        raise WorkerKilledError("the pull worker was killed: the machine may be short of memory; try again")
    raise OperationFailedError(
        f"the pull worker ended without a result (exit code {code}); its output stands in the log"
    )


async def _news(process: Process, told: Callable[[News], None]) -> News | PycmError | None:
    """The news that end the job, once the worker closes its output; None if there were none."""
    assert process.stdout is not None
    last: News | PycmError | None = None
    for _ in range(LINES_LIMIT):
        try:
            line = await within(SILENCE, process.stdout.readline())
            if not line.endswith(b"\n"):  # its end, or it was killed in the middle of a line
                return last
            news = parse_news(line)
        except asyncio.TimeoutError:
            raise OperationFailedError(
                f"the pull worker gave no sign for {SILENCE:g} s: it is ended"
            ) from None
        except (
            ValueError,
            LookupError,
            TypeError,
            OverflowError,
            RecursionError,
        ):  # json's errors and those of an endless line are ValueErrors
            raise OperationFailedError("the pull worker says what makes no sense: it is ended") from None
        if isinstance(news, PycmError) or news.step == PullStep.DONE.value:
            last = news
        else:
            told(news)
    raise OperationFailedError(f"the pull worker said more than {LINES_LIMIT} lines: it is ended")


async def _end(process: Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if process.stdin is not None:
        process.stdin.close()
    # what is left of its output is read: asyncio counts it as ended only then
    with contextlib.suppress(asyncio.TimeoutError):
        await within(END, process.communicate())


class _Pull:
    def __init__(self, reference: str, work: Work) -> None:
        self.last = PullProgress(reference, PullStep.QUEUED)
        self.listeners: list[Listener] = []
        self.waiting = 0
        self.task = asyncio.ensure_future(work(reference, self._tell))

    def _tell(self, progress: PullProgress) -> None:
        self.last = progress
        for listener in tuple(self.listeners):
            listener(progress)


class Pulls:
    """*work*: pulls a reference and tells how it goes."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._running: dict[str, _Pull] = {}
        self._closed = False

    async def pull(self, reference: str, listener: Listener | None = None) -> None:
        pull = self._running.get(reference)
        while pull is not None and not pull.waiting:  # it was given up and is about to end
            await asyncio.wait({pull.task})
            pull = self._running.get(reference)
        if self._closed:
            raise self._ending(reference)
        if pull is None:
            pull = self._running[reference] = _Pull(reference, self._work)
            pull.task.add_done_callback(lambda _: self._running.pop(reference))
        await self._wait(pull, listener)

    async def _wait(self, pull: _Pull, listener: Listener | None) -> None:
        pull.waiting += 1
        if listener is not None:
            listener(pull.last)
            pull.listeners.append(listener)
        try:
            await asyncio.shield(pull.task)
        except asyncio.CancelledError:
            if self._closed and pull.task.cancelled():
                raise self._ending(pull.last.reference) from None
            raise
        finally:
            pull.waiting -= 1
            if listener is not None:
                pull.listeners.remove(listener)
            if not pull.waiting:
                pull.task.cancel()

    @staticmethod
    def _ending(reference: str) -> UnavailableError:
        return UnavailableError(
            f"the agent ends: the pull of {reference} is given up, the next one goes on from there"
        )

    async def close(self) -> None:
        self._closed = True
        tasks = [pull.task for pull in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
