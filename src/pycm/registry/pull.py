# SPDX-License-Identifier: Apache-2.0
"""One pull, from the reference to an image from which a container can be made, and the space that it needs."""

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
    quote,
    verify,
)
from pycm.containerd.images import Images, ImageStore, sync_file_system
from pycm.errors import OperationFailedError, PycmError
from pycm.failpoints import fail_point
from pycm.http.rules import resume
from pycm.ports import PullStep
from pycm.registry.fetch import Fetch
from pycm.registry.job import News, NoRoomError, parse_reference
from pycm.registry.remote import RegistrySource, Repository
from pycm.waiting import cancel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from pycm.containerd.image_format import Manifest
    from pycm.registry.job import Job, Reference
    from pycm.registry.remote import Source
    from pycm.registry.worker import Reporter

#: Attempts to reach a server that has not answered at all.
UNREACHED = 3
#: Seconds between looks at the free space while a layer is unpacked.
WATCH = 0.05
MB = 1_000_000
#: One part in FILES_PART of a file system's files stays free while a layer is unpacked, up to MOST_FILES.
FILES_PART, MOST_FILES = 16, 16_384
_FULL = "no space left on device"


async def pull(job: Job, reporter: Reporter) -> News:
    reporter.report(PullStep.RESOLVING.value)
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
    """A pull of the image that will be called *name*. *lease* holds what it brings."""

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
        """Return the bytes that came over the network."""
        repository = Repository(reference, self._job.access)
        fetch = self._fetch(RegistrySource(repository))
        data, root = await resume(
            lambda: asyncio.to_thread(_fetch_root, repository, reference), unreached=UNREACHED
        )
        await self._bring(fetch, root, data)
        await self.name(reference.text, root)
        return fetch.fetched

    async def content_of(self, source: Source, root: Descriptor) -> None:
        """Fetch and unpack what *root* names in *source*; it gets no name yet."""
        await self._bring(self._fetch(source), root, None)

    async def name(self, name: str, root: Descriptor, *, preloaded: bool = False) -> None:
        """Make it an image."""
        await self._store.put(name, root, lease=self._lease.id, preloaded=preloaded)
        fail_point("registry.named")

    def _fetch(self, source: Source) -> Fetch:
        step = PullStep.DOWNLOADING.value
        return Fetch(
            source,
            self._content,
            self._lease,
            self._machine,
            lambda done, total: self._reporter.report(step, done, total),
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
            await fetch.discard_begun(manifest.layers)
            raise full from None
        fail_point("registry.unpacked")

    async def _check_room(self, fetch: Fetch, manifest: Manifest) -> None:
        missing = await fetch.missing(manifest.layers)
        content, snapshots = self._roots
        needs = [
            (content, sum(layer.size for layer in missing)),
            (snapshots, sum(map(estimate_unpacked, missing))),
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
        self._reporter.report(step, 0, total)
        await self._images.unpack_leased(
            image,
            self._lease.id,
            layer_done=lambda done: self._reporter.report(step, done, total),
            guard=self._watch_room,
        )

    async def _watch_room(self, work: Awaitable[Any]) -> Any:
        """Abort *work* before the disk is full: a layer may unpack to much more than estimated, even on purpose."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=WATCH)
                left = find_shortage(self._roots[1], self._job.reserve // 2)
                if left and not task.done():
                    what = f"image {quote(self._name)} (a layer unpacks to more than estimated)"
                    self._swollen = NoRoomError(f"no space for {what}: only {left}", 0)
                    raise self._swollen
            return await task
        finally:
            await cancel(task)

    def _full(self, error: OperationFailedError, manifest: Manifest) -> NoRoomError | None:
        """Translate containerd's error for a full disk.

        If there was space before, removing images may not be enough.
        """
        if _FULL not in str(error):
            return None
        seen = free_space(self._roots[1]) is not None
        missing = 0 if seen else sum(map(estimate_unpacked, manifest.layers))
        return NoRoomError(f"no space for image {quote(self._name)}: {error}", missing)


def _fetch_root(repository: Repository, reference: Reference) -> tuple[bytes, Descriptor]:
    """Return the document that the reference names, verified against every digest that is known."""
    data, type_claimed, claimed = repository.manifest(reference.wanted)
    digest = reference.digest or "sha256:" + hashlib.sha256(data).hexdigest()
    for expected in {digest, claimed if is_digest(claimed) else digest}:
        try:
            verify(expected, data)
        except OperationFailedError:
            raise OperationFailedError(
                f"failed to resolve reference {quote(reference.text)}: registry {reference.host} has other content"
                f" under the digest {expected}"
            ) from None
    document = parse(data, f"manifest {digest}")
    return data, Descriptor(digest, len(data), choose_media_type(document, type_claimed))


# ── space ──


def free_space(directory: str) -> int | None:
    """Return the bytes that may still be written under *directory*; None if it is not visible from here."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def find_shortage(directory: str, reserve: int) -> str:
    """Describe a shortage in the file system of *directory*: fewer bytes than *reserve*, or few files; "" for none."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return ""
    if (room := found.f_bavail * found.f_frsize) < reserve:
        return f"{_show_mb(room)} are free under {directory}"
    if found.f_favail < min(found.f_files // FILES_PART, MOST_FILES):
        return f"{found.f_favail} of {found.f_files} files are free under {directory}"
    return ""


def check_room(what: str, needs: Iterable[tuple[str, int]], reserve: int) -> None:
    """Raise NoRoomError unless every (directory, bytes) of *needs* fits, and *reserve* stays free.

    Needs on the same file system add up.
    """
    by_device: dict[int, tuple[str, int]] = {}
    for directory, size in needs:
        try:
            device = os.stat(directory).st_dev
        except OSError:
            continue  # containerd runs elsewhere, and reports a full disk itself
        first, sum_ = by_device.get(device, (directory, 0))
        by_device[device] = (first, sum_ + size)
    for directory, size in by_device.values():
        room = free_space(directory)
        if size and room is not None and room < size + reserve:
            missing = size + reserve - room
            raise NoRoomError(
                f"no space for {what}: it needs {_show_mb(size)} under {directory}, where {_show_mb(room)} are free"
                f" and {_show_mb(reserve)} are kept as a reserve: {_show_mb(missing)} are missing",
                missing,
            )


def _show_mb(size: int) -> str:
    return f"{size / MB:.1f} MB"
