# SPDX-License-Identifier: Apache-2.0
"""containerd's content store, which holds blobs by digest, and the leases that keep what is in it.

A blob is written piece by piece. containerd keeps an unfinished one (an "ingest", named after the digest) until it is
complete, aborted or expired with its lease; a later writer resumes it. containerd hashes what it receives, and a blob
whose digest differs from the expected one never becomes content.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask
from grpclib.exceptions import StreamTerminatedError

from pycm.containerd import image_format, rpc
from pycm.containerd.proto import content_pb2, leases_pb2
from pycm.errors import ConflictError, NotFoundError, OperationFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

    from grpclib.client import Stream

    from pycm.containerd.client import Client

#: Label of a lease that containerd drops at the given time.
EXPIRES = "containerd.io/gc.expire"
#: Seconds for which the content of an interrupted pull stays.
KEPT = 24 * 3600.0
_INGEST = "pycm-"
_OWNER = "pycm.pull"
_MARK = "pycm.mark."


class Writer:
    """A blob that is being written. `offset`: bytes that containerd has. Made by `Content.writer`."""

    def __init__(
        self,
        stream: Stream[content_pb2.WriteContentRequest, content_pb2.WriteContentResponse],
        digest: str,
        size: int,
    ) -> None:
        self._stream = stream
        self._digest = digest
        self._size = size
        self.offset = 0

    async def begin(self) -> None:
        request = content_pb2.WriteContentRequest(
            action=content_pb2.STAT, ref=_INGEST + self._digest, total=self._size, expected=self._digest
        )
        self.offset = (await self._ask(request)).offset

    async def write(self, data: bytes) -> None:
        """Append *data*, at most 4 MiB."""
        request = content_pb2.WriteContentRequest(action=content_pb2.WRITE, offset=self.offset, data=data)
        answer = await self._ask(request)
        if answer.offset != self.offset + len(data):
            raise OperationFailedError(
                f"containerd is at offset {answer.offset} of a blob, expected {self.offset + len(data)}"
            )
        self.offset = answer.offset

    async def commit(self, labels: Mapping[str, str]) -> None:
        """Make it content. OperationFailedError if size or digest differ from the announced ones."""
        request = content_pb2.WriteContentRequest(
            action=content_pb2.COMMIT,
            total=self._size,
            expected=self._digest,
            offset=self.offset,
            labels=labels,
        )
        await self._ask(request, last=True)

    async def _ask(
        self, request: content_pb2.WriteContentRequest, *, last: bool = False
    ) -> content_pb2.WriteContentResponse:
        # the last request ends our side: otherwise containerd's reset of the call may overtake its answer
        await self._stream.send_message(request, end=last)
        answer = await self._stream.recv_message()
        if answer is None:  # grpclib reads the status, which says why, at the end of the call
            raise StreamTerminatedError("containerd ended the call")
        return answer


class Content:
    """*lease* holds everything that is written."""

    def __init__(self, client: Client, lease: str) -> None:
        self._client = client
        self._lease = lease

    async def size(self, digest: str) -> int | None:
        """Return the bytes of the blob, None if there is no such content."""
        request = content_pb2.InfoRequest(digest=digest)
        try:
            return (await self._client.call(rpc.CONTENT_INFO, request)).info.size
        except NotFoundError:
            return None

    async def read(self, digest: str, size: int) -> bytes:
        """Return a document after checking its digest."""
        if size > image_format.DOCUMENT_LIMIT:
            raise OperationFailedError(
                f"content {digest} has {size} bytes, more than {image_format.DOCUMENT_LIMIT}"
            )
        data = await self._read(digest, 0, size)
        image_format.verify(digest, data)
        return data

    async def reaches(self, digest: str, size: int) -> bool:
        """Check that the blob's file has *size* bytes by reading its last one: containerd answers sizes from its
        database.
        """
        if await self.size(digest) != size:
            return False
        try:
            return len(await self._read(digest, max(size - 1, 0), min(size, 1))) == min(size, 1)
        except (NotFoundError, OperationFailedError):
            return False

    async def _read(self, digest: str, offset: int, size: int) -> bytes:
        request = content_pb2.ReadContentRequest(digest=digest, offset=offset, size=size)
        async with contextlib.aclosing(self._client.stream(rpc.CONTENT_READ, request)) as answers:
            return b"".join([answer.data async for answer in answers])

    @contextlib.asynccontextmanager
    async def writer(self, digest: str, size: int) -> AsyncIterator[Writer]:
        """Open a writer at the end of what an earlier one wrote; wait while another one writes the same blob.

        ConflictError if the blob is content already.
        """
        async with self._client.exchange(rpc.CONTENT_WRITE, lease=self._lease) as stream:
            writer = Writer(stream, digest, size)
            await writer.begin()
            yield writer

    async def put(self, digest: str, data: bytes, labels: Mapping[str, str]) -> None:
        """Write a small blob. Labels are set even if the blob exists already."""
        try:
            async with self.writer(digest, len(data)) as writer:
                if len(data) > writer.offset:
                    await writer.write(data[writer.offset :])
                await writer.commit(labels)
        except ConflictError:
            if await self.size(digest) is None:
                await self.abort(digest)
                raise
            await self.label(digest, labels)

    async def label(self, digest: str, labels: Mapping[str, str]) -> None:
        info = content_pb2.Info(digest=digest, labels=labels)
        mask = FieldMask(paths=[f"labels.{name}" for name in labels])
        request = content_pb2.UpdateRequest(info=info, update_mask=mask)
        await self._client.call(rpc.CONTENT_UPDATE, request, lease=self._lease)

    async def delete(self, digest: str) -> None:
        """Delete the blob. It could come back until containerd's next garbage collection, which frees its space."""
        with contextlib.suppress(NotFoundError):
            await self._client.call(rpc.CONTENT_DELETE, content_pb2.DeleteContentRequest(digest=digest))

    async def abort(self, digest: str) -> None:
        """Discard what was written of an unfinished blob."""
        with contextlib.suppress(NotFoundError):
            await self._client.call(rpc.CONTENT_ABORT, content_pb2.AbortRequest(ref=_INGEST + digest))

    async def collect(self) -> None:
        """Wait until the space of everything unreferenced is free. containerd collects when a lease is deleted."""
        request = leases_pb2.CreateRequest(id=f"{self._lease}.collect.{os.urandom(8).hex()}")
        await self._client.call(rpc.LEASE_CREATE, request)
        await self._client.call(rpc.LEASE_COLLECT, leases_pb2.DeleteRequest(id=request.id, sync=True))


class PullLease:
    """Holds what a pull fetches until the image's record does, and for a day if the pull is interrupted.

    Each attempt has a lease of its own and takes over what earlier attempts of the same *owner* hold: a lease's expiry
    cannot be moved, and it must not come in the middle of a pull. containerd drops expired leases.
    """

    def __init__(self, client: Client, prefix: str, owner: str) -> None:
        self._client = client
        self._owner = owner
        self.id = f"{prefix}.pull.{os.urandom(8).hex()}"

    async def take(self) -> None:
        earlier = await self._earlier()
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + KEPT))
        labels = {EXPIRES: until, _OWNER: self._owner}
        await self._client.call(rpc.LEASE_CREATE, leases_pb2.CreateRequest(id=self.id, labels=labels))
        for lease in earlier:
            await self._take_over(lease)

    async def keep(self, name: str, kind: str = "content") -> None:
        """Hold an existing resource."""
        resource = leases_pb2.Resource(id=name, type=kind)
        await self._client.call(rpc.LEASE_ADD, leases_pb2.AddResourceRequest(id=self.id, resource=resource))

    async def end(self, *, collect: bool = False) -> None:
        """*collect*: wait until the space of what nothing else holds is free."""
        call = rpc.LEASE_COLLECT if collect else rpc.LEASE_DELETE
        with contextlib.suppress(NotFoundError):
            await self._client.call(call, leases_pb2.DeleteRequest(id=self.id, sync=collect))

    async def end_if_empty(self) -> None:
        """End the lease of an attempt that failed before it fetched anything."""
        if not await self._resources(self.id):
            await self.end()

    async def _earlier(self) -> Sequence[str]:
        request = leases_pb2.ListRequest(filters=[f'labels."{_OWNER}"=="{self._owner}"'])
        return [lease.id for lease in (await self._client.call(rpc.LEASE_LIST, request)).leases]

    async def _take_over(self, lease: str) -> None:
        with contextlib.suppress(NotFoundError):  # it expired meanwhile
            for resource in await self._resources(lease):
                half_unpacked = "/" in resource.type and resource.id.startswith("extract-")
                if not half_unpacked:
                    await self.keep(resource.id, resource.type)
            await self._client.call(rpc.LEASE_DELETE, leases_pb2.DeleteRequest(id=lease))

    async def _resources(self, lease: str) -> Sequence[leases_pb2.Resource]:
        request = leases_pb2.ListResourcesRequest(id=lease)
        return (await self._client.call(rpc.LEASE_RESOURCES, request)).resources


class Marks:
    """Notes that live and die with containerd's store: labels of the lease *lease*, which holds nothing."""

    def __init__(self, client: Client, lease: str) -> None:
        self._client = client
        self._lease = lease
        self._labels: dict[str, str] = {}

    async def read(self) -> Marks:
        request = leases_pb2.ListRequest(filters=[f'id=="{self._lease}"'])
        found = await self._client.call(rpc.LEASE_LIST, request)
        self._labels = dict(found.leases[0].labels) if found.leases else {}
        return self

    def get(self, name: str) -> str | None:
        return self._labels.get(_make_key(name))

    async def add(self, name: str, value: str, among: Iterable[str]) -> None:
        """Note *value* (at most some hundred characters) for *name*, and forget names that are not *among* the present
        ones.

        A crash in between loses notes; it never makes wrong ones.
        """
        kept = set(map(_make_key, among))
        self._labels = {key: text for key, text in self._labels.items() if key in kept}
        self._labels[_make_key(name)] = value
        with contextlib.suppress(NotFoundError):
            await self._client.call(rpc.LEASE_DELETE, leases_pb2.DeleteRequest(id=self._lease))
        request = leases_pb2.CreateRequest(id=self._lease, labels=self._labels)
        await self._client.call(rpc.LEASE_CREATE, request)


def _make_key(name: str) -> str:
    """Shorten *name*: key and value of a label have at most 4096 characters together."""
    return _MARK + hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]
