# SPDX-License-Identifier: Apache-2.0
"""A bound for the logs of all containers together, since what each may have adds up to more than a device's flash.

At the bound files go in this order until the rest fits: rotated files, the oldest first; the log of a container that does not run,
the oldest first; and of a running one the live file, the biggest first, if it is beyond its minimum (a fair part of the bound): it
is rotated before its time, and then is a rotated file like others. Nothing here wakes up by itself: what is written is counted, and
the files are looked at when the count says that the bound may be reached.
"""

from __future__ import annotations

import glob
import logging
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pycm.logs.rotation import LogFile

#: Bytes written between two looks where the bound cannot be kept, and at least between any two.
AT_LEAST = 1024 * 1024
#: No container's minimum is below this.
LEAST_MINIMUM = 64 * 1024
_OURS = re.compile(r"json\.log(\.[0-9]{1,6})?")
log = logging.getLogger("pycm.logs")


class Found(NamedTuple):
    path: str
    size: int
    changed: float
    rotated: bool


class Quota:
    """*containers*: the directory that holds a directory for each container. *limit*: bytes; 0 for no bound. For one thread."""

    def __init__(self, containers: str, limit: int) -> None:
        self._containers = containers
        self._limit = limit
        #: Bytes that may be written before the next look. The first one waits until all that runs has been opened.
        self._left = AT_LEAST
        self._live: dict[str, LogFile] = {}
        self._elsewhere: set[str] = set()  # directories of logs with a root_dir, as far as they are known
        self._told = False

    def opened(self, path: str, file: LogFile) -> None:
        """The container of the log at *path* runs."""
        self._live[path] = file
        directory = os.path.dirname(path)
        if os.path.dirname(directory) != self._containers.rstrip("/"):
            self._elsewhere.add(directory)

    def closed(self, path: str) -> None:
        self._live.pop(path, None)

    def wrote(self, count: int) -> None:
        """*count* bytes have been appended to a log. Looks at the files if the bound may have been reached."""
        if self._limit <= 0:
            return
        self._left -= count
        if self._left <= 0:
            self._left = max(self._keep(), AT_LEAST)

    def rotated(self) -> None:
        """There is a file more that could go: the bound may be kept where it could not be before."""
        if self._told:
            self._left = 0

    def _keep(self) -> int:
        """Remove what is too much; the bytes that are free then."""
        files = list(self._files())
        over = sum(file.size for file in files) - self._limit
        if over > 0 and not self._told:
            self._told = True
            log.warning(
                "the logs of all containers together have reached their limit of %d bytes: from now on the oldest rotated files"
                " are removed",
                self._limit,
            )
        for file in _removable(files, self._live):
            if over <= 0:
                break
            with suppress(OSError):
                os.unlink(file.path)
                over -= file.size
        if over > 0:
            self._rotate_early(files, over)
        return -over

    def _rotate_early(self, files: Iterable[Found], over: int) -> None:
        minimum = max(self._limit // (4 * max(len(self._live), 1)), LEAST_MINIMUM)
        live = [file for file in files if file.path in self._live and file.size > minimum]
        for file in sorted(live, key=lambda file: -file.size):
            if over <= 0:
                break
            self._live[file.path].rotate_early()
            over -= file.size

    def _files(self) -> Iterator[Found]:
        below = glob.glob(os.path.join(glob.escape(self._containers), "*", "json.log*"))
        others = [os.path.join(directory, "json.log") for directory in sorted(self._elsewhere)]
        for path in [*below, *(found for other in others for found in glob.glob(glob.escape(other) + "*"))]:
            match = _OURS.fullmatch(os.path.basename(path))
            if match is None:
                continue
            with suppress(OSError):
                status = os.lstat(path)
                yield Found(path, status.st_size, status.st_mtime, bool(match[1]))


def _removable(files: Iterable[Found], live: Iterable[str]) -> list[Found]:
    """In the order in which they go."""
    kept = frozenset(live)
    candidates = [file for file in files if file.size and (file.rotated or file.path not in kept)]
    return sorted(candidates, key=lambda file: (not file.rotated, file.changed))
