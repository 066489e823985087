# SPDX-License-Identifier: Apache-2.0
"""Images as they are in containerd, with the containers that use them, and which of them may go. The decisions are pure."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pycm
from pycm.containerd.image_format import estimate_unpacked
from pycm.errors import NotFoundError, OperationFailedError
from pycm.model.units import NANOSECONDS
from pycm.storage.files import make_directory, read_regular, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from pycm.containerd.content import Content
    from pycm.containerd.images import Images, ImageStore, Record


#: Images whose documents are remembered; beyond it they are read again.
MOST_REMEMBERED = 512
#: Images that are looked at side by side.
PARALLEL = 8
_SNAPSHOT = "-snapshot"


@dataclass(frozen=True)
class Used:
    """`size`: bytes of its layers as far as they are here. `room`: bytes that its removal may free, unpacked ones included; what it
    shares with others is counted too. `readable`: of a damaged image not all that uses it may be known.
    """

    record: Record
    size: int = 0
    room: int = 0
    containers: tuple[str, ...] = ()
    readable: bool = True

    @property
    def free(self) -> bool:
        return self.readable and not self.containers


@dataclass(frozen=True)
class _Facts:
    top: str
    size: int
    room: int


@dataclass(frozen=True)
class _Users:
    """Ids of known containers by reference, and of unknown ones by the snapshot that theirs stands on."""

    references: Mapping[str, list[str]]
    tops: Mapping[str, list[str]]


def _users(containers: Mapping[str, str], snapshots: Mapping[str, list[str]]) -> _Users:
    references: dict[str, list[str]] = {}
    for container_id, reference in containers.items():
        references.setdefault(reference, []).append(container_id)
    tops = {
        top: [owner for name in names if (owner := name.removesuffix(_SNAPSHOT)) not in containers]
        for top, names in snapshots.items()
    }
    return _Users(references, tops)


class Usage:
    """*containers*: references of the images that containers were made from, by the containers' ids.

    A container uses the image of that name, and no other one of the same layers. Of a snapshot that belongs to none of them it is not
    known which of several images it was made from: it counts for all.
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
        self._remembered: dict[str, _Facts] = {}

    async def all(self) -> list[Used]:
        """All images, by reference."""
        records = await self._store.all()
        return await self._used(sorted(records, key=lambda record: record.reference))

    async def of(self, record: Record) -> Used:
        return (await self._used([record]))[0]

    async def _used(self, records: Iterable[Record]) -> list[Used]:
        snapshots = await self._store.parents(self._snapshotter)
        users = _users(self._containers(), snapshots)
        limit = asyncio.Semaphore(PARALLEL)

        async def one(record: Record) -> Used:
            async with limit:
                facts = await self._facts(record)
            names = users.references.get(record.reference, [])
            if facts is None:
                return Used(record, containers=tuple(sorted(names)), readable=False)
            return Used(
                record, facts.size, facts.room, tuple(sorted([*names, *users.tops.get(facts.top, ())]))
            )

        return list(await asyncio.gather(*map(one, records)))

    async def _facts(self, record: Record) -> _Facts | None:
        """None of an image that is damaged, or not for this machine."""
        digest = record.target.digest
        if digest not in self._remembered:
            try:
                image = await self._images.read(record.reference, record.target)
                sizes = [(await self._content.size(layer.digest), layer) for layer in image.layers]
            except (NotFoundError, OperationFailedError):
                return None
            here = sum(size or 0 for size, _ in sizes)
            facts = _Facts(image.top, here, here + sum(estimate_unpacked(layer) for _, layer in sizes))
            if len(self._remembered) >= MOST_REMEMBERED:
                self._remembered.pop(next(iter(self._remembered)))
            self._remembered[digest] = facts
        return self._remembered[digest]

    def forget(self, digest: str) -> None:
        self._remembered.pop(digest, None)


def expired(
    images: Iterable[Used], held: Collection[str], limit: float, ages: Mapping[str, float]
) -> tuple[list[str], float | None]:
    """What is to be removed, since its age has reached *limit*, and the seconds until the next one's may have.

    One that is in use or held waits for its last container's removal, and has no time of its own.
    """
    due, left = [], []
    for image in images:
        reference = image.record.reference
        if image.record.preloaded or not image.free or reference in held or reference not in ages:
            continue
        rest = limit - ages[reference]
        if rest <= 0:
            due.append(reference)
        else:
            left.append(rest)
    return due, min(left, default=None)


def to_make_room(images: Iterable[Used], held: Collection[str], missing: int) -> list[str]:
    """The oldest unused images whose removal may free *missing* bytes; none if all of them together would not do."""
    chosen, sum_ = [], 0
    for image in sorted(images, key=lambda image: image.record.created_ns):
        if sum_ >= missing:
            break
        if image.free and not image.record.preloaded and image.record.reference not in held:
            chosen.append(image.record.reference)
            sum_ += image.room
    return chosen if sum_ >= missing else []


#: Before it (2020), the clock had not been set: an image that came then has no known age.
CLOCK_SET = 1_577_836_800
#: Seconds by which the clock may move within a boot without being doubted.
JUMP = 600.0
#: Seconds of use that a crash may take away while nothing else changes; images whose first sight is remembered; bytes of the file.
UNSAVED, MOST_SEEN, SIZE_LIMIT = 3600.0, 4096, 4 << 20
DAMAGED = ".damaged"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
#: Made by systemd-timesyncd when it has set the clock in this boot.
_TIMESYNCD = "/run/systemd/timesync/synchronized"
_TIME_ERROR = 5  # from linux/timex.h: the clock is not synchronised
log = logging.getLogger("pycm.registry")


@dataclass(frozen=True)
class Clocks:
    """What the machine's clocks say, in seconds: wall since 1970, running since boot without sleep, booted with it."""

    wall: float
    running: float
    booted: float
    boot_id: str


@dataclass(frozen=True)
class Count:
    """`used`: seconds of use over all boots, as of `running` in boot `boot_id`. `wall`: the last time that was believed. `offset`: wall
    minus booted when this boot was first seen; `jumped`: it has changed by more than JUMP since. `seen`: for each image when it was
    created (nanoseconds since 1970), what `used` was at its first sight, and its digest ("": not known).
    """

    used: float = 0.0
    wall: float = 0.0
    boot_id: str = ""
    running: float = 0.0
    offset: float = 0.0
    jumped: bool = False
    seen: Mapping[str, tuple[int, float, str]] = field(default_factory=dict)


def count(before: Count, clocks: Clocks) -> Count:
    """What has been counted, with the use since then; the time between two boots is none."""
    offset = clocks.wall - clocks.booted
    if clocks.boot_id != before.boot_id:
        return replace(
            before,
            used=before.used + clocks.running,
            boot_id=clocks.boot_id,
            running=clocks.running,
            offset=offset,
            jumped=False,
        )
    return replace(
        before,
        used=before.used + max(clocks.running - before.running, 0.0),
        running=clocks.running,
        jumped=before.jumped or abs(offset - before.offset) > JUMP,
    )


def is_plausible(counted: Count, wall: float, built: float, synchronised: Callable[[], bool]) -> bool:
    """Whether the clock's *wall* can be believed: it follows what is known, or somebody keeps it right."""
    follows = wall >= counted.wall and wall >= built and not counted.jumped
    return follows or synchronised()


def see(counted: Count, records: Iterable[Record]) -> Count:
    """With the images that are here now, at most MOST_SEEN of them. One that came back under the same name, or moved to it, is another one."""
    seen: dict[str, tuple[int, float, str]] = {}
    for record in records:
        digest = record.target.digest
        created, since, before = counted.seen.get(record.reference, (None, 0.0, ""))
        if created != record.created_ns or before not in ("", digest):
            since = counted.used
        if len(seen) < MOST_SEEN:
            seen[record.reference] = record.created_ns, since, digest
    return replace(counted, seen=seen)


def ages(counted: Count, wall: float) -> dict[str, float]:
    """Of the images that were seen, in seconds: in use and by the clock, whichever is less."""
    return {
        reference: min(counted.used - since, wall - created / NANOSECONDS)
        for reference, (created, since, _) in counted.seen.items()
        if created >= CLOCK_SET * NANOSECONDS
    }


def read_clocks() -> Clocks:
    """OperationFailedError where the kernel does not tell one boot from another."""
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            boot_id = file.read(64).strip()
    except OSError as error:
        raise OperationFailedError(f"{_BOOT_ID} cannot be read: {error.strerror}") from None
    running, booted = time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME)
    return Clocks(time.time(), running, booted, boot_id)


def is_synchronised() -> bool:
    """Whether the clock is kept right (by NTP, for instance), as the kernel or systemd-timesyncd says. False where neither says so."""
    if os.path.exists(_TIMESYNCD):
        return True
    import ctypes  # half a MiB, for a machine whose clock is in doubt

    # struct timex, of at most 208 bytes, with modes 0: nothing is changed. With ProtectClock=, systemd denies even that.
    return ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)) not in (-1, _TIME_ERROR)


def build_time() -> float:
    """When this program was made, as far as its file tells."""
    return max(os.stat(pycm.__file__).st_mtime, CLOCK_SET)


class Ages:
    """Counts in the file *path*; without one ("") from now on. Blocking: for worker threads."""

    def __init__(
        self,
        path: str,
        clocks: Callable[[], Clocks] = read_clocks,
        synchronised: Callable[[], bool] = is_synchronised,
    ) -> None:
        self._path = path
        self._clocks = clocks
        self._synchronised = synchronised
        self._counted: Count | None = None
        self._saved = Count()
        self._lock = threading.Lock()  # the agent may end during a look

    def of(self, records: Iterable[Record]) -> dict[str, float]:
        """Ages of images in seconds, by reference; of none while the clock is in doubt."""
        with self._lock:
            before = self._counted
            if before is None:
                before = self._saved = self._load()
            clocks = self._clocks()
            counted = see(count(before, clocks), records)
            believed = is_plausible(counted, clocks.wall, build_time(), self._synchronised)
            self._counted = replace(counted, wall=clocks.wall) if believed else counted
            self._save_if_changed(self._counted)
            return ages(counted, clocks.wall) if believed else {}

    def close(self) -> None:
        """Keep what was counted, up to now."""
        with self._lock:
            if self._counted is not None:
                self._counted = count(self._counted, self._clocks())
                self._save(self._counted)

    def _save_if_changed(self, counted: Count) -> None:
        saved = self._saved
        known = (saved.boot_id, saved.jumped, saved.seen)
        if known != (counted.boot_id, counted.jumped, counted.seen) or counted.used - saved.used >= UNSAVED:
            self._save(counted)

    def _load(self) -> Count:
        try:
            return parse(read_regular(self._path, SIZE_LIMIT + 1))
        except FileNotFoundError:
            return Count()
        except OSError as error:
            log.warning("%s cannot be read: %s (images count as new)", self._path, error.strerror)
            return Count()
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            aside = self._path + DAMAGED
            log.error("%s is damaged: %s (kept as %s; images count as new)", self._path, error, aside)
            try:
                os.replace(self._path, aside)
            except OSError as failure:
                log.error("%s cannot be renamed: %s", self._path, failure.strerror)
            return Count()

    def _save(self, counted: Count) -> None:
        """A failure makes images younger after the next start, no more."""
        self._saved = counted
        if not self._path:
            return
        try:
            make_directory(os.path.dirname(self._path), 0o700)
            write_atomic(self._path, dump(counted), 0o600)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error.strerror)


def dump(counted: Count) -> bytes:
    return json.dumps({**vars(counted), "seen": dict(counted.seen)}).encode()


def parse(data: bytes) -> Count:
    """ValueError, TypeError, KeyError, AttributeError, OverflowError or RecursionError if *data* is not what `dump` makes."""
    if len(data) > SIZE_LIMIT:
        raise ValueError(f"more than {SIZE_LIMIT} bytes")
    value: dict[str, Any] = json.loads(data)
    used, wall, running, offset = (float(value[name]) for name in ("used", "wall", "running", "offset"))
    seen = {
        str(name): (int(created), float(since), str(*digest))  # the digest came later
        for name, (created, since, *digest) in value["seen"].items()
    }
    numbers = (used, wall, running, offset, *(since for _, since, _ in seen.values()))
    if not all(map(math.isfinite, numbers)) or any(not 0 <= since <= used for _, since, _ in seen.values()):
        raise ValueError("a number out of range")
    return Count(used, wall, str(value["boot_id"]), running, offset, value["jumped"] is not False, seen)
