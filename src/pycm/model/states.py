# SPDX-License-Identifier: Apache-2.0
"""The life-cycle of a container as tables.

Two tables say everything: `FLAGS`, what the stored state looks like in each status, and `ALLOWED`, which operation may start in
which status. The texts of refusals are those that Kanto's clients match on. Nothing here does I/O or looks at a clock: callers
pass times in (docs/spec/container.md, "States").
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pycm.errors import ConflictError
from pycm.model.frozen import replace

if TYPE_CHECKING:
    from pycm.model.container import Container, State


class Status(enum.IntEnum):
    """A container's status: the number is stored on disk, the capitalised name travels on gRPC."""

    CREATING = 0
    CREATED = 1
    RUNNING = 2
    STOPPED = 3
    PAUSED = 4
    EXITED = 5
    DEAD = 6
    UNKNOWN = 7

    @property
    def word(self) -> str:
        return self.name.capitalize()

    @classmethod
    def from_word(cls, word: str) -> Status:
        return cls.__members__.get(word.upper(), cls.UNKNOWN)


class Operation(enum.Enum):
    START = "start"
    STOP = "stop"
    PAUSE = "pause"
    UNPAUSE = "unpause"
    REMOVE = "remove"
    FORCE_REMOVE = "force remove"


#: Processes exist in these: stop is possible, remove needs force, metrics are measured.
ALIVE = frozenset({Status.RUNNING, Status.PAUSED})

_NOT_ALIVE = frozenset({Status.CREATED, Status.STOPPED, Status.EXITED})

#: operation -> statuses in which it may begin. Rename and update may begin in every one but DEAD, and need no row.
ALLOWED: dict[Operation, frozenset[Status]] = {
    Operation.START: _NOT_ALIVE | {Status.UNKNOWN},
    Operation.STOP: ALIVE,
    Operation.PAUSE: frozenset({Status.RUNNING}),
    Operation.UNPAUSE: frozenset({Status.PAUSED}),
    Operation.REMOVE: frozenset(Status) - ALIVE - {Status.CREATING},
    Operation.FORCE_REMOVE: frozenset(Status) - {Status.CREATING},
}

_START_REFUSALS = {
    Status.RUNNING: "the container with id = {id} is already running",
    Status.PAUSED: "the container with id = {id} is paused - cannot start it - try unpausing it instead",
    Status.DEAD: "the container with id = {id} is dead - cannot start it",
}
_REFUSALS = {
    Operation.START: "the container with id = {id} cannot be started - current status is {status}",
    Operation.STOP: "cannot perform stop operation for container: {id}, with state: {status}",
    Operation.PAUSE: "container with id = {id} is not running - current status is {status}",
    Operation.UNPAUSE: "container id = {id} is not paused - cannot unpause it ",
    Operation.REMOVE: "container with id = {id} is not stopped - must set the force flag to true to remove it",
    Operation.FORCE_REMOVE: "container with id = {id} cannot be removed - current status is {status}",
}


def check_allowed(operation: Operation, container: Container) -> None:
    """Raise ConflictError with the client-visible text if *operation* may not begin now."""
    status = container.state.status
    if status in ALLOWED[operation]:
        return
    text = _REFUSALS[operation]
    if operation is Operation.START:
        text = _START_REFUSALS.get(status, text)
    raise ConflictError(text.format(id=container.id, status=status.word))


@dataclass(frozen=True)
class Flags:
    """The four flags of the stored state that go with a status, and if the pid is kept."""

    running: bool = False
    paused: bool = False
    exited: bool = False
    dead: bool = False
    keeps_pid: bool = False


FLAGS: dict[Status, Flags] = {
    Status.CREATING: Flags(),
    Status.CREATED: Flags(),
    Status.RUNNING: Flags(running=True, keeps_pid=True),
    Status.STOPPED: Flags(),
    Status.PAUSED: Flags(paused=True, keeps_pid=True),
    Status.EXITED: Flags(exited=True),
    Status.DEAD: Flags(dead=True, keeps_pid=True),
    Status.UNKNOWN: Flags(keeps_pid=True),
}

NO_PID = -1
OOM_TEXT = "OOM Killed"
#: How the error of a failed start ends; the status is that of a stop, and the exit code 0, as in the original.
NEVER_STARTED, NOT_STARTED = " (never started)", " (did not start again)"


def enter(state: State, status: Status) -> State:
    """*state* with the flags of *status*; everything that FLAGS does not name stays."""
    flags = FLAGS[status]
    return replace(
        state,
        status=status,
        running=flags.running,
        paused=flags.paused,
        exited=flags.exited,
        dead=flags.dead,
        pid=state.pid if flags.keeps_pid else NO_PID,
    )


def created(state: State) -> State:
    return replace(enter(state, Status.CREATED), exit_code=0)


def running(state: State, *, pid: int, started_at: str, health: str = "") -> State:
    """*health*: what a container with a health check begins with."""
    fresh = replace(state, pid=pid, started_at=started_at, exit_code=0, error="", oom_killed=False)
    return replace(enter(fresh, Status.RUNNING), health=health, health_error="")


def stopped(state: State, *, exit_code: int, finished_at: str, error: str = "") -> State:
    return replace(
        enter(state, Status.STOPPED),
        exit_code=exit_code,
        finished_at=finished_at,
        error=error,
        health="",
        health_error="",
    )


def exited(state: State, *, exit_code: int, finished_at: str, error: str = "", oom: bool = False) -> State:
    return replace(
        enter(state, Status.EXITED),
        exit_code=exit_code,
        finished_at=finished_at,
        error=error or (OOM_TEXT if oom else ""),
        oom_killed=oom,
        health="",
        health_error="",
    )
