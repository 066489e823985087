# SPDX-License-Identifier: Apache-2.0
"""How old images are, measured so that no jump of the clock makes one old.

An age is the time that the machine has been in use since the agent first saw the image, summed up over boots in a file, and never more than
what the clock says. Where the clock cannot be believed, no image has an age. What a power cut takes away makes images younger.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pycm
from pycm.errors import OperationFailedError
from pycm.model.times import NANOSECONDS
from pycm.storage.files import make_directory, read_regular, write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pycm.containerd.image_store import Record

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
