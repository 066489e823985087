# SPDX-License-Identifier: Apache-2.0
"""The table of the life-cycle: complete, in line with the operations that Kanto's clients may begin, and shown in the docs."""

from __future__ import annotations

from typing import Any

import pytest

from pycm.model.container import NetworkSettings, State
from pycm.model.frozen import replace
from pycm.model.states import (
    ALIVE,
    ALLOWED,
    ROWS,
    TABLE,
    Effect,
    Operation,
    Row,
    Status,
    Trigger,
    enter,
    follow,
)
from support.lifecycle_page import generate, written
from support.managers import described

ENDED = {"exit_code": 3, "finished_at": "2026-11-23T18:39:26.5Z"}
FACTS: dict[Trigger, dict[str, Any]] = {
    Trigger.START: {"pid": 7, "started_at": "2026-11-23T18:39:26.5Z"},
    Trigger.ADOPT: {"pid": 7, "started_at": "2026-11-23T18:39:26.5Z"},
    Trigger.FAIL: ENDED,
    Trigger.EXIT: {**ENDED, "oom": True},
    Trigger.STOP: ENDED,
    Trigger.SHUT_DOWN: ENDED,
}
OPERATIONS = {
    Trigger.START: Operation.START,
    Trigger.STOP: Operation.STOP,
    Trigger.PAUSE: Operation.PAUSE,
    Trigger.RESUME: Operation.UNPAUSE,
    Trigger.REMOVE: Operation.FORCE_REMOVE,
}


def test_page_shows_the_table() -> None:
    assert written() == generate(), "run tests/support/lifecycle_page.py to write docs/containers.md again"


def test_table_has_one_row_for_a_trigger_in_a_status() -> None:
    assert len(TABLE) == sum(len(row.before) for row in ROWS)
    assert {row.trigger for row in ROWS} == set(Trigger)


@pytest.mark.parametrize(("trigger", "operation"), OPERATIONS.items())
def test_table_agrees_with_the_operations_that_may_begin(trigger: Trigger, operation: Operation) -> None:
    assert {status for (one, status) in TABLE if one is trigger} == ALLOWED[operation]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.trigger.name)
def test_transition_leads_to_its_status_and_takes_the_network_of_what_ended(row: Row) -> None:
    for status in row.before:
        before = replace(
            described(),
            state=enter(State(pid=4242), status),
            network_settings=NetworkSettings(sandbox_key="k"),
        )
        after = follow(row, before, **FACTS.get(row.trigger, {}))
        assert after.state.status is row.after
        assert (after.network_settings is None) is (row.after in (Status.STOPPED, Status.EXITED))


def test_every_way_out_of_a_run_ends_it_before_the_record_and_releases_it_after() -> None:
    for row in ROWS:
        if row.before == ALIVE:
            assert row.effects[:3] == (Effect.END_RUN, Effect.RECORD, Effect.RELEASE)


def test_every_way_into_a_run_waits_for_its_exit_before_the_record_is_written() -> None:
    for row in ROWS:
        if row.trigger in (Trigger.START, Trigger.ADOPT):
            assert row.effects == (Effect.BEGIN_RUN, Effect.RECORD)
