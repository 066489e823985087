# SPDX-License-Identifier: Apache-2.0
"""The room as the core uses it: FIFOs made, attached, drained and removed, with a shim at the other end."""

import asyncio
import fcntl
import json
import logging
import os
import signal
import stat
import threading
import time
from pathlib import Path

import pytest
from logs_shim import Shim

from pycm.errors import OperationFailedError
from pycm.logs import front, pump
from pycm.logs.fifos import PIPE_BYTES
from pycm.logs.front import JsonFileLogs
from pycm.model.container import LogConfiguration, LogDriverConfiguration
from pycm.ports import TaskIO
from support.keepers import end_keepers

JSON = LogConfiguration(driver_config=LogDriverConfiguration(type="json-file", max_files=2, max_size="100M"))
NONE = LogConfiguration(driver_config=LogDriverConfiguration(type="none"))
F_GETPIPE_SZ = 1032
LIMIT = 30.0
QUIET = 0.3


class Room:
    """The logs of a test, with shims that are ended and keepers that are killed at its end."""

    def __init__(self, directory):
        self.home, self.run = directory / "home", directory / "run"
        self.logs = JsonFileLogs(str(self.home), str(self.run))
        self.ids, self.shims = [], []

    def start(self, container_id="c1", config=JSON, **options):
        options = {"terminal": False, "stdin": False, **options}
        io = self.logs.make_fifos(container_id, **options)
        self.ids.append(container_id)
        self.logs.attach(container_id, io, config)
        return io, self.shim(io)

    def shim(self, io):
        self.shims.append(Shim(io))
        return self.shims[-1]

    def lines(self, container_id="c1"):
        try:
            content = Path(self.logs.path(container_id, JSON)).read_bytes()
        except FileNotFoundError:
            return []
        return [(r["stream"], r["log"]) for r in map(json.loads, content.splitlines(keepends=True))]

    async def until(self, condition):
        deadline = time.monotonic() + LIMIT
        while not condition():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.002)

    async def close(self):
        for shim in self.shims:
            shim.end()
        await self.logs.close()
        for container_id in self.ids:
            self.logs.forget(container_id)


@pytest.fixture
async def room(tmp_path):
    room = Room(tmp_path)
    yield room
    await room.close()


async def test_output_is_in_the_log_as_soon_as_it_is_written(room):
    _, shim = room.start()
    shim.write(b"out\n")
    await room.until(lambda: room.lines() == [("stdout", "out\n")])
    shim.write(b"err\n", "stderr")
    await room.until(lambda: room.lines()[1:] == [("stderr", "err\n")])
    assert stat.S_IMODE(os.stat(room.logs.path("c1", JSON)).st_mode) == 0o644


async def test_the_end_of_a_container_writes_the_open_line_and_removes_everything_but_the_log(room):
    io, shim = room.start()
    shim.write(b"last words")
    shim.end()
    await room.logs.finish("c1")
    assert room.lines() == [("stdout", "last words\n")]
    assert not os.path.exists(io.stdout)
    assert [path for path in room.run.rglob("*") if path.parent != room.run] == []


async def test_a_container_without_output_has_an_empty_log(room):
    _, shim = room.start()
    shim.end()
    await room.logs.finish("c1")
    assert Path(room.logs.path("c1", JSON)).read_bytes() == b""
    assert [message async for message in room.logs.read("c1", JSON, -1)] == [""]


async def test_the_fifos_are_for_root_only_and_hold_one_mebibyte(room):
    io = room.logs.make_fifos("c1", terminal=False, stdin=True)
    room.ids.append("c1")
    assert stat.S_IMODE(os.stat(os.path.dirname(io.stdout)).st_mode) == 0o700
    for path in (io.stdin, io.stdout, io.stderr):
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        assert stat.S_ISFIFO(os.fstat(descriptor).st_mode)
        if path != io.stdin:
            assert fcntl.fcntl(descriptor, F_GETPIPE_SZ) == PIPE_BYTES
            assert os.write(descriptor, bytes(2 * PIPE_BYTES)) == PIPE_BYTES
        os.close(descriptor)


@pytest.mark.parametrize(("terminal", "stdin"), [(True, True), (True, False), (False, True), (False, False)])
async def test_only_the_fifos_that_are_wanted_are_made(room, terminal, stdin):
    io = room.logs.make_fifos("c1", terminal=terminal, stdin=stdin)
    room.ids.append("c1")
    assert (bool(io.stdin), bool(io.stdout), bool(io.stderr)) == (stdin, True, not terminal)
    assert io.terminal == terminal
    wanted = {os.path.basename(path) for path in (io.stdin, io.stdout, io.stderr) if path}
    assert set(os.listdir(os.path.dirname(io.stdout))) == wanted | {"keeper"}


async def test_an_open_stdin_does_not_end_while_the_agent_is_away(room):
    io, _ = room.start(stdin=True)
    stdin = os.open(io.stdin, os.O_RDONLY | os.O_NONBLOCK)
    await room.logs.close()
    with pytest.raises(BlockingIOError):
        os.read(stdin, 1)
    os.close(stdin)


async def test_a_terminal_has_one_stream(room):
    io, shim = room.start(terminal=True)
    assert io.stderr == ""
    shim.write(b"prompt$ \r\n")
    shim.end()
    await room.logs.finish("c1")
    assert room.lines() == [("stdout", "prompt$ \n")]


async def test_driver_none_takes_the_output_and_keeps_nothing(room):
    _, shim = room.start(config=NONE)
    for _ in range(5):
        await asyncio.to_thread(shim.write, bytes(PIPE_BYTES))
    shim.end()
    await room.logs.finish("c1")
    assert room.lines() == []
    assert not room.home.exists()


async def test_a_start_that_fails_before_attach_leaves_nothing(room):
    io = room.logs.make_fifos("c1", terminal=False, stdin=True)
    await room.logs.finish("c1")
    assert not os.path.exists(os.path.dirname(io.stdout))
    assert not room.home.exists()


async def test_a_start_that_fails_after_attach_ends_at_once(room):
    """No shim ever opened the FIFOs; finish must not wait for one."""
    io = room.logs.make_fifos("c1", terminal=False, stdin=False)
    room.logs.attach("c1", io, JSON)
    begin = time.monotonic()
    await room.logs.finish("c1")
    assert time.monotonic() - begin < pump.FINISH_LIMIT / 2


async def test_finishing_what_is_not_there_is_no_error(room):
    await room.logs.finish("nobody")
    room.logs.forget("nobody")


async def test_an_output_that_does_not_end_is_not_waited_for_for_ever(room, monkeypatch, caplog):
    monkeypatch.setattr(pump, "FINISH_LIMIT", 0.05)
    _, shim = room.start()
    shim.write(b"still here\n")
    await room.logs.finish("c1")
    assert room.lines() == [("stdout", "still here\n")]
    assert "container c1: output did not end" in caplog.text


async def test_a_new_agent_goes_on_where_the_old_one_closed(room, tmp_path):
    io, shim = room.start()
    shim.write(b"one\ntwo")
    await room.until(lambda: room.lines() == [("stdout", "one\n")])
    await room.logs.close()
    shim.write(b" halves\nthree\n")
    room.logs = JsonFileLogs(str(room.home), str(room.run))
    room.logs.attach("c1", io, JSON)
    await room.until(lambda: len(room.lines()) == 3)
    shim.end()
    await room.logs.finish("c1")
    assert [text for _, text in room.lines()] == ["one\n", "two halves\n", "three\n"]


async def test_attaching_twice_goes_on_without_loss(room):
    io, shim = room.start()
    shim.write(b"one\ntw")
    await room.until(lambda: room.lines() == [("stdout", "one\n")])
    room.logs.attach("c1", io, JSON)
    shim.write(b"o\n")
    await room.until(lambda: room.lines() == [("stdout", "one\n"), ("stdout", "two\n")])


async def test_a_second_run_appends_to_the_same_log(room):
    for word in (b"first", b"second"):
        _, shim = room.start()
        shim.write(word)
        shim.end()
        await room.logs.finish("c1")
    assert [text for _, text in room.lines()] == ["first\n", "second\n"]


async def test_a_noisy_container_does_not_hold_up_a_quiet_one(room):
    _, noisy = room.start("noisy")
    _, quiet = room.start("quiet")
    running = True

    def shout():
        while running:
            noisy.write(b"n" * 99 + b"\n")

    thread = asyncio.create_task(asyncio.to_thread(shout))
    try:
        for number in range(20):
            quiet.write(b"%d\n" % number)
            await room.until(lambda: len(room.lines("quiet")) == number + 1)  # noqa: B023  ends in its turn
    finally:
        running = False
        await thread
    assert room.logs._pump._ready.keys() <= {"noisy"}


async def test_fifos_that_are_gone_are_named_and_nothing_else_happens(room, caplog):
    room.logs.attach("c1", TaskIO(stdout="/nowhere/stdout", stderr="/nowhere/stderr"), JSON)
    await room.logs.finish("c1")
    assert "container c1: cannot read its output: cannot open /nowhere/stdout: No such file" in caplog.text


async def test_a_regular_file_in_place_of_a_fifo_is_refused(room, tmp_path, caplog):
    (tmp_path / "plain").write_text("secret")
    room.logs.attach("c1", TaskIO(stdout=str(tmp_path / "plain")), JSON)
    await room.logs.finish("c1")
    assert "not a FIFO" in caplog.text
    assert (tmp_path / "plain").read_text() == "secret"


async def test_fifos_of_another_manager_are_used_and_removed_if_they_lie_with_ours(room, tmp_path):
    inside, outside = room.run / "fifo" / "831", tmp_path / "elsewhere"
    for directory in (inside, outside):
        directory.mkdir(parents=True)
        os.mkfifo(directory / "c1-stdout")
        io = TaskIO(stdout=str(directory / "c1-stdout"), terminal=True)
        room.logs.attach("c1", io, JSON)
        descriptor = os.open(io.stdout, os.O_WRONLY)
        os.write(descriptor, b"taken over\n")
        os.close(descriptor)
        await room.logs.finish("c1")
    assert room.lines() == [("stdout", "taken over\n")] * 2
    assert not inside.exists()
    assert (outside / "c1-stdout").exists()


async def test_removing_a_container_removes_its_log_in_another_root(room, tmp_path):
    root = tmp_path / "data"
    config = LogConfiguration(
        driver_config=LogDriverConfiguration(type="json-file", max_files=3, max_size="1k", root_dir=str(root))
    )
    _, shim = room.start(config=config)
    shim.write(b"x" * 3000 + b"\n" + b"y\nz\n")
    shim.end()
    await room.logs.finish("c1")
    assert len(os.listdir(root / "c1")) > 1
    (root / "c2").mkdir()
    room.logs.forget("c1", config)
    assert os.listdir(root) == ["c2"]


async def test_the_thread_starts_with_the_first_container_and_sleeps_without_output(room):
    assert room.logs._pump._thread is None
    room.start()
    await room.until(lambda: room.lines() == [] and os.path.exists(room.logs.path("c1", JSON)))
    thread = room.logs._pump._thread
    seen = []
    while seen[-1:] != (now := _switches(thread.native_id)):  # it has work for a while after the start
        assert len(seen) < LIMIT / QUIET, "the thread wakes up again and again"
        seen += now
        await asyncio.sleep(QUIET)


def _switches(native_id):
    status = Path(f"/proc/self/task/{native_id}/status").read_text().splitlines()
    return [line for line in status if line.startswith("voluntary_ctxt_switches")]


async def test_a_defect_in_one_log_leaves_the_others_running(room, monkeypatch, caplog):
    _, bad = room.start("bad")
    _, good = room.start("good")
    await room.until(lambda: len(room.logs._pump._drains) == 2)
    monkeypatch.setattr(room.logs._pump._drains["bad"].sink, "take", lambda *_: 1 / 0)
    bad.write(b"x\n")
    good.write(b"x\n")
    await room.until(lambda: room.lines("good"))
    await room.until(lambda: "container bad: output: unexpected error: ZeroDivisionError" in caplog.text)
    for _ in range(3):
        await asyncio.to_thread(bad.write, bytes(PIPE_BYTES))  # it does not wait for a log that is given up
    assert len([entry for entry in caplog.records if entry.levelno == logging.ERROR]) == 2


async def test_no_descriptor_and_no_process_is_left(room):
    for _ in range(2):
        io, shim = room.start(stdin=True)
        pid = int(Path(os.path.dirname(io.stdout), "keeper").read_text())
        shim.end()
        await room.logs.finish("c1")
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        descriptors = len(os.listdir("/proc/self/fd"))
    room.start()[1].end()
    await room.logs.finish("c1")
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def test_all_keepers_can_be_ended_at_once(room):
    pids = [
        int(Path(os.path.dirname(room.start(name)[0].stdout), "keeper").read_text()) for name in ("a", "b")
    ]
    end_keepers(str(room.run / "fifo"))
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    end_keepers(str(room.run / "nowhere"))


async def test_a_keeper_file_that_names_another_process_harms_nobody(room):
    io, _ = room.start()
    record = Path(os.path.dirname(io.stdout), "keeper")
    real = int(record.read_text())
    for text in (str(os.getpid()), "1", "-1", "rubbish", ""):
        record.write_text(text)
        room.logs.forget("c1")
        record.parent.mkdir(parents=True, exist_ok=True)
    _end(real)


def _end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


async def test_fifos_that_cannot_be_made_fail_the_start(tmp_path):
    (tmp_path / "run").write_text("in the way")
    logs = JsonFileLogs(str(tmp_path / "home"), str(tmp_path / "run"))
    with pytest.raises(OperationFailedError, match="cannot create FIFOs in"):
        logs.make_fifos("c1", terminal=False, stdin=False)
    await logs.close()


async def test_a_size_that_cannot_be_read_is_replaced_and_named(room, caplog):
    config = LogConfiguration(driver_config=LogDriverConfiguration(type="json-file", max_size="lots"))
    _, shim = room.start(config=config)
    shim.write(b"x\n")
    await room.until(room.lines)
    assert front.DEFAULT_SIZE == 100 * 1024 * 1024
    assert "invalid size 'lots'" in caplog.text


def test_a_pump_that_ends_does_not_close_its_bell_under_one_who_rings_it(monkeypatch):
    made, gate, ended = pump.Pump(), threading.Event(), threading.Event()
    made.post(lambda: gate.wait(LIMIT) and None)
    ring = os.eventfd_write

    def ring_late(descriptor, value):
        """As if the system let the thread run to its end before the bell is rung."""
        gate.set()
        made._thread.join(0.3)
        ring(descriptor, value)

    monkeypatch.setattr(pump.os, "eventfd_write", ring_late)
    made.stop(ended.set)
    assert ended.wait(LIMIT)
    assert not made.post(lambda: None)


async def test_files_that_would_only_be_renamed_all_the_time_are_bounded(room, caplog):
    """The logs of all containers wait while one's files are renamed."""
    hungry = LogConfiguration(
        driver_config=LogDriverConfiguration(type="json-file", max_files=10**9, max_size="0M")
    )
    _, shim = room.start(config=hungry)
    for number in range(3):
        shim.write(b"%d\n" % number)
    shim.end()
    await room.logs.finish("c1")
    assert room.lines() == [("stdout", "0\n"), ("stdout", "1\n"), ("stdout", "2\n")]
    assert not os.path.exists(room.logs.path("c1", hungry) + ".1")
    assert "container c1: max_files of its log is 1000000000 (using 1000)" in caplog.text


async def test_client_that_cannot_be_attached_gets_an_error(room, monkeypatch):
    room.start()
    monkeypatch.setattr(room.logs, "_tap", lambda *_: 1 / 0)
    with pytest.raises(OperationFailedError, match="cannot read the container's output"):
        await room.logs.connect("c1", next_run=False)


async def test_pump_goes_on_after_an_error_of_its_own(room, monkeypatch, caplog):
    monkeypatch.setattr(pump, "AFTER_BUG", 0.0)
    _, shim = room.start()
    thread = room.logs._pump
    bugs = [KeyError("a bug"), KeyError("another")]
    noticed = thread._noticed

    def broken(descriptor):
        noticed(descriptor)
        if bugs:
            raise bugs.pop()

    monkeypatch.setattr(thread, "_noticed", broken)
    await room.until(lambda: not bugs or shim.write(b"x\n"))
    shim.write(b"last\n")
    await room.until(lambda: ("stdout", "last\n") in room.lines())
    assert "container output: thread: unexpected error: KeyError" in caplog.text


async def test_pump_ends_after_an_error_in_one_container(room, monkeypatch):
    room.start()
    await room.until(lambda: room.logs._pump.drain("c1"))
    monkeypatch.setattr(room.logs._pump, "detach", lambda *_, **__: 1 / 0)
    await room.logs.close()


@pytest.mark.parametrize("broken", ["turn", "store", "sink"])
async def test_drain_that_fails_at_its_end_wakes_who_waits_for_it(room, monkeypatch, broken):
    _, shim = room.start()
    await room.until(lambda: room.logs._pump.drain("c1"))
    drain = room.logs._pump.drain("c1")
    descriptors = list(drain.outputs.values())
    client = await room.logs.connect("c1", next_run=False)
    if broken == "turn":
        monkeypatch.setattr(drain, "turn", lambda _: 1 / 0)
    else:
        monkeypatch.setattr(drain.sink, "store" if broken == "store" else "close", lambda *_, **__: 1 / 0)
    done = threading.Event()
    drain._done = done.set
    room.logs._pump.post(lambda: room.logs._pump.detach("c1", final=True))
    assert await asyncio.to_thread(done.wait, LIMIT)
    assert await asyncio.wait_for(client.read(), LIMIT) == b""
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    shim.end()


async def test_log_directory_that_cannot_be_used_comes_with_a_hint(room, tmp_path):
    (tmp_path / "file").touch()
    driver = LogDriverConfiguration(type="json-file", root_dir=str(tmp_path / "file"))
    with pytest.raises(OperationFailedError, match=r"cannot be used: Not a directory$") as failed:
        await room.logs.check("c1", LogConfiguration(driver_config=driver))
    assert "ReadWritePaths" in failed.value.hint
