# SPDX-License-Identifier: Apache-2.0
"""Waiting with a limit: results, errors and time-outs, and a cancellation that is never lost."""

from __future__ import annotations

import asyncio
import threading

import pytest

from pycm import waiting
from pycm.waiting import Once, apart, cancel, together, within


async def test_the_result_in_time_is_given() -> None:
    assert await within(60, asyncio.sleep(0, "done")) == "done"
    assert await within(None, asyncio.sleep(0, "done")) == "done"


async def test_the_error_of_the_work_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await within(60, fail())


async def test_what_takes_too_long_is_cancelled_and_has_ended_when_the_caller_hears_of_it() -> None:
    ended = False

    async def work() -> None:
        nonlocal ended
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended = True

    with pytest.raises(asyncio.TimeoutError):
        await within(0, work())
    assert ended


async def test_a_result_that_is_got_out_at_the_last_moment_counts() -> None:
    async def work() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "saved"
        return ""

    assert await within(0, work()) == "saved"


async def test_a_cancellation_that_comes_together_with_the_result_is_not_lost() -> None:
    result = asyncio.get_running_loop().create_future()
    caller = asyncio.ensure_future(within(60, result))
    await asyncio.sleep(0)
    result.set_result("done")
    await asyncio.sleep(0)  # the caller is about to be told
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_an_error_that_comes_together_with_a_cancellation_is_not_complained_of_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("on the way out")

    caller = asyncio.ensure_future(within(60, work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert caplog.records == []


async def test_apart_gives_results_and_errors() -> None:
    def fail() -> None:
        raise ValueError("no")

    assert await apart("k", lambda: threading.current_thread().daemon) is True
    with pytest.raises(ValueError, match="no"):
        await apart("k", fail)
    assert not waiting._busy


async def test_apart_leaves_a_thread_that_hangs_behind_and_starts_no_second_one() -> None:
    gate, started = threading.Event(), []

    def hang() -> None:
        started.append(1)
        gate.wait()

    for _ in range(2):
        with pytest.raises(asyncio.TimeoutError):
            await apart("k", hang, 0.02)
    assert await apart("other", lambda: 1) == 1
    assert len(started) == 1
    later = asyncio.ensure_future(apart("k", lambda: 2))
    await asyncio.sleep(0)
    assert not later.done()
    gate.set()
    assert await later == 2
    assert not waiting._busy


async def test_apart_runs_work_with_one_key_one_after_the_other() -> None:
    at_once, most = 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        with lock:
            at_once -= 1

    await asyncio.gather(*(apart("k", work) for _ in range(20)))
    assert (at_once, most) == (0, 1)


async def test_apart_can_be_tried_again_when_no_thread_could_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            await apart("k", lambda: 1)
    assert await apart("k", lambda: 1) == 1


async def test_together_returns_results_in_order() -> None:
    assert await together(asyncio.sleep(0.01, "slow"), asyncio.sleep(0, "fast")) == ["slow", "fast"]
    assert await together() == []


async def test_together_ends_the_others_on_the_first_failure() -> None:
    ended = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await together(wait(), fail(), wait())
    assert ended == [True, True]


async def test_together_ends_all_when_its_caller_is_cancelled() -> None:
    ended = []

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    caller = asyncio.ensure_future(together(wait(), wait()))
    for _ in range(3):  # until both wait
        await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended == [True, True]


async def test_cancel_waits_for_all_and_drops_their_errors() -> None:
    async def fail_late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            raise ValueError("late")

    tasks = [asyncio.ensure_future(fail_late()), asyncio.ensure_future(asyncio.sleep(60))]
    await asyncio.sleep(0)
    await cancel(None, *tasks)
    assert [task.done() for task in tasks] == [True, True]
    await cancel()


def test_once_tells_each_state_of_each_subject_once() -> None:
    once = Once()
    assert [once.is_new("down"), once.is_new("down"), once.is_new("gone"), once.is_new("down")] == [
        True, False, True, True,
    ]  # fmt: skip
    assert [once.is_new("down", "other"), once.is_new(subject="third"), once.is_new(subject="third")] == [
        True, True, False,
    ]  # fmt: skip


def test_once_tells_again_after_a_clear() -> None:
    once = Once()
    assert once.is_new()
    assert once.clear()
    assert not once.clear(), "its end is news once"
    assert once.is_new()


def test_once_tells_the_same_again_after_a_while() -> None:
    now = [0.0]
    once = Once(60, lambda: now[0])
    answers = []
    for now[0] in (0.0, 59.9, 60.0, 119.9, 120.0):
        answers.append(once.is_new())
    assert answers == [True, False, True, False, True]
