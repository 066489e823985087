# SPDX-License-Identifier: Apache-2.0
"""Calls that fail: expected failures, bugs, bad ids, clients that give up, and too many at once."""

import asyncio
import contextlib

import pytest
from grpclib.const import Status

from pycm.api.proto.api.services.containers import containers_pb2 as m
from pycm.errors import ConflictError, NotFoundError, OperationFailedError
from support.api_world import WAIT, World, running


@pytest.mark.parametrize(
    "error", [ConflictError("texte ä\nzwei"), NotFoundError("x"), OperationFailedError("100 %")]
)
async def test_every_expected_failure_is_unknown_with_its_text(world: World, error: Exception) -> None:
    world.containers.error = error
    assert await world.failure("Start", m.StartContainerRequest(id="a")) == (Status.UNKNOWN, str(error))


async def test_a_bug_is_internal_in_one_line_and_stands_in_the_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.containers.error = ZeroDivisionError("secret inside")
    status, text = await world.failure("Start", m.StartContainerRequest(id="a"))
    assert (status, text) == (
        Status.INTERNAL,
        "internal error in Start: ZeroDivisionError; see the agent's log",
    )
    assert "a bug in the call Start" in caplog.text
    world.containers.error = None
    await world.is_well()


@pytest.mark.parametrize("identifier", ["../x", "", "a/b", "a\0b", "x" * 77, "-a", "a\nb"])
@pytest.mark.parametrize(
    "method", ["Start", "Stop", "Restart", "Pause", "Unpause", "Rename", "Update", "Remove"]
)
async def test_an_id_that_could_leave_a_directory_never_reaches_the_manager(
    world: World, method: str, identifier: str
) -> None:
    request = getattr(m, f"{method}ContainerRequest")(id=identifier)
    status, text = await world.failure(method, request)
    assert status is Status.UNKNOWN
    assert str(text).startswith("invalid container id format : ")
    assert "\n" not in str(text)
    assert world.containers.asked == []


async def test_a_client_that_gives_up_ends_its_call(world: World) -> None:
    timeout = 0.05
    while not world.containers.waiting.is_set():  # a client that is too slow gives up before its call is sent
        with pytest.raises(asyncio.TimeoutError):
            await world.call("Start", m.StartContainerRequest(id="slow"), timeout=timeout)
        timeout *= 2
    await asyncio.wait_for(world.containers.cancelled.wait(), WAIT)
    await world.is_well()


async def test_a_client_killed_in_the_middle_ends_its_call(world: World) -> None:
    doomed = World(world.path)
    task = asyncio.ensure_future(doomed.call("Start", m.StartContainerRequest(id="slow")))
    await asyncio.wait_for(world.containers.waiting.wait(), WAIT)
    doomed.channel.close()
    with contextlib.suppress(Exception):
        await task
    await asyncio.wait_for(world.containers.cancelled.wait(), WAIT)
    await world.is_well()


async def test_a_thousand_calls_at_once_are_all_answered(world: World) -> None:
    world.containers.present = {str(i): running(str(i)) for i in range(10)}
    channels = [World(world.path) for _ in range(10)]
    calls = [
        other.call("List", m.ListContainersRequest(), m.ListContainersResponse)
        for other in channels
        for _ in range(100)
    ]
    answers = await asyncio.wait_for(asyncio.gather(*calls), 60)
    assert {len(answer.containers) for answer in answers} == {10}
    for other in channels:
        other.channel.close()
