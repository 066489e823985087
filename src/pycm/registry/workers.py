# SPDX-License-Identifier: Apache-2.0
"""Pulls as the agent sees them: callers that want the same image share one, and a worker process does it.

Whatever happens, the process is gone at the end.
"""

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
from pycm.waiting import cancel, within

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Awaitable, Callable

    Listener = Callable[[PullProgress], None]
    Work = Callable[[str, Listener], Awaitable[None]]

#: Workers at a time, each of 45 MiB at most; further jobs wait.
PARALLEL = 2
#: Seconds without a line after which a worker, which gives signs of life, counts as hanging; seconds for its end.
SILENCE, END = 60.0, 10.0
#: What the worker executes. -I isolates Python from the working directory, PYTHONPATH and a user's site directory. pycm
#: comes from where the agent has it; the directory around it (its argument) is searched last, for libraries beside it.
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]); import pycm; sys.path.append(sys.path.pop(0)); "
    "from pycm.registry.worker import main; main()"
)
_AROUND_PYCM = os.path.dirname(os.path.dirname(os.path.abspath(pycm.__file__)))


class WorkerKilledError(UnavailableError):
    """Something killed the worker, most likely the kernel because memory is short."""


class Workers:
    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(PARALLEL)

    async def run(self, job: Job, report: Callable[[News], None]) -> News:
        """Return the last news; *report* is called with those before. Raise the error of the worker.

        The worker is killed when this is cancelled.
        """
        if self._slots.locked():
            report(News(PullStep.QUEUED.value))
        async with self._slots:
            process = await _start()
            try:
                return await _follow(process, job, report)
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
        raise OperationFailedError(f"cannot start a pull worker: {error.strerror}") from None


async def _follow(process: Process, job: Job, report: Callable[[News], None]) -> News:
    with contextlib.suppress(ConnectionError):  # stdin stays open: the worker ends when it is closed
        process.stdin.write(job.line())  # type: ignore[union-attr]
        await process.stdin.drain()  # type: ignore[union-attr]
    last = await _read_news(process, report)
    if isinstance(last, PycmError):
        raise last
    if last is not None:
        return last
    try:
        code = await within(END, process.wait())
    except asyncio.TimeoutError:
        raise OperationFailedError(
            f"pull worker closed its output without a result and did not end within {END:g} s"
        ) from None
    if code == -signal.SIGKILL:
        raise WorkerKilledError(
            "pull worker was killed: the machine may be short of memory", hint="Try again."
        )
    raise OperationFailedError(
        f"pull worker ended without a result (exit code {code}); the log has its output"
    )


async def _read_news(process: Process, report: Callable[[News], None]) -> News | PycmError | None:
    """Return the result of the job, once the worker closes its output; None if there was none."""
    last: News | PycmError | None = None
    for _ in range(LINES_LIMIT):
        try:
            line = await within(SILENCE, process.stdout.readline())  # type: ignore[union-attr]
            if not line.endswith(b"\n"):  # the end, or the worker was killed in the middle of a line
                return last
            news = parse_news(line)
        except asyncio.TimeoutError:
            raise OperationFailedError(
                f"pull worker gave no sign of life for {SILENCE:g} s; terminating it"
            ) from None
        except (
            ValueError,
            LookupError,
            TypeError,
            OverflowError,
            RecursionError,
        ):  # also for an endless line
            raise OperationFailedError("pull worker sent malformed output; terminating it") from None
        if isinstance(news, PycmError) or news.step == PullStep.DONE.value:
            last = news
        else:
            report(news)
    raise OperationFailedError(f"pull worker sent more than {LINES_LIMIT} lines; terminating it")


async def _end(process: Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if process.stdin is not None:
        process.stdin.close()
    # asyncio counts the process as ended only when its output is read
    with contextlib.suppress(asyncio.TimeoutError):
        await within(END, process.communicate())


# ── sharing ──


class _Pull:
    def __init__(self, reference: str, work: Work) -> None:
        self.last = PullProgress(reference, PullStep.QUEUED)
        self.listeners: list[Listener] = []
        self.waiting = 0
        self.task = asyncio.ensure_future(work(reference, self._report))

    def _report(self, progress: PullProgress) -> None:
        self.last = progress
        for listener in tuple(self.listeners):
            listener(progress)


class Pulls:
    """Running pulls: callers for the same image share one, which ends when nobody waits for it any more.

    *work* pulls a reference and reports progress.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._running: dict[str, _Pull] = {}
        self._closed = False

    async def pull(self, reference: str, listener: Listener | None = None) -> None:
        pull = self._running.get(reference)
        while pull is not None and not pull.waiting:  # cancelled, and about to end
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
            f"the agent is stopping: pull of {reference} cancelled (the next one resumes it)"
        )

    async def close(self) -> None:
        self._closed = True
        await cancel(*(pull.task for pull in self._running.values()))
