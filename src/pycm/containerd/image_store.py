# SPDX-License-Identifier: Apache-2.0
"""containerd's records of images: named, listed, removed, and which of them running or stopped containers stand on."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask

from pycm.containerd import rpc
from pycm.containerd.image_format import Descriptor
from pycm.containerd.proto import images_pb2, introspection_pb2, snapshots_pb2, types_pb2
from pycm.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from pycm.containerd.client import Client

_PRELOADED = "pycm.preloaded"


@dataclass(frozen=True)
class Record:
    """An image as containerd knows it. `created_ns`: nanoseconds since 1970. `preloaded`: it came from the preload directory."""

    reference: str
    target: Descriptor
    created_ns: int
    preloaded: bool = False


class ImageStore:
    def __init__(self, client: Client) -> None:
        self._client = client

    async def get(self, reference: str) -> Record | None:
        if not reference.isprintable():  # lone surrogates too, which protobuf cannot send
            return None
        try:
            found = await self._client.call(rpc.IMAGE_GET, images_pb2.GetImageRequest(name=reference))
        except NotFoundError:
            return None
        return _record(found.image)

    async def all(self) -> tuple[Record, ...]:
        found = await self._client.call(rpc.IMAGE_LIST, images_pb2.ListImagesRequest())
        return tuple(_record(image) for image in found.images)

    async def put(self, reference: str, target: Descriptor, *, lease: str, preloaded: bool = False) -> None:
        """Name *target*; a name that is taken moves."""
        image = images_pb2.Image(
            name=reference,
            labels={_PRELOADED: "true"} if preloaded else {},
            target=types_pb2.Descriptor(media_type=target.media_type, digest=target.digest, size=target.size),
        )
        try:
            await self._client.call(rpc.IMAGE_CREATE, images_pb2.CreateImageRequest(image=image), lease=lease)
        except ConflictError:
            mask = FieldMask(paths=["target", *([f"labels.{_PRELOADED}"] if preloaded else [])])
            request = images_pb2.UpdateImageRequest(image=image, update_mask=mask)
            await self._client.call(rpc.IMAGE_UPDATE, request, lease=lease)

    async def remove(self, reference: str) -> None:
        """And wait until its room is free. NotFoundError if it is not there."""
        await self._client.call(rpc.IMAGE_DELETE, images_pb2.DeleteImageRequest(name=reference, sync=True))

    async def parents(self, snapshotter: str) -> dict[str, list[str]]:
        """Snapshots that containers write to, by the snapshot that they stand on. Layers on layers are not among them."""
        found: dict[str, list[str]] = {}
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=snapshotter)
        async with contextlib.aclosing(self._client.stream(rpc.SNAPSHOT_LIST, request)) as answers:
            async for answer in answers:
                for info in answer.info:
                    if info.kind != snapshots_pb2.COMMITTED and not info.name.startswith("extract-"):
                        found.setdefault(info.parent, []).append(info.name)
        return found

    async def roots(self, snapshotter: str) -> tuple[str, str]:
        """Directories of containerd's content and snapshots on this machine; "" where containerd does not tell."""
        filters = ["type==io.containerd.content.v1", f"type==io.containerd.snapshotter.v1,id=={snapshotter}"]
        answer = await self._client.call(rpc.PLUGINS, introspection_pb2.PluginsRequest(filters=filters))
        found = {plugin.type: plugin.exports.get("root", "") for plugin in answer.plugins}
        return found.get("io.containerd.content.v1", ""), found.get("io.containerd.snapshotter.v1", "")


def _record(image: images_pb2.Image) -> Record:
    target = Descriptor(image.target.digest, image.target.size, image.target.media_type)
    created = image.created_at.seconds * 1_000_000_000 + image.created_at.nanos
    return Record(image.name, target, created, _PRELOADED in image.labels)
