# SPDX-License-Identifier: Apache-2.0
"""The images' calls of `pycm.v1.Agent`: listed, pulled with news of how far it is, removed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from google.protobuf.empty_pb2 import Empty

from pycm.api.proto.pycm.v1 import agent_pb2 as m
from pycm.api.server.grpc import answering, receive, send
from pycm.api.server.operations import beside
from pycm.errors import InvalidInputError
from pycm.ports import PullStep

if TYPE_CHECKING:
    from grpclib.server import Stream

    from pycm.ports import ImageInfo, Images, PullProgress


class ImageCalls:
    def __init__(self, images: Images) -> None:
        self._images = images

    async def list(self, stream: Stream[Any, Any]) -> None:
        await receive(stream, m.ListImagesRequest)
        async with answering(stream):
            images = [_image(image) for image in await self._images.list()]
            await send(stream, m.ListImagesResponse(images=images))

    async def pull(self, stream: Stream[Any, Any]) -> None:
        """A client that goes away ends the pull, unless somebody else waits for it."""
        request = await receive(stream, m.PullImageRequest)
        reference = _named(request)
        news = _Latest()
        image = await beside(self._images.pull(reference, news.put), news.send_to(stream))
        await send(stream, m.PullImageResponse(step=PullStep.DONE.value, image=_image(image)))

    async def remove(self, stream: Stream[Any, Any]) -> None:
        request = await receive(stream, m.RemoveImageRequest)
        await self._images.remove(_named(request))
        await stream.send_message(Empty())

    async def prune(self, stream: Stream[Any, Any]) -> None:
        await receive(stream, m.PruneImagesRequest)
        await stream.send_message(m.PruneImagesResponse(references=await self._images.prune()))


class _Latest:
    """How far a pull is. A client that reads slowly misses steps; it does not hold the pull up, and nothing piles up for it."""

    def __init__(self) -> None:
        self._progress: PullProgress | None = None
        self._wake = asyncio.Event()

    def put(self, progress: PullProgress) -> None:
        self._progress = progress
        self._wake.set()

    async def send_to(self, stream: Stream[Any, Any]) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            now = self._progress
            if now is not None and now.step is not PullStep.DONE:
                await send(stream, m.PullImageResponse(step=now.step.value, done=now.done, total=now.total))


def _named(request: Any) -> str:
    if not request.reference:
        raise InvalidInputError("reference: the name of the image is missing")
    return str(request.reference)


def _image(image: ImageInfo) -> Any:
    return m.Image(
        reference=image.reference,
        digest=image.digest,
        size_bytes=image.size,
        created=image.created,
        container_ids=image.containers,
    )
