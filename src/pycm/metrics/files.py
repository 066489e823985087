# SPDX-License-Identifier: Apache-2.0
"""Files of the kernel that are opened once and read with pread at every sample.

This makes a sample cheap: opening and closing a kernel file costs more than twice as much as reading it. If the process
has no free descriptor, a file is opened for each read instead.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LOG = logging.getLogger("pycm.metrics")
T = TypeVar("T")

#: Bytes that are read of a file: ten times the size of a memory.stat, or an io.stat of 150 devices.
READ_SIZE = 16 * 1024
#: The kernel returns /proc/PID/net/dev page by page. A read shorter than a page minus one line is the last one.
_FULL_PAGE = 4096 - 512
#: Pages of it that are read: a thousand interfaces.
_PAGES = 32
_NO_DESCRIPTOR = -1
_EXHAUSTED = (errno.EMFILE, errno.ENFILE)
#: Errors of a removed cgroup (ENODEV) and of an ended process (ESRCH). Opened by name, both give ENOENT.
GONE = frozenset({errno.ENODEV, errno.ESRCH, errno.ENOENT})
_FLAGS = os.O_RDONLY | os.O_CLOEXEC


class Source(Generic[T]):
    """A file that may hold a figure, and its parser."""

    __slots__ = ("parse", "path")

    def __init__(self, path: str, parse: Callable[[bytes], T]) -> None:
        self.path = path
        self.parse = parse


class Probe(Generic[T]):
    """The open file of one figure."""

    __slots__ = ("_descriptor", "_parse", "_path")

    def __init__(self, source: Source[T], descriptor: int = _NO_DESCRIPTOR) -> None:
        self._path = source.path
        self._parse = source.parse
        self._descriptor = descriptor

    @property
    def descriptor(self) -> int:
        """The open descriptor, -1 if the file is opened for each read."""
        return self._descriptor

    def value(self) -> T:
        """The current figure. Errors: ValueError, OSError (errno in GONE: the cgroup or process has ended)."""
        if self._descriptor < 0:
            return self._parse(read_once(self._path))
        return self._parse(os.pread(self._descriptor, READ_SIZE, 0))

    def close(self) -> None:
        """Close the descriptor. Later calls of `value` open the file each time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = _NO_DESCRIPTOR


class PagedProbe(Probe[T]):
    """A Probe for a file of /proc that the kernel returns page by page."""

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
    """The content of a small file, at most *limit* bytes."""
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
    """Whether the process has run out of descriptors for kept files. Logged once."""

    def __init__(self) -> None:
        self.spent = False
        self._logged = False

    def exhausted(self) -> None:
        self.spent = True
        if not self._logged:
            self._logged = True
            LOG.warning(
                "metrics: no free file descriptor (new containers' files are opened at each sample, at twice the cost;"
                " raise LimitNOFILE of the agent's unit)"
            )


def open_probe(
    sources: Iterable[Source[T]], descriptors: Descriptors, kind: type[Probe[T]] = Probe
) -> Probe[T] | None:
    """A probe of the first of *sources* that this machine has. None if it has none."""
    for source in sources:
        try:
            if not descriptors.spent:
                return kind(source, os.open(source.path, _FLAGS))
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                LOG.debug("metrics: file unavailable: %s", error)
                continue
            descriptors.exhausted()
        if os.path.exists(source.path):
            return kind(source)
    return None
