# SPDX-License-Identifier: Apache-2.0
"""Output that has left the FIFO and is not in json.log yet, and the checkpoint that says how far json.log is.

splice(2) moves bytes from the FIFO into the spool file in one system call, so that a kill leaves each byte in exactly
one place. After an append to json.log, one small write records the size of json.log together with the position in each
spool up to which everything is in it. If a process finds json.log longer than the checkpoint says, it truncates
json.log and continues from the spool.

A spool file grows only at its end, and its size is its write position. When enough of it is used, its rest moves to a
file of the next generation. That file is complete before the checkpoint names it; the old one is removed afterwards. A
missing spool file is empty.
"""

from __future__ import annotations

import os
import struct
import zlib
from contextlib import suppress

from pycm.storage.files import open_regular

#: Bytes at the beginning of a spool file that are in json.log already. A file with more is replaced.
USED_LIMIT = 64 * 1024
STREAMS = ("stdout", "stderr")

_MAGIC = b"pycmlog1"
_HEAD = struct.Struct("<8sQQQ")
_STREAM = struct.Struct("<QQQ")
_SUM = struct.Struct("<I")
STATE_BYTES = _HEAD.size + len(STREAMS) * _STREAM.size + _SUM.size


class Mark:
    """How far json.log is in a stream: *used* bytes of a *generation*. *line_time* (ns): not 0 within a long line."""

    __slots__ = ("generation", "line_time", "used")

    def __init__(self, generation: int = 0, used: int = 0, line_time: int = 0) -> None:
        self.generation = generation
        self.used = used
        self.line_time = line_time


class State:
    """What json.log contains: device and inode of the file, its size, and a mark for each stream."""

    __slots__ = ("device", "inode", "marks", "size")

    def __init__(self, device: int = 0, inode: int = 0, size: int = 0, marks: tuple[Mark, ...] = ()) -> None:
        self.device = device
        self.inode = inode
        self.size = size
        self.marks = marks or tuple(Mark() for _ in STREAMS)

    def pack(self) -> bytes:
        body = _HEAD.pack(_MAGIC, self.device, self.inode, self.size)
        body += b"".join(_STREAM.pack(m.generation, m.used, m.line_time) for m in self.marks)
        return body + _SUM.pack(zlib.crc32(body))

    @classmethod
    def unpack(cls, data: bytes) -> State | None:
        """None if *data* is not a complete record."""
        body = data[: -_SUM.size]
        if len(data) != STATE_BYTES or data[-_SUM.size :] != _SUM.pack(zlib.crc32(body)):
            return None
        magic, device, inode, size = _HEAD.unpack_from(body)
        if magic != _MAGIC:
            return None
        offsets = range(_HEAD.size, len(body), _STREAM.size)
        return cls(device, inode, size, tuple(Mark(*_STREAM.unpack_from(body, at)) for at in offsets))


class _File:
    """A file that may be closed: `_descriptor` is -1 then. Without a *path* it is in memory."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Close and remove it."""
        self.close()
        if self._path:
            with suppress(OSError):
                os.unlink(self._path)


class Checkpoint(_File):
    """The State of a container on disk. It is shorter than a page, so that a kill leaves the old or the new one.

    Before `open` and after `close` nothing is stored: a kill of the agent then may lose or repeat lines.
    """

    def open(self) -> State | None:
        """Return the State that the file has. Errors: OSError."""
        self._descriptor = open_regular(self._path, os.O_RDWR | os.O_CREAT)
        return State.unpack(os.pread(self._descriptor, STATE_BYTES, 0))

    def store(self, state: State) -> None:
        if self._descriptor >= 0:
            os.pwrite(self._descriptor, state.pack(), 0)


class Spool(_File):
    """Bytes of one stream, in the file `<directory>/<stream>.<generation>`. `size` is where the next bytes come.

    Without a *directory* it is a file in memory: it works where the file system is full or cannot splice, but a kill
    loses its content.
    """

    def __init__(self, directory: str, stream: str, generation: int = 0) -> None:
        super().__init__(os.path.join(directory, f"{stream}.{generation}") if directory else "")
        self._place = (directory, stream, generation)
        self.size = 0
        if directory:
            with suppress(FileNotFoundError):
                self._descriptor = open_regular(self._path, os.O_RDWR)
                self.size = os.fstat(self._descriptor).st_size

    def _ready(self) -> int:
        """The descriptor. The file is created when there is something to keep."""
        if self._descriptor < 0:
            if self._path:
                self._descriptor = open_regular(self._path, os.O_RDWR | os.O_CREAT)
            else:
                self._descriptor = os.memfd_create("pycm-spool", os.MFD_CLOEXEC)
        return self._descriptor

    def fill(self, fifo: int, count: int) -> int:
        """Move *count* bytes, which the FIFO has, from it. Return how many came. OSError: nothing moved."""
        if self._path:
            moved = os.splice(fifo, self._ready(), count, offset_dst=self.size)
            self.size += moved
            return moved
        data = os.read(fifo, count)
        self.append(data)
        return len(data)

    def append(self, data: bytes) -> None:
        """Add all of *data*. OSError: nothing was added."""
        end = self.size
        while data:
            written = os.pwrite(self._ready(), data, end)
            end += written
            data = data[written:]
        self.size = end

    def read(self, offset: int, count: int) -> bytes:
        return os.pread(self._descriptor, count, offset) if offset < self.size else b""

    def successor(self, used: int, *, in_memory: bool = False) -> Spool:
        """The spool of the next generation, without the first *used* bytes. The old one stays until `discard`."""
        directory, stream, generation = self._place
        successor = Spool("" if in_memory else directory, stream, generation + 1)
        try:
            successor.append(self.read(used, self.size - used))
        except OSError:
            successor.discard()
            raise
        return successor
