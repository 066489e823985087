# SPDX-License-Identifier: Apache-2.0
"""Ages of images on machines whose clock jumps, starts in the past, or stands still while they are off."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import threading
from typing import TYPE_CHECKING

import pytest

from pycm.containerd.image_format import Descriptor
from pycm.containerd.images import Record
from pycm.errors import OperationFailedError
from pycm.registry import usage as rules
from pycm.registry.usage import Ages, Clocks, Count, count, is_plausible, parse, see
from pycm.storage.files import StateFile

if TYPE_CHECKING:
    from pathlib import Path

NOW = 2_000_000_000.0
DAY = 86400.0


class Machine:
    """Clocks that a test moves."""

    def __init__(self) -> None:
        self.now = Clocks(NOW, 100.0, 100.0, "boot 1")
        self.synchronised = False
        self.asked = 0

    def clocks(self) -> Clocks:
        return self.now

    def is_synchronised(self) -> bool:
        self.asked += 1
        return self.synchronised

    def run(self, seconds: float) -> None:
        now = self.now
        self.now = now._replace(
            wall=now.wall + seconds, running=now.running + seconds, booted=now.booted + seconds
        )

    def sleep(self, seconds: float) -> None:
        self.now = self.now._replace(wall=self.now.wall + seconds, booted=self.now.booted + seconds)

    def jump(self, seconds: float) -> None:
        self.now = self.now._replace(wall=self.now.wall + seconds)

    def boot(self, wall: float) -> None:
        self.now = Clocks(wall, 10.0, 10.0, f"{self.now.boot_id}+")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(rules, "build_time", lambda: NOW - 1000 * DAY)
    return Machine()


def ages_of(machine: Machine, path: Path | str = "") -> Ages:
    return Ages(str(path), machine.clocks, machine.is_synchronised)


DIGEST, OTHER = ("sha256:" + digit * 64 for digit in "01")


def image(name: str = "a", created: float = NOW, digest: str = DIGEST) -> Record:
    return Record(name, Descriptor(digest, 1), int(created * 1e9))


# ── what is counted ──


def test_count_adds_use_within_a_boot_and_from_boot_to_boot() -> None:
    first = count(Count(), Clocks(NOW, 100.0, 100.0, "1"))
    assert (first.used, first.offset, first.jumped) == (100.0, NOW - 100, False)
    later = count(first, Clocks(NOW + 50, 150.0, 150.0, "1"))
    assert later.used == 150.0
    rebooted = count(later, Clocks(NOW + 40 * DAY, 20.0, 20.0, "2"))  # off for 40 days
    assert rebooted.used == 170.0
    assert count(rebooted, Clocks(NOW, 15.0, 15.0, "2")).used == 170.0  # never backwards


@pytest.mark.parametrize(("moved", "jumped"), [(600, False), (601, True), (-600, False), (-601, True)])
def test_count_notices_a_jump_of_more_than_ten_minutes(moved: float, jumped: bool) -> None:
    first = count(Count(), Clocks(NOW, 100.0, 100.0, "1"))
    later = count(first, Clocks(NOW + 50 + moved, 150.0, 150.0, "1"))
    assert later.jumped is jumped
    back = count(later, Clocks(NOW + 60, 160.0, 160.0, "1"))
    assert back.jumped is jumped  # for the rest of this boot
    assert count(back, Clocks(NOW + 60, 5.0, 5.0, "2")).jumped is False


def test_count_takes_sleep_for_no_jump_and_no_use(machine: Machine) -> None:
    first = count(Count(), machine.now)
    machine.sleep(40 * DAY)
    later = count(first, machine.now)
    assert (later.used, later.jumped) == (100.0, False)


@pytest.mark.parametrize(
    ("wall", "built", "jumped", "synchronised", "plausible"),
    [
        (NOW, NOW, False, False, True),
        (NOW - 1, NOW - 9, False, False, False),  # before the last time that was believed
        (NOW, NOW + 1, False, False, False),  # before this program was made
        (NOW, NOW, True, False, False),
        (NOW - 1, NOW + 1, True, True, True),
    ],
)
def test_clock_is_plausible_if_it_follows_or_is_synchronised(
    wall: float, built: float, jumped: bool, synchronised: bool, plausible: bool
) -> None:
    counted = Count(wall=NOW, jumped=jumped)
    assert is_plausible(counted, wall, built, lambda: synchronised) is plausible


def test_images_are_seen_once_and_forgotten_when_they_go(monkeypatch: pytest.MonkeyPatch) -> None:
    first = see(Count(used=10.0), [image("a"), image("b")])
    later = see(first._replace(used=20.0), [image("a"), image("b", NOW + 1), image("c")])
    assert {name: since for name, (_, since, _) in later.seen.items()} == {"a": 10.0, "b": 20.0, "c": 20.0}
    assert set(see(later, [image("c")]).seen) == {"c"}
    monkeypatch.setattr(rules, "MOST_SEEN", 2)
    assert set(see(Count(), map(image, "abc")).seen) == {"a", "b"}


def test_image_that_a_pull_moved_to_a_name_counts_anew() -> None:
    """containerd keeps the time at which the name was made."""
    first = see(Count(used=10.0), [image("a"), image("b")])
    later = see(first._replace(used=20.0), [image("a", digest=OTHER), image("b")])
    assert {name: since for name, (_, since, _) in later.seen.items()} == {"a": 20.0, "b": 10.0}
    assert see(later._replace(used=30.0), [image("a", digest=OTHER)]).seen["a"][1] == 20.0


# ── ages ──


def test_age_is_the_time_in_use_since_first_sight(machine: Machine) -> None:
    ages = ages_of(machine)
    assert ages.of([image(created=NOW - 900 * DAY)]) == {"a": 0.0}
    machine.run(500)
    assert ages.of([image(created=NOW - 900 * DAY)]) == {"a": 500.0}
    assert machine.asked == 0


def test_age_is_no_more_than_the_clock_says(machine: Machine) -> None:
    ages = ages_of(machine)
    records = [
        image(created=NOW + 300),
        image("b", NOW + 9999),
        image("old", rules.CLOCK_SET - 1),
        image("c", rules.CLOCK_SET),
    ]
    ages.of(records)
    machine.run(500)
    assert ages.of(records) == {"a": 200.0, "b": -9499.0, "c": 500.0}


def test_jump_of_forty_days_makes_no_image_old(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "home" / "images.json"
    ages_of(machine, path).of([image()])
    machine.boot(NOW + 60)  # no battery behind the clock: it goes on about where it was
    ages = ages_of(machine, path)
    assert ages.of([image()]) == {"a": 10.0}
    machine.run(5)
    machine.jump(40 * DAY)  # the first NTP answer
    assert ages.of([image()]) == {}
    machine.synchronised = True
    assert ages.of([image()]) == {"a": 15.0}
    ages.close()
    machine.boot(NOW + 80 * DAY)
    assert ages_of(machine, path).of([image()]) == {"a": 25.0}


def test_clock_behind_what_is_known_gives_no_ages(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "images.json"
    ages_of(machine, path).of([image(created=NOW - 9999)])
    for wall in (0.0, NOW - 1):
        machine.boot(wall)
        assert ages_of(machine, path).of([image(created=NOW - 9999)]) == {}
    machine.boot(NOW)
    assert ages_of(machine, path).of([image(created=NOW - 9999)]) == {"a": 30.0}


def test_use_is_written_when_something_changes_and_each_hour(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "images.json"
    ages = ages_of(machine, path)

    def written() -> bool:
        found = path.exists()
        path.unlink(missing_ok=True)
        return found

    ages.of([image()])
    assert written()
    machine.run(3599)
    ages.of([image()])
    assert not written()
    machine.run(1)
    ages.of([image()])
    assert written()
    ages.of([image(), image("b")])
    assert written()
    machine.jump(601)
    ages.of([image(), image("b")])
    assert written()
    machine.run(1)
    ages.close()
    assert written()


def test_close_without_any_look_writes_nothing(machine: Machine, tmp_path: Path) -> None:
    ages_of(machine, tmp_path / "images.json").close()
    assert not list(tmp_path.iterdir())


def test_close_keeps_what_was_used_since_the_last_look(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "images.json"
    ages = ages_of(machine, path)
    ages.of([image()])
    machine.run(70)
    ages.close()
    assert ages_of(machine, path).of([image()]) == {"a": 70.0}


def test_close_waits_for_a_look_that_writes(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ages = ages_of(machine, tmp_path / "images.json")
    closing = threading.Thread(target=ages.close)
    waited: list[bool] = []

    def write(*_: object) -> None:
        if not waited:
            closing.start()
            closing.join(0.2)
            waited.append(closing.is_alive())

    monkeypatch.setattr("pycm.storage.files.write_atomic", write)
    ages.of([image()])
    closing.join()
    assert waited == [True]


# ── the file ──


GOOD = {"used": 9.0, "wall": NOW, "boot_id": "boot 1", "running": 100.0, "offset": NOW - 100, "jumped": False, "seen": {"a": [1, 9.0]}}  # fmt: skip


def test_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    counted = Count(9.0, NOW, "b", 5.0, NOW - 5, True, {"a": (1, 9.0, DIGEST)})
    file = StateFile(str(tmp_path / "images.json"), logging.getLogger(), limit=rules.SIZE_LIMIT, loss="")
    assert file.write(counted._asdict())
    assert file.read(parse, Count()) == counted
    assert parse(GOOD).seen == {"a": (1, 9.0, "")}
    assert see(parse(GOOD), [image(created=1e-9)]).seen == {"a": (1, 9.0, DIGEST)}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0" * 100, b"[]", b"{}", b"[" * 100_000, b"null",
        json.dumps({**GOOD, "used": "x"}).encode(),
        json.dumps({**GOOD, "used": float("nan")}).encode(),
        json.dumps({**GOOD, "wall": float("inf")}).encode(),
        json.dumps({**GOOD, "seen": {"a": [1, 9.1]}}).encode(),  # seen later than now
        json.dumps({**GOOD, "seen": {"a": [1, -0.1]}}).encode(),
        json.dumps({**GOOD, "seen": {"a": [1]}}).encode(),
        json.dumps({**GOOD, "seen": []}).encode(),
        json.dumps({**GOOD, "boot_id": "b" * (4 << 20)}).encode(),
        json.dumps({**GOOD, "seen": {"a": [float("inf"), 9.0]}}).encode(),
        json.dumps({**GOOD, "used": 10**400}).encode(),
    ],
    ids=range(16),
)  # fmt: skip
def test_damaged_file_is_set_aside_and_images_count_as_new(
    machine: Machine, tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "images.json"
    path.write_bytes(data)
    assert ages_of(machine, path).of([image()]) == {"a": 0.0}
    assert (tmp_path / "images.json.damaged").read_bytes() == data
    assert caplog.text.count("images.json: damaged: ") == 1
    assert json.loads(path.read_bytes())["seen"] == {"a": [NOW * 1e9, 100.0, DIGEST]}


def test_file_that_cannot_be_written_is_a_warning(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    ages = ages_of(machine, tmp_path / "file" / "images.json")
    ages.of([image()])
    machine.run(5)
    assert ages.of([image()]) == {"a": 5.0}
    assert "cannot be written" in caplog.text


def test_fifo_in_place_of_the_file_is_replaced(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "images.json"
    os.mkfifo(path)
    assert ages_of(machine, path).of([image()]) == {"a": 0.0}
    assert "cannot be read: not a regular file" in caplog.text
    assert list(parse(json.loads(path.read_bytes())).seen) == ["a"]


# ── this machine ──


def test_clocks_of_this_machine() -> None:
    first, second = rules.read_clocks(), rules.read_clocks()
    assert 0 < first.running <= second.running <= second.booted
    assert first.boot_id == second.boot_id
    assert len(first.boot_id) == 36
    assert rules.is_synchronised() in (True, False)
    assert rules.CLOCK_SET <= rules.build_time() <= first.wall


@pytest.mark.parametrize(
    ("file", "answer", "synchronised"),
    [(True, 5, True), (False, 0, True), (False, 5, False), (False, -1, False)],
)
def test_kernel_or_timesyncd_says_that_the_clock_is_synchronised(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, file: bool, answer: int, synchronised: bool
) -> None:
    class Library:
        def adjtimex(self, buffer: ctypes.Array[ctypes.c_char]) -> int:
            assert buffer.raw == bytes(512)  # modes 0: it only reads
            return answer

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    monkeypatch.setattr(rules, "_TIMESYNCD", str(tmp_path / "synchronized"))
    if file:
        (tmp_path / "synchronized").touch()
    assert rules.is_synchronised() is synchronised


def test_boots_that_cannot_be_told_apart_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_BOOT_ID", "/nowhere")
    with pytest.raises(OperationFailedError, match="cannot read /nowhere"):
        rules.read_clocks()
