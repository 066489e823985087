# SPDX-License-Identifier: Apache-2.0
"""The worker process: read one job, do it, report progress and result on standard output.

The worker ends with the agent, which keeps the worker's standard input open. A worker that is killed at any instant
leaves only a lease that expires, and the next attempt continues with what the lease holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from pycm.errors import OperationFailedError, PycmError
from pycm.ports import PullStep
from pycm.registry.job import LINE_LIMIT, Job, News, make_error_line, parse_job

if TYPE_CHECKING:
    from collections.abc import Awaitable

#: Bytes of address space, many times what a worker needs: unbounded growth ends the worker, not the machine.
ADDRESS_SPACE = 2 << 30
#: Seconds between lines about progress, and between signs of life.
PERIOD, SIGN = 0.25, 10.0
NICE = 5
#: A worker is the first to be killed when memory runs out: the caller gets an error and can try again.
OOM_SCORE = 500


class Reporter:
    """Reports each step when it begins, and progress at most once every PERIOD."""

    def __init__(self) -> None:
        self._last = News(PullStep.RESOLVING.value)
        self._reported = 0.0

    def report(self, step: str, done: int = 0, total: int = 0) -> None:
        news = News(step, done, total)
        now = asyncio.get_running_loop().time()
        if news.step != self._last.step or now - self._reported >= PERIOD or done == total:
            self._reported, self._last = now, news
            write(news.line())

    async def give_signs(self) -> None:
        """Repeat the last report for ever: work continues."""
        while True:
            await asyncio.sleep(SIGN)
            write(self._last.line())


def write(line: bytes) -> None:
    """Write a whole line. The worker ends with its reader."""
    try:
        while line:
            line = line[os.write(1, line) :]
    except BrokenPipeError:
        os._exit(1)


def main() -> None:
    _limit_resources()
    line = sys.stdin.buffer.readline(LINE_LIMIT)
    try:
        job = parse_job(line)
    except (ValueError, TypeError, KeyError) as error:
        # the error's own text may contain a part of the job, with its password
        reason = f"pull worker received an invalid job ({type(error).__name__})"
        write(make_error_line(OperationFailedError(reason)))
        os._exit(1)
    code = asyncio.run(_run(job))
    # do not wait for threads that still wait for a registry
    sys.stderr.flush()
    os._exit(code)


def _limit_resources() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    with contextlib.suppress(OSError):
        os.nice(NICE)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(OOM_SCORE))


async def _run(job: Job) -> int:
    asyncio.get_running_loop().add_reader(0, _end_with_agent)
    reporter = Reporter()
    signs = asyncio.ensure_future(reporter.give_signs())
    try:
        write((await _work(job, reporter)).line())
    except PycmError as error:
        write(make_error_line(error))
        return 1
    except MemoryError:
        write(
            make_error_line(OperationFailedError("pull worker ran out of memory: the image may be invalid"))
        )
        return 1
    finally:
        signs.cancel()
    return 0


def _work(job: Job, reporter: Reporter) -> Awaitable[News]:
    if job.preload:
        from pycm.registry.preload import preload

        return preload(job, reporter)
    from pycm.registry.pull import pull

    return pull(job, reporter)


def _end_with_agent() -> None:
    if not os.read(0, 4096):
        os._exit(1)
