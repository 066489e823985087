# SPDX-License-Identifier: Apache-2.0
"""Images of one containerd namespace: found by reference, read for this machine's platform, unpacked into snapshots.

Unpacking works as containerd's own client does it, so that images are shared with `ctr` and with Kanto: one snapshot for each layer,
named by chain id, and on the image's configuration the label by which containerd's garbage collector keeps the topmost one (and
with it all below). Until the label stands, a lease keeps what was made; a lease that a crash left behind is dropped at the next
`forget_interrupted`, and the half-made snapshots with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask

from pycm.containerd import image_format, rpc
from pycm.containerd.image_format import Descriptor, Manifest, show_platform
from pycm.containerd.proto import content_pb2, diff_pb2, images_pb2, leases_pb2, snapshots_pb2, types_pb2
from pycm.errors import ConflictError, NotFoundError, OperationFailedError, PycmError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pycm.containerd.client import Client
    from pycm.ports import ImageConfig

_log = logging.getLogger("pycm.containerd")

#: An index may point to an index; containerd's tools never make more levels than this.
INDEX_DEPTH = 3
REFERENCE_LIMIT = 200  # characters of a reference in a message
_GC_LABEL = "containerd.io/gc.ref.snapshot."


@dataclass(frozen=True)
class Image:
    """An image as this machine would run it. `chain`: names of its layers' snapshots, bottom first."""

    reference: str
    config: ImageConfig
    config_digest: str
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]
    chain: tuple[str, ...]

    @property
    def top(self) -> str:
        return self.chain[-1] if self.chain else ""


def quote(reference: str) -> str:
    """A reference as messages show it: in double quotes, escaped, shortened."""
    text = json.dumps(reference)
    return text if len(text) <= REFERENCE_LIMIT else text[: REFERENCE_LIMIT - 2] + '…"'


def unresolved(reference: str, namespace: str) -> NotFoundError:
    """Why there is no such image. The first words, and the whole text for a name without tag and digest, are Kanto's."""
    start = f"failed to resolve reference {quote(reference)}: "
    _, _, path = reference.partition("/")
    if not (":" in path or "@" in path):
        return NotFoundError(f"{start}object required")
    return NotFoundError(
        f'{start}not found in containerd\'s namespace {namespace}: import it with "ctr -n {namespace} images import FILE"'
    )


class Images:
    def __init__(self, client: Client, snapshotter: str, lease: str, machine: str = "") -> None:
        self._client = client
        self._snapshotter = snapshotter
        self._lease = lease
        self._machine = machine or os.uname().machine
        self._unpacking = asyncio.Lock()  # one at a time: more would only make slow flash slower

    async def get(self, reference: str) -> Image:
        """Find the image and read its manifest and configuration. NotFoundError if there is none."""
        target = await self._target(reference)
        root = Descriptor(target.digest, target.size, target.media_type)
        try:
            return await self._read_image(reference, root)
        except (NotFoundError, OperationFailedError) as error:
            raise OperationFailedError(
                f"image {quote(reference)} cannot be used: {error}; remove it and import it again"
            ) from None

    async def unpack(self, image: Image) -> None:
        """Make the snapshots of the image's layers; those that exist already are kept."""
        async with self._unpacking:
            request = leases_pb2.CreateRequest(id=self._lease)
            with contextlib.suppress(ConflictError):
                await self._client.call(rpc.LEASE_CREATE, request)
            try:
                await self._unpack_layers(image)
                await self._label(image)
            finally:
                await self.forget_interrupted()

    async def forget_interrupted(self) -> None:
        """Drop the lease on half-unpacked images; containerd removes them. Failing is harmless: the next one does it."""
        try:
            await self._client.call(rpc.LEASE_DELETE, leases_pb2.DeleteRequest(id=self._lease))
        except NotFoundError:
            pass
        except PycmError as error:
            _log.warning("lease %s stays for now: %s", self._lease, error)

    async def _target(self, reference: str) -> types_pb2.Descriptor:
        if not reference.isprintable():  # lone surrogates too, which protobuf cannot send
            raise unresolved(reference, self._client.namespace)
        try:
            found = await self._client.call(rpc.IMAGE_GET, images_pb2.GetImageRequest(name=reference))
        except NotFoundError:
            raise unresolved(reference, self._client.namespace) from None
        return found.image.target

    async def _read_image(self, reference: str, root: Descriptor) -> Image:
        manifest = await self._manifest(root, INDEX_DEPTH)
        config = await self._config(manifest.config)
        if len(config.diff_ids) != len(manifest.layers):
            raise OperationFailedError(
                f"{len(manifest.layers)} layers in the manifest, {len(config.diff_ids)} diff_ids in the configuration"
            )
        chain = image_format.chain_ids(config.diff_ids)
        return Image(reference, config.image, manifest.config.digest, manifest.layers, config.diff_ids, chain)

    async def _manifest(self, descriptor: Descriptor, depth: int) -> Manifest:
        """The manifest that *descriptor* names or, of an index, the one that fits this machine best."""
        what = f"manifest {descriptor.digest}"
        found = image_format.index_or_manifest(await self._document(descriptor, what), what)
        if isinstance(found, Manifest):
            return found
        if depth == 0:
            raise OperationFailedError(f"indexes are nested more than {INDEX_DEPTH} deep")
        fitting = []
        for entry in found:
            platform = entry.platform or await self._platform(entry, depth - 1)
            rank = image_format.rank(platform, self._machine) if platform else None
            if rank is not None:
                fitting.append((rank, entry))
        if not fitting:
            offered = ", ".join(show_platform(entry.platform) for entry in found[:10]) or "nothing"
            raise OperationFailedError(
                f"no manifest in it is for this machine ({self._machine}), only {offered}"
            )
        return await self._manifest(min(fitting, key=lambda item: item[0])[1], depth - 1)

    async def _platform(self, entry: Descriptor, depth: int) -> tuple[str, str, str] | None:
        """The platform of an index entry that names none: its configuration's. None if it is not here."""
        try:
            return (await self._config((await self._manifest(entry, depth)).config)).platform
        except (NotFoundError, OperationFailedError):
            return None  # another platform's, left out at import; or no image at all

    async def _config(self, descriptor: Descriptor) -> image_format.Config:
        what = f"configuration {descriptor.digest}"
        return image_format.config(await self._document(descriptor, what), what)

    async def _document(self, descriptor: Descriptor, what: str) -> Mapping[str, Any]:
        if descriptor.size > image_format.DOCUMENT_LIMIT:
            raise OperationFailedError(
                f"{what} has {descriptor.size} bytes, more than {image_format.DOCUMENT_LIMIT}"
            )
        request = content_pb2.ReadContentRequest(digest=descriptor.digest, size=descriptor.size)
        async with contextlib.aclosing(self._client.stream(rpc.CONTENT_READ, request)) as answers:
            data = b"".join([answer.data async for answer in answers])
        image_format.verify(descriptor.digest, data)
        return image_format.parse(data, what)

    async def _unpack_layers(self, image: Image) -> None:
        parent = ""
        for number, (layer, diff_id, name) in enumerate(
            zip(image.layers, image.diff_ids, image.chain, strict=True), 1
        ):
            try:
                if not await self._exists(name):
                    await self._unpack_layer(layer, diff_id, name, parent)
            except (NotFoundError, OperationFailedError) as error:
                where = f"layer {number} of {len(image.layers)} of image {quote(image.reference)}"
                raise OperationFailedError(
                    f"{where} cannot be unpacked: {error}; remove the image and import it again"
                ) from None
            parent = name

    async def _exists(self, name: str) -> bool:
        request = snapshots_pb2.StatSnapshotRequest(snapshotter=self._snapshotter, key=name)
        try:
            await self._client.call(rpc.SNAPSHOT_STAT, request)
        except NotFoundError:
            return False
        return True

    async def _unpack_layer(self, layer: Descriptor, diff_id: str, name: str, parent: str) -> None:
        """Unpack into a snapshot of a name nobody else uses, then give it its right name, if nobody else was faster."""
        key = f"extract-{os.urandom(8).hex()} {name}"
        prepare = snapshots_pb2.PrepareSnapshotRequest(snapshotter=self._snapshotter, key=key, parent=parent)
        mounts = (await self._client.call(rpc.SNAPSHOT_PREPARE, prepare, lease=self._lease)).mounts
        commit = snapshots_pb2.CommitSnapshotRequest(snapshotter=self._snapshotter, name=name, key=key)
        try:
            applied = await self._client.call(rpc.DIFF_APPLY, _apply(layer, mounts), lease=self._lease)
            if applied.applied.digest != diff_id:
                raise OperationFailedError(f"it unpacks to {applied.applied.digest}, not to {diff_id}")
            await self._client.call(rpc.SNAPSHOT_COMMIT, commit, lease=self._lease)
        except ConflictError:
            await self._discard(key)
        except BaseException:
            await self._discard(key)
            raise

    async def _discard(self, key: str) -> None:
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=self._snapshotter, key=key)
        try:
            await self._client.call(rpc.SNAPSHOT_REMOVE, request, lease=self._lease)
        except NotFoundError:
            pass
        except PycmError as error:
            _log.warning("half-made snapshot %s is left to containerd's garbage collection: %s", key, error)

    async def _label(self, image: Image) -> None:
        label = _GC_LABEL + self._snapshotter
        info = content_pb2.Info(digest=image.config_digest, labels={label: image.top})
        request = content_pb2.UpdateRequest(info=info, update_mask=FieldMask(paths=[f"labels.{label}"]))
        await self._client.call(rpc.CONTENT_UPDATE, request)


def _apply(layer: Descriptor, mounts: Any) -> diff_pb2.ApplyRequest:
    descriptor = types_pb2.Descriptor(
        media_type=layer.media_type, digest=layer.digest, size=layer.size, annotations=layer.annotations
    )
    return diff_pb2.ApplyRequest(diff=descriptor, mounts=mounts)
