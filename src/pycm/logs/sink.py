# SPDX-License-Identifier: Apache-2.0
"""Where a container's output goes: FIFO, spool and json.log joined so that a kill at any instant neither loses nor doubles a line.

The order of steps is the whole point; `spool` says why it is safe:
  1. splice: FIFO to spool            (killed after: the spool is replayed)
  2. append to json.log               (killed after: json.log is cut back to the recorded size, the spool replayed)
  3. record: size of json.log and used bytes of the spool, in one write
A rotation is recorded before anything is appended to the new file. While json.log cannot be written, the spool keeps up to
BACKLOG_LIMIT bytes a stream; what comes beyond is dropped by whole lines, counted and reported.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

from pycm.failpoints import fail_point
from pycm.logs.jsonlog import LogFile, Target
from pycm.logs.records import Kind, Piece, cut, encode
from pycm.logs.spool import (
    STREAMS,
    USED_LIMIT,
    FileSpool,
    Mark,
    MemorySpool,
    NoStateFile,
    Spool,
    State,
    StateFile,
)
from pycm.model.units import format_ns
from pycm.storage.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable

    from pycm.logs.jsonlog import Quota

#: Bytes that a turn takes from one FIFO: what keeps one noisy container from starving the others. More would cost more: bigger
#: blocks come from the kernel page by page.
TURN_BYTES = 32 * 1024
#: Bytes of a stream that wait for json.log to be writable again.
BACKLOG_LIMIT = 1024 * 1024
RETRY = 1.0
REPORT_EVERY = 60.0
_TARGET = "target.json"
_STATE = "state"
log = logging.getLogger("pycm.logs")


class Sink(Protocol):
    retry_at: float | None
    #: What was taken has not all been stored, and could be: another turn is wanted.
    behind: bool
    #: Is given a copy of all that is taken; None while nobody is attached.
    tee: Callable[[bytes], None] | None

    def take(self, stream: int, fifo: int, waiting: int) -> None:
        """Take some of the *waiting* bytes from the FIFO, never none."""

    def store(self, *, final: bool = False) -> bool:
        """Bring what was taken to where it belongs; *final*: nothing comes after. False: not now, see `retry_at`."""

    def close(self, *, final: bool) -> None: ...


class NullSink:
    """Log driver "none"."""

    retry_at: float | None = None
    behind = False
    tee: Callable[[bytes], None] | None = None

    def take(self, stream: int, fifo: int, waiting: int) -> None:  # noqa: ARG002  the protocol's
        data = os.read(fifo, min(waiting, TURN_BYTES))
        if self.tee is not None:
            self.tee(data)

    def store(self, *, final: bool = False) -> bool:  # noqa: ARG002  the protocol's
        return True

    def close(self, *, final: bool) -> None: ...


@dataclass
class _Stream:
    name: str
    spool: Spool
    skipping: bool = False  # the beginning of a line was dropped: so is its end


class JsonSink:
    """*directory*: of the spool, the container's own. *target* None: as an earlier process left it there.

    *buffer*: for a container that shall not wait for its log, the bytes of a stream that wait for json.log; all that waits in the
    FIFO is taken each turn, and what is beyond the buffer is dropped. 0: the container waits while json.log is being written.
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
        self.retry_at: float | None = None
        self.behind = False
        self._buffer = buffer
        self._limit = buffer or BACKLOG_LIMIT
        self._quota = quota
        self._drops_told_at: float | None = None
        self.tee: Callable[[bytes], None] | None = None
        self._id = container_id
        self._directory = directory
        self._clock, self._timer = clock, timer
        self._state_file: StateFile | NoStateFile = NoStateFile()
        self._state = State()
        self._streams: list[_Stream] = []
        self._open = False  # json.log
        self._dropped = 0
        self._reported_at: float | None = None
        self._reported = False  # that it fails
        self._target = target or _load_target(directory)
        self._log = LogFile(self._target)
        if quota is not None:
            quota.opened(self._target.path, self._log)
        self._prepare()

    # ── begin ──

    def _prepare(self) -> None:
        """Find or make state and spool; then json.log, which may fail for now."""
        try:
            os.makedirs(self._directory, 0o700, exist_ok=True)
            self._state_file = StateFile(os.path.join(self._directory, _STATE))
            self._state = self._state_file.load() or State()
            self._state_file.store(self._state)
            self._streams = [
                _Stream(name, FileSpool(self._directory, name, mark.generation))
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
        """Remove spool files of other generations: left by a process that died between two steps."""
        names = {f"{s.name}.{m.generation}" for s, m in zip(self._streams, self._state.marks, strict=True)}
        for name in os.listdir(self._directory):
            if name.startswith(STREAMS) and name not in names:
                os.unlink(os.path.join(self._directory, name))

    def _without_files(self, error: OSError) -> None:
        log.warning(
            "container %s: cannot use %s (%s): its output is logged, but a kill of the agent may lose some",
            self._id,
            self._directory,
            error.strerror,
        )
        for stream in self._streams:
            stream.spool.close()
        self._streams = [_Stream(name, MemorySpool()) for name in STREAMS]
        self._state = State()
        self._forget_state()

    def _open_log(self) -> None:
        state = self._state
        self._log.open(state.device, state.inode, state.size)
        self._open = True
        self._remember()

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
            with suppress(OSError):  # then the line goes on with what comes later
                place.spool.append(b"\n")
        data = self._copied(os.read(fifo, count))
        place.skipping = not data.endswith(b"\n")
        self._dropped += len(data)

    def _skip(self, stream: int, fifo: int, count: int) -> None:
        place = self._streams[stream]
        data = self._copied(os.read(fifo, count))
        end = data.find(b"\n") + 1
        place.skipping = end == 0
        self._dropped += end or len(data)
        if end:
            try:
                place.spool.append(data[end:])
            except OSError as error:
                rest = data[end:]
                self._to_memory(stream, error)
                place.spool.append(rest)

    def _copied(self, data: bytes) -> bytes:
        if self.tee is not None:
            self.tee(data)
        return data

    def _to_memory(self, stream: int, error: OSError) -> None:
        """The file system of the spool is full or cannot splice."""
        log.warning(
            "container %s: cannot keep output in %s (%s): a kill of the agent may lose some",
            self._id,
            self._directory,
            error.strerror,
        )
        place, mark = self._streams[stream], self._state.marks[stream]
        rest = place.spool.read(mark.used, place.spool.size - mark.used)
        self._replace(stream, MemorySpool(rest))

    # ── spool to json.log ──

    def store(self, *, final: bool = False) -> bool:
        try:
            if not self._open:
                self._open_log()
            self.behind = False
            for stream in range(len(STREAMS)):
                self._store(stream, final=final)
        except OSError as error:
            self._failed(error)
            return False
        if self.retry_at is not None:
            self._works_again()
        if self._dropped:
            self._tell_drops(final=final)
        return True

    def _tell_drops(self, *, final: bool) -> None:
        """Of a container that does not wait: how much went, at once, then at most each minute, and at its end."""
        now = self._timer()
        if not final and self._drops_told_at is not None and now < self._drops_told_at + REPORT_EVERY:
            return
        log.warning(
            "container %s: %d bytes of output were dropped, since its buffer of %d bytes was full",
            self._id,
            self._dropped,
            self._limit,
        )
        self._drops_told_at, self._dropped = now, 0

    def _store(self, stream: int, *, final: bool) -> None:
        """Of a container that does not wait only a part: its FIFO must not fill up meanwhile."""
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
            self._renew(stream)

    def _write(self, name: str, mark: Mark, piece: Piece) -> None:
        """Append the records of *piece*, rotating between two records wherever the file is full before a record."""
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
            self._state_file.store(self._state)
        except OSError as error:
            log.warning(
                "container %s: cannot record its log's state: %s: a kill of the agent may lose or double lines",
                self._id,
                error.strerror,
            )
            self._forget_state()

    def _forget_state(self) -> None:
        self._state_file.close()
        self._state_file = NoStateFile()
        with suppress(OSError):
            os.unlink(os.path.join(self._directory, _STATE))

    def _renew(self, stream: int) -> None:
        with suppress(OSError):  # no room for a second file: the one there is goes on growing
            successor = self._streams[stream].spool.next(self._state.marks[stream].used)
            fail_point("logs.before-generation")
            self._replace(stream, successor)

    def _replace(self, stream: int, successor: Spool) -> None:
        place, mark = self._streams[stream], self._state.marks[stream]
        old, place.spool = place.spool, successor
        mark.generation, mark.used = mark.generation + 1, 0
        self._store_state()
        fail_point("logs.after-generation")
        old.discard()

    # ── trouble ──

    def _failed(self, error: OSError) -> None:
        now = self._timer()
        self._log.close()
        self._open = False
        self.retry_at = now + RETRY
        if self._reported_at is None or now >= self._reported_at + REPORT_EVERY:
            self._reported_at, self._reported = now, True
            log.error(
                "container %s: cannot write %s: %s: %d KiB of each stream are kept for later (%d bytes dropped so far)",
                self._id,
                self._target.path,
                error.strerror,
                self._limit // 1024,
                self._dropped,
            )

    def _works_again(self) -> None:
        self.retry_at = None
        if self._reported:
            log.warning(
                "container %s: %s is written again; %d bytes of output were dropped meanwhile",
                self._id,
                self._target.path,
                self._dropped,
            )
            self._reported, self._dropped = False, 0

    # ── end ──

    def close(self, *, final: bool) -> None:
        """*final*: the output has ended. What cannot be stored then is kept in the spool for the next time."""
        fail_point("logs.before-final")
        done = final and self.store(final=True)
        self._log.close()
        if self._quota is not None:
            self._quota.closed(self._target.path)
        self._state_file.close()
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
        json.dump(asdict(target), file)
    os.rename(path + ".tmp", path)


def _load_target(directory: str) -> Target:
    """OSError, ValueError or TypeError if there is no such record."""
    with open(open_regular(os.path.join(directory, _TARGET)), encoding="utf-8") as file:
        return Target(**json.load(file))
