# SPDX-License-Identifier: Apache-2.0
"""Is there room for an image: sizes in its manifest against free space, before a byte of it is fetched."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pycm.registry.job import NoRoomError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pycm.containerd.image_format import Descriptor

#: How much bigger a layer is once unpacked. No more than a guess for compressed ones; while unpacking, free space is watched.
_GROWTH = (("zstd", 3.0), ("gzip", 2.5))
MB = 1_000_000
#: Of the files that a file system can have one part in as many stays free while a layer is unpacked, but no more than MOST_FILES.
FILES_PART, MOST_FILES = 16, 16_384


def unpacked(layer: Descriptor) -> int:
    """Bytes that *layer* probably takes unpacked."""
    factor = next((factor for ending, factor in _GROWTH if layer.media_type.endswith(ending)), 1.0)
    return int(layer.size * factor)


def free(directory: str) -> int | None:
    """Bytes that may still be written under *directory*; None if it cannot be seen from here."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def used_up(directory: str, reserve: int) -> str:
    """What the file system of *directory* is about to run out of: bytes, less than *reserve*, or files; "" if of nothing, or unseen."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return ""
    if (room := found.f_bavail * found.f_frsize) < reserve:
        return f"{_mb(room)} are free under {directory}"
    if found.f_favail < min(found.f_files // FILES_PART, MOST_FILES):
        return f"{found.f_favail} of {found.f_files} files are free under {directory}"
    return ""


def check(what: str, needs: Iterable[tuple[str, int]], reserve: int) -> None:
    """NoRoomError unless every (directory, bytes) of *needs* fits, what shares a file system added up, and *reserve* is left."""
    by_device: dict[int, tuple[str, int]] = {}
    for directory, size in needs:
        try:
            device = os.stat(directory).st_dev
        except OSError:
            continue  # containerd lives elsewhere: it will say itself when it is full
        first, sum_ = by_device.get(device, (directory, 0))
        by_device[device] = (first, sum_ + size)
    for directory, size in by_device.values():
        room = free(directory)
        if size and room is not None and room < size + reserve:
            raise no_room(what, directory, size, reserve, room)


def no_room(what: str, directory: str, size: int, reserve: int, room: int) -> NoRoomError:
    missing = size + reserve - room
    return NoRoomError(
        f"no room for {what}: it needs {_mb(size)} under {directory}, where {_mb(room)} are free and {_mb(reserve)} are kept as"
        f" a reserve: {_mb(missing)} are missing",
        missing,
    )


def _mb(size: int) -> str:
    return f"{size / MB:.1f} MB"
