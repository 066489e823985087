# SPDX-License-Identifier: Apache-2.0
"""When a container is started again by itself, and after which delay (shared specification, runtime 2.4 with 10.6 and 10.7).

Pure: the caller passes in what happened and how long the run lasted, and gets a delay or None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pycm.model.container import NANOSECONDS, RestartPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.model.container import Container

FIRST_DELAY = 0.1
#: Cap of the delay where the policy names none.
LONGEST_DELAY = 60.0
#: A run of this many seconds counts as a success: the delay starts over.
LONG_RUN = 10.0
#: Exit code of a container whose task was gone when the agent looked (host reboot): a failure, so that on-failure restarts it.
LOST_EXIT_CODE = 255


@dataclass(frozen=True)
class Ended:
    """How a run ended, as far as the policy asks. `restarts`: automatic restarts since the last start by a user."""

    exit_code: int
    manually_stopped: bool
    restarts: int


def question(container: Container) -> tuple[RestartPolicy | None, Ended]:
    """A container that does not run, for `wants_restart` and `refusal`. An error counts as a failure, whatever the exit code."""
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
    """Seconds to wait: 0.1 first or after a long run, then twice the *previous* delay, at most the policy's retry_timeout."""
    cap = policy.retry_timeout / NANOSECONDS if policy.retry_timeout > 0 else LONGEST_DELAY
    delay = FIRST_DELAY if previous <= 0 or ran_for >= LONG_RUN else previous * 2
    return min(delay, cap)
