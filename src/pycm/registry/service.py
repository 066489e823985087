# SPDX-License-Identifier: Apache-2.0
"""The agent's side of images: pull them by worker processes, keep those that are needed, remove the others.

An image is removed when it is old and unused, when another one needs its space, or on request. It is never removed
while a container uses it, or is being made from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from pycm.containerd.client import Client
from pycm.containerd.content import Content
from pycm.containerd.image_format import quote
from pycm.containerd.images import DamagedError, Images, ImageStore, unusable
from pycm.errors import ConflictError, NotFoundError, OperationFailedError, PycmError, UnavailableError
from pycm.model import units
from pycm.ports import ImageInfo, LocalImage, PullProgress, PullStep
from pycm.registry.job import Access, Job, NoRoomError, find_access, parse_reference
from pycm.registry.usage import Ages, Usage, choose_for_room, find_expired
from pycm.registry.workers import Pulls, WorkerKilledError, Workers
from pycm.waiting import LOOK, Once, apart, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from pycm.containerd.images import Image, Record
    from pycm.registry.job import News
    from pycm.registry.usage import Used

#: Bytes that a pull leaves free.
RESERVE = 64 << 20
#: Seconds between attempts while containerd is unavailable; and the longest time between two looks.
RETRY, DAY = 5.0, 24 * 3600.0
#: The file that counts the ages of images, below the home directory.
AGES = "pycm/images.json"
#: Seconds between two looks for old images, however many containers are removed.
PAUSE = 2.0
log = logging.getLogger("pycm.registry")


class Settings(NamedTuple):
    """configured: access to registries by host. insecure: hosts. expiry: seconds, None for never.

    preload_dir: "" for none. home_dir: where ages are counted; "" for a count that ends with the agent.
    """

    address: str
    namespace: str
    lease: str
    snapshotter: str = "overlayfs"
    configured: Mapping[str, Access] = {}
    insecure: tuple[str, ...] = ()
    expiry: float | None = None
    preload_dir: str = ""
    reserve: int = RESERVE
    home_dir: str = ""


class ImageService:
    """Implements ports.Images. Start `run` as a task, and call `close` at the end. *containers*: see Usage."""

    def __init__(self, settings: Settings, containers: Callable[[], Mapping[str, str]]) -> None:
        self._settings = settings
        self._client = Client(settings.address, settings.namespace)
        self._store = ImageStore(self._client)
        self._images = Images(self._client, settings.snapshotter, settings.lease)
        self._content = Content(self._client, settings.lease)
        self._usage = Usage(self._store, self._images, self._content, settings.snapshotter, containers)
        self._ages = Ages(os.path.join(settings.home_dir, AGES) if settings.home_dir else "")
        self._workers = Workers()
        self._pulls = Pulls(self._fetch)
        #: References of images that are being pulled, or used for a new container.
        self._held: Counter[str] = Counter()
        #: Nothing begins to hold an image while it is examined and removed.
        self._removing = asyncio.Lock()
        self._preloaded = asyncio.Event()
        if not settings.preload_dir:
            self._preloaded.set()
        self._look = asyncio.Event()

    # ── use ──

    @contextlib.asynccontextmanager
    async def hold(self, reference: str) -> AsyncIterator[LocalImage]:
        async with self._holding(reference):
            record = await self._store.get(reference)
            if record is None:
                await self._preloaded.wait()
                record = await self._store.get(reference) or await self._pulled(reference)
            image = await self._usable(record)
            yield LocalImage(reference, image.top, image.config_digest)

    async def _pulled(self, reference: str, progress: Callable[[PullProgress], None] | None = None) -> Record:
        await self._pulls.pull(reference, progress)
        record = await self._store.get(reference)
        if record is None:
            raise OperationFailedError(f"image {quote(reference)} was removed right after the pull")
        return record

    async def _usable(self, record: Record) -> Image:
        """Read the image, fetching again what is missing or damaged: a power cut may have cost containerd a file."""
        seen: tuple[str, ...] = ()
        while True:
            try:
                return await self._images.check(record)
            except DamagedError as error:
                damaged = error
            except OperationFailedError as error:
                raise unusable(record.reference, error) from None
            await self._drop(record, damaged)
            try:
                record = await self._pulled(record.reference)
            except PycmError as error:
                if isinstance(error, OperationFailedError) and damaged.digests != seen:
                    seen = damaged.digests  # the next document may be damaged too
                    continue
                raise OperationFailedError(
                    f"image {quote(record.reference)} is damaged on this machine"
                    f" ({damaged.digests[0]} is missing or invalid),"
                    f" and cannot be fetched again: {error}"
                ) from None

    async def _drop(self, record: Record, damaged: DamagedError) -> None:
        """Delete damaged content, which the pull would otherwise take for good."""
        digests = ", ".join(damaged.digests)
        log.warning(
            "image %s: content is missing or damaged: %s (fetching it again)",
            quote(record.reference),
            digests,
        )
        for digest in damaged.digests:
            await self._content.delete(digest)
        await self._content.collect()

    async def pull(self, reference: str, progress: Callable[[PullProgress], None] | None = None) -> ImageInfo:
        parse_reference(reference)
        async with self._holding(reference):
            record = await self._store.get(reference)
            if record is not None:
                with contextlib.suppress(OperationFailedError):
                    await self._check(record)
            return _info(await self._usage.of(await self._pulled(reference, progress)))

    async def _check(self, record: Record) -> None:
        try:
            await self._images.check(record)
        except DamagedError as error:
            await self._drop(record, error)

    @contextlib.asynccontextmanager
    async def _holding(self, reference: str) -> AsyncIterator[None]:
        async with self._removing:
            self._held[reference] += 1
        try:
            yield
        finally:
            self._held[reference] -= 1
            if not self._held[reference]:
                del self._held[reference]
                self._look.set()  # the last look may have skipped the image

    # ── pulling ──

    def _job(self, reference: str = "", preload: str = "", access: Access = Access()) -> Job:  # noqa: B008
        settings = self._settings
        return Job(
            settings.address,
            settings.namespace,
            settings.snapshotter,
            settings.lease,
            reference,
            preload,
            reserve=settings.reserve,
            access=access,
        )

    async def _fetch(self, reference: str, report: Callable[[PullProgress], None]) -> None:
        host = parse_reference(reference).host
        access = find_access(host, self._settings.configured, self._settings.insecure)
        job = self._job(reference, access=access)

        def forward(news: News) -> None:
            report(PullProgress(reference, PullStep(news.step), news.done, news.total))

        began = time.monotonic()
        while True:
            try:
                news = await self._workers.run(job, forward)
                break
            except NoRoomError as error:
                if not await self._make_room(error):
                    raise
        took = time.monotonic() - began
        log.info("image %s: pulled: %d bytes over the network, %.1f s", quote(reference), news.fetched, took)
        report(PullProgress(reference, PullStep.DONE))
        self._look.set()

    async def _make_room(self, error: NoRoomError) -> bool:
        """Return whether something was removed, so that another attempt may work."""
        async with self._removing:
            chosen = choose_for_room(await self._usage.all(), self._held, error.missing)
            if chosen:
                log.warning("%s (removing unused images, oldest first)", error)
            return bool(await self._remove_all(chosen))

    # ── removing ──

    async def remove(self, reference: str) -> None:
        async with self._removing:
            record = await self._store.get(reference)
            if record is None:
                raise NotFoundError(f"image {quote(reference)} does not exist")
            used = await self._usage.of(record)
            if used.containers:
                users = ", ".join(used.containers[:10])
                raise ConflictError(
                    f"image {quote(reference)} is in use by the containers {users}",
                    hint="Remove the containers first.",
                )
            if self._held[reference]:
                raise ConflictError(
                    f"image {quote(reference)} is being pulled, or a container is being made from it"
                )
            await self._remove(used)

    async def prune(self) -> list[str]:
        async with self._removing:
            references = [used.record.reference for used in await self._usage.all() if used.is_free]
            return await self._remove_all([it for it in references if not self._held[it]])

    async def _remove_all(self, references: list[str]) -> list[str]:
        """Return the images that were removed."""
        removed = []
        for reference in references:
            try:
                record = await self._store.get(reference)
                if record is not None:
                    await self._remove(await self._usage.of(record))
                    removed.append(reference)
            except PycmError as error:
                log.warning("image %s: cannot be removed: %s", quote(reference), error)
        return removed

    async def _remove(self, used: Used) -> None:
        await self._store.remove(used.record.reference)
        self._usage.forget(used.record.target.digest)
        log.info("image %s: removed", quote(used.record.reference))

    # ── in the background ──

    def container_removed(self) -> None:
        """An image may be unused now."""
        self._look.set()

    async def run(self) -> None:
        """Import the preload directory, then remove old images, for ever."""
        try:
            await self._retried(self._preload)
        finally:
            self._preloaded.set()
        while self._settings.expiry is not None:
            self._look.clear()
            wait = await self._retried(self._expire)
            await asyncio.sleep(PAUSE)
            with contextlib.suppress(asyncio.TimeoutError):
                await within(min(wait, DAY), self._look.wait())

    async def _retried(self, work: Callable[[], Awaitable[float]]) -> float:
        """Repeat *work* while containerd is unavailable."""
        once = Once()
        while True:
            try:
                return await work()
            except UnavailableError as error:
                if once.is_new(str(error)):
                    log.warning("images: %s (retrying every %g s)", error.detail, RETRY)
            except PycmError as error:
                log.error("images: %s", error.detail)
                return DAY
            except Exception:  # callers that wait for the preload, or for space, must not wait for ever
                log.exception("images: unexpected error (containers are not affected)")
                return DAY
            await asyncio.sleep(RETRY)

    async def _preload(self) -> float:
        directory = self._settings.preload_dir
        if not directory or not await _has_entries(directory):
            return 0
        try:
            news = await self._workers.run(self._job(preload=directory), lambda _: None)
        except WorkerKilledError:
            self._preloaded.set()  # it may be killed again and again; creations do not wait for that
            raise
        for reference in news.images:
            log.info("image %s: imported from %s", quote(reference), directory)
        for reason in news.failed:
            log.error("%s", reason)
        return 0

    async def _expire(self) -> float:
        """Return the seconds until the next look."""
        expiry = self._settings.expiry or 0.0
        async with self._removing:
            images = await self._usage.all()
            ages = await asyncio.to_thread(self._ages.of, [used.record for used in images])
            due, wait = find_expired(images, self._held, expiry, ages)
            for reference in due:
                log.info("image %s: unused for more than %g hours", quote(reference), expiry / 3600)
            await self._remove_all(due)
        return DAY if wait is None else wait

    async def close(self) -> None:
        """Cancel the pulls; what they fetched stays for the next agent."""
        self._preloaded.set()
        await self._pulls.close()
        self._client.close()
        await asyncio.to_thread(self._ages.close)

    async def list(self) -> list[ImageInfo]:
        return [_info(used) for used in await self._usage.all()]


def _info(used: Used) -> ImageInfo:
    record = used.record
    created = units.format_ns(record.created_ns)
    return ImageInfo(record.reference, record.target.digest, used.size, created, used.containers)


async def _has_entries(directory: str) -> bool:
    try:
        return bool(await apart("preload directory", lambda: os.listdir(directory)))
    except asyncio.TimeoutError:  # before OSError, of which it is a subclass from Python 3.11 on
        raise OperationFailedError(
            f"preload directory {directory} cannot be read within {LOOK:g} s: its file system hangs"
        ) from None
    except FileNotFoundError:
        return False
    except OSError as error:
        raise OperationFailedError(
            f"preload directory {directory} cannot be read: {error.strerror}"
        ) from None
