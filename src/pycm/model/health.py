# SPDX-License-Identifier: Apache-2.0
"""When a container with a health check counts as healthy: a table of what each result of a check leads to.

Pure: the caller passes in how a check ended and whether the start period is over.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pycm.model.restart import Ended, wants_restart

if TYPE_CHECKING:
    from pycm.model.container import Container, HealthCheck

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
#: Exit code that stands for an unhealthy end where a restart policy asks for one: any but 0.
UNHEALTHY_EXIT_CODE = 255
#: Of what a failed check printed, so many lines and characters are shown.
MOST_LINES, MOST_PRINTED = 5, 500


class Result(enum.Enum):
    PASSED = "the check passed"
    EARLY = "it failed in the start period"
    FAILED = "it failed, with retries left"
    LAST = "it failed, and all retries are used up"


#: health, result of a check -> health. Once healthy, a container has left its start period.
TRANSITIONS: dict[tuple[str, Result], str] = {
    (STARTING, Result.PASSED): HEALTHY,
    (STARTING, Result.EARLY): STARTING,
    (STARTING, Result.FAILED): STARTING,
    (STARTING, Result.LAST): UNHEALTHY,
    (HEALTHY, Result.PASSED): HEALTHY,
    (HEALTHY, Result.FAILED): HEALTHY,
    (HEALTHY, Result.LAST): UNHEALTHY,
    (UNHEALTHY, Result.PASSED): HEALTHY,
    (UNHEALTHY, Result.FAILED): UNHEALTHY,
    (UNHEALTHY, Result.LAST): UNHEALTHY,
}


@dataclass(frozen=True)
class Progress:
    """health: as the state shows it. failures: in a row, as far as they count. error: why the last check failed, "" if it passed."""

    health: str = STARTING
    failures: int = 0
    error: str = ""


def step(progress: Progress, error: str, *, early: bool, retries: int) -> Progress:
    """What a check makes of *progress*. *error*: why it failed, "" if it passed. *early*: the start period is not over."""
    if not error:
        return Progress(TRANSITIONS[progress.health, Result.PASSED])
    if early and progress.health == STARTING:
        return Progress(TRANSITIONS[STARTING, Result.EARLY], 0, error)
    failures = min(progress.failures + 1, retries)
    result = Result.LAST if failures >= retries else Result.FAILED
    return Progress(TRANSITIONS[progress.health, result], failures, error)


def printed(output: bytes) -> str:
    """The last lines of a check's *output* as one line, bounded and with control characters escaped."""
    lines = "\n".join(output.decode(errors="replace").strip().splitlines()[-MOST_LINES:])
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in lines)
    return shown if len(shown) <= MOST_PRINTED else "…" + shown[1 - MOST_PRINTED :]


def check_of(container: Container) -> HealthCheck | None:
    return container.config.health_check if container.config else None


def restarts_unhealthy(container: Container) -> bool:
    """Does the container's restart policy start it again when it is unhealthy? As if it had ended with a failure."""
    policy = container.host_config.restart_policy if container.host_config else None
    ended = Ended(UNHEALTHY_EXIT_CODE, manually_stopped=False, restarts=container.restart_count)
    return wants_restart(policy, ended)
