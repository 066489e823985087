# SPDX-License-Identifier: Apache-2.0
"""What the core asks to be carried out on the containers; the service does it, and what came of it goes back to the core.

Each operation is data: the core decides, the outside acts. The result is a Container for Create, bytes for Download, else None; a
failure is a `Failed` with the text for the one who asked.


Jobs in lanes: those of one lane follow each other, different lanes run beside each other. No I/O, no clock.

A job is a generator (`operations.Steps`): each operation that it yields becomes a Run decision, and goes on when the outcome of that
comes back. So nothing waits here, and what a job does reads from top to bottom.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from pycm.twin.envelope import Kind, Problem
from pycm.twin.outbox import Decision, Note, Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.model.container import Container, StopOptions, UpdateOptions


#: What the original says where its code panicked; its own tests look for it.
INTERNAL = "internal runtime error"


class Failed(Exception):  # noqa: N818  the outcome of an operation, raised inside the steps that asked for it
    """The operation was tried, or refused, and this is why. `masked`: without values of environment variables."""

    def __init__(self, message: str, masked: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.masked = masked or message


@dataclass(frozen=True)
class Create:
    container: Container


@dataclass(frozen=True)
class Start:
    container_id: str


@dataclass(frozen=True)
class Stop:
    container_id: str
    options: StopOptions | None = None


@dataclass(frozen=True)
class Pause:
    container_id: str


@dataclass(frozen=True)
class Resume:
    container_id: str


@dataclass(frozen=True)
class Rename:
    container_id: str
    name: str


@dataclass(frozen=True)
class Update:
    container_id: str
    options: UpdateOptions


@dataclass(frozen=True)
class Remove:
    container_id: str
    force: bool = False


@dataclass(frozen=True)
class Download:
    """Read what *url* gives, at most `limit` bytes."""

    url: str
    limit: int


Operation = Create | Start | Stop | Pause | Resume | Rename | Update | Remove | Download


@dataclass(frozen=True)
class Property:
    """A property of a feature has this value from now on."""

    path: str
    value: Any


#: What a job does: it yields operations, whose results come back or are raised as Failed, and properties that changed. What it returns
#: is the value of the answer.
Steps = Generator[Operation | Property, Any, Any]


#: Jobs that run or wait, and bytes of the commands that asked for them; a further one is refused.
MAX_JOBS = 256
MAX_BYTES = 2 << 20


@dataclass(frozen=True)
class Task:
    """Steps to be taken in a lane. `lane` "" is one of several for work that depends on no other."""

    lane: str
    steps: Steps


@dataclass(frozen=True)
class Job:
    """`finish` is given the value that the steps returned, or the Problem that ended them; `changed` each property on the way."""

    lane: str
    steps: Steps
    finish: Callable[[Any], list[Decision]]
    changed: Callable[[Property], list[Decision]]
    size: int = 0


class Jobs:
    #: Lanes for work that depends on no other: so many pulls run at once.
    FREE_LANES = tuple(f" {number}" for number in range(8))

    def __init__(self) -> None:
        self._lanes: dict[str, deque[Job]] = {}
        self._running: dict[int, Job] = {}
        self._tickets = count(1)
        self._bytes = 0

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def begin(
        self,
        task: Task,
        finish: Callable[[Any], list[Decision]],
        changed: Callable[[Property], list[Decision]],
        size: int = 0,
    ) -> list[Decision]:
        """*size*: bytes of the command. Errors: Problem, if too many wait already."""
        if len(self) >= MAX_JOBS:
            raise Problem(Kind.FAILED, f"{MAX_JOBS} operations wait already, try again later")
        if self._bytes + size > MAX_BYTES:
            text = f"operations of {self._bytes} bytes wait already, {MAX_BYTES} are allowed, try again later"
            raise Problem(Kind.FAILED, text)
        self._bytes += size
        name = task.lane or min(self.FREE_LANES, key=lambda free: len(self._lanes.get(free, ())))
        lane = self._lanes.setdefault(name, deque())
        job = Job(name, task.steps, finish, changed, size)
        lane.append(job)
        return self._advance(job, None) if len(lane) == 1 else []

    def done(self, ticket: int, outcome: Any) -> list[Decision]:
        """An operation has ended; *outcome* is its result or Failed."""
        job = self._running.pop(ticket, None)
        return self._advance(job, outcome) if job else []

    def _advance(self, job: Job | None, outcome: Any) -> list[Decision]:
        """Let the job go on to its next operation; where it ends, its successor begins."""
        decisions: list[Decision] = []
        while job is not None:
            try:
                step = job.steps.throw(outcome) if isinstance(outcome, Failed) else job.steps.send(outcome)
                if isinstance(step, Property):
                    decisions += job.changed(step)
                    outcome = None
                    continue
            except StopIteration as end:
                decisions += self._finish(job, end.value)
            except Failed as failure:
                decisions += self._finish(job, Problem(Kind.FAILED, failure.message, failure.masked))
            except Problem as problem:
                decisions += self._finish(job, problem)
            except Exception as error:  # noqa: BLE001  those behind it in the lane must not wait for ever
                decisions += [_bug(error), *self._finish(job, Problem(Kind.FAILED, INTERNAL))]
            else:
                ticket = next(self._tickets)
                self._running[ticket] = job
                return [*decisions, Run(ticket, step)]
            job, outcome = self._successor(job), None
        return decisions

    @staticmethod
    def _finish(job: Job, value: Any) -> list[Decision]:
        try:
            return job.finish(value)
        except Exception as error:  # noqa: BLE001  as above
            return [_bug(error)]

    def _successor(self, ended: Job) -> Job | None:
        lane = self._lanes[ended.lane]
        lane.popleft()
        self._bytes -= ended.size
        if lane:
            return lane[0]
        del self._lanes[ended.lane]
        return None


def _bug(error: Exception) -> Note:
    return Note(logging.ERROR, f"a bug in an operation of the twin: {error!r}")
