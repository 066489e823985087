# SPDX-License-Identifier: Apache-2.0
"""Jobs that commands start in the background, in lanes: one per container, one for software, several for creations.

A job is an async function, which awaits the container manager and downloads through its `JobContext`. The jobs of one
lane follow each other; different lanes run beside each other. No I/O and no clock of its own: *spawn* decides what
drives the coroutines.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pycm.errors import OperationFailedError, PycmError
from pycm.twin.envelope import Kind, Problem

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from pycm.ports import Containers, Downloads
    from pycm.twin.outbox import Run

log = logging.getLogger("pycm.twin")

#: The answer where the original panicked; its own tests look for it.
INTERNAL = "internal runtime error"  # compat
#: Jobs that run or wait, and bytes of the commands that started them. A further job is refused.
MAX_JOBS = 256
MAX_BYTES = 2 << 20
#: The lane of creations, and how many of its jobs run at once: a creation may have to pull an image.
CREATIONS, MAX_CREATIONS = "", 8

T = TypeVar("T")
Job = Callable[["JobContext"], Awaitable[Any]]


class Task(NamedTuple):
    """A job and the lane that it runs in."""

    lane: str
    job: Job


class Load:
    """The jobs that have not ended, and the bytes of their commands."""

    def __init__(self) -> None:
        self.jobs = self.bytes = 0

    def add(self, size: int) -> None:
        """Raises Problem at a bound."""
        if self.jobs >= MAX_JOBS:
            raise Problem(Kind.FAILED, f"{MAX_JOBS} operations are pending; try again later")
        if self.bytes + size > MAX_BYTES:
            text = f"pending operations have {self.bytes} bytes, at most {MAX_BYTES} are allowed; try again later"
            raise Problem(Kind.FAILED, text)
        self.jobs += 1
        self.bytes += size

    def remove(self, size: int) -> None:
        self.jobs -= 1
        self.bytes -= size


class JobContext:
    """What a job may use. `tell` publishes a status property of `SoftwareUpdatable`."""

    def __init__(self, lanes: Lanes, containers: Containers, downloads: Downloads | None, run: Run) -> None:
        self.containers = containers
        self.tell = partial(lanes.changed, run)
        self._lanes = lanes
        self._downloads = downloads

    async def download(self, url: str, limit: int) -> bytes:
        """Read at most *limit* bytes from *url*."""
        if self._downloads is None:
            raise OperationFailedError(f"{url} cannot be read: downloads are not available")
        return await self._downloads.fetch(url, limit)

    async def attempt(self, work: Awaitable[T]) -> T:
        """Return the result of *work*. Every failure, a bug as well, is raised as a PycmError."""
        try:
            return await work
        except (PycmError, Problem):
            raise
        except asyncio.CancelledError:
            if self._lanes.closed:
                raise
            raise OperationFailedError(INTERNAL) from None  # something below was cancelled, not this job
        except Exception:
            log.exception("twin: bug in an operation (answered with an internal error)")
            raise OperationFailedError(INTERNAL) from None


class Lanes:
    """*spawn* starts a coroutine. *changed* gets each property that a job reports, *ended* its outcome."""

    def __init__(
        self,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        containers: Containers,
        downloads: Downloads | None,
        *,
        changed: Callable[[Run, str, Any], None],
        ended: Callable[[Run, Any], None],
    ) -> None:
        self.changed = changed
        self.closed = False
        self._spawn = spawn
        self._containers = containers
        self._downloads = downloads
        self._ended = ended
        self._pending: dict[str, deque[Run]] = {}
        self._workers: dict[str, int] = {}

    def begin(self, run: Run) -> None:
        self._pending.setdefault(run.lane, deque()).append(run)
        busy = self._workers.get(run.lane, 0)
        if busy < (MAX_CREATIONS if run.lane == CREATIONS else 1):
            self._workers[run.lane] = busy + 1
            self._spawn(self._work(run.lane))

    async def _work(self, lane: str) -> None:
        """Run the lane's jobs until none waits. A bug in what follows a job does not delay the next one."""
        pending = self._pending[lane]
        try:
            while pending:
                run = pending.popleft()
                outcome = await self._outcome(run)
                try:
                    self._ended(run, outcome)
                except Exception:
                    log.exception("twin: bug after an operation (its answer may be missing)")
        finally:
            self._workers[lane] -= 1
            if not self._workers[lane]:
                del self._workers[lane], self._pending[lane]

    async def _outcome(self, run: Run) -> Any:
        """The job's result, or the Problem that ended it."""
        context = JobContext(self, self._containers, self._downloads, run)
        try:
            return await context.attempt(run.job(context))
        except Problem as problem:
            return problem
        except PycmError as error:
            return Problem(Kind.FAILED, str(error), error.masked)
