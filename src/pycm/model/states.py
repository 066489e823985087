# SPDX-License-Identifier: Apache-2.0
"""The life-cycle of a container as tables.

Two tables say everything: `FLAGS`, what the stored state looks like in each status, and `ALLOWED`, which operation may
start in which status. The texts of refusals are those that Kanto's clients match on. Nothing here does I/O or looks at
a clock: callers pass times in (docs/spec/container.md, "States").
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.errors import ConflictError
from pycm.model.frozen import replace

if TYPE_CHECKING:
    from collections.abc import Callable

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


class Flags(NamedTuple):
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


# ── the life-cycle ──


class Action(enum.Enum):
    """What happened to a container; the names are those of Kanto's internal events."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESUMED = "resumed"
    STOPPED = "stopped"
    EXITED = "exited"
    REMOVED = "removed"
    RENAMED = "renamed"
    UPDATED = "updated"
    #: The result of the container's health check differs (an addition of pycm).
    HEALTH = "health"


class Trigger(enum.Enum):
    """What happens to a container. The value is the text of the diagram."""

    CREATE = "created"
    START = "started"
    FAIL = "start failed"
    ADOPT = "found running"
    PAUSE = "paused"
    RESUME = "resumed"
    EXIT = "exited"
    STOP = "stopped by hand"
    SHUT_DOWN = "stopped for good"
    CANCEL = "restart cancelled"
    REMOVE = "removed"


class Effect(enum.Enum):
    """What the agent does in a transition. The value is the text of the documentation."""

    BEGIN_RUN = "wait for the exit, begin the health checks"
    END_RUN = "stop the health checks, read the OOM kills, close the metrics"
    COMMIT = "write the record, then publish the event; a full disk refuses the change"
    RECORD = "publish the event, then write the record; a full disk delays the write"
    RELEASE = "delete the task, close the log, disconnect the network"
    ASK_POLICY = "ask the restart policy"
    DELETE = "write the record, delete everything that belongs to the container, publish the event"


class Row(NamedTuple):
    trigger: Trigger
    before: frozenset[Status]
    after: Status
    action: Action
    effects: tuple[Effect, ...]


_IDLE = frozenset({Status.CREATED, Status.STOPPED, Status.EXITED, Status.UNKNOWN})
_ANY = frozenset(Status) - {Status.CREATING}
_PAUSED, _RUNNING, _CREATING = ({status} for status in (Status.PAUSED, Status.RUNNING, Status.CREATING))
_E = Effect

# fmt: off
ROWS: tuple[Row, ...] = (
    Row(Trigger.CREATE,    frozenset(_CREATING), Status.CREATED, Action.CREATED, (_E.COMMIT,)),
    Row(Trigger.START,     _IDLE,                Status.RUNNING, Action.RUNNING, (_E.BEGIN_RUN, _E.RECORD)),
    Row(Trigger.FAIL,      _IDLE,                Status.STOPPED, Action.STOPPED, (_E.RECORD,)),
    Row(Trigger.ADOPT,     _IDLE | ALIVE,        Status.RUNNING, Action.RUNNING, (_E.BEGIN_RUN, _E.RECORD)),
    Row(Trigger.PAUSE,     frozenset(_RUNNING),  Status.PAUSED,  Action.PAUSED,  (_E.RECORD,)),
    Row(Trigger.RESUME,    frozenset(_PAUSED),   Status.RUNNING, Action.RESUMED, (_E.RECORD,)),
    Row(Trigger.EXIT,      ALIVE,                Status.EXITED,  Action.EXITED,  (_E.END_RUN, _E.RECORD, _E.RELEASE, _E.ASK_POLICY)),
    Row(Trigger.STOP,      ALIVE,                Status.STOPPED, Action.STOPPED, (_E.END_RUN, _E.RECORD, _E.RELEASE, _E.ASK_POLICY)),
    Row(Trigger.SHUT_DOWN, ALIVE,                Status.STOPPED, Action.STOPPED, (_E.END_RUN, _E.RECORD, _E.RELEASE)),
    Row(Trigger.CANCEL,    _IDLE,                Status.STOPPED, Action.STOPPED, (_E.RECORD,)),
    Row(Trigger.REMOVE,    _ANY,                 Status.DEAD,    Action.REMOVED, (_E.DELETE,)),
)
# fmt: on
TABLE: dict[tuple[Trigger, Status], Row] = {
    (row.trigger, status): row for row in ROWS for status in row.before
}

#: How a trigger with facts of its own (exit code, pid, times) makes the new state; the others only change the status.
_STATES: dict[Trigger, Callable[..., State]] = {
    Trigger.CREATE: created,
    Trigger.START: running,
    Trigger.ADOPT: running,
    Trigger.FAIL: stopped,
    Trigger.EXIT: exited,
    Trigger.STOP: stopped,
    Trigger.SHUT_DOWN: stopped,
}
_ENDED = (Status.STOPPED, Status.EXITED)


def follow(row: Row, container: Container, **facts: Any) -> Container:
    """Return *container* as it is after the transition *row*. A container that has ended has no network."""
    make = _STATES.get(row.trigger)
    state = make(container.state, **facts) if make else enter(container.state, row.after)
    if row.after in _ENDED:
        return replace(container, state=state, network_settings=None)
    return replace(container, state=state)
