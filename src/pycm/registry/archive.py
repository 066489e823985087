# SPDX-License-Identifier: Apache-2.0
"""OCI image layouts, as directories and as uncompressed tar archives of them: what `ctr images export`, `skopeo copy` and `docker save`
write.

Nothing is extracted: blobs are read where they lie, by their digest, which whoever reads them checks.
"""

from __future__ import annotations

import os
import stat
import tarfile
from typing import TYPE_CHECKING

from pycm.containerd import image_format
from pycm.errors import NotFoundError, OperationFailedError, shorten
from pycm.registry.reference import is_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pycm.containerd.image_format import Descriptor
    from pycm.registry.sources import Reader

INDEX = "index.json"
#: Files in an archive; images have some dozens.
MOST_MEMBERS = 20_000
#: Where tools write the name of an image; the second one may be a tag alone.
NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


class Layout:
    """A layout directory or archive at *path*, as a registry.sources.Source. OperationFailedError if it is none."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = f"archive {shorten(path)}"
        self._members = None if os.path.isdir(path) else dict(self._read_members())

    def index(self) -> bytes:
        """Its index.json."""
        reader = self._reader(INDEX, 0)
        try:
            data = reader.read(image_format.DOCUMENT_LIMIT + 1)
        finally:
            reader.close()
        if len(data) > image_format.DOCUMENT_LIMIT:
            raise OperationFailedError(
                f"{self.name}: its {INDEX} has more than {image_format.DOCUMENT_LIMIT} bytes"
            )
        return data

    def document(self, descriptor: Descriptor) -> bytes:
        reader = self.open(descriptor, 0)
        try:
            return reader.read(descriptor.size)
        finally:
            reader.close()

    def open(self, descriptor: Descriptor, offset: int) -> Reader:
        algorithm, _, value = descriptor.digest.partition(":")
        if not is_digest(descriptor.digest):
            raise OperationFailedError(f"{self.name}: {shorten(descriptor.digest)} is no digest")
        reader = self._reader(f"blobs/{algorithm}/{value}", offset)
        if reader.size != descriptor.size:
            reader.close()
            raise OperationFailedError(
                f"{self.name}: {descriptor.digest} has {reader.size} bytes, it should have {descriptor.size}"
            )
        return reader

    def _reader(self, name: str, offset: int) -> FileReader:
        if self._members is None:
            path = os.path.join(self.path, name)
            descriptor, size = self._open(path, name)
            return FileReader(self.name, descriptor, 0, size, offset)
        if name not in self._members:
            raise NotFoundError(f"{self.name}: there is no {name} in it")
        start, size = self._members[name]
        return FileReader(self.name, self._open(self.path, name)[0], start, size, offset)

    def _open(self, path: str, name: str) -> tuple[int, int]:
        """Descriptor and size of a regular file."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except FileNotFoundError:
            raise NotFoundError(f"{self.name}: there is no {name} in it") from None
        except OSError as error:
            raise OperationFailedError(f"{self.name}: {name} cannot be read: {error.strerror}") from None
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise OperationFailedError(f"{self.name}: {name} is no regular file")
        return descriptor, found.st_size

    def _read_members(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Names with offset and size."""
        descriptor, _ = self._open(self.path, "it")
        with open(descriptor, "rb") as file:
            try:
                # "r:" takes no compressed archive: its pieces could not be found again without unpacking all of it
                with tarfile.open(fileobj=file, mode="r:") as tar:
                    for number, member in enumerate(tar):
                        if number >= MOST_MEMBERS:
                            raise OperationFailedError(f"{self.name} has more than {MOST_MEMBERS} files")
                        if member.isreg():
                            yield member.name.removeprefix("./"), (member.offset_data, member.size)
            except (tarfile.TarError, EOFError, OSError, ValueError, OverflowError, RecursionError) as error:
                raise OperationFailedError(
                    f"{self.name} is no tar archive, or is cut short (a compressed one has to be unpacked first): {error}"
                ) from None


class FileReader:
    """A stretch of a file, from *offset* in it on; closes *descriptor*."""

    def __init__(self, name: str, descriptor: int, start: int, size: int, offset: int) -> None:
        self._name = name
        self._descriptor = descriptor
        self._place = start + offset
        self._left = size - offset
        self.size = size

    def read(self, limit: int) -> bytes:
        if self._left <= 0:
            return b""
        try:
            data = os.pread(self._descriptor, min(limit, self._left), self._place)
        except OSError as error:
            raise OperationFailedError(f"{self._name} cannot be read: {error.strerror}") from None
        if not data:
            raise OperationFailedError(f"{self._name} is cut short: {self._left} bytes are missing")
        self._place += len(data)
        self._left -= len(data)
        return data

    def close(self) -> None:
        os.close(self._descriptor)


def image_name(entry: Descriptor) -> str:
    """Under which name an entry of an index.json is meant to be used; "" if none is given, or no full one."""
    return next((name for key in NAMES if "/" in (name := entry.annotations.get(key, ""))), "")
