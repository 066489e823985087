# SPDX-License-Identifier: Apache-2.0
"""Waiting with a limit: results, errors and time-outs, and a cancellation that is never lost."""

from __future__ import annotations

import asyncio

import pytest

from pycm.waiting import within


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
