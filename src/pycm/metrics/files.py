# SPDX-License-Identifier: Apache-2.0
"""Files that are read again and again: opened once, then read from their start with pread.

That is what makes a sample cheap: opening and closing a kernel file costs more than twice of what reading it does. If the process has
no descriptor to spare, a file is opened for each read instead.
"""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LOG = logging.getLogger("pycm.metrics")
T = TypeVar("T")

#: Largest part of a file that is looked at: ten times of a memory.stat, an io.stat of 150 devices.
READ_SIZE = 16 * 1024
#: The kernel hands out /proc/PID/net/dev in pages; less than a page minus one line of it is the end of the file.
_FULL_PAGE = 4096 - 512
#: Pages of such a file that are looked at: a thousand interfaces.
_PAGES = 32
_NO_DESCRIPTOR = -1
_EXHAUSTED = (errno.EMFILE, errno.ENFILE)
#: A removed cgroup answers ENODEV, files of an ended process ESRCH; opened by name both are just not there.
GONE = frozenset({errno.ENODEV, errno.ESRCH, errno.ENOENT})
_FLAGS = os.O_RDONLY | os.O_CLOEXEC


@dataclass(frozen=True)
class Source(Generic[T]):
    """Where a figure can be read and how."""

    path: str
    parse: Callable[[bytes], T]


class Probe(Generic[T]):
    """One figure's open file."""

    __slots__ = ("_descriptor", "_parse", "_path")

    def __init__(self, source: Source[T], descriptor: int = _NO_DESCRIPTOR) -> None:
        self._path = source.path
        self._parse = source.parse
        self._descriptor = descriptor

    @property
    def descriptor(self) -> int:
        """The kept descriptor, -1 if the file is opened for each read."""
        return self._descriptor

    def value(self) -> T:
        """The figure now. Raises OSError (errno in GONE: the cgroup or process has ended) and ValueError."""
        if self._descriptor < 0:
            return self._parse(read_once(self._path))
        return self._parse(os.pread(self._descriptor, READ_SIZE, 0))

    def close(self) -> None:
        """Give the descriptor back. A `value` after this opens the file for itself."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = _NO_DESCRIPTOR


class PagedProbe(Probe[T]):
    """The same for a file of /proc that comes a page at a time."""

    __slots__ = ()

    def value(self) -> T:
        data = os.pread(self._descriptor, READ_SIZE, 0) if self._descriptor >= 0 else read_once(self._path)
        if self._descriptor >= 0 and len(data) > _FULL_PAGE:
            data += self._rest(len(data))
        return self._parse(data)

    def _rest(self, offset: int) -> bytes:
        parts = []
        for _ in range(_PAGES):
            part = os.pread(self._descriptor, READ_SIZE, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
        return b"".join(parts)


def read_once(path: str, limit: int = READ_SIZE * 8) -> bytes:
    """A whole small file, at most *limit* bytes of it."""
    descriptor = os.open(path, _FLAGS)
    try:
        parts = []
        while limit > 0 and (part := os.read(descriptor, min(limit, READ_SIZE))):
            parts.append(part)
            limit -= len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


class Descriptors:
    """Whether the process has descriptors to spare for kept files; told once when it has not."""

    def __init__(self) -> None:
        self.spent = False
        self._told = False

    def exhausted(self) -> None:
        self.spent = True
        if not self._told:
            self._told = True
            LOG.warning(
                "no file descriptors left: files of further containers are opened for each sample, which costs twice as much;"
                " raise LimitNOFILE of the agent's unit"
            )


def open_probe(
    sources: Iterable[Source[T]], descriptors: Descriptors, kind: type[Probe[T]] = Probe
) -> Probe[T] | None:
    """The first of *sources* that this machine has; None if it has none."""
    for source in sources:
        try:
            if not descriptors.spent:
                return kind(source, os.open(source.path, _FLAGS))
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                LOG.debug("not available: %s", error)
                continue
            descriptors.exhausted()
        if os.path.exists(source.path):
            return kind(source)
    return None
