# SPDX-License-Identifier: Apache-2.0
"""The log: the form of a line, where it goes, rotation, and that nothing wrong with it stops the agent."""

import gzip
import logging
import os
import re
import socket
import sys
import time

import pytest

from pycm import logfile
from pycm.config.types import Log
from pycm.logfile import RotatingFile, list_rotated, tidy

log = logging.getLogger("pycm.room")


@pytest.fixture(autouse=True)
def restored_logger():
    """The package's logger as it was."""
    logger = logging.getLogger("pycm")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    logger.handlers.clear()
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:] = handlers
    logger.setLevel(level)
    logger.propagate = propagate


def record(message, *args, level=logging.INFO, name="pycm.room", exc_info=None):
    made = logging.LogRecord(name, level, "f", 1, message, args, exc_info)
    made.created = 1714557600.25
    return made


def line(*args, **kwargs):
    return logfile.LineFormatter().format(record(*args, **kwargs))


# ── a line ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_line_has_time_level_message_and_room():
    assert line("got %d", 5) == 'time="2024-05-01T10:00:00.250000Z" level=info msg="got 5" room=room'
    assert line("x", name="pycm").endswith('msg="x"')


@pytest.mark.parametrize(
    ("level", "word"),
    [
        (50, "fatal"),
        (40, "error"),
        (30, "warning"),
        (20, "info"),
        (10, "debug"),
        (5, "trace"),
        (1, "trace"),
        (25, "info"),
    ],
)
def test_levels_have_the_words_of_the_original(level, word):
    assert f" level={word} " in line("x", level=level)


def test_line_stays_one_line_whatever_is_in_the_message():
    text = line('a"b\n%s', "\x1b[31m\udcff\u2028")
    assert r'msg="a\"b\n\x1b[31m\xff\u2028"' in text
    assert text.isprintable()


def test_traceback_of_a_bug_is_in_the_line():
    try:
        raise ValueError("bug")
    except ValueError:
        text = line("x", exc_info=sys.exc_info())
    assert r'msg="x: Traceback' in text
    assert 'ValueError: bug"' in text
    assert "\n" not in text


def test_message_has_a_bound():
    assert len(line("x" * 1_000_000)) < logfile.MAX_LINE + 100


# ── where it goes ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_file_it_goes_to_standard_output(capfd):
    logfile.setup(Log(log_file=""))
    log.info("seen")
    log.debug("not seen")
    out, err = capfd.readouterr()
    assert (out.count("\n"), 'msg="seen"' in out, err) == (1, True, "")


def test_level_is_that_of_the_configuration(capfd):
    logfile.setup(Log(log_file="", log_level="TRACE"))
    log.log(logfile.TRACE, "deep")
    logfile.setup(Log(log_file="", log_level="ERROR"))
    log.warning("hidden")
    assert re.findall("msg=.*", capfd.readouterr().out) == ['msg="deep" room=room']


def test_file_gets_everything_and_is_for_root_only(tmp_path, capfd):
    path = tmp_path / "deep" / "er" / "x.log"
    logfile.setup(Log(log_file=str(path)))
    log.info("é")
    assert 'msg="é"' in path.read_text(encoding="utf-8")
    assert path.stat().st_mode & 0o777 == 0o600
    assert capfd.readouterr() == ("", "")


def test_file_of_an_earlier_run_is_kept_and_closed_for_others(tmp_path):
    path = tmp_path / "x.log"
    path.write_text("old\n")
    path.chmod(0o644)
    logfile.setup(Log(log_file=str(path)))
    log.info("new")
    assert path.read_text().startswith("old\ntime=")
    assert path.stat().st_mode & 0o777 == 0o600


def test_setting_up_again_leaves_one_handler_and_no_open_file(tmp_path):
    for name in ("a", "b"):
        logfile.setup(Log(log_file=str(tmp_path / name)))
    log.info("x")
    assert (tmp_path / "a").read_text() == ""
    assert (tmp_path / "b").read_text().count("\n") == 1
    assert len(logging.getLogger("pycm").handlers) == 1
    links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
    held = [os.readlink(link) for link in links if os.path.lexists(link)]
    assert [path for path in held if path.startswith(str(tmp_path))] == [str(tmp_path / "b")]


def test_relative_file_is_where_the_agent_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logfile.setup(Log())
    monkeypatch.chdir("/")
    log.info("x")
    assert (tmp_path / "log" / "container-management.log").read_text().count("\n") == 1


def test_file_that_cannot_be_opened_is_an_error_line_and_output_is_used_instead(tmp_path, capfd):
    blocker = tmp_path / "file"
    blocker.touch()
    logfile.setup(Log(log_file=str(blocker / "x.log")))
    log.info("on")
    out, err = capfd.readouterr()
    assert err.startswith(f"Error: cannot log to {blocker}/x.log: ")
    assert err.count("\n") == 1
    assert ["level=warning" in out, 'msg="on"' in out] == [True, True]


def test_device_is_no_log_file_and_stays_as_it_is(tmp_path, capfd):
    os.mkfifo(tmp_path / "pipe", 0o640)
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    logfile.setup(Log(log_file=str(tmp_path / "pipe")))
    os.close(reader)
    assert "not a regular file" in capfd.readouterr().err
    assert (tmp_path / "pipe").stat().st_mode & 0o777 == 0o640


def test_reader_of_the_output_that_goes_away_is_nobodys_error(monkeypatch):
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setattr(logfile, "_STDOUT", write)
    logfile.setup(Log(log_file=""))
    log.info("x")
    with pytest.raises(BrokenPipeError):
        os.write(write, b"x")
    os.close(write)


def test_file_and_syslog_together_are_a_warning(tmp_path):
    logfile.setup(Log(log_file=str(tmp_path / "x"), syslog=True))
    assert (
        'level=warning msg="log.syslog has no effect since log.log_file is set"'
        in (tmp_path / "x").read_text()
    )


# ── syslog ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def listener(path):
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.settimeout(60)
    server.bind(str(path))
    return server


def test_syslog_gets_severity_and_tag_and_may_be_restarted(tmp_path, monkeypatch):
    path = tmp_path / "log"
    monkeypatch.setattr(logfile, "SYSLOG", str(path))
    with listener(path) as server:
        logfile.setup(Log(log_file="", syslog=True))
        log.error("x")
        assert server.recv(4096).startswith(b"<27>container-management: time=")
    log.info("lost, since nobody listens")
    path.unlink()
    log.info("lost too")
    with listener(path) as server:
        log.info("back")
        assert b'msg="back"' in server.recv(4096)


def test_syslog_that_takes_nothing_more_does_not_hold_up_the_agent(tmp_path, monkeypatch):
    path = tmp_path / "log"
    monkeypatch.setattr(logfile, "SYSLOG", str(path))
    with listener(path):
        logfile.setup(Log(log_file="", syslog=True))
        for _ in range(2000):
            log.info("x")


def test_absent_syslog_is_an_error_line_and_output_is_used_instead(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(logfile, "SYSLOG", str(tmp_path / "absent"))
    logfile.setup(Log(log_file="", syslog=True))
    log.info("on")
    out, err = capfd.readouterr()
    assert err.startswith(f"Error: cannot log to {tmp_path}/absent: No such file")
    assert 'msg="on"' in out


# ── rotation ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A handler whose megabyte has 1000 bytes, with lines as they come."""
    monkeypatch.setattr(logfile, "MEGABYTE", 1000)
    handlers = []

    def make(**more):
        handler = RotatingFile(Log(log_file=str(tmp_path / "x.log"), log_file_size=1, **more))
        handlers.append(handler)
        return handler

    yield make
    for handler in handlers:
        handler.close()


def unzipped(name):
    with gzip.open(name, "rt") as file:
        return file.read()


def test_full_file_is_rotated_and_compressed_and_no_line_is_lost(small, tmp_path):
    handler = small(log_file_count=100)
    lines = [f"line {i} " + "x" * 90 for i in range(100)]
    for text in lines:
        handler.emit(record(text))
        handler.wait(60)
    old = list_rotated(str(tmp_path / "x.log"))
    assert len(old) == 9
    texts = [unzipped(name) for name in reversed(old)] + [(tmp_path / "x.log").read_text()]
    assert "".join(texts).splitlines() == lines
    assert all(os.path.getsize(name) and os.stat(name).st_mode & 0o777 == 0o600 for name in old)
    assert (tmp_path / "x.log").stat().st_size <= 1000


def test_old_files_are_removed_by_number_and_strangers_are_left(small, tmp_path):
    strangers = ["x-notes.log", "x.log.bak", "y-2024-01-01T00-00-00.log", "x-2024-01-01T00-00-00.txt"]
    for name in strangers:
        (tmp_path / name).touch()
    handler = small(log_file_count=2)
    for i in range(60):
        handler.emit(record("%d %s", i, "x" * 90))
        handler.wait(60)
    assert len(list_rotated(str(tmp_path / "x.log"))) == 2
    assert all((tmp_path / name).exists() for name in strangers)


def test_old_files_are_removed_by_age_and_plain_ones_compressed(tmp_path):
    path = tmp_path / "x.log"
    names = [tmp_path / f"x-2024-01-0{i}T00-00-00.log" for i in (1, 2, 3)]
    now = time.time()
    for name, age in zip(names, (3, 2, 1), strict=True):
        name.write_text(str(age))
        os.utime(name, (now - age * 1000,) * 2)
    tidy(str(path), 10, 2500)
    assert list_rotated(str(path)) == [f"{names[2]}.gz", f"{names[1]}.gz"]
    assert unzipped(f"{names[1]}.gz") == "2"
    tidy(str(path), 10, 0)
    assert len(list_rotated(str(path))) == 2


def test_log_that_somebody_removed_is_made_again_at_the_next_rotation(small, tmp_path):
    handler = small()
    handler.emit(record("x" * 900))
    (tmp_path / "x.log").unlink()
    handler.emit(record("y" * 900))
    assert (tmp_path / "x.log").read_text() == "y" * 900 + "\n"


def test_full_disk_costs_lines_and_one_error_but_not_the_agent(small, tmp_path, monkeypatch, capfd):
    handler = small()
    real = os.write

    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logfile.os, "write", full)
    handler.emit(record("a"))
    handler.emit(record("b"))
    monkeypatch.setattr(logfile.os, "write", real)
    handler.emit(record("c"))
    assert (tmp_path / "x.log").read_text() == "c\n"
    assert (
        capfd.readouterr().err
        == f"Error: cannot write to the log {tmp_path}/x.log: No space left on device\n"
    )
