# SPDX-License-Identifier: Apache-2.0
"""Ends and returns on real cgroup v2: an OOM kill in the twin, and containers that outlive a killed agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from observed import Observed

pytestmark = pytest.mark.vm
ALIVE = ("busy", "holder", "survivor")


def test_an_oom_kill_of_the_first_process_is_told_in_the_twin(observed: Observed) -> None:
    state = observed.states("victim")[-1]
    assert state["status"] == "EXITED"
    assert state["exitCode"] == 137
    assert state["oomKilled"] is True
    assert state["error"] == "OOM Killed"


def test_an_oom_kill_shows_on_the_command_line_too(observed: Observed) -> None:
    state = observed.containers["victim"]["state"]
    assert (state["exit_code"], state["oomKilled"], state["error"]) == (137, True, "OOM Killed")


def test_the_running_containers_are_told_as_running(observed: Observed) -> None:
    for name in ALIVE:
        assert observed.states(name)[-1]["status"] == "RUNNING"


@pytest.mark.parametrize("name", ALIVE)
def test_a_container_outlives_the_killed_agent_as_the_same_process(observed: Observed, name: str) -> None:
    container, after = observed.containers[name], observed.restart
    assert after["pids"][name] == container["pid"]
    assert after["started_at"][name] == container["started_at"]


def test_the_command_line_finds_a_container_of_the_killed_agent_running(observed: Observed) -> None:
    state = observed.restart["holder"]
    assert (state["running"], state["pid"]) == (True, observed.containers["holder"]["pid"])


def test_the_ended_container_stays_ended_for_the_new_agent(observed: Observed) -> None:
    assert observed.states("victim")[-1]["exitCode"] == 137


@pytest.mark.parametrize("name", ALIVE)
def test_the_new_agent_measures_the_containers_that_it_found(observed: Observed, name: str) -> None:
    assert observed.measurements(observed.later_samples[-1], name)["memory.used"] > 0
