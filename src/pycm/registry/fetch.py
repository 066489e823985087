# SPDX-License-Identifier: Apache-2.0
"""An image from a source into containerd's store: documents, then layers, some at a time, each taken up where it was cut.

Nothing counts as an image before all of it is there: the record that gives it its name is written last. Until then a lease holds the
parts.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pycm.containerd import image_format
from pycm.containerd.image_format import Descriptor, Manifest, Resolver, is_digest
from pycm.errors import ConflictError, OperationFailedError, UnavailableError, shorten
from pycm.failpoints import fail_point
from pycm.http import rules
from pycm.registry.remote import TryLaterError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pycm.containerd.content import Content, PullLease, Writer
    from pycm.registry.remote import Source

PARALLEL = 3
CHUNK = 256 << 10
#: Attempts to reach a server of which nothing was heard yet.
UNREACHED = 3
#: An attempt that brought as much counts as a new beginning.
PROGRESS = 64 << 10
#: Bytes in seconds: a server that sends less is as good as one that is silent.
SLOW_BYTES, SLOW_SECONDS = 8 << 10, 60.0
_GC = "containerd.io/gc.ref.content"


class Fetch:
    """*told* hears (bytes here, bytes in all) at every piece."""

    def __init__(
        self,
        source: Source,
        content: Content,
        lease: PullLease,
        machine: str,
        told: Callable[[int, int], None],
    ) -> None:
        self._source = source
        self._content = content
        self._lease = lease
        self._machine = machine
        self._told = told
        self._here: dict[str, int] = {}
        self._done = self._total = 0
        self.fetched = 0

    # ── documents ──

    async def manifest(self, root: Descriptor, document: bytes | None = None) -> Manifest:
        """Fetch the documents from *root* (whose *document* may be at hand) down to this machine's manifest and configuration."""
        nothing = f"{self._source.name} has no image"
        resolver = Resolver(nothing, self._machine, self._document, self._configuration)
        found = await resolver.resolve(root, document)
        below = {f"{_GC}.l.{number}": layer.digest for number, layer in enumerate(found.manifest.layers)}
        below[f"{_GC}.config"] = found.manifest.config.digest
        chosen = ""
        for descriptor, data, number in reversed(found.path):
            if number >= 0:
                below = {f"{_GC}.m.{number}": chosen}
            await self._content.put(descriptor.digest, data, below)
            await self._lease.keep(descriptor.digest)
            chosen = descriptor.digest
        return found.manifest

    async def _configuration(self, descriptor: Descriptor) -> bytes:
        await self._blob(descriptor)
        return await self._content.read(descriptor.digest, descriptor.size)

    async def _document(self, descriptor: Descriptor) -> bytes:
        """From containerd if it is there already: a digest never means anything else."""
        if not is_digest(descriptor.digest) or descriptor.size > image_format.DOCUMENT_LIMIT:
            raise OperationFailedError(
                f"{self._source.name} offers {shorten(descriptor.digest)} of {descriptor.size} bytes: no usable manifest"
            )
        if await self._content.size(descriptor.digest) is not None:
            await self._lease.keep(descriptor.digest)
            return await self._content.read(descriptor.digest, descriptor.size)
        data: bytes = await self.patiently(lambda: asyncio.to_thread(self._source.document, descriptor))
        if len(data) != descriptor.size:
            raise OperationFailedError(
                f"{self._source.name} sends {len(data)} bytes for manifest {descriptor.digest}, not {descriptor.size}"
            )
        self._verify(descriptor.digest, data)
        self.fetched += len(data)
        return data

    def _verify(self, digest: str, data: bytes) -> None:
        try:
            image_format.verify(digest, data)
        except OperationFailedError:
            raise OperationFailedError(
                f"{self._source.name} has something else than manifest {digest} under its name"
            ) from None

    # ── layers ──

    async def missing(self, layers: Sequence[Descriptor]) -> list[Descriptor]:
        """Layers that are not here."""
        missing = []
        for layer in _once(layers):
            size = await self._content.size(layer.digest)
            if size is None:
                missing.append(layer)
            else:
                self._expect_size(layer, size)
        return missing

    async def layers(self, layers: Sequence[Descriptor]) -> None:
        """Fetch those that are not here, PARALLEL at a time; the first that fails ends the others."""
        wanted = _once(layers)
        self._total = sum(layer.size for layer in wanted)
        limit = asyncio.Semaphore(PARALLEL)

        async def one(layer: Descriptor) -> None:
            async with limit:
                await self._blob(layer)
                self._arrived(layer, layer.size)

        tasks = [asyncio.ensure_future(one(layer)) for layer in wanted]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def forget_begun(self, layers: Sequence[Descriptor]) -> None:
        """Give the room of half-fetched layers back."""
        for layer in _once(layers):
            await self._content.abort(layer.digest)

    async def _blob(self, blob: Descriptor) -> None:
        size = await self._content.size(blob.digest)
        if size is None:
            await self.patiently(lambda: self._attempts(blob), lambda: self._here.get(blob.digest, 0))
        else:
            self._expect_size(blob, size)
            await self._lease.keep(blob.digest)

    def _expect_size(self, blob: Descriptor, size: int) -> None:
        if size != blob.size:
            raise OperationFailedError(
                f"{self._source.name} says that {blob.digest} has {blob.size} bytes; it has {size}"
            )

    async def _attempts(self, blob: Descriptor) -> None:
        """Where an earlier attempt left something damaged, a second one from the beginning."""
        begun = await self._attempt(blob)
        if begun is None:
            return
        await self._content.abort(blob.digest)
        if begun and await self._attempt(blob) is None:
            return
        await self._content.abort(blob.digest)
        raise OperationFailedError(
            f"{self._source.name} has something else than {blob.digest} under its name: it is not used"
        )

    async def _attempt(self, blob: Descriptor) -> int | None:
        """None if the blob is content now; else the bytes that an earlier attempt had left: the digest did not match."""
        begun = 0
        try:
            async with self._content.writer(blob.digest, blob.size) as writer:
                begun = writer.offset
                if begun > blob.size:
                    return begun
                self._arrived(blob, begun)
                if begun < blob.size:
                    await self._transfer(blob, writer)
                fail_point("registry.layer-fetched")
                await writer.commit({})
        except ConflictError:  # it is there already, fetched by somebody else; or it is not what it should be
            if await self._content.size(blob.digest) is None:
                return begun
            await self._lease.keep(blob.digest)
        return None

    async def _transfer(self, blob: Descriptor, writer: Writer) -> None:
        reader = await asyncio.to_thread(self._source.open, blob, writer.offset)
        pace = _Pace(self._source.name)
        try:
            while data := await asyncio.to_thread(reader.read, CHUNK):
                self.fetched += len(data)
                pace.got(len(data))
                await writer.write(data)
                self._arrived(blob, writer.offset)
                fail_point("registry.piece-written")
        finally:
            reader.close()

    def _arrived(self, blob: Descriptor, size: int) -> None:
        before = self._here.get(blob.digest, 0)
        self._here[blob.digest] = size
        if self._total:
            self._done += size - before
            self._told(self._done, self._total)

    async def patiently(
        self, work: Callable[[], Any], gained: Callable[[], int] = lambda: 0, *, first: bool = False
    ) -> Any:
        """*work* until it succeeds; errors that pass are waited out, ATTEMPTS in a row that bring nothing are enough.

        *first*: nothing was heard of this server before. One that cannot be reached is not waited for as long as one in trouble.
        """
        attempt, before = 0, gained()
        while True:
            try:
                return await work()
            except UnavailableError as error:
                after = error.after if isinstance(error, TryLaterError) else None
                now = gained()
                attempt = 1 if now - before >= PROGRESS else attempt + 1
                before = now
                silent = first and not getattr(error, "answered", False)
                if attempt >= (UNREACHED if silent else rules.ATTEMPTS) or (after or 0) > rules.LONGEST_WAIT:
                    raise
                await asyncio.sleep(rules.delay(attempt, after))


class _Pace:
    """A server that sends a byte now and then holds the pull up as much as one that sends nothing."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._since, self._bytes = self._loop.time(), 0

    def got(self, size: int) -> None:
        self._bytes += size
        now = self._loop.time()
        if now - self._since >= SLOW_SECONDS:
            if self._bytes < SLOW_BYTES:
                raise TryLaterError(f"{self._name} sends {self._bytes} bytes in {now - self._since:.0f} s")
            self._since, self._bytes = now, 0


def _once(layers: Sequence[Descriptor]) -> list[Descriptor]:
    """Each blob once: an image may have the same layer twice."""
    return list({layer.digest: layer for layer in layers}.values())
