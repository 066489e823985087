# SPDX-License-Identifier: Apache-2.0
"""Rotation, and what happens when json.log or the spool cannot be written."""

import errno
import json
import logging
import os
from contextlib import closing
from pathlib import Path

import pytest

from pycm.logs import jsonlog, spool
from pycm.logs.fifos import waiting
from pycm.logs.jsonlog import Target
from pycm.logs.sink import BACKLOG_LIMIT, REPORT_EVERY, TURN_BYTES, JsonSink
from pycm.logs.spool import STATE_BYTES, State

SECOND = 1_000_000_000


class Bench:
    """A sink with pipes for FIFOs, a clock that ticks a second a look, and a timer moved by hand."""

    def __init__(self, directory, max_size=100_000, max_files=2, buffer=0):
        self.directory = directory
        self.path = directory / "logs" / "json.log"
        self.target = Target(str(self.path), max_size, max_files)
        self.now = 1000.0
        self._buffer = buffer
        self._time = 0
        self.reader, self.writer = os.pipe2(os.O_NONBLOCK)
        self.sink = self.fresh()

    def fresh(self):
        return JsonSink(
            "c1",
            str(self.directory / "spool"),
            self.target,
            buffer=self._buffer,
            clock=self._tick,
            timer=lambda: self.now,
        )

    def _tick(self):
        self._time += SECOND
        return self._time

    def crash(self):
        """The process is gone, its descriptors too; nothing was tidied up."""
        self.sink.close(final=False)
        self.sink = self.fresh()

    def take(self, data, stream=0):
        while data:
            data = data[os.write(self.writer, data[:32_768]) :]
            while count := waiting(self.reader):
                self.sink.take(stream, self.reader, count)

    def write(self, data, stream=0):
        self.take(data, stream)
        self.sink.store()

    def logs(self, name="json.log"):
        return [json.loads(line)["log"] for line in (self.path.parent / name).read_bytes().splitlines()]

    def files(self):
        return sorted(os.listdir(self.path.parent))

    def close(self):
        self.sink.close(final=False)
        os.close(self.reader)
        os.close(self.writer)


@pytest.fixture
def bench(tmp_path):
    with closing(Bench(tmp_path)) as bench:
        yield bench


@pytest.fixture
def make_bench(tmp_path):
    benches = []

    def make(**options):
        benches.append(Bench(tmp_path, **options))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


@pytest.fixture
def full_disk(monkeypatch):
    """A switch: while on, an append writes a part and fails."""
    switch = {"on": True}
    append = jsonlog.LogFile.append

    def failing(self, records):
        if not switch["on"]:
            return append(self, records)
        append(self, records[: len(records) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(jsonlog.LogFile, "append", failing)
    return switch


# ── rotation ──


def record(log):
    return f'{{"stream":"stdout","log":"{log}\\n","time":"1970-01-01T00:00:01Z"}}\n'


def test_a_full_log_is_shifted_before_the_next_record_and_the_oldest_goes(tmp_path, make_bench):
    """Vector log-rotate."""
    logs = tmp_path / "logs"
    logs.mkdir()
    filler = record("x" * (1024 - len(record(""))))
    assert len(filler) == 1024
    for name, content in (
        ("json.log", filler),
        ("json.log.1", record("first")),
        ("json.log.2", record("gone")),
    ):
        (logs / name).write_text(content)
    bench = make_bench(max_size=1024, max_files=3)
    bench.write(b"new\n")
    assert bench.files() == ["json.log", "json.log.1", "json.log.2"]
    assert bench.logs() == ["new\n"]
    assert (logs / "json.log.1").read_text() == filler
    assert bench.logs("json.log.2") == ["first\n"]


def test_a_batch_is_divided_between_files_as_if_its_records_came_one_by_one(tmp_path, make_bench):
    size = 10 * len(record("0000"))
    bench = make_bench(max_size=size - 3, max_files=50)
    bench.write("".join(f"{number:04}\n" for number in range(95)).encode())
    assert len(bench.files()) == 10
    for age in range(1, 10):
        assert bench.logs(f"json.log.{age}") == [f"{(9 - age) * 10 + k:04}\n" for k in range(10)]
    assert bench.logs() == [f"{number:04}\n" for number in range(90, 95)]


def test_with_one_file_in_total_the_log_is_emptied(make_bench):
    bench = make_bench(max_size=3 * len(record("0")), max_files=1)
    bench.write(b"0\n1\n2\n")
    assert bench.logs() == ["0\n", "1\n", "2\n"]
    bench.write(b"3\n")
    assert (bench.files(), bench.logs()) == (["json.log"], ["3\n"])
    bench.crash()
    bench.write(b"4\n")
    assert bench.logs() == ["3\n", "4\n"]


def test_a_record_bigger_than_the_limit_gets_a_file_of_its_own(make_bench):
    bench = make_bench(max_size=0, max_files=3)
    bench.write(b"a\nb\nc\n")
    assert [bench.logs(name) for name in ("json.log", "json.log.1", "json.log.2")] == [
        ["c\n"],
        ["b\n"],
        ["a\n"],
    ]


# ── what an earlier process left ──


def test_a_torn_last_record_is_cut_off_and_the_rest_kept(tmp_path, make_bench):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "json.log").write_bytes(record("whole").encode() + b'{"stream":"st' + b"\0" * 70_000)
    bench = make_bench(max_size=1_000_000)
    bench.write(b"next\n")
    assert bench.logs() == ["whole\n", "next\n"]


def test_a_log_that_somebody_replaced_is_kept_as_it_is(bench):
    bench.write(b"old\n")
    bench.path.rename(bench.path.with_suffix(".saved"))
    bench.path.write_text(record("theirs"))
    bench.crash()
    bench.write(b"new\n")
    assert bench.logs() == ["theirs\n", "new\n"]


def test_a_log_that_somebody_cut_is_continued(bench):
    bench.write(b"one\ntwo\n")
    os.truncate(bench.path, len(record("one")) + 5)
    bench.crash()
    bench.write(b"three\n")
    assert bench.logs() == ["one\n", "three\n"]


def test_an_unfinished_line_is_finished_by_the_next_process_and_a_long_one_keeps_its_time(bench):
    bench.write(b"begin")
    bench.crash()
    bench.write(b" end\n" + b"x" * 20_000)
    bench.crash()
    bench.write(b"y" * 20_000)
    bench.crash()
    bench.write(b"z\n")
    assert bench.logs()[0] == "begin end\n"
    assert "".join(bench.logs()[1:]) == "x" * 20_000 + "y" * 20_000 + "z\n"
    records = list(map(json.loads, bench.path.read_text().splitlines()))
    assert len({record["time"] for record in records[1:]}) == 1
    assert records[0]["time"] != records[1]["time"]


def test_a_damaged_state_record_is_no_state():
    whole = State(1, 2, 3).pack()
    read = State.unpack(whole)
    assert read
    assert (read.device, read.inode, read.size, read.pack()) == (1, 2, 3, whole)
    assert len(whole) == STATE_BYTES < 4096
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        assert State.unpack(bytes(damaged)) is None
    assert State.unpack(b"") is None
    assert State.unpack(whole[:-1]) is None


def test_used_up_spool_is_given_back(bench):
    bench.sink._log._target = Target(str(bench.path), 1 << 30, 2)
    for _ in range(64):
        bench.write(b"z" * 9_999 + b"\n")
    bench.write(b"open end")
    names = [name for name in os.listdir(bench.directory / "spool") if name.startswith("stdout")]
    assert len(names) == 1
    assert (bench.directory / "spool" / names[0]).stat().st_size <= spool.USED_LIMIT + TURN_BYTES
    assert len(bench.logs()) == 64


# ── trouble ──


def test_a_full_disk_keeps_output_for_later_and_leaves_no_torn_record(bench, full_disk):
    full_disk["on"] = False
    bench.write(b"before\n")
    full_disk["on"] = True
    bench.write(b"while\n")
    assert bench.sink.retry_at == bench.now + 1
    bench.write(b"while too\n", stream=1)
    full_disk["on"] = False
    bench.write(b"after\n")
    assert bench.logs() == ["before\n", "while\n", "after\n", "while too\n"]
    assert bench.sink.retry_at is None


def test_output_kept_on_a_full_disk_survives_the_process(bench, full_disk):
    bench.write(b"while\n")
    bench.crash()
    full_disk["on"] = False
    bench.crash()
    assert bench.logs() == ["while\n"]


def test_beyond_one_mebibyte_whole_lines_are_dropped_and_counted(bench, full_disk, caplog):
    bench.sink._log._target = Target(str(bench.path), 1 << 30, 2)
    lines = [b"%07d" % number + b"-" * 92 + b"\n" for number in range(14_000)]
    bench.take(b"".join(lines))
    bench.sink.store()
    full_disk["on"] = False
    bench.sink.store()
    bench.write(b"".join(lines[:3]))
    kept = bench.logs()
    whole = BACKLOG_LIMIT // 100
    assert kept[:whole] == [line.decode() for line in lines[:whole]]
    assert kept[whole] == lines[whole].decode()[: BACKLOG_LIMIT % 100] + "\n"
    assert kept[whole + 1 :] == [line.decode() for line in lines[:3]]
    (text,) = [entry.getMessage() for entry in caplog.records if "writable again" in entry.getMessage()]
    assert f"({14_000 * 100 - BACKLOG_LIMIT} bytes of output were dropped)" in text


def test_the_end_of_a_line_whose_beginning_was_dropped_is_dropped_too(bench, full_disk):
    bench.sink._log._target = Target(str(bench.path), 1 << 30, 2)
    bench.take(b"k" * 99 + b"\n")
    while bench.sink._streams[0].spool.size < BACKLOG_LIMIT:
        bench.take(b"k" * 99 + b"\n")
    bench.take(b"dropped begin")
    full_disk["on"] = False
    bench.sink.store()
    bench.write(b" dropped middle")
    bench.write(b" dropped end\nkept\n")
    assert bench.logs()[-1] == "kept\n"
    assert not any("dropped" in log for log in bench.logs())


def test_a_full_disk_is_told_once_a_minute(bench, full_disk, caplog):
    caplog.set_level(logging.WARNING)
    for _ in range(30):
        full_disk["on"] = True
        bench.write(b"line\n")
        full_disk["on"] = False
        bench.sink.store()
        bench.now += REPORT_EVERY / 10
    errors = [entry for entry in caplog.records if entry.levelno == logging.ERROR]
    assert len(errors) == 3
    assert "No space left on device" in errors[0].getMessage()
    assert str(bench.path) in errors[0].getMessage()
    assert len(caplog.records) == 6


def test_a_log_directory_that_cannot_be_made_is_tried_again(tmp_path, make_bench):
    (tmp_path / "logs").write_text("in the way")
    bench = make_bench()
    bench.write(b"early\n")
    assert bench.sink.retry_at is not None
    (tmp_path / "logs").unlink()
    bench.sink.store()
    assert bench.logs() == ["early\n"]


def test_without_room_for_the_spool_output_is_logged_all_the_same(bench, monkeypatch, caplog):
    bench.write(b"one\nopen ")

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "splice", refuse)
    bench.write(b"end\nthree\n")
    bench.crash()
    monkeypatch.undo()
    bench.write(b"four\n")
    assert bench.logs() == ["one\n", "open end\n", "three\n", "four\n"]
    assert sum("a kill of the agent may lose some" in entry.getMessage() for entry in caplog.records) == 1


def test_spool_that_fills_up_within_an_append_repeats_nothing(make_bench, monkeypatch):
    """The rest of a line whose beginning was dropped is appended with pwrite, which may take only a part of it."""
    bench = make_bench(buffer=TURN_BYTES, max_size=10_000_000)
    bench.take(b"x" * TURN_BYTES + b"dropped")
    bench.sink.store(final=True)
    write = os.pwrite

    def is_spool(descriptor):
        return "/spool/stdout." in os.readlink(f"/proc/self/fd/{descriptor}")

    def part(descriptor, data, offset):
        if not is_spool(descriptor):
            return write(descriptor, data, offset)
        monkeypatch.setattr(os, "pwrite", refuse)
        return write(descriptor, data[:5], offset)

    def refuse(descriptor, data, offset):
        if is_spool(descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", part)
    bench.take(b" too\nnext line\nlast line\n")
    monkeypatch.undo()
    bench.sink.store(final=True)
    assert "".join(bench.logs()) == "x" * TURN_BYTES + "\nnext line\nlast line\n"


def test_without_a_spool_directory_output_is_logged_all_the_same(tmp_path, make_bench, caplog):
    (tmp_path / "spool").write_text("in the way")
    bench = make_bench()
    bench.write(b"one\n")
    bench.write(b"two\n", stream=1)
    assert bench.logs() == ["one\n", "two\n"]
    assert sum("cannot use" in entry.getMessage() for entry in caplog.records) == 1


def test_what_cannot_be_stored_at_the_end_is_kept_for_the_next_time(bench, full_disk):
    bench.write(b"last words")
    bench.sink.close(final=True)
    full_disk["on"] = False
    bench.sink = JsonSink("c1", str(bench.directory / "spool"), None)
    bench.sink.close(final=True)
    assert bench.logs() == ["last words\n"]
    assert not Path(bench.directory / "spool").exists()
    bench.sink = bench.fresh()


# ── a container that does not wait for its log ──

BUFFER = 2 * TURN_BYTES


def lines(count, size=64):
    return [f"{number:0{size - 1}d}\n" for number in range(count)]


def test_without_waiting_all_output_is_taken_and_what_the_buffer_cannot_hold_is_dropped_and_counted(
    make_bench, caplog
):
    bench = make_bench(buffer=BUFFER, max_size=10_000_000)
    written = lines(4 * TURN_BYTES // 64)
    bench.take("".join(written[: 3 * TURN_BYTES // 64]).encode())
    assert waiting(bench.reader) == 0
    bench.sink.store()
    assert bench.sink.behind, "one turn stores a part only"
    while bench.sink.behind:
        bench.sink.store()
    kept = bench.logs()
    assert kept == written[: len(kept)]
    assert len("".join(kept)) == BUFFER
    assert f"container c1: buffer full: {TURN_BYTES} bytes of output dropped" in caplog.text
    bench.write(written[-1].encode())
    assert bench.logs()[-1] == written[-1]


def test_drops_are_told_once_a_minute_and_at_the_end(make_bench, caplog):
    bench = make_bench(buffer=BUFFER, max_size=10_000_000)

    def flood():
        bench.take("".join(lines(3 * TURN_BYTES // 64)).encode())
        bench.sink.store()
        while bench.sink.behind:
            bench.sink.store()

    flood()
    flood()
    flood()
    assert caplog.text.count("bytes of output dropped") == 1
    bench.now += REPORT_EVERY
    flood()
    assert f"{3 * TURN_BYTES} bytes of output dropped" in caplog.text
    flood()
    bench.sink.close(final=True)
    assert caplog.text.count("bytes of output dropped") == 3
    bench.sink = bench.fresh()


def test_a_line_without_end_does_not_keep_a_container_behind(make_bench):
    bench = make_bench(buffer=BUFFER)
    bench.write(b"no newline yet")
    assert not bench.sink.behind


def test_a_log_with_any_number_of_files_is_rotated_by_as_many_renames_as_it_has(tmp_path, monkeypatch):
    looked_at = []
    there = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda path: looked_at.append(path) or there(path))
    bench = Bench(tmp_path, max_size=1, max_files=10**12)
    for number in range(4):
        bench.write(b"%d\n" % number)
    bench.close()
    assert [name.name for name in sorted(bench.path.parent.iterdir())] == [
        "json.log", "json.log.1", "json.log.2", "json.log.3",
    ]  # fmt: skip
    assert json.loads(bench.path.with_suffix(".log.3").read_text())["log"] == "0\n"
    assert len(looked_at) < 10


def test_a_gap_between_rotated_files_is_closed_first(tmp_path):
    bench = Bench(tmp_path, max_size=1, max_files=4)
    bench.write(b"live\n")
    bench.path.with_suffix(".log.1").write_text("first")
    bench.path.with_suffix(".log.3").write_text("third")
    bench.write(b"next\n")
    bench.close()
    assert bench.path.with_suffix(".log.2").read_text() == "first"
    assert bench.path.with_suffix(".log.3").read_text() == "third"
