# SPDX-License-Identifier: Apache-2.0
"""Jobs in lanes: those of one lane follow each other, different lanes run beside each other. No I/O, no clock.

A job is a generator (`operations.Steps`): each operation that it yields becomes a Run decision, and goes on when the outcome of that
comes back. So nothing waits here, and what a job does reads from top to bottom.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from pycm.twin.actions import Decision, Note, Run
from pycm.twin.operations import INTERNAL, Failed, Property
from pycm.twin.problems import Kind, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.twin.operations import Steps

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
