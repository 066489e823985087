# SPDX-License-Identifier: Apache-2.0
"""Fetch an image from a source into containerd: first documents, then layers, several at a time, each one resumable.

The record that names the image is written last, when everything is there. Until then a lease holds the parts.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pycm.containerd import image_format
from pycm.containerd.image_format import Descriptor, Manifest, Resolver, is_digest
from pycm.errors import ConflictError, OperationFailedError, shorten
from pycm.failpoints import fail_point
from pycm.http.rules import TryLaterError, resume
from pycm.waiting import together

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pycm.containerd.content import Content, PullLease, Writer
    from pycm.registry.remote import Source

PARALLEL = 3
CHUNK = 256 << 10
#: Bytes after which the attempts count again from the beginning.
PROGRESS = 64 << 10
#: Bytes and seconds: a server that sends less counts as one that sends nothing.
SLOW_BYTES, SLOW_SECONDS = 8 << 10, 60.0
_GC = "containerd.io/gc.ref.content"


class Fetch:
    """*report* is called with (bytes here, bytes in all) at every piece."""

    def __init__(
        self,
        source: Source,
        content: Content,
        lease: PullLease,
        machine: str,
        report: Callable[[int, int], None],
    ) -> None:
        self._source = source
        self._content = content
        self._lease = lease
        self._machine = machine
        self._report = report
        self._here: dict[str, int] = {}
        self._done = self._total = 0
        self.fetched = 0

    # ── documents ──

    async def manifest(self, root: Descriptor, document: bytes | None = None) -> Manifest:
        """Fetch the documents from *root* down to this machine's manifest and configuration.

        *document*: that of *root*, if the caller has it.
        """
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
        """Read the document from containerd if it is there: content with the same digest is the same."""
        if not is_digest(descriptor.digest) or descriptor.size > image_format.DOCUMENT_LIMIT:
            raise OperationFailedError(
                f"{self._source.name} offers an unusable manifest:"
                f" {shorten(descriptor.digest)}, {descriptor.size} bytes"
            )
        if await self._content.size(descriptor.digest) is not None:
            await self._lease.keep(descriptor.digest)
            return await self._content.read(descriptor.digest, descriptor.size)
        data = await resume(lambda: asyncio.to_thread(self._source.document, descriptor))
        if len(data) != descriptor.size:
            raise OperationFailedError(
                f"{self._source.name} sends {len(data)} bytes for manifest {descriptor.digest},"
                f" expected {descriptor.size}"
            )
        try:
            image_format.verify(descriptor.digest, data)
        except OperationFailedError:
            raise self._other_content(f"manifest {descriptor.digest}") from None
        self.fetched += len(data)
        return data

    def _other_content(self, what: str) -> OperationFailedError:
        return OperationFailedError(f"{self._source.name} has other content under the digest of {what}")

    # ── layers ──

    async def missing(self, layers: Sequence[Descriptor]) -> list[Descriptor]:
        """Return the layers that are not here."""
        missing = []
        for layer in _unique(layers):
            size = await self._content.size(layer.digest)
            if size is None:
                missing.append(layer)
            else:
                self._expect_size(layer, size)
        return missing

    async def layers(self, layers: Sequence[Descriptor]) -> None:
        """Fetch the missing layers, PARALLEL at a time. The first failure ends the others."""
        wanted = _unique(layers)
        self._total = sum(layer.size for layer in wanted)
        limit = asyncio.Semaphore(PARALLEL)

        async def fetch(layer: Descriptor) -> None:
            async with limit:
                await self._blob(layer)
                self._arrived(layer, layer.size)

        await together(*map(fetch, wanted))

    async def discard_begun(self, layers: Sequence[Descriptor]) -> None:
        """Free the space of half-fetched layers."""
        for layer in _unique(layers):
            await self._content.abort(layer.digest)

    async def _blob(self, blob: Descriptor) -> None:
        size = await self._content.size(blob.digest)
        if size is None:
            await resume(
                lambda: self._attempts(blob), lambda: self._here.get(blob.digest, 0), progress=PROGRESS
            )
        else:
            self._expect_size(blob, size)
            await self._lease.keep(blob.digest)

    def _expect_size(self, blob: Descriptor, size: int) -> None:
        if size != blob.size:
            raise OperationFailedError(
                f"{self._source.name} announces {blob.size} bytes for {blob.digest}, which has {size}"
            )

    async def _attempts(self, blob: Descriptor) -> None:
        """Fetch the blob, once more from the beginning if an earlier attempt left something damaged."""
        begun = await self._attempt(blob)
        if begun is None:
            return
        await self._content.abort(blob.digest)
        if begun and await self._attempt(blob) is None:
            return
        await self._content.abort(blob.digest)
        raise self._other_content(blob.digest)

    async def _attempt(self, blob: Descriptor) -> int | None:
        """Return None if the blob is content now.

        Otherwise its digest is wrong: return the bytes of earlier attempts.
        """
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
        except ConflictError:  # another client fetched it, or the digest is wrong
            if await self._content.size(blob.digest) is None:
                return begun
            await self._lease.keep(blob.digest)
        return None

    async def _transfer(self, blob: Descriptor, writer: Writer) -> None:
        reader = await asyncio.to_thread(self._source.open, blob, writer.offset)
        clock = asyncio.get_running_loop().time
        since, received = clock(), 0
        try:
            while data := await asyncio.to_thread(reader.read, CHUNK):
                self.fetched += len(data)
                received += len(data)
                if (seconds := clock() - since) >= SLOW_SECONDS:
                    if received < SLOW_BYTES:
                        raise TryLaterError(f"{self._source.name} sends {received} bytes in {seconds:.0f} s")
                    since, received = clock(), 0
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
            self._report(self._done, self._total)


def _unique(layers: Sequence[Descriptor]) -> list[Descriptor]:
    """Return each blob once: an image may have the same layer twice."""
    return list({layer.digest: layer for layer in layers}.values())
