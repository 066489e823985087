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

from pycm.containerd import image_format, rpc
from pycm.containerd.content import Content
from pycm.containerd.durable import sync_file_system
from pycm.containerd.image_format import Descriptor, Manifest, show_platform
from pycm.containerd.image_store import ImageStore
from pycm.containerd.proto import diff_pb2, leases_pb2, snapshots_pb2, types_pb2
from pycm.errors import ConflictError, NotFoundError, OperationFailedError, PycmError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
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


class DamagedError(OperationFailedError):
    """The document *digest* is missing, or not as it should be."""

    def __init__(self, digest: str, text: str) -> None:
        super().__init__(text)
        self.digest = digest


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
        f"{start}not found in containerd's namespace {namespace}: fetch it with pycm pull, or import it with ctr"
    )


class Images:
    def __init__(self, client: Client, snapshotter: str, lease: str, machine: str = "") -> None:
        self._client = client
        self._snapshotter = snapshotter
        self._lease = lease
        self._machine = machine or os.uname().machine
        self._content = Content(client, lease)
        self._store = ImageStore(client)
        self._unpacking = asyncio.Lock()  # one at a time: more would only make slow flash slower
        self._root: str | None = None

    async def get(self, reference: str) -> Image:
        """Find the image and read its manifest and configuration. NotFoundError if there is none."""
        record = await self._store.get(reference)
        if record is None:
            raise unresolved(reference, self._client.namespace)
        try:
            return await self.read(reference, record.target)
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
                await self.unpack_leased(image, self._lease)
            finally:
                await self.forget_interrupted()

    async def unpack_leased(
        self,
        image: Image,
        lease: str,
        *,
        layer_done: Callable[[int], None] | None = None,
        guard: Callable[[Awaitable[Any]], Awaitable[Any]] | None = None,
    ) -> None:
        """The same under a lease of the caller's. *layer_done* hears the number of layers that are unpacked; *guard* awaits each
        call that fills the disk, and may give it up.
        """
        parent = ""
        for number, (layer, diff_id, name) in enumerate(
            zip(image.layers, image.diff_ids, image.chain, strict=True), 1
        ):
            try:
                if not await self.is_unpacked(name):
                    await self._unpack_layer(layer, diff_id, name, parent, lease, guard)
            except (NotFoundError, OperationFailedError) as error:
                where = f"layer {number} of {len(image.layers)} of image {quote(image.reference)}"
                raise OperationFailedError(
                    f"{where} cannot be unpacked: {error}; remove the image and import or pull it again"
                ) from None
            parent = name
            if layer_done is not None:
                layer_done(number)
        label = _GC_LABEL + self._snapshotter
        await self._content.label(image.config_digest, {label: image.top} if image.top else {})

    async def forget_interrupted(self) -> None:
        """Drop the lease on half-unpacked images; containerd removes them. Failing is harmless: the next one does it."""
        try:
            await self._client.call(rpc.LEASE_DELETE, leases_pb2.DeleteRequest(id=self._lease))
        except NotFoundError:
            pass
        except PycmError as error:
            _log.warning("lease %s stays for now: %s", self._lease, error)

    async def read(self, reference: str, root: Descriptor) -> Image:
        """What *root*, which need not have a name yet, is for this machine."""
        manifest = await self._manifest(root, INDEX_DEPTH)
        config = await self._config(manifest.config)
        if len(config.diff_ids) != len(manifest.layers):
            raise OperationFailedError(
                f"{len(manifest.layers)} layers in the manifest, {len(config.diff_ids)} diff_ids in the configuration"
            )
        chain = image_format.chain_ids(config.diff_ids)
        return Image(reference, config.image, manifest.config.digest, manifest.layers, config.diff_ids, chain)

    async def damaged(self, root: Descriptor) -> tuple[str, ...]:
        """Digests of content that an image from *root* needs and that is missing here, or is not as it should be.

        Of several documents that name each other the first; of layers those that are not unpacked and of another size.
        """
        try:
            image = await self.read("", root)
        except DamagedError as error:
            return (error.digest,)
        except (NotFoundError, OperationFailedError):
            return ()  # whole, and of no use
        if await self.is_unpacked(image.top):
            return ()
        whole = [await self._content.reaches(layer.digest, layer.size) for layer in image.layers]
        return tuple(layer.digest for layer, here in zip(image.layers, whole, strict=True) if not here)

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

    async def config_of(self, digest: str) -> ImageConfig:
        """Of an image's configuration by its digest. NotFoundError if it is not here."""
        size = await self._content.size(digest)
        if size is None:
            raise NotFoundError(f"content {digest} is not here")
        return (await self._config(Descriptor(digest, size))).image

    async def _config(self, descriptor: Descriptor) -> image_format.Config:
        what = f"configuration {descriptor.digest}"
        return image_format.config(await self._document(descriptor, what), what)

    async def _document(self, descriptor: Descriptor, what: str) -> Mapping[str, Any]:
        try:
            data = await self._content.read(descriptor.digest, descriptor.size)
        except (NotFoundError, OperationFailedError) as error:
            raise DamagedError(descriptor.digest, str(error)) from None
        return image_format.parse(data, what)

    async def is_unpacked(self, name: str) -> bool:
        request = snapshots_pb2.StatSnapshotRequest(snapshotter=self._snapshotter, key=name)
        try:
            await self._client.call(rpc.SNAPSHOT_STAT, request)
        except NotFoundError:
            return False
        return True

    async def _unpack_layer(
        self,
        layer: Descriptor,
        diff_id: str,
        name: str,
        parent: str,
        lease: str,
        guard: Callable[[Awaitable[Any]], Awaitable[Any]] | None,
    ) -> None:
        """Unpack into a snapshot of a name nobody else uses, then give it its right name, if nobody else was faster."""
        key = f"extract-{os.urandom(8).hex()} {name}"
        prepare = snapshots_pb2.PrepareSnapshotRequest(snapshotter=self._snapshotter, key=key, parent=parent)
        mounts = (await self._client.call(rpc.SNAPSHOT_PREPARE, prepare, lease=lease)).mounts
        commit = snapshots_pb2.CommitSnapshotRequest(snapshotter=self._snapshotter, name=name, key=key)
        try:
            applying = self._client.call(rpc.DIFF_APPLY, _apply(layer, mounts), lease=lease)
            applied = await (guard(applying) if guard else applying)
            if applied.applied.digest != diff_id:
                raise OperationFailedError(f"it unpacks to {applied.applied.digest}, not to {diff_id}")
            await self._sync()
            await self._client.call(rpc.SNAPSHOT_COMMIT, commit, lease=lease)
        except ConflictError:
            await self._discard(key)
        except BaseException:
            await self._discard(key)
            raise

    async def _sync(self) -> None:
        """A power cut must not find a layer that is recorded as unpacked, with files that are still empty."""
        if self._root is None:
            self._root = (await self._store.roots(self._snapshotter))[1]
        await asyncio.to_thread(sync_file_system, self._root)

    async def _discard(self, key: str) -> None:
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=self._snapshotter, key=key)
        try:
            await self._client.call(rpc.SNAPSHOT_REMOVE, request)
        except NotFoundError:
            pass
        except PycmError as error:
            _log.warning("half-made snapshot %s is left to containerd's garbage collection: %s", key, error)


def _apply(layer: Descriptor, mounts: Any) -> diff_pb2.ApplyRequest:
    descriptor = types_pb2.Descriptor(
        media_type=image_format.layer_type(layer.media_type),
        digest=layer.digest,
        size=layer.size,
        annotations=layer.annotations,
    )
    return diff_pb2.ApplyRequest(diff=descriptor, mounts=mounts)
