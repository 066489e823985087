# SPDX-License-Identifier: Apache-2.0
"""When the agent restarts a container: after the end of a run, and when a health check finds it unhealthy.

Pure: the caller passes in what happened and how long the run lasted.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pycm.model.units import NANOSECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.model.container import Container, HealthCheck, RestartPolicy

FIRST_DELAY = 0.1
#: Cap of the delay where the policy names none.
LONGEST_DELAY = 60.0
#: A run of this many seconds counts as a success: the delay starts over.
LONG_RUN = 10.0
#: Exit code of a container whose task was gone when the agent looked (host reboot): a failure, so that on-failure
# restarts it.
LOST_EXIT_CODE = 255


@dataclass(frozen=True)
class Ended:
    """How a run ended, as far as the policy asks. `restarts`: automatic restarts since the last start by a user."""

    exit_code: int
    manually_stopped: bool
    restarts: int


def question(container: Container) -> tuple[RestartPolicy | None, Ended]:
    """A container that does not run, for `wants_restart` and `refusal`. An error counts as a failure, whatever the exit
    code.
    """
    policy = container.host_config.restart_policy if container.host_config else None
    code = container.state.exit_code or (LOST_EXIT_CODE if container.state.error else 0)
    return policy, Ended(code, container.manually_stopped, container.restart_count)


def _on_failure(policy: RestartPolicy, ended: Ended) -> bool:
    below = policy.maximum_retry_count == 0 or ended.restarts < policy.maximum_retry_count
    return ended.exit_code != 0 and below and not ended.manually_stopped


#: policy type -> does it start the container again? "always" does so even after a manual stop, as the original.
DECISIONS: dict[str, Callable[[RestartPolicy, Ended], bool]] = {
    "no": lambda _policy, _ended: False,
    "always": lambda _policy, _ended: True,
    "unless-stopped": lambda _policy, ended: not ended.manually_stopped,
    "on-failure": _on_failure,
}


def wants_restart(policy: RestartPolicy | None, ended: Ended) -> bool:
    """Does *policy* start the container again after this end? No policy, or one of an unknown type, does not."""
    decide = DECISIONS.get(policy.type) if policy else None
    return bool(policy and decide and decide(policy, ended))


def refusal(policy: RestartPolicy | None, ended: Ended) -> str:
    """Why *policy* does not start the container again, in words for the log."""
    if policy is None:
        return "no policy"
    reason = ""
    if ended.manually_stopped and policy.type in ("unless-stopped", "on-failure"):
        reason = ", stopped by hand"
    elif policy.type == "on-failure":
        used = f", {ended.restarts} of {policy.maximum_retry_count} restarts used"
        reason = used if ended.exit_code else ", no failure"
    return f"policy {policy.type}{reason}"


def next_delay(policy: RestartPolicy, previous: float, ran_for: float) -> float:
    """Seconds to wait: 0.1 first or after a long run, then twice the *previous* delay, at most the policy's
    retry_timeout.
    """
    cap = policy.retry_timeout / NANOSECONDS if policy.retry_timeout > 0 else LONGEST_DELAY
    delay = FIRST_DELAY if previous <= 0 or ran_for >= LONG_RUN else previous * 2
    return min(delay, cap)


# ── health ──

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
    """health: as the state shows it. failures: in a row, as far as they count. error: why the last check failed, "" if
    it passed.
    """

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
