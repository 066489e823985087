# SPDX-License-Identifier: Apache-2.0
"""One pull, from the reference to an image that a container can be made from."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from typing import TYPE_CHECKING, Any

from pycm.containerd.client import Client
from pycm.containerd.content import Content, PullLease
from pycm.containerd.image_format import (
    Descriptor,
    choose_media_type,
    estimate_unpacked,
    is_digest,
    parse,
    verify,
)
from pycm.containerd.images import Images, ImageStore, sync_file_system
from pycm.errors import OperationFailedError, PycmError
from pycm.failpoints import fail_point
from pycm.ports import PullStep
from pycm.registry.fetch import Fetch
from pycm.registry.job import News, NoRoomError, parse_reference, quote
from pycm.registry.remote import RegistrySource, Repository

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from pycm.containerd.image_format import Manifest
    from pycm.registry.job import Job, Reference
    from pycm.registry.remote import Source
    from pycm.registry.worker import Reporter

#: Seconds between looks at the free space while a layer is unpacked.
WATCH = 0.05
_FULL = "no space left on device"


async def pull(job: Job, reporter: Reporter) -> News:
    reporter.say(PullStep.RESOLVING.value)
    reference = parse_reference(job.reference)
    client = Client(job.address, job.namespace)
    lease = PullLease(client, job.lease, hashlib.sha256(job.reference.encode()).hexdigest()[:32])
    try:
        await lease.take()
        work = Pull(job, client, lease, reporter, reference.text)
        try:
            fetched = await work.from_registry(reference)
        except NoRoomError:
            await lease.end(collect=True)
            raise
        except PycmError:
            with contextlib.suppress(PycmError):
                await lease.end_if_empty()
            raise
        await lease.end()
        return News(PullStep.DONE.value, fetched=fetched, images=(job.reference,))
    finally:
        client.close()


class Pull:
    """Of the image that is to be called *name*; what it brings is held by *lease*."""

    def __init__(self, job: Job, client: Client, lease: PullLease, reporter: Reporter, name: str) -> None:
        self._job = job
        self._name = name
        self._lease = lease
        self._reporter = reporter
        self._machine = job.machine or os.uname().machine
        self._content = Content(client, lease.id)
        self._store = ImageStore(client)
        self._images = Images(client, job.snapshotter, lease.id, self._machine)
        self._roots = ("", "")
        self._swollen: NoRoomError | None = None

    async def from_registry(self, reference: Reference) -> int:
        """Bytes that came over the network."""
        repository = Repository(reference, self._job.access)
        fetch = self._fetch(RegistrySource(repository))
        data, root = await fetch.patiently(
            lambda: asyncio.to_thread(_root, repository, reference), first=True
        )
        await self._bring(fetch, root, data)
        await self.name(reference.text, root)
        return fetch.fetched

    async def content_of(self, source: Source, root: Descriptor) -> None:
        """Bring what *root* of *source* names, unpacked; it has no name yet."""
        await self._bring(self._fetch(source), root, None)

    async def name(self, name: str, root: Descriptor, *, preloaded: bool = False) -> None:
        """From now on it is an image."""
        await self._store.put(name, root, lease=self._lease.id, preloaded=preloaded)
        fail_point("registry.named")

    def _fetch(self, source: Source) -> Fetch:
        step = PullStep.DOWNLOADING.value
        return Fetch(
            source,
            self._content,
            self._lease,
            self._machine,
            lambda done, total: self._reporter.say(step, done, total),
        )

    async def _bring(self, fetch: Fetch, root: Descriptor, data: bytes | None) -> None:
        self._roots = await self._store.roots(self._job.snapshotter)
        manifest = await fetch.manifest(root, data)
        fail_point("registry.resolved")
        try:
            await self._check_room(fetch, manifest)
            await fetch.layers(manifest.layers)
            fail_point("registry.fetched")
            await asyncio.to_thread(sync_file_system, self._roots[0])
            await self._unpack(root)
        except OperationFailedError as error:
            full = self._swollen or (error if isinstance(error, NoRoomError) else self._full(error, manifest))
            if full is None:
                raise
            await fetch.forget_begun(manifest.layers)
            raise full from None
        fail_point("registry.unpacked")

    async def _check_room(self, fetch: Fetch, manifest: Manifest) -> None:
        missing = await fetch.missing(manifest.layers)
        content, snapshots = self._roots
        needs = [
            (content, sum(layer.size for layer in missing)),
            (snapshots, sum(estimate_unpacked(layer) for layer in missing)),
        ]
        what = f"image {quote(self._name)}"
        try:
            check_room(what, needs, self._job.reserve)
        except NoRoomError:
            await self._content.collect()
            check_room(what, needs, self._job.reserve)

    async def _unpack(self, root: Descriptor) -> None:
        image = await self._images.read(self._name, root)
        step = PullStep.UNPACKING.value
        total = len(image.layers)
        self._reporter.say(step, 0, total)
        await self._images.unpack_leased(
            image,
            self._lease.id,
            layer_done=lambda done: self._reporter.say(step, done, total),
            guard=self._watch_room,
        )

    async def _watch_room(self, work: Awaitable[Any]) -> Any:
        """A layer may unpack to more than it looks like, out of malice even: it is given up before the disk is full."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=WATCH)
                left = used_up(self._roots[1], self._job.reserve // 2)
                if left and not task.done():
                    what = f"image {quote(self._name)} (a layer unpacks to more than was expected)"
                    self._swollen = NoRoomError(f"no room for {what}: only {left}", 0)
                    raise self._swollen
            return await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _full(self, error: OperationFailedError, manifest: Manifest) -> NoRoomError | None:
        """containerd says that its disk is full. Where there was room before, no removal of images is known to be enough."""
        if _FULL not in str(error):
            return None
        seen = free(self._roots[1]) is not None
        missing = 0 if seen else sum(estimate_unpacked(layer) for layer in manifest.layers)
        return NoRoomError(f"no room for image {quote(self._name)}: {error}", missing)


def _root(repository: Repository, reference: Reference) -> tuple[bytes, Descriptor]:
    """The document that the reference names, its digest checked against all that is known of it."""
    data, type_claimed, claimed = repository.manifest(reference.wanted)
    digest = reference.digest or "sha256:" + hashlib.sha256(data).hexdigest()
    for expected in {digest, claimed if is_digest(claimed) else digest}:
        try:
            verify(expected, data)
        except OperationFailedError:
            raise OperationFailedError(
                f"failed to resolve reference {quote(reference.text)}: registry {reference.host} sends something else than"
                f" {expected} under its name"
            ) from None
    document = parse(data, f"manifest {digest}")
    return data, Descriptor(digest, len(data), choose_media_type(document, type_claimed))


MB = 1_000_000
#: Of the files that a file system can have one part in as many stays free while a layer is unpacked, but no more than MOST_FILES.
FILES_PART, MOST_FILES = 16, 16_384


def free(directory: str) -> int | None:
    """Bytes that may still be written under *directory*; None if it cannot be seen from here."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def used_up(directory: str, reserve: int) -> str:
    """What the file system of *directory* is about to run out of: bytes, less than *reserve*, or files; "" if of nothing, or unseen."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return ""
    if (room := found.f_bavail * found.f_frsize) < reserve:
        return f"{_mb(room)} are free under {directory}"
    if found.f_favail < min(found.f_files // FILES_PART, MOST_FILES):
        return f"{found.f_favail} of {found.f_files} files are free under {directory}"
    return ""


def check_room(what: str, needs: Iterable[tuple[str, int]], reserve: int) -> None:
    """NoRoomError unless every (directory, bytes) of *needs* fits, what shares a file system added up, and *reserve* is left."""
    by_device: dict[int, tuple[str, int]] = {}
    for directory, size in needs:
        try:
            device = os.stat(directory).st_dev
        except OSError:
            continue  # containerd lives elsewhere: it will say itself when it is full
        first, sum_ = by_device.get(device, (directory, 0))
        by_device[device] = (first, sum_ + size)
    for directory, size in by_device.values():
        room = free(directory)
        if size and room is not None and room < size + reserve:
            raise no_room(what, directory, size, reserve, room)


def no_room(what: str, directory: str, size: int, reserve: int, room: int) -> NoRoomError:
    missing = size + reserve - room
    return NoRoomError(
        f"no room for {what}: it needs {_mb(size)} under {directory}, where {_mb(room)} are free and {_mb(reserve)} are kept as"
        f" a reserve: {_mb(missing)} are missing",
        missing,
    )


def _mb(size: int) -> str:
    return f"{size / MB:.1f} MB"
