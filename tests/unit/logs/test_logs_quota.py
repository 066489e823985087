# SPDX-License-Identifier: Apache-2.0
"""The bound of all logs together: what goes, in which order, and what stays."""

import os

import pytest

from pycm.logs.jsonlog import AT_LEAST, LEAST_MINIMUM, LogFile, Quota, Target

KIB = 1024


class Machine:
    """Log files of some containers, each older than the one made after it."""

    def __init__(self, root):
        self.root = root
        self.clock = 1_000_000

    def file(self, container, name, size):
        path = self.root / container / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\n" * size)
        self.clock += 1
        os.utime(path, (self.clock, self.clock))
        return str(path)

    def names(self):
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("json.log*"))

    def look(self, limit, live=()):
        quota = Quota(str(self.root), limit)
        files = {}
        for path in live:
            files[path] = LogFile(Target(path, 100 * KIB * KIB, 2))
            files[path].open(size=os.path.getsize(path))
            quota.opened(path, files[path])
        quota.wrote(AT_LEAST)
        full = {path for path, file in files.items() if file.full}
        for file in files.values():
            file.close()
        return full


@pytest.fixture
def machine(tmp_path):
    (tmp_path / "containers").mkdir()
    return Machine(tmp_path / "containers")


def test_the_oldest_rotated_files_go_first_until_the_rest_fits(machine, caplog):
    live = [machine.file(name, "json.log", 10 * KIB) for name in ("a", "b")]
    machine.file("b", "json.log.2", 50 * KIB)
    machine.file("a", "json.log.1", 50 * KIB)
    machine.file("b", "json.log.1", 50 * KIB)
    machine.look(125 * KIB, live)
    assert machine.names() == ["a/json.log", "a/json.log.1", "b/json.log", "b/json.log.1"]
    machine.look(70 * KIB, live)
    assert machine.names() == ["a/json.log", "b/json.log", "b/json.log.1"]
    assert caplog.text.count("limit of 128000 bytes reached") == 1


def test_nothing_goes_below_the_bound_and_without_one(machine, caplog):
    live = [machine.file("a", "json.log", 10 * KIB)]
    machine.file("a", "json.log.1", 50 * KIB)
    machine.look(60 * KIB, live)
    machine.look(0, live)
    assert machine.names() == ["a/json.log", "a/json.log.1"]
    assert not caplog.text


def test_the_log_of_a_container_that_does_not_run_goes_after_all_rotated_files(machine):
    machine.file("old", "json.log", 40 * KIB)
    running = machine.file("new", "json.log", 40 * KIB)
    machine.file("new", "json.log.1", 40 * KIB)
    machine.look(80 * KIB, [running])
    assert machine.names() == ["new/json.log", "old/json.log"]
    machine.look(70 * KIB, [running])
    assert machine.names() == ["new/json.log"]


def test_a_live_file_beyond_its_minimum_is_rotated_early_and_a_small_one_is_left_alone(machine):
    big = machine.file("big", "json.log", 300 * KIB)
    small = machine.file("small", "json.log", LEAST_MINIMUM)
    assert machine.look(200 * KIB, [big, small]) == {big}
    assert machine.names() == ["big/json.log", "small/json.log"]


def test_what_is_no_log_of_ours_is_not_touched(machine):
    machine.file("a", "json.log.backup", 100 * KIB)
    machine.file("a", "json.log.1.gz", 100 * KIB)
    machine.look(KIB)
    assert machine.names() == ["a/json.log.1.gz", "a/json.log.backup"]


def test_logs_with_a_root_directory_of_their_own_count(machine, tmp_path):
    elsewhere = Machine(tmp_path / "elsewhere")
    elsewhere.root.mkdir()
    path = elsewhere.file("a", "json.log", 10 * KIB)
    elsewhere.file("a", "json.log.1", 100 * KIB)
    machine.look(50 * KIB, [path])
    assert elsewhere.names() == ["a/json.log"]


def test_the_files_are_looked_at_only_when_the_count_says_so(machine, monkeypatch):
    live = machine.file("a", "json.log", 10 * KIB)
    quota = Quota(str(machine.root), 10 * AT_LEAST)
    looks = []
    keep = quota._enforce
    monkeypatch.setattr(quota, "_enforce", lambda: looks.append(1) or keep())
    quota.opened(live, LogFile(Target(live, KIB, 2)))
    for _ in range(9):
        quota.wrote(AT_LEAST)
    assert len(looks) == 1
    quota.wrote(2 * AT_LEAST)
    assert len(looks) == 2


def test_a_bound_that_could_not_be_kept_is_looked_at_again_after_the_next_rotation(machine):
    live = machine.file("a", "json.log", 10 * KIB)
    quota = Quota(str(machine.root), KIB)
    quota.opened(live, LogFile(Target(live, KIB, 2)))
    quota.wrote(AT_LEAST)
    rotated = machine.file("a", "json.log.1", 10 * KIB)
    quota.wrote(1)
    assert os.path.exists(rotated)
    quota.rotated()
    quota.wrote(1)
    assert not os.path.exists(rotated)
