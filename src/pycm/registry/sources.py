# SPDX-License-Identifier: Apache-2.0
"""Where an image comes from, as `fetch` sees it; here: a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pycm.errors import OperationFailedError, shorten
from pycm.http.ranges import begins_at, range_header
from pycm.registry.remote import TryLaterError

if TYPE_CHECKING:
    from pycm.containerd.image_format import Descriptor
    from pycm.http.client import Response
    from pycm.registry.remote import Repository


class Reader(Protocol):
    """The rest of a blob. Both calls block."""

    def read(self, limit: int) -> bytes:
        """At least one byte, or b"" where it ends."""

    def close(self) -> None: ...


class Source(Protocol):
    """Documents and blobs by digest. The calls block and may come from several threads."""

    #: Who is to blame, for messages.
    name: str

    def document(self, descriptor: Descriptor) -> bytes:
        """A manifest or index; digest and size are checked by the caller."""

    def open(self, descriptor: Descriptor, offset: int) -> Reader:
        """The blob from *offset* on. TryLaterError where a repetition may help."""


class RegistrySource:
    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self.name = f"registry {repository.host}"

    def document(self, descriptor: Descriptor) -> bytes:
        return self._repository.manifest(descriptor.digest)[0]

    def open(self, descriptor: Descriptor, offset: int) -> Reader:
        response = self._repository.blob(descriptor.digest, range_header(offset))
        if (
            response.status == 206 and response.encoded
        ):  # a part of what it is encoded to: nothing can be done with it
            response.close()
            response = self._repository.blob(descriptor.digest, {})
        try:
            if response.sent == descriptor.size:
                response.take_as_sent()
            if response.status == 416:
                raise OperationFailedError(f"there is nothing after byte {offset} of it")
            start = begins_at(response.status, response.headers, offset, descriptor.size)
            reader = BlobReader(response, descriptor.size - start)
            reader.skip(offset - start)
        except OperationFailedError as error:
            response.close()
            raise OperationFailedError(f"{self.name}, blob {descriptor.digest}: {error}") from None
        except BaseException:
            response.close()
            raise
        return reader


class BlobReader:
    """An answer's body of which *size* bytes are expected: fewer are a cut, more are a lie."""

    def __init__(self, response: Response, size: int) -> None:
        self._response = response
        self._left = size

    def read(self, limit: int) -> bytes:
        if self._left == 0:
            self._expect_end()
            return b""
        data = self._response.read(min(limit, self._left))
        if not data:
            raise TryLaterError(f"{self._response.address} ended {self._left} bytes too early")
        self._left -= len(data)
        return data

    def skip(self, size: int) -> None:
        """Read over what is here already: for servers that do not send parts."""
        while size:
            size -= len(self.read(min(size, 1 << 20)))

    def _expect_end(self) -> None:
        if self._response.headers.get("Content-Length") is None:
            more = self._response.read(1, 0)
            if more:
                raise OperationFailedError(
                    f"{self._response.address} sends more than it should: {shorten(more)} follows"
                )

    def close(self) -> None:
        self._response.close()
