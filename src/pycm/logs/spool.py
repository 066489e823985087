# SPDX-License-Identifier: Apache-2.0
"""Output that has left the FIFO and is not in json.log yet, and the record of how far json.log has come.

splice(2) moves bytes from the FIFO into the spool file in one system call: a kill leaves each of them in exactly one place. After
an append to json.log one small write records, together, the size of json.log and the place in each spool up to which everything is
in it. A process that finds json.log longer than the record says, cuts it back and goes on from the spool.

A spool file grows at its end only (its size is its write position). When enough of it is used up, its rest moves to a file of the
next generation: that is complete before the record names it, and the old one goes afterwards. A spool file that is not there is
an empty one.
"""

from __future__ import annotations

import os
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from pycm.storage.files import open_regular

#: Bytes at the beginning of a spool file that are in json.log already; beyond these the file is replaced.
USED_LIMIT = 64 * 1024
STREAMS = ("stdout", "stderr")

_MAGIC = b"pycmlog1"
_HEAD = struct.Struct("<8sQQQ")
_STREAM = struct.Struct("<QQQ")
_SUM = struct.Struct("<I")
STATE_BYTES = _HEAD.size + len(STREAMS) * _STREAM.size + _SUM.size


@dataclass
class Mark:
    """How far json.log has one stream: *used* bytes of the spool of *generation*; *line_time* (ns) if in the middle of a long line."""

    generation: int = 0
    used: int = 0
    line_time: int = 0


@dataclass
class State:
    """What json.log holds: device and inode of the file, its size, and a mark a stream."""

    device: int = 0
    inode: int = 0
    size: int = 0
    marks: tuple[Mark, ...] = field(default_factory=lambda: tuple(Mark() for _ in STREAMS))

    def pack(self) -> bytes:
        body = _HEAD.pack(_MAGIC, self.device, self.inode, self.size)
        body += b"".join(_STREAM.pack(m.generation, m.used, m.line_time) for m in self.marks)
        return body + _SUM.pack(zlib.crc32(body))

    @classmethod
    def unpack(cls, data: bytes) -> State | None:
        """None if *data* is not a whole record."""
        body = data[: -_SUM.size]
        if len(data) != STATE_BYTES or data[-_SUM.size :] != _SUM.pack(zlib.crc32(body)):
            return None
        magic, device, inode, size = _HEAD.unpack_from(body)
        if magic != _MAGIC:
            return None
        offsets = range(_HEAD.size, len(body), _STREAM.size)
        return cls(device, inode, size, tuple(Mark(*_STREAM.unpack_from(body, at)) for at in offsets))


class StateFile:
    """The State of a container on disk. The record is shorter than a page, so that a kill leaves it old or new."""

    def __init__(self, path: str) -> None:
        self._descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)

    def load(self) -> State | None:
        return State.unpack(os.pread(self._descriptor, STATE_BYTES, 0))

    def store(self, state: State) -> None:
        os.pwrite(self._descriptor, state.pack(), 0)

    def close(self) -> None:
        os.close(self._descriptor)


class NoStateFile:
    """Where no file can be written: nothing is remembered over a kill."""

    def load(self) -> State | None:
        return None

    def store(self, state: State) -> None:
        pass

    def close(self) -> None:
        pass


class Spool(Protocol):
    """Bytes of one stream. `size`: where the next ones come."""

    @property
    def size(self) -> int: ...

    def fill(self, fifo: int, count: int) -> int:
        """Move *count* bytes, which the FIFO has, from it; returns how many came. OSError: nothing moved."""

    def append(self, data: bytes) -> None: ...

    def read(self, offset: int, count: int) -> bytes: ...

    def next(self, used: int) -> Spool:
        """The spool of the next generation, which begins after the *used* bytes. The old one stays until `discard`."""

    def close(self) -> None: ...

    def discard(self) -> None:
        """Close and remove."""


class FileSpool:
    def __init__(self, directory: str, stream: str, generation: int) -> None:
        self._place = (directory, stream, generation)
        self._path = os.path.join(directory, f"{stream}.{generation}")
        self._descriptor = -1
        self.size = 0
        with suppress(FileNotFoundError):
            self._open(os.O_RDWR)
            self.size = os.fstat(self._descriptor).st_size

    def _open(self, flags: int) -> None:
        self._descriptor = open_regular(self._path, flags)

    def _ready(self) -> int:
        """The descriptor; the file is made when there is something to keep."""
        if self._descriptor < 0:
            self._open(os.O_RDWR | os.O_CREAT)
        return self._descriptor

    def fill(self, fifo: int, count: int) -> int:
        moved = os.splice(fifo, self._ready(), count, offset_dst=self.size)
        self.size += moved
        return moved

    def append(self, data: bytes) -> None:
        while data:
            written = os.pwrite(self._ready(), data, self.size)
            self.size += written
            data = data[written:]

    def read(self, offset: int, count: int) -> bytes:
        return os.pread(self._descriptor, count, offset) if offset < self.size else b""

    def next(self, used: int) -> FileSpool:
        directory, stream, generation = self._place
        successor = FileSpool(directory, stream, generation + 1)
        try:
            successor.append(self.read(used, self.size - used))
        except OSError:
            successor.discard()
            raise
        return successor

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        self.close()
        with suppress(OSError):
            os.unlink(self._path)


class MemorySpool:
    """In place of a FileSpool where the file system is full or cannot splice: works, but a kill loses what it holds."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = bytearray(data)

    @property
    def size(self) -> int:
        return len(self._data)

    def fill(self, fifo: int, count: int) -> int:
        data = os.read(fifo, count)
        self._data += data
        return len(data)

    def append(self, data: bytes) -> None:
        self._data += data

    def read(self, offset: int, count: int) -> bytes:
        return bytes(self._data[offset : offset + count])

    def next(self, used: int) -> MemorySpool:
        return MemorySpool(bytes(self._data[used:]))

    def close(self) -> None:
        pass

    def discard(self) -> None:
        self._data.clear()
