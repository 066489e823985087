# SPDX-License-Identifier: Apache-2.0
"""The images' calls of pycm's own service: what is told while an image is pulled, statuses, and clients that go away."""

import asyncio
from typing import Any

import pytest
from google.protobuf.empty_pb2 import Empty
from grpclib.client import UnaryStreamMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from pycm.api.methods import AGENT
from pycm.api.proto.pycm.v1 import agent_pb2 as m
from pycm.errors import OperationFailedError
from pycm.ports import ImageInfo, PullProgress, PullStep
from support.api_world import WAIT, World, eventually

NAME = "registry.test/app:1"
DIGEST = "sha256:" + "1" * 64


async def pull(world: World, reference: str = NAME) -> list[Any]:
    call = UnaryStreamMethod(world.channel, AGENT + "PullImage", m.PullImageRequest, m.PullImageResponse)
    return await call(m.PullImageRequest(reference=reference), timeout=WAIT)


async def test_all_images_are_listed_with_what_uses_them(world: World) -> None:
    world.images.images[NAME] = ImageInfo(NAME, DIGEST, 42, "2026-01-02T03:04:05Z", ("c1", "c2"))
    answer = await world.call(AGENT + "ListImages", m.ListImagesRequest(), m.ListImagesResponse)
    expected = m.Image(
        reference=NAME,
        digest=DIGEST,
        size_bytes=42,
        created="2026-01-02T03:04:05Z",
        container_ids=["c1", "c2"],
    )
    assert list(answer.images) == [expected]


async def test_a_pull_tells_how_far_it_is_and_ends_with_the_image(world: World) -> None:
    world.images.steps = [
        PullProgress(NAME, PullStep.RESOLVING),
        PullProgress(NAME, PullStep.DOWNLOADING, 5, 10),
        PullProgress(NAME, PullStep.DONE),
    ]
    news = await pull(world)
    assert [one.step for one in news][-1] == "done"
    assert [(one.done, one.total) for one in news if one.step == "downloading"] in ([(5, 10)], [])
    assert news[-1].image.digest == DIGEST
    assert not any(one.image.digest for one in news[:-1])


async def test_a_pull_that_fails_has_the_status_of_its_error(world: World) -> None:
    world.images.fail = OperationFailedError("no room")
    with pytest.raises(GRPCError) as caught:
        await pull(world)
    assert (caught.value.status, caught.value.message) == (Status.ABORTED, "no room")


async def test_a_client_that_goes_away_gives_the_pull_up(world: World) -> None:
    given_up = asyncio.Event()
    begun = asyncio.Event()

    async def endless(_reference: str, _progress: Any) -> ImageInfo:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        raise AssertionError

    world.images.pull = endless  # type: ignore[method-assign]
    call = UnaryStreamMethod(world.channel, AGENT + "PullImage", m.PullImageRequest, m.PullImageResponse)
    async with call.open(timeout=WAIT) as stream:
        await stream.send_message(m.PullImageRequest(reference=NAME), end=True)
        await asyncio.wait_for(begun.wait(), WAIT)
        await stream.cancel()
    await eventually(given_up.is_set)


@pytest.mark.parametrize(
    ("method", "request_"), [("RemoveImage", m.RemoveImageRequest()), ("PullImage", m.PullImageRequest())]
)
async def test_a_reference_has_to_be_given(world: World, method: str, request_: Any) -> None:
    status, text = await world.failure(AGENT + method, request_)
    assert (status, text) == (Status.INVALID_ARGUMENT, "reference: the name of the image is missing")


async def test_images_are_removed_unless_they_are_in_use(world: World) -> None:
    world.images.images = {
        "a": ImageInfo("a", DIGEST, 1, "", ("c1",)),
        "b": ImageInfo("b", DIGEST, 1, ""),
        "c": ImageInfo("c", DIGEST, 1, ""),
    }
    await world.call(AGENT + "RemoveImage", m.RemoveImageRequest(reference="b"), Empty)
    assert await world.failure(AGENT + "RemoveImage", m.RemoveImageRequest(reference="b")) == (
        Status.NOT_FOUND,
        "there is no image b",
    )
    assert (await world.failure(AGENT + "RemoveImage", m.RemoveImageRequest(reference="a")))[
        0
    ] is Status.FAILED_PRECONDITION
    answer = await world.call(AGENT + "PruneImages", m.PruneImagesRequest(), m.PruneImagesResponse)
    assert list(answer.references) == ["c"]
    assert list(world.images.images) == ["a"]
