# SPDX-License-Identifier: Apache-2.0
"""The worker process: reads one job, does it, says on standard output how it goes and what came of it.

It ends with the agent: its standard input stays open for as long as that lives. Being killed at any instant leaves nothing but a
lease that ends by itself, and the next attempt goes on from what it holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import TYPE_CHECKING

from pycm.errors import OperationFailedError, PycmError
from pycm.ports import PullStep
from pycm.registry import job as jobs
from pycm.registry.job import Job, News

if TYPE_CHECKING:
    from collections.abc import Awaitable

#: Address space that a worker may have, many times what it needs: what grows without bound ends here, not with the machine.
ADDRESS_SPACE = 2 << 30
#: Seconds between lines about progress.
PERIOD = 0.25
#: Seconds between signs of life.
SIGN = 10.0
NICE = 5
#: The first to go when memory runs out: whoever wanted the image is told, and tries again.
OOM_SCORE = 500


class Reporter:
    """Tells at most every PERIOD how far the work is, and each step when it begins."""

    def __init__(self) -> None:
        self._last = News(PullStep.RESOLVING.value)
        self._told = 0.0

    def say(self, step: str, done: int = 0, total: int = 0) -> None:
        news = News(step, done, total)
        now = asyncio.get_running_loop().time()
        if news.step != self._last.step or now - self._told >= PERIOD or done == total:
            self._told, self._last = now, news
            write(news.line())

    async def signs(self) -> None:
        """Signs of life, for ever: nothing new, but work goes on."""
        while True:
            await asyncio.sleep(SIGN)
            write(self._last.line())


def write(line: bytes) -> None:
    """Whole lines; a reader that is gone is the end of the worker."""
    try:
        while line:
            line = line[os.write(1, line) :]
    except BrokenPipeError:
        os._exit(1)


def main() -> None:
    _be_modest()
    line = sys.stdin.buffer.readline(jobs.LINE_LIMIT)
    try:
        job = jobs.parse_job(line)
    except (ValueError, TypeError, KeyError) as error:
        # the error's own text may show a piece of the job, with its password
        write(jobs.error_line(OperationFailedError(f"a pull worker got no job ({type(error).__name__})")))
        os._exit(1)
    code = asyncio.run(_run(job))
    # threads that still wait for a registry are not waited for
    sys.stderr.flush()
    os._exit(code)


def _be_modest() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    with contextlib.suppress(OSError):
        os.nice(NICE)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(OOM_SCORE))


async def _run(job: Job) -> int:
    asyncio.get_running_loop().add_reader(0, _end_with_agent)
    reporter = Reporter()
    signs = asyncio.ensure_future(reporter.signs())
    try:
        write((await _work(job, reporter)).line())
    except PycmError as error:
        write(jobs.error_line(error))
        return 1
    except MemoryError:
        write(
            jobs.error_line(
                OperationFailedError("the pull worker ran out of memory: the image is not as it should be")
            )
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
