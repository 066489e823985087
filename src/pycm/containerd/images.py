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
from pycm.containerd.image_format import Config, Descriptor, Manifest, show_platform
from pycm.containerd.image_store import ImageStore
from pycm.containerd.proto import diff_pb2, leases_pb2, snapshots_pb2, types_pb2
from pycm.errors import ConflictError, NotFoundError, OperationFailedError, PycmError, shorten

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import Any

    from pycm.containerd.client import Client
    from pycm.ports import ImageConfig

_log = logging.getLogger("pycm.containerd")

#: An index may point to an index; containerd's tools never make more levels than this. Entries of an index without a platform that are
#: looked at for theirs; manifests, indexes and configurations that are read for one image.
INDEX_DEPTH, NAMELESS, DOCUMENTS = 3, 8, 32
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


@dataclass(frozen=True)
class Resolved:
    """`path`: the documents from the root to the manifest, each with the number of the entry that was chosen (-1: the manifest)."""

    manifest: Manifest
    config: Config
    path: tuple[tuple[Descriptor, bytes, int], ...]


class Resolver:
    """Finds what an index or manifest holds for *machine*, in at most DOCUMENTS documents. *nothing*: how the error begins if it is
    nothing. *document* and *config* read a document, the latter, *document* unless given, a configuration.
    """

    def __init__(
        self,
        nothing: str,
        machine: str,
        document: Callable[[Descriptor], Awaitable[bytes]],
        config: Callable[[Descriptor], Awaitable[bytes]] | None = None,
    ) -> None:
        self._nothing = nothing
        self._machine = machine
        self._document = document
        self._config = config or document
        self._left = DOCUMENTS

    async def resolve(self, root: Descriptor, data: bytes | None = None) -> Resolved:
        """*data*: the root's document, if it is at hand."""
        return await self._resolve(root, data, INDEX_DEPTH)

    async def _resolve(self, root: Descriptor, data: bytes | None, depth: int) -> Resolved:
        what = f"manifest {shorten(root.digest)[1:-1]}"
        if data is None:
            data = await self._read(self._document, root, what)
        found = image_format.index_or_manifest(image_format.parse(data, what), what)
        if isinstance(found, Manifest):
            config = await self._configuration(found.config, what)
            image_format.check_layers(found, config)
            return Resolved(found, config, ((root, data, -1),))
        if depth == 0:
            raise OperationFailedError(f"{what}: indexes are nested more than {INDEX_DEPTH} deep")
        number, below = await self._best(found, depth - 1)
        below = below or await self._resolve(found[number], None, depth - 1)
        return Resolved(below.manifest, below.config, ((root, data, number), *below.path))

    async def _configuration(self, descriptor: Descriptor, whose: str) -> Config:
        if descriptor.size > image_format.DOCUMENT_LIMIT:
            raise OperationFailedError(
                f"{whose} has a configuration of {descriptor.size} bytes, more than {image_format.DOCUMENT_LIMIT}"
            )
        what = f"configuration {descriptor.digest}"
        data = await self._read(self._config, descriptor, what)
        return image_format.config(image_format.parse(data, what), what)

    async def _read(
        self, read: Callable[[Descriptor], Awaitable[bytes]], descriptor: Descriptor, what: str
    ) -> bytes:
        if self._left == 0:
            raise OperationFailedError(f"{what}: more than {DOCUMENTS} documents to read for one image")
        self._left -= 1
        return await read(descriptor)

    async def _best(self, entries: Sequence[Descriptor], depth: int) -> tuple[int, Resolved | None]:
        """The number of the entry that fits the machine best, and what was found below it if that was looked at."""
        best: tuple[int, int, Resolved | None] | None = None
        nameless: set[str] = set()
        for number, entry in enumerate(entries):
            platform, below = entry.platform, None
            if platform is None and entry.digest not in nameless and len(nameless) < NAMELESS:
                nameless.add(entry.digest)
                below = await self._look(entry, depth)
                platform = below.config.platform if below else None
            rank = image_format.rank(platform, self._machine) if platform else None
            if rank is not None and (best is None or rank < best[0]):
                best = rank, number, below
        if best is None:
            offered = ", ".join(show_platform(entry.platform) for entry in entries[:10]) or "nothing"
            raise OperationFailedError(f"{self._nothing} for this machine ({self._machine}), only {offered}")
        return best[1], best[2]

    async def _look(self, entry: Descriptor, depth: int) -> Resolved | None:
        """Below an entry that names no platform. None if it is not here, or is no image (a signature, a list of contents)."""
        try:
            return await self._resolve(entry, None, depth)
        except (NotFoundError, OperationFailedError):
            if self._left == 0:
                raise
            return None


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
        found = await Resolver("no manifest in it is", self._machine, self._document).resolve(root)
        manifest, config = found.manifest, found.config
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

    async def config_of(self, digest: str) -> ImageConfig:
        """Of an image's configuration by its digest. NotFoundError if it is not here."""
        size = await self._content.size(digest)
        if size is None:
            raise NotFoundError(f"content {digest} is not here")
        what = f"configuration {digest}"
        data = await self._document(Descriptor(digest, size))
        return image_format.config(image_format.parse(data, what), what).image

    async def _document(self, descriptor: Descriptor) -> bytes:
        try:
            return await self._content.read(descriptor.digest, descriptor.size)
        except (NotFoundError, OperationFailedError) as error:
            raise DamagedError(descriptor.digest, str(error)) from None

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
