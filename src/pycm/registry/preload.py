# SPDX-License-Identifier: Apache-2.0
"""The preload directory: OCI image layouts, and tar archives of them, that a device ships. Each is imported once.

`ctr images export`, `skopeo copy` and `docker save` write such archives. Nothing is extracted: blobs are read in place
by their digest, which the reader verifies. containerd itself remembers what was imported, so that a containerd that
lost its store gets the images again. An archive counts as new when its index.json differs: reproducible builds may
keep size and time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import stat
from typing import TYPE_CHECKING

from pycm.containerd import image_format
from pycm.containerd.client import Client
from pycm.containerd.content import Marks, PullLease
from pycm.containerd.image_format import Manifest, is_digest
from pycm.errors import NotFoundError, OperationFailedError, PycmError, UnavailableError, shorten
from pycm.failpoints import fail_point
from pycm.ports import PullStep
from pycm.registry.job import News, parse_reference
from pycm.registry.pull import Pull

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pycm.containerd.image_format import Descriptor
    from pycm.registry.job import Job
    from pycm.registry.remote import Reader
    from pycm.registry.worker import Reporter

#: Archives in the directory, images in an archive.
MOST_ARCHIVES, MOST_IMAGES = 200, 100
#: Bytes of the names of imported images, and of the failures, in the line that reports both (see job.LINE_LIMIT).
REPORT = 24 << 10


async def preload(job: Job, reporter: Reporter) -> News:
    """Import what is new in the directory. An unusable archive does not prevent the import of others."""
    reporter.report(PullStep.RESOLVING.value)
    client = Client(job.address, job.namespace)
    marks = Marks(client, f"{job.lease}.preloaded")
    images: list[str] = []
    failed: list[str] = []
    try:
        done = await marks.read()
        paths = await asyncio.to_thread(list_archives, job.preload)
        names = [os.path.basename(path) for path in paths]
        for path, name in zip(paths, names, strict=True):
            try:
                layout = await asyncio.to_thread(Layout, path)
                index = await asyncio.to_thread(layout.index)
                mark = hashlib.sha256(index).hexdigest()
                if done.get(name) != mark:
                    named = _find_names(layout, index)
                    if len(json.dumps([*images, *(reference for reference, _ in named)])) > REPORT:
                        raise OperationFailedError(
                            f"{layout.name}: the next start imports it, after {len(images)} images of others"
                        )
                    images += await _import(job, client, reporter, layout, named)
                    await marks.add(name, mark, names)
            except UnavailableError:
                raise
            except PycmError as error:
                failed.append(f"{error} (its images are not imported)")
    finally:
        client.close()
    return News(PullStep.DONE.value, images=tuple(images), failed=_shorten_report(failed))


def _shorten_report(failed: list[str]) -> tuple[str, ...]:
    """Return as many failures as the report has space for, and the number of the others."""
    room = REPORT
    for number, text in enumerate(failed):
        room -= len(json.dumps(text)) + 2
        if room < 0:
            return (*failed[:number], f"{len(failed) - number} more archives cannot be imported")
    return tuple(failed)


def list_archives(directory: str) -> list[str]:
    """Return layout directories and tar archives in *directory*, which may be a layout itself."""
    if os.path.exists(os.path.join(directory, INDEX)):
        return [directory]
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise OperationFailedError(f"preload directory {shorten(directory)}: {error.strerror}") from None
    paths = [os.path.join(directory, name) for name in names if not name.startswith(".")]
    found = [path for path in paths if path.endswith(".tar") or os.path.exists(os.path.join(path, INDEX))]
    if len(found) > MOST_ARCHIVES:
        raise OperationFailedError(
            f"preload directory {shorten(directory)} has {len(found)} archives, more than {MOST_ARCHIVES}"
        )
    return found


async def _import(
    job: Job, client: Client, reporter: Reporter, layout: Layout, named: list[tuple[str, Descriptor]]
) -> list[str]:
    """Import all images of the archive: first fetch all of them, then name them."""
    lease = PullLease(client, job.lease, hashlib.sha256(os.fsencode(layout.path)).hexdigest()[:32])
    await lease.take()
    try:
        for name, root in named:
            pull = Pull(job, client, lease, reporter, name)
            await pull.content_of(layout, root)
        fail_point("registry.preload-fetched")
        for name, root in named:
            await pull.name(name, root, preloaded=True)
    except PycmError:
        with contextlib.suppress(PycmError):
            await lease.end()  # damaged content is not kept
        raise
    await lease.end()
    return [name for name, _ in named]


def _find_names(layout: Layout, index: bytes) -> list[tuple[str, Descriptor]]:
    what = f"{layout.name}: its {INDEX}"
    entries = image_format.read_manifest(image_format.parse(index, what), what)
    if isinstance(entries, Manifest) or not entries:
        raise OperationFailedError(f"{what} lists no images")
    if len(entries) > MOST_IMAGES:
        raise OperationFailedError(f"{what} lists {len(entries)} images, more than {MOST_IMAGES}")
    named = [(name, entry) for entry in entries if (name := find_name(entry))]
    if not named:
        raise OperationFailedError(f"{what} gives no image a full name such as registry.example/app:1.0")
    return named


# ── layouts and archives ──

INDEX = "index.json"
#: Headers in an archive (a file has one or two, an image some dozens); bytes of a header that gives a long name.
MOST_MEMBERS, HEADER_LIMIT = 20_000, 64 << 10
#: Characters in the name of a file that can be a blob.
NAME_LIMIT = 200
_BLOCK = 512
#: Types of tar headers: files, and extended headers for a name or size that does not fit the file's own header.
_FILE, _PAX, _LONG_NAME = b"0\0007", b"x", b"L"
#: Annotations in which tools write the name of an image; the second one may hold a tag only.
NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


class Layout:
    """A layout directory or archive at *path*, as a `remote.Source`. OperationFailedError if it is neither."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = f"archive {shorten(path)}"
        self._members = None if os.path.isdir(path) else self._read_members()

    def index(self) -> bytes:
        """Return index.json."""
        with contextlib.closing(self._reader(INDEX, 0)) as reader:
            data = reader.read(image_format.DOCUMENT_LIMIT + 1)
        if len(data) > image_format.DOCUMENT_LIMIT:
            raise OperationFailedError(
                f"{self.name}: its {INDEX} has more than {image_format.DOCUMENT_LIMIT} bytes"
            )
        return data

    def document(self, descriptor: Descriptor) -> bytes:
        with contextlib.closing(self.open(descriptor, 0)) as reader:
            return reader.read(descriptor.size)

    def open(self, descriptor: Descriptor, offset: int) -> Reader:
        algorithm, _, value = descriptor.digest.partition(":")
        if not is_digest(descriptor.digest):
            raise OperationFailedError(f"{self.name}: {shorten(descriptor.digest)} is not a digest")
        reader = self._reader(f"blobs/{algorithm}/{value}", offset)
        if reader.size != descriptor.size:
            reader.close()
            raise OperationFailedError(
                f"{self.name}: {descriptor.digest} has {reader.size} bytes, expected {descriptor.size}"
            )
        return reader

    def _reader(self, name: str, offset: int) -> FileReader:
        if self._members is None:
            path = os.path.join(self.path, name)
            descriptor, size = self._open(path, name)
            return FileReader(self.name, descriptor, 0, size, offset)
        if name not in self._members:
            raise NotFoundError(f"{self.name}: {name} is missing")
        start, size = self._members[name]
        return FileReader(self.name, self._open(self.path, name)[0], start, size, offset)

    def _open(self, path: str, name: str) -> tuple[int, int]:
        """Return descriptor and size of a regular file."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except FileNotFoundError:
            raise NotFoundError(f"{self.name}: {name} is missing") from None
        except OSError as error:
            raise OperationFailedError(f"{self.name}: {name} cannot be read: {error.strerror}") from None
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise OperationFailedError(f"{self.name}: {name} is not a regular file")
        return descriptor, found.st_size

    def _read_members(self) -> dict[str, tuple[int, int]]:
        """Return names of the index and of possible blobs, with offset and size."""
        descriptor, size = self._open(self.path, "it")
        try:
            members = {}
            for number, (name, place, length) in enumerate(_read_headers(descriptor, size)):
                if number >= MOST_MEMBERS:
                    raise OperationFailedError(f"{self.name} has more than {MOST_MEMBERS} files")
                name = name.removeprefix("./")  # noqa: PLW2901
                if name == INDEX or (name.startswith("blobs/") and len(name) <= NAME_LIMIT):
                    members[name] = place, length
            return members
        except (ValueError, OSError) as error:
            raise OperationFailedError(
                f"{self.name} is truncated, compressed or not a tar archive: {shorten(str(error))[1:-1]}"
            ) from None
        finally:
            os.close(descriptor)


def _read_headers(descriptor: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of what follows each header of a tar archive of *end* bytes; name "" if it is not a
    file.

    ValueError for an invalid header. Python's tarfile reads headers of any size into memory, and some of its versions
    need a time that grows with the square of the size.
    """
    place = 0
    given: dict[bytes, bytes] = {}  # by the headers before a file's own
    while place < end:
        header = os.pread(descriptor, _BLOCK, place)
        if place and not any(header):
            return
        kind, size = header[156:157], _read_size(header)
        is_file = kind in _FILE
        if is_file:
            size = int(given.get(b"size", size))
        place += _BLOCK
        if not 0 <= size <= end - place:
            raise ValueError(f"{size} bytes at offset {place} of {end}")
        yield os.fsdecode(given.get(b"path") or _short_name(header)) if is_file else "", place, size
        if is_file:
            given = {}
        elif kind in (_PAX, _LONG_NAME):
            if size > HEADER_LIMIT:
                raise ValueError(f"a header of {size} bytes at offset {place}, more than {HEADER_LIMIT}")
            given.update(_read_extended(kind, os.pread(descriptor, size, place)))
        place += -(-size // _BLOCK) * _BLOCK


def _read_size(header: bytes) -> int:
    if len(header) < _BLOCK:
        raise ValueError("truncated header")
    if int(_field(header, 148, 8), 8) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
        raise ValueError("wrong checksum of a header")
    if header[124] == 0x80:  # a number that does not fit into octal digits
        return int.from_bytes(header[125:136], "big")
    return int(_field(header, 124, 12) or b"0", 8)


def _short_name(header: bytes) -> bytes:
    prefix = _field(header, 345, 155) if header[257:263] == b"ustar\0" else b""
    return b"/".join(filter(None, (prefix, _field(header, 0, 100))))


def _field(header: bytes, start: int, size: int) -> bytes:
    return header[start : start + size].partition(b"\0")[0].strip(b" ")


def _read_extended(kind: bytes, data: bytes) -> dict[bytes, bytes]:
    """Return path and size in an extended header: records of LENGTH KEY=VALUE, each with a newline."""
    if kind == _LONG_NAME:
        return {b"path": data.partition(b"\0")[0]}
    found, place = {}, 0
    while place < len(data):
        space = data.index(b" ", place, place + 8)
        length = int(data[place:space])
        if not space - place < length <= len(data) - place:
            raise ValueError("invalid extended header")
        key, _, value = data[space + 1 : place + length - 1].partition(b"=")
        if key in (b"path", b"size"):
            found[key] = value
        place += length
    return found


class FileReader:
    """A part of a file, from *offset* on. `close` closes *descriptor*."""

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
            raise OperationFailedError(f"{self._name} is truncated: {self._left} bytes are missing")
        self._place += len(data)
        self._left -= len(data)
        return data

    def close(self) -> None:
        os.close(self._descriptor)


def find_name(entry: Descriptor) -> str:
    """Return the full name of an entry of index.json, "" if it has none."""
    for key in NAMES:
        name = entry.annotations.get(key, "")
        if "/" in name:
            return parse_reference(name).text
    return ""
