# SPDX-License-Identifier: Apache-2.0
"""Images of one containerd namespace: their records, read for this machine's platform, and unpacked into snapshots.

pycm unpacks as containerd's own client does, so that it shares images with `ctr` and with Kanto: one snapshot for each
layer, named by chain id. A label on the image's configuration makes containerd's garbage collector keep the top
snapshot, and with it all below. Until the label is set, a lease keeps them. `forget_interrupted` drops the lease that a
crash left, and containerd then removes the half-made snapshots.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.field_mask_pb2 import FieldMask

from pycm.containerd import image_format, rpc
from pycm.containerd.content import Content
from pycm.containerd.image_format import Descriptor, Resolver, quote
from pycm.containerd.proto import (
    diff_pb2,
    images_pb2,
    introspection_pb2,
    leases_pb2,
    snapshots_pb2,
    types_pb2,
)
from pycm.errors import ConflictError, NotFoundError, OperationFailedError, PycmError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pycm.containerd.client import Client
    from pycm.ports import ImageConfig

_log = logging.getLogger("pycm.containerd")

_PRELOADED = "pycm.preloaded"
_KEEP_SNAPSHOT = "containerd.io/gc.ref.snapshot."


class Record(NamedTuple):
    """An image as containerd records it.

    `created_ns`: nanoseconds since 1970. `preloaded`: imported from the preload directory.
    """

    reference: str
    target: Descriptor
    created_ns: int
    preloaded: bool = False


class Image(NamedTuple):
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
    """Content of an image is missing or damaged on this machine; `digests` names it."""

    def __init__(self, text: str, *digests: str) -> None:
        super().__init__(text)
        self.digests = digests


def unusable(reference: str, error: PycmError) -> OperationFailedError:
    return OperationFailedError(
        f"image {quote(reference)} cannot be used: {error}", hint="Remove the image and import it again."
    )


def _unresolved(reference: str, namespace: str) -> NotFoundError:
    start = f"failed to resolve reference {quote(reference)}: "  # compat
    _, _, path = reference.partition("/")
    if not (":" in path or "@" in path):
        return NotFoundError(f"{start}object required")  # compat
    return NotFoundError(
        f"{start}not found in containerd's namespace {namespace}",
        hint="Fetch the image with pycm pull, or import it with ctr.",
    )


class ImageStore:
    """The records that give images their names."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def get(self, reference: str) -> Record | None:
        if not reference.isprintable():  # also half surrogates, which protobuf cannot send
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
        """Name *target*; an existing name moves to it."""
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
        """Remove the record and wait until containerd has freed the space. NotFoundError if it does not exist."""
        await self._client.call(rpc.IMAGE_DELETE, images_pb2.DeleteImageRequest(name=reference, sync=True))

    async def parents(self, snapshotter: str) -> dict[str, list[str]]:
        """Return the containers' writable snapshots by the snapshot that each is based on."""
        found: dict[str, list[str]] = {}
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=snapshotter)
        async with contextlib.aclosing(self._client.stream(rpc.SNAPSHOT_LIST, request)) as answers:
            async for answer in answers:
                for info in answer.info:
                    if info.kind != snapshots_pb2.COMMITTED and not info.name.startswith("extract-"):
                        found.setdefault(info.parent, []).append(info.name)
        return found

    async def roots(self, snapshotter: str) -> tuple[str, str]:
        """Return the directories of containerd's content and snapshots on this machine; "" where containerd does not
        say.
        """
        filters = ["type==io.containerd.content.v1", f"type==io.containerd.snapshotter.v1,id=={snapshotter}"]
        answer = await self._client.call(rpc.PLUGINS, introspection_pb2.PluginsRequest(filters=filters))
        found = {plugin.type: plugin.exports.get("root", "") for plugin in answer.plugins}
        return found.get("io.containerd.content.v1", ""), found.get("io.containerd.snapshotter.v1", "")


def _record(image: images_pb2.Image) -> Record:
    target = Descriptor(image.target.digest, image.target.size, image.target.media_type)
    created = image.created_at.seconds * 1_000_000_000 + image.created_at.nanos
    return Record(image.name, target, created, _PRELOADED in image.labels)


class Images:
    def __init__(self, client: Client, snapshotter: str, lease: str, machine: str = "") -> None:
        self._client = client
        self._snapshotter = snapshotter
        self._lease = lease
        self._machine = machine or os.uname().machine
        self._content = Content(client, lease)
        self._store = ImageStore(client)
        self._unpacking = asyncio.Lock()  # one at a time: more would only slow down slow flash
        self._root: str | None = None

    async def get(self, reference: str) -> Image:
        """Find the image and read its manifest and configuration. NotFoundError if it does not exist."""
        record = await self._store.get(reference)
        if record is None:
            raise _unresolved(reference, self._client.namespace)
        try:
            return await self.read(reference, record.target)
        except OperationFailedError as error:
            raise unusable(reference, error) from None

    async def read(self, reference: str, root: Descriptor) -> Image:
        """Read what *root*, which need not have a name yet, holds for this machine. DamagedError for its content."""
        found = await Resolver("no manifest in it is", self._machine, self._document).resolve(root)
        manifest, config = found.manifest, found.config
        chain = image_format.make_chain_ids(config.diff_ids)
        return Image(reference, config.image, manifest.config.digest, manifest.layers, config.diff_ids, chain)

    async def check(self, record: Record) -> Image:
        """Read the image and make sure that its layers are unpacked, or all here. DamagedError names what is not."""
        image = await self.read(record.reference, record.target)
        if await self.is_unpacked(image.top):
            return image
        whole = [await self._content.reaches(layer.digest, layer.size) for layer in image.layers]
        damaged = [layer.digest for layer, here in zip(image.layers, whole, strict=True) if not here]
        if damaged:
            raise DamagedError("layers are missing or have another size", *damaged)
        return image

    async def read_config(self, digest: str) -> ImageConfig:
        """Read an image's configuration by its digest. NotFoundError if it is not here."""
        size = await self._content.size(digest)
        if size is None:
            raise NotFoundError(f"content {digest} is not here")
        what = f"configuration {digest}"
        data = await self._document(Descriptor(digest, size))
        return image_format.read_config(image_format.parse(data, what), what).image

    async def _document(self, descriptor: Descriptor) -> bytes:
        try:
            return await self._content.read(descriptor.digest, descriptor.size)
        except (NotFoundError, OperationFailedError) as error:
            raise DamagedError(str(error), descriptor.digest) from None

    # ── unpacking ──

    async def unpack(self, image: Image) -> None:
        """Make the snapshots of the image's layers; existing ones are kept."""
        async with self._unpacking:
            request = leases_pb2.CreateRequest(id=self._lease)
            with contextlib.suppress(ConflictError):
                await self._client.call(rpc.LEASE_CREATE, request)
            try:
                await self.unpack_leased(image, self._lease)
            finally:
                await self._drop_lease()

    async def unpack_leased(
        self,
        image: Image,
        lease: str,
        *,
        layer_done: Callable[[int], None] | None = None,
        guard: Callable[[Awaitable[Any]], Awaitable[Any]] | None = None,
    ) -> None:
        """Do the same under a lease of the caller's.

        *layer_done* is called with the number of unpacked layers. *guard* awaits each call that fills the disk, and may
        abort it.
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
                    f"{where} cannot be unpacked: {error}",
                    hint="Remove the image and import or pull it again.",
                ) from None
            parent = name
            if layer_done is not None:
                layer_done(number)
        if image.top:
            await self._content.label(image.config_digest, {_KEEP_SNAPSHOT + self._snapshotter: image.top})

    async def forget_interrupted(self) -> None:
        """Drop the lease on what a crash left half unpacked; containerd then removes it."""
        if not self._unpacking.locked():
            await self._drop_lease()

    async def _drop_lease(self) -> None:
        try:
            await self._client.call(rpc.LEASE_DELETE, leases_pb2.DeleteRequest(id=self._lease))
        except NotFoundError:
            pass
        except PycmError as error:
            _log.warning(
                "lease %s: cannot be deleted: %s (the next unpacking deletes it)", self._lease, error
            )

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
        """Unpack into a snapshot with a unique name, then rename it, unless another client was faster."""
        key = f"extract-{os.urandom(8).hex()} {name}"
        prepare = snapshots_pb2.PrepareSnapshotRequest(snapshotter=self._snapshotter, key=key, parent=parent)
        mounts = (await self._client.call(rpc.SNAPSHOT_PREPARE, prepare, lease=lease)).mounts
        commit = snapshots_pb2.CommitSnapshotRequest(snapshotter=self._snapshotter, name=name, key=key)
        try:
            applying = self._client.call(rpc.DIFF_APPLY, _apply_request(layer, mounts), lease=lease)
            applied = await (guard(applying) if guard else applying)
            if applied.applied.digest != diff_id:
                raise OperationFailedError(f"it unpacks to {applied.applied.digest}, expected {diff_id}")
            await self._sync()
            await self._client.call(rpc.SNAPSHOT_COMMIT, commit, lease=lease)
        except ConflictError:
            await self._discard(key)
        except BaseException:
            await self._discard(key)
            raise

    async def _sync(self) -> None:
        """Without this, a power cut could leave a layer that is recorded as unpacked, with empty files."""
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
            _log.warning(
                "snapshot %s: cannot be removed: %s (containerd's garbage collection removes it)", key, error
            )


def _apply_request(layer: Descriptor, mounts: Any) -> diff_pb2.ApplyRequest:
    descriptor = types_pb2.Descriptor(
        media_type=image_format.make_layer_type(layer.media_type),
        digest=layer.digest,
        size=layer.size,
        annotations=layer.annotations,
    )
    return diff_pb2.ApplyRequest(diff=descriptor, mounts=mounts)


def sync_file_system(directory: str) -> None:
    """Wait until everything written to the file system of *directory* is on the disk; without *directory*, to all file
    systems.

    containerd 1.6 syncs its own record of an unpacked layer, but not the layer's files: after a power cut they would be
    empty. Blocks as long as the disk needs: for a worker thread.
    """
    if not directory:
        os.sync()
        return
    import ctypes  # half a MiB, only for unpacking

    libc = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # containerd runs in another mount namespace
        os.sync()
        return
    try:
        if libc.syncfs(descriptor) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise OperationFailedError(f"cannot sync the file system of {directory}: {reason}")
    finally:
        os.close(descriptor)
