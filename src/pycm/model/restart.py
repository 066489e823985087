# SPDX-License-Identifier: Apache-2.0
"""When the agent restarts a container: after the end of a run, and when a health check finds it unhealthy.

Pure: the caller passes in what happened and how long the run lasted.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

from pycm.model.units import NANOSECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.model.container import Container, HealthCheck, RestartPolicy

FIRST_DELAY = 0.1
#: Cap of the delay if the policy has none.
LONGEST_DELAY = 60.0
#: A run of this many seconds counts as a success: the delay starts over.
LONG_RUN = 10.0
#: Exit code of a container whose task has vanished (host reboot): a failure, so that on-failure restarts it.
LOST_EXIT_CODE = 255


class Ended(NamedTuple):
    """The end of a run, for policies. `restarts`: automatic restarts since the last start by a user."""

    exit_code: int
    manually_stopped: bool
    restarts: int


def question(container: Container) -> tuple[RestartPolicy | None, Ended]:
    """The policy and the end of a stopped container. An error counts as a failure, whatever the exit code."""
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
    """Whether *policy* restarts the container after this end. No policy, or one of an unknown type, does not."""
    decide = DECISIONS.get(policy.type) if policy else None
    return bool(policy and decide and decide(policy, ended))


def refusal(policy: RestartPolicy | None, ended: Ended) -> str:
    """The reason why *policy* does not restart the container, for the log."""
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
    """Seconds until the restart: 0.1 at first or after a long run, then twice the *previous* delay, up to the policy's
    retry_timeout.
    """
    cap = policy.retry_timeout / NANOSECONDS if policy.retry_timeout > 0 else LONGEST_DELAY
    delay = FIRST_DELAY if previous <= 0 or ran_for >= LONG_RUN else previous * 2
    return min(delay, cap)


# ── health ──

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
#: Exit code of an unhealthy container for the restart policy: any but 0.
UNHEALTHY_EXIT_CODE = 255
#: Lines and characters of a failed check's output that are shown.
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


class Progress(NamedTuple):
    """health: as in the state. failures: in a row. error: the reason if the last check failed, else ""."""

    health: str = STARTING
    failures: int = 0
    error: str = ""


def step(progress: Progress, error: str, *, early: bool, retries: int) -> Progress:
    """The progress after a check. *error*: why it failed, "" if it passed. *early*: within the start period."""
    if not error:
        return Progress(TRANSITIONS[progress.health, Result.PASSED])
    if early and progress.health == STARTING:
        return Progress(TRANSITIONS[STARTING, Result.EARLY], 0, error)
    failures = min(progress.failures + 1, retries)
    result = Result.LAST if failures >= retries else Result.FAILED
    return Progress(TRANSITIONS[progress.health, result], failures, error)


def printed(output: bytes) -> str:
    """The last lines of a check's *output* as one line, shortened and with control characters escaped."""
    lines = "\n".join(output.decode(errors="replace").strip().splitlines()[-MOST_LINES:])
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in lines)
    return shown if len(shown) <= MOST_PRINTED else "…" + shown[1 - MOST_PRINTED :]


def check_of(container: Container) -> HealthCheck | None:
    return container.config.health_check if container.config else None


def restarts_unhealthy(container: Container) -> bool:
    """Whether the restart policy restarts the container when it is unhealthy, as after a failure."""
    policy = container.host_config.restart_policy if container.host_config else None
    ended = Ended(UNHEALTHY_EXIT_CODE, manually_stopped=False, restarts=container.restart_count)
    return wants_restart(policy, ended)
