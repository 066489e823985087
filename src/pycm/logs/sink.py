# SPDX-License-Identifier: Apache-2.0
"""The sink of a container's output: FIFO, spool and json.log, joined so that a kill at any instant neither loses nor
repeats a line.

The order of the steps is what makes this safe (`spool` explains it):
  1. splice: FIFO to spool             (killed after it: the spool is replayed)
  2. append to json.log                (killed after it: json.log is truncated, and the spool is replayed)
  3. checkpoint: size of json.log and used bytes of the spool, in one write
A rotation is recorded before anything is appended to the new file. While json.log cannot be written, the spool keeps up
to BACKLOG_LIMIT bytes of each stream. Output beyond this is dropped by whole lines, counted and logged.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from pycm.failpoints import fail_point
from pycm.logs.jsonlog import LogFile, Target
from pycm.logs.records import Kind, Piece, cut, encode
from pycm.logs.spool import STREAMS, USED_LIMIT, Checkpoint, Mark, Spool, State
from pycm.model.units import format_ns
from pycm.storage.files import open_regular
from pycm.waiting import Once

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.logs.jsonlog import Quota

#: Bytes that one turn takes from a FIFO, so that a noisy container does not starve the others. More would cost more:
# the kernel
#: hands over bigger blocks page by page.
TURN_BYTES = 32 * 1024
#: Bytes of a stream that are kept until json.log is writable again.
BACKLOG_LIMIT = 1024 * 1024
#: Seconds until the next attempt to write json.log, and between two log lines about the same trouble.
RETRY, REPORT_EVERY = 1.0, 60.0
_TARGET = "target.json"
log = logging.getLogger("pycm.logs")


class Sink:
    """Drops the output, as the log driver "none" does. Attached clients still get it."""

    def __init__(self) -> None:
        self.retry_at: float | None = None
        #: The spool has output that could be stored now: another turn is needed.
        self.behind = False
        #: Gets a copy of the whole output. None while no client is attached.
        self.tee: Callable[[bytes], None] | None = None

    def take(self, stream: int, fifo: int, waiting: int) -> None:  # noqa: ARG002  for subclasses
        """Take at least one of the *waiting* bytes from the FIFO."""
        self._read(fifo, min(waiting, TURN_BYTES))

    def _read(self, fifo: int, count: int) -> bytes:
        data = os.read(fifo, count)
        if self.tee is not None:
            self.tee(data)
        return data

    def store(self, *, final: bool = False) -> bool:  # noqa: ARG002  for subclasses
        """Write the spool to json.log; *final*: nothing follows. False if this is impossible now, see `retry_at`."""
        return True

    def close(self, *, final: bool) -> None: ...


class _Stream:
    __slots__ = ("name", "skipping", "spool")

    def __init__(self, name: str, spool: Spool) -> None:
        self.name = name
        self.spool = spool
        self.skipping = False  # the beginning of a line was dropped, so its end is dropped too


class JsonSink(Sink):
    """*directory*: the container's spool. *target* None: continue as an earlier process left it there.

    *buffer*: for a container that must not wait for its log, the bytes of each stream that wait for json.log. Each turn
    takes everything from the FIFO, and drops what is beyond the buffer. 0: the container waits while json.log is
    written.
    """

    def __init__(
        self,
        container_id: str,
        directory: str,
        target: Target | None,
        *,
        buffer: int = 0,
        quota: Quota | None = None,
        clock: Callable[[], int] = time.time_ns,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._id = container_id
        self._directory = directory
        self._buffer = buffer
        self._limit = buffer or BACKLOG_LIMIT
        self._quota = quota
        self._clock, self._timer = clock, timer
        self._checkpoint = Checkpoint(os.path.join(directory, "state"))
        self._state = State()
        self._streams: list[_Stream] = []
        self._open = False  # json.log
        self._dropped = 0
        self._failures, self._drops = Once(REPORT_EVERY, timer), Once(REPORT_EVERY, timer)
        self._failing = False  # and the log says so
        self._target = target or _load_target(directory)
        self._log = LogFile(self._target)
        if quota is not None:
            quota.opened(self._target.path, self._log)
        self._prepare()

    # ── begin ──

    def _prepare(self) -> None:
        """Find or create the checkpoint and the spool, then open json.log, which may fail for now."""
        try:
            os.makedirs(self._directory, 0o700, exist_ok=True)
            self._state = self._checkpoint.open() or State()
            self._checkpoint.store(self._state)
            self._streams = [
                _Stream(name, Spool(self._directory, name, mark.generation))
                for name, mark in zip(STREAMS, self._state.marks, strict=True)
            ]
            self._clear_up()
            _save_target(self._directory, self._target)
        except OSError as error:
            self._without_files(error)
        for stream, mark in zip(self._streams, self._state.marks, strict=True):
            mark.used = min(mark.used, stream.spool.size)
        self.store()

    def _clear_up(self) -> None:
        """Remove spool files of other generations, left by a process that was killed between two steps."""
        names = {f"{s.name}.{m.generation}" for s, m in zip(self._streams, self._state.marks, strict=True)}
        for name in os.listdir(self._directory):
            if name.startswith(STREAMS) and name not in names:
                os.unlink(os.path.join(self._directory, name))

    def _without_files(self, error: OSError) -> None:
        self._warn_of_memory(error)
        for stream in self._streams:
            stream.spool.close()
        self._streams = [_Stream(name, Spool("", name)) for name in STREAMS]
        self._state = State()
        self._checkpoint.discard()

    def _warn_of_memory(self, error: OSError) -> None:
        text = "container %s: cannot use %s: %s (output is kept in memory; a kill of the agent may lose some)"
        log.warning(text, self._id, self._directory, error.strerror)

    # ── FIFO to spool ──

    def take(self, stream: int, fifo: int, waiting: int) -> None:
        if not self._buffer:
            self._take(stream, fifo, min(waiting, TURN_BYTES))
            return
        for begin in range(0, waiting, TURN_BYTES):
            self._take(stream, fifo, min(waiting - begin, TURN_BYTES))

    def _take(self, stream: int, fifo: int, count: int) -> None:
        place, mark = self._streams[stream], self._state.marks[stream]
        room = self._limit - (place.spool.size - mark.used)
        if room <= 0:
            self._drop(place, mark, fifo, count)
        elif place.skipping:
            self._skip(stream, fifo, min(count, room))
        else:
            self._fill(stream, fifo, min(count, room))
        fail_point("logs.after-splice")

    def _fill(self, stream: int, fifo: int, count: int) -> None:
        place = self._streams[stream]
        try:
            moved = place.spool.fill(fifo, count)
        except BlockingIOError:
            return
        except OSError as error:
            self._to_memory(stream, error)
            moved = place.spool.fill(fifo, count)
        if self.tee is not None:
            self.tee(place.spool.read(place.spool.size - moved, moved))

    def _drop(self, place: _Stream, mark: Mark, fifo: int, count: int) -> None:
        size = place.spool.size
        if not place.skipping and size > mark.used and place.spool.read(size - 1, 1) != b"\n":
            with suppress(OSError):  # then the line continues with what comes later
                place.spool.append(b"\n")
        data = self._read(fifo, count)
        place.skipping = not data.endswith(b"\n")
        self._dropped += len(data)

    def _skip(self, stream: int, fifo: int, count: int) -> None:
        place = self._streams[stream]
        data = self._read(fifo, count)
        end = data.find(b"\n") + 1
        place.skipping = end == 0
        self._dropped += end or len(data)
        if end:
            try:
                place.spool.append(data[end:])
            except OSError as error:
                self._to_memory(stream, error)
                place.spool.append(data[end:])

    def _to_memory(self, stream: int, error: OSError) -> None:
        """The file system of the spool is full or cannot splice."""
        self._warn_of_memory(error)
        self._replace(stream, in_memory=True)

    # ── spool to json.log ──

    def store(self, *, final: bool = False) -> bool:
        try:
            if not self._open:
                self._log.open(self._state.device, self._state.inode, self._state.size)
                self._open = True
                self._remember()
            self.behind = False
            for stream in range(len(STREAMS)):
                self._store(stream, final=final)
        except OSError as error:
            self._failed(error)
            return False
        if self.retry_at is not None:
            self._works_again()
        if self._dropped and (self._drops.is_new() or final):
            text = "container %s: buffer full: %d bytes of output dropped (the buffer has %d bytes)"
            log.warning(text, self._id, self._dropped, self._limit)
            self._dropped = 0
        return True

    def _store(self, stream: int, *, final: bool) -> None:
        """Write a stream's spool. If the container does not wait, only a part: its FIFO must not fill up meanwhile."""
        place, mark = self._streams[stream], self._state.marks[stream]
        part = bool(self._buffer) and not final
        while mark.used < place.spool.size:
            before = mark.used
            data = place.spool.read(before, TURN_BYTES)
            last = before + len(data) >= place.spool.size
            for piece in cut(data, continuing=mark.line_time != 0, final=final and last):
                self._write(place.name, mark, piece)
            if mark.used == before or last:
                break
            if part:
                self.behind = True
                break
        if mark.used >= USED_LIMIT:
            with suppress(OSError):  # no room for a second file: the present one continues to grow
                self._replace(stream)

    def _write(self, name: str, mark: Mark, piece: Piece) -> None:
        """Append the records of *piece*. Rotate between two records wherever the file is full."""
        moment = self._clock() if piece.kind is Kind.LINES else mark.line_time or self._clock()
        records = encode(piece, name, format_ns(moment))
        begin = raw = 0
        while begin < len(records):
            if self._log.full:
                self._rotate()
            end = records.find(b"\n", begin + self._log.room - 1) + 1 or len(records)
            self._log.append(records[begin:end])
            fail_point("logs.after-append")
            if self._quota is not None:
                self._quota.wrote(end - begin)
            raw_end = len(piece.raw)
            if end < len(records):
                raw_end = _after_lines(piece.raw, raw, records.count(b"\n", begin, end))
            mark.used += raw_end - raw
            mark.line_time = moment if piece.kind is Kind.PART else 0
            self._remember()
            fail_point("logs.after-record")
            begin, raw = end, raw_end

    def _rotate(self) -> None:
        self._log.rotate()
        fail_point("logs.after-rotate")
        if self._quota is not None:
            self._quota.rotated()
        self._remember()

    def _remember(self) -> None:
        state, file = self._state, self._log
        state.device, state.inode, state.size = file.device, file.inode, file.size
        self._store_state()

    def _store_state(self) -> None:
        try:
            self._checkpoint.store(self._state)
        except OSError as error:
            text = "container %s: cannot write its log's checkpoint: %s (a kill of the agent may lose or repeat lines)"
            log.warning(text, self._id, error.strerror)
            self._checkpoint.discard()

    def _replace(self, stream: int, *, in_memory: bool = False) -> None:
        """Continue with a spool of the next generation. OSError, and nothing has changed, without room for it."""
        place, mark = self._streams[stream], self._state.marks[stream]
        old = place.spool
        place.spool = old.successor(mark.used, in_memory=in_memory)
        fail_point("logs.before-generation")
        mark.generation, mark.used = mark.generation + 1, 0
        self._store_state()
        fail_point("logs.after-generation")
        old.discard()

    # ── trouble ──

    def _failed(self, error: OSError) -> None:
        self._log.close()
        self._open = False
        self.retry_at = self._timer() + RETRY
        if self._failures.is_new():
            self._failing = True
            log.error(
                "container %s: cannot write %s: %s (up to %d KiB of each stream are kept; %d bytes dropped so far)",
                self._id,
                self._target.path,
                error.strerror,
                self._limit // 1024,
                self._dropped,
            )

    def _works_again(self) -> None:
        self.retry_at = None
        if self._failing:
            text = "container %s: %s is writable again (%d bytes of output were dropped)"
            log.warning(text, self._id, self._target.path, self._dropped)
            self._failing, self._dropped = False, 0

    # ── end ──

    def close(self, *, final: bool) -> None:
        """*final*: the output has ended. What cannot be stored then stays in the spool for the next process."""
        fail_point("logs.before-final")
        done = final and self.store(final=True)
        self._log.close()
        if self._quota is not None:
            self._quota.closed(self._target.path)
        self._checkpoint.close()
        for stream in self._streams:
            stream.spool.close()
        if done:
            shutil.rmtree(self._directory, ignore_errors=True)


def _after_lines(raw: bytes, position: int, lines: int) -> int:
    for _ in range(lines):
        position = raw.index(b"\n", position) + 1
    return position


def _save_target(directory: str, target: Target) -> None:
    path = os.path.join(directory, _TARGET)
    descriptor = open_regular(path + ".tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(target._asdict(), file)
    os.rename(path + ".tmp", path)


def _load_target(directory: str) -> Target:
    """Errors: OSError, ValueError or TypeError without a usable record."""
    with open(open_regular(os.path.join(directory, _TARGET)), encoding="utf-8") as file:
        return Target(**json.load(file))
