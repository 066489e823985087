# SPDX-License-Identifier: Apache-2.0
"""containerd's content store: blobs by digest, written piece by piece, taken up where an earlier writer was cut off.

containerd keeps the beginning of a blob (an "ingest", under a name that is made from the digest) until it is finished, aborted or,
with the lease, expires. It hashes what it gets, and a blob whose digest is not the expected one never becomes content.
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


_INGEST = "pycm-"


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
            raise OperationFailedError(f"containerd is at {answer.offset}, not at {self.offset + len(data)}")
        self.offset = answer.offset

    async def commit(self, labels: Mapping[str, str]) -> None:
        """Make it content. OperationFailedError if size or digest are not those that were announced."""
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
        # a last request says so: else containerd's reset of the call may overtake its answer
        await self._stream.send_message(request, end=last)
        answer = await self._stream.recv_message()
        if answer is None:  # its status, which says why, is read at the end of the call
            raise StreamTerminatedError("containerd ended the call")
        return answer


class Content:
    """Everything that is written or kept is held by *lease*."""

    def __init__(self, client: Client, lease: str) -> None:
        self._client = client
        self._lease = lease

    async def size(self, digest: str) -> int | None:
        """Bytes of the blob, None if there is no such content."""
        try:
            return (
                await self._client.call(rpc.CONTENT_INFO, content_pb2.InfoRequest(digest=digest))
            ).info.size
        except NotFoundError:
            return None

    async def read(self, digest: str, size: int) -> bytes:
        """A document, its digest checked."""
        if size > image_format.DOCUMENT_LIMIT:
            raise OperationFailedError(
                f"content {digest} has {size} bytes, more than {image_format.DOCUMENT_LIMIT}"
            )
        request = content_pb2.ReadContentRequest(digest=digest, size=size)
        async with contextlib.aclosing(self._client.stream(rpc.CONTENT_READ, request)) as answers:
            data = b"".join([answer.data async for answer in answers])
        image_format.verify(digest, data)
        return data

    async def reaches(self, digest: str, size: int) -> bool:
        """Whether the blob's file has *size* bytes: its last one is read, since containerd knows sizes by heart."""
        if await self.size(digest) != size:
            return False
        request = content_pb2.ReadContentRequest(digest=digest, offset=max(size - 1, 0), size=min(size, 1))
        try:
            async with contextlib.aclosing(self._client.stream(rpc.CONTENT_READ, request)) as answers:
                return sum([len(answer.data) async for answer in answers]) == min(size, 1)
        except (NotFoundError, OperationFailedError):
            return False

    @contextlib.asynccontextmanager
    async def writer(self, digest: str, size: int) -> AsyncIterator[Writer]:
        """A writer that goes on where an earlier one ended; waits while another one writes the same blob.

        ConflictError if the blob is content already.
        """
        async with self._client.exchange(rpc.CONTENT_WRITE, lease=self._lease) as stream:
            writer = Writer(stream, digest, size)
            await writer.begin()
            yield writer

    async def put(self, digest: str, data: bytes, labels: Mapping[str, str]) -> None:
        """A small blob in one go. Labels are set even if it is there already."""
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
        if labels:
            await self._client.call(
                rpc.CONTENT_UPDATE, content_pb2.UpdateRequest(info=info, update_mask=mask), lease=self._lease
            )

    async def delete(self, digest: str) -> None:
        """Have the blob no more; containerd's next garbage collection, before which it could come back, frees its room."""
        with contextlib.suppress(NotFoundError):
            await self._client.call(rpc.CONTENT_DELETE, content_pb2.DeleteContentRequest(digest=digest))

    async def abort(self, digest: str) -> None:
        """Forget the beginning of a blob."""
        with contextlib.suppress(NotFoundError):
            await self._client.call(rpc.CONTENT_ABORT, content_pb2.AbortRequest(ref=_INGEST + digest))


KEPT = 24 * 3600.0
_EXPIRES = "containerd.io/gc.expire"
_OWNER = "pycm.pull"


class PullLease:
    """*owner*: names the pull; attempts with the same owner take over from each other. `id` is set by `take`."""

    def __init__(self, client: Client, prefix: str, owner: str) -> None:
        self._client = client
        self._owner = owner
        self.id = f"{prefix}.pull.{os.urandom(8).hex()}"

    async def take(self, kept: float = KEPT) -> None:
        earlier = await self._earlier()
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + kept))
        labels = {_EXPIRES: until, _OWNER: self._owner}
        await self._client.call(rpc.LEASE_CREATE, leases_pb2.CreateRequest(id=self.id, labels=labels))
        for lease in earlier:
            await self._take_over(lease)

    async def keep(self, kind: str, name: str) -> None:
        """Hold a resource that is there: kind "content" and a digest, for instance."""
        resource = leases_pb2.Resource(id=name, type=kind)
        await self._client.call(rpc.LEASE_ADD, leases_pb2.AddResourceRequest(id=self.id, resource=resource))

    async def end(self) -> None:
        with contextlib.suppress(NotFoundError):
            await self._client.call(rpc.LEASE_DELETE, leases_pb2.DeleteRequest(id=self.id))

    async def end_if_empty(self) -> None:
        """What failed before anything came leaves nothing."""
        request = leases_pb2.ListResourcesRequest(id=self.id)
        with contextlib.suppress(NotFoundError):
            if not (await self._client.call(rpc.LEASE_RESOURCES, request)).resources:
                await self.end()

    async def end_and_collect(self) -> None:
        """The same, and wait until the room of all that nobody holds any more is free: containerd itself may take its time."""
        with contextlib.suppress(NotFoundError):
            await self._client.call(rpc.LEASE_COLLECT, leases_pb2.DeleteRequest(id=self.id, sync=True))

    async def collect(self) -> None:
        """Wait until the room of all that nobody holds any more is free."""
        request = leases_pb2.CreateRequest(id=f"{self.id}.collect")
        await self._client.call(rpc.LEASE_CREATE, request)
        await self._client.call(rpc.LEASE_COLLECT, leases_pb2.DeleteRequest(id=request.id, sync=True))

    async def _earlier(self) -> Sequence[str]:
        request = leases_pb2.ListRequest(filters=[f'labels."{_OWNER}"=="{self._owner}"'])
        return [lease.id for lease in (await self._client.call(rpc.LEASE_LIST, request)).leases]

    async def _take_over(self, lease: str) -> None:
        with contextlib.suppress(NotFoundError):  # it ended meanwhile
            request = leases_pb2.ListResourcesRequest(id=lease)
            for resource in (await self._client.call(rpc.LEASE_RESOURCES, request)).resources:
                if "/" not in resource.type or not resource.id.startswith(
                    "extract-"
                ):  # half-unpacked: begun anew
                    await self.keep(resource.type, resource.id)
            await self._client.call(rpc.LEASE_DELETE, leases_pb2.DeleteRequest(id=lease))


_PREFIX = "pycm.mark."


class Marks:
    """*lease*: its name."""

    def __init__(self, client: Client, lease: str) -> None:
        self._client = client
        self._lease = lease
        self._labels: dict[str, str] = {}

    async def read(self) -> Marked:
        found = await self._client.call(
            rpc.LEASE_LIST, leases_pb2.ListRequest(filters=[f'id=="{self._lease}"'])
        )
        self._labels = dict(found.leases[0].labels) if found.leases else {}
        return Marked(self._labels)

    async def add(self, name: str, value: str, among: Iterable[str]) -> None:
        """Note *value* (at most some hundred characters) of *name*, and forget names that are not *among* those that still count.

        A crash in between loses notes, never makes wrong ones.
        """
        kept = set(map(_key, among))
        self._labels = {key: text for key, text in self._labels.items() if key in kept}
        self._labels[_key(name)] = value
        with contextlib.suppress(NotFoundError):
            await self._client.call(rpc.LEASE_DELETE, leases_pb2.DeleteRequest(id=self._lease))
        await self._client.call(
            rpc.LEASE_CREATE, leases_pb2.CreateRequest(id=self._lease, labels=self._labels)
        )


class Marked:
    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = labels

    def get(self, name: str) -> str | None:
        return self._labels.get(_key(name))


def _key(name: str) -> str:
    """Labels have 4096 characters, key and value together."""
    return _PREFIX + hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32]
