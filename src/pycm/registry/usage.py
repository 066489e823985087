# SPDX-License-Identifier: Apache-2.0
"""Images in containerd: which containers use them, how old they are, and which ones may be removed.

No jump of the clock makes an image old. An age is the time that the machine has been in use since the agent first saw
the image. A file adds it up over boots, and it is never more than the clock says. While the clock is implausible, no
image has an age. A power cut makes images younger.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pycm
from pycm.containerd.image_format import estimate_unpacked
from pycm.errors import NotFoundError, OperationFailedError
from pycm.model.units import NANOSECONDS
from pycm.storage.files import StateFile

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from pycm.containerd.content import Content
    from pycm.containerd.images import Images, ImageStore, Record

log = logging.getLogger("pycm.registry")

# ── usage ──

#: Images whose documents are cached; further ones are read again.
MOST_CACHED = 512
#: Images that are read at the same time.
PARALLEL = 8
_SNAPSHOT = "-snapshot"


class Used(NamedTuple):
    """An image and its users. `size`: bytes of its layers that are here.

    `room`: bytes that its removal may free, with the unpacked layers and those that it shares with other images.
    `readable`: False for a damaged image, whose users are not all known.
    """

    record: Record
    size: int = 0
    room: int = 0
    containers: tuple[str, ...] = ()
    readable: bool = True

    @property
    def is_free(self) -> bool:
        return self.readable and not self.containers


class _Facts(NamedTuple):
    top: str
    size: int
    room: int


class Usage:
    """*containers*: references of the images from which containers were made, by the containers' ids.

    A container uses the image of that name, and no other one with the same layers. A snapshot of an unknown container
    may come from any image with these layers, so it counts for all of them.
    """

    def __init__(
        self,
        store: ImageStore,
        images: Images,
        content: Content,
        snapshotter: str,
        containers: Callable[[], Mapping[str, str]],
    ) -> None:
        self._store = store
        self._images = images
        self._content = content
        self._snapshotter = snapshotter
        self._containers = containers
        self._cached: dict[str, _Facts] = {}

    async def all(self) -> list[Used]:
        """Return all images, by reference."""
        return await self._find(sorted(await self._store.all(), key=lambda record: record.reference))

    async def of(self, record: Record) -> Used:
        return (await self._find([record]))[0]

    async def _find(self, records: Iterable[Record]) -> list[Used]:
        known = self._containers()
        names: dict[str, list[str]] = {}
        for container_id, reference in known.items():
            names.setdefault(reference, []).append(container_id)
        unknown = {
            top: [owner for key in keys if (owner := key.removesuffix(_SNAPSHOT)) not in known]
            for top, keys in (await self._store.parents(self._snapshotter)).items()
        }
        limit = asyncio.Semaphore(PARALLEL)

        async def find(record: Record) -> Used:
            async with limit:
                facts = await self._facts(record)
            users = names.get(record.reference, [])
            if facts is None:
                return Used(record, containers=tuple(sorted(users)), readable=False)
            users = sorted([*users, *unknown.get(facts.top, ())])
            return Used(record, facts.size, facts.room, tuple(users))

        return list(await asyncio.gather(*map(find, records)))

    async def _facts(self, record: Record) -> _Facts | None:
        """Return None for an image that is damaged, or not for this machine."""
        digest = record.target.digest
        if digest not in self._cached:
            try:
                image = await self._images.read(record.reference, record.target)
                sizes = [await self._content.size(layer.digest) or 0 for layer in image.layers]
            except (NotFoundError, OperationFailedError):
                return None
            size = sum(sizes)
            if len(self._cached) >= MOST_CACHED:
                self._cached.pop(next(iter(self._cached)))
            self._cached[digest] = _Facts(image.top, size, size + sum(map(estimate_unpacked, image.layers)))
        return self._cached[digest]

    def forget(self, digest: str) -> None:
        self._cached.pop(digest, None)


def find_expired(
    images: Iterable[Used], held: Collection[str], limit: float, ages: Mapping[str, float]
) -> tuple[list[str], float | None]:
    """Return the images whose age has reached *limit*, and the seconds until the next one's may.

    An image that is in use or held has no such time: the removal of its last container starts the next look.
    """
    due, left = [], []
    for image in images:
        reference = image.record.reference
        if image.record.preloaded or not image.is_free or reference in held or reference not in ages:
            continue
        rest = limit - ages[reference]
        if rest <= 0:
            due.append(reference)
        else:
            left.append(rest)
    return due, min(left, default=None)


def choose_for_room(images: Iterable[Used], held: Collection[str], missing: int) -> list[str]:
    """Return the oldest unused images whose removal may free *missing* bytes; none if all together are not enough."""
    chosen, sum_ = [], 0
    for image in sorted(images, key=lambda image: image.record.created_ns):
        if sum_ >= missing:
            break
        if image.is_free and not image.record.preloaded and image.record.reference not in held:
            chosen.append(image.record.reference)
            sum_ += image.room
    return chosen if sum_ >= missing else []


# ── ages ──

#: Seconds since 1970 (2020). Before it the clock was not set: an image from that time has no known age.
CLOCK_SET = 1_577_836_800
#: Seconds by which the clock may move within a boot.
JUMP = 600.0
#: Seconds of use that a crash may lose while nothing else changes; images that are counted; bytes of the file.
UNSAVED, MOST_SEEN, SIZE_LIMIT = 3600.0, 4096, 4 << 20
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
#: systemd-timesyncd makes it when it has set the clock in this boot.
_TIMESYNCD = "/run/systemd/timesync/synchronized"
_TIME_ERROR = 5  # from linux/timex.h: the clock is not synchronised


class Clocks(NamedTuple):
    """The machine's clocks in seconds: wall since 1970, running since boot without sleep, booted with sleep."""

    wall: float
    running: float
    booted: float
    boot_id: str


class Count(NamedTuple):
    """What is counted. `used`: seconds of use over all boots, as of `running` in boot `boot_id`.

    `wall`: the last plausible time. `offset`: wall minus booted when this boot was first seen. `jumped`: it has changed
    by more than JUMP since. `seen`: for each image its creation (nanoseconds since 1970), `used` when it was first
    seen, and its digest ("" if unknown).
    """

    used: float = 0.0
    wall: float = 0.0
    boot_id: str = ""
    running: float = 0.0
    offset: float = 0.0
    jumped: bool = False
    seen: Mapping[str, tuple[int, float, str]] = {}


def count(before: Count, clocks: Clocks) -> Count:
    """Add the use since *before*. The time between two boots does not count."""
    offset = clocks.wall - clocks.booted
    if clocks.boot_id != before.boot_id:
        return before._replace(
            used=before.used + clocks.running,
            boot_id=clocks.boot_id,
            running=clocks.running,
            offset=offset,
            jumped=False,
        )
    return before._replace(
        used=before.used + max(clocks.running - before.running, 0.0),
        running=clocks.running,
        jumped=before.jumped or abs(offset - before.offset) > JUMP,
    )


def is_plausible(counted: Count, wall: float, built: float, synchronised: Callable[[], bool]) -> bool:
    """Check the clock's *wall*: it follows what is known, or something keeps it right."""
    follows = wall >= counted.wall and wall >= built and not counted.jumped
    return follows or synchronised()


def see(counted: Count, records: Iterable[Record]) -> Count:
    """Note the present images, at most MOST_SEEN. A name that was made again, or that moved, counts as new."""
    seen: dict[str, tuple[int, float, str]] = {}
    for record in records:
        digest = record.target.digest
        created, since, before = counted.seen.get(record.reference, (None, 0.0, ""))
        if created != record.created_ns or before not in ("", digest):
            since = counted.used
        if len(seen) < MOST_SEEN:
            seen[record.reference] = record.created_ns, since, digest
    return counted._replace(seen=seen)


def find_ages(counted: Count, wall: float) -> dict[str, float]:
    """Return ages in seconds: in use or by the clock, whichever is less."""
    return {
        reference: min(counted.used - since, wall - created / NANOSECONDS)
        for reference, (created, since, _) in counted.seen.items()
        if created >= CLOCK_SET * NANOSECONDS
    }


def read_clocks() -> Clocks:
    """OperationFailedError if the kernel does not identify its boot."""
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            boot_id = file.read(64).strip()
    except OSError as error:
        raise OperationFailedError(f"cannot read {_BOOT_ID}: {error.strerror}") from None
    running, booted = time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME)
    return Clocks(time.time(), running, booted, boot_id)


def is_synchronised() -> bool:
    """Check whether the kernel or systemd-timesyncd says that the clock is kept right, by NTP for instance."""
    if os.path.exists(_TIMESYNCD):
        return True
    import ctypes  # half a MiB, only for an implausible clock

    # struct timex, at most 208 bytes, with modes 0: read only. systemd's ProtectClock= denies even that.
    return ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) not in (-1, _TIME_ERROR)


def build_time() -> float:
    """Return the time of this program's file: the clock cannot be before it."""
    return max(os.stat(pycm.__file__).st_mtime, CLOCK_SET)


class Ages:
    """Counts in the file *path*; without one ("") from now on. Blocking: for worker threads."""

    def __init__(
        self,
        path: str,
        clocks: Callable[[], Clocks] = read_clocks,
        synchronised: Callable[[], bool] = is_synchronised,
    ) -> None:
        self._file = StateFile(path, log, limit=SIZE_LIMIT, loss="images count as new", directory_mode=0o700)
        self._clocks = clocks
        self._synchronised = synchronised
        self._counted: Count | None = None
        self._saved = Count()
        self._lock = threading.Lock()  # the agent may end during a look

    def of(self, records: Iterable[Record]) -> dict[str, float]:
        """Return ages of images in seconds, by reference; none while the clock is implausible."""
        with self._lock:
            before = self._counted
            if before is None:
                before = self._saved = self._file.read(parse, Count())
            clocks = self._clocks()
            counted = see(count(before, clocks), records)
            plausible = is_plausible(counted, clocks.wall, build_time(), self._synchronised)
            self._counted = counted._replace(wall=clocks.wall) if plausible else counted
            saved, now = self._saved, self._counted
            changed = (saved.boot_id, saved.jumped, saved.seen) != (now.boot_id, now.jumped, now.seen)
            if changed or now.used - saved.used >= UNSAVED:
                self._save(now)
            return find_ages(counted, clocks.wall) if plausible else {}

    def close(self) -> None:
        """Save the count up to now."""
        with self._lock:
            if self._counted is not None:
                self._counted = count(self._counted, self._clocks())
                self._save(self._counted)

    def _save(self, counted: Count) -> None:
        """A failure only makes images younger after the next start."""
        self._saved = counted
        self._file.write(counted._asdict())


def parse(value: dict[str, Any]) -> Count:
    """Read the value of the file. ValueError, TypeError, LookupError or AttributeError if it is invalid."""
    used, wall, running, offset = (float(value[name]) for name in ("used", "wall", "running", "offset"))
    seen = {
        str(name): (int(created), float(since), str(*digest))  # older versions wrote no digest
        for name, (created, since, *digest) in value["seen"].items()
    }
    numbers = (used, wall, running, offset, *(since for _, since, _ in seen.values()))
    if not all(map(math.isfinite, numbers)) or any(not 0 <= since <= used for _, since, _ in seen.values()):
        raise ValueError("a number out of range")
    return Count(used, wall, str(value["boot_id"]), running, offset, value["jumped"] is not False, seen)
