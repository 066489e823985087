# SPDX-License-Identifier: Apache-2.0
"""The disks that the layer's wks files describe."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from layer_support import LAYER

from support import wks

MACHINES = {"qemuarm64": "qemuarm64.wks", "raspberrypi4-64": "raspberrypi.wks.in"}
"""Machines, and the name of Leda's own file for each."""
LABELS = {
    "qemuarm64": ["BOOT", "", "rescue", "root_a", "root_b", "data"],
    "raspberrypi4-64": ["boot", "grubenv", "rescue", "root_a", "root_b", "data"],
}
CARD = 8_000_000_000 * 95 // 100
"""Bytes of a small card sold as 8 GB."""
TREES = os.environ.get("PYCM_OE_TREES")
need_trees = pytest.mark.skipif(
    not TREES, reason="PYCM_OE_TREES is not set: no layers of Leda to compare with"
)


def partitions(machine: str) -> list[wks.Partition]:
    return wks.read(LAYER / f"files/wic/leda-pycm-{machine}.wks")


@pytest.mark.parametrize("machine", MACHINES)
def test_wks_has_the_partitions_that_fstab_and_rauc_name(machine: str) -> None:
    named = [part for part in partitions(machine) if part.number]
    assert [part.number for part in named] == [1, 2, 3, 4, 5, 6]
    assert [part.label for part in named] == LABELS[machine]
    assert [part.number for part in named if part.active] == [1]


@pytest.mark.parametrize("machine", MACHINES)
def test_wks_slots_hold_the_same_images(machine: str) -> None:
    first, second = (part for part in partitions(machine) if part.label.startswith("root_"))
    assert first.size == second.size
    assert (first.source, first.rootfs) == (second.source, second.rootfs) == ("rootfs", "")


@pytest.mark.parametrize("machine", MACHINES)
def test_wks_data_partition_can_grow_and_the_disk_fits_a_small_card(machine: str) -> None:
    parts = partitions(machine)
    assert parts[-1].label == "data"
    assert wks.disk_size(parts) < CARD


@pytest.mark.parametrize("machine", MACHINES)
def test_wks_partitions_are_aligned_and_apart(machine: str) -> None:
    end = 0
    for part in partitions(machine):
        assert part.start % (4 * wks.MIB) == 0
        assert part.start >= end
        end = part.start + part.size


@need_trees
@pytest.mark.parametrize("machine", MACHINES)
def test_wks_has_the_numbers_and_labels_of_ledas_own(machine: str) -> None:
    text = Path(f"{TREES}/kirkstone/meta-leda/meta-leda-distro/wic/{MACHINES[machine]}").read_text()
    lines = [line for line in text.splitlines() if line.startswith("part ") and "--no-table" not in line]
    found = [re.search(r"--label (\S+)", line) for line in lines]
    assert [label[1] if label else "" for label in found] == LABELS[machine]


def test_wks_reader_places_partitions_as_wic_does(tmp_path: Path) -> None:
    file = tmp_path / "test.wks"
    file.write_text(
        "# a comment\nbootloader --ptable gpt\npart --fixed-size 1M\n"
        "part --fixed-size 3M --align 4096 --no-table\npart --fixed-size 2048K --align 1024 --label x # last\n"
    )
    first, hidden, last = wks.read(file)
    assert (first.number, first.start) == (1, 34 * 512)
    assert (hidden.number, hidden.start, hidden.size) == (0, 4 * wks.MIB, 3 * wks.MIB)
    assert (last.number, last.start, last.size, last.label) == (2, 7 * wks.MIB, 2 * wks.MIB, "x")
    assert wks.disk_size([first, hidden, last]) == 9 * wks.MIB + 34 * 512


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("part --size 3M", "test.wks:2: the following arguments are required: --fixed-size"),
        ("part --fixed-size 3M --offset 1M", "test.wks:2: unrecognized arguments: --offset 1M"),
        ("part --fixed-size 3X", "test.wks:2: argument --fixed-size: not a size: '3X'"),
        ("include other.wks", "test.wks:2: unknown command 'include'"),
    ],
)
def test_wks_reader_refuses_what_may_change_the_layout(tmp_path: Path, line: str, error: str) -> None:
    file = tmp_path / "test.wks"
    file.write_text(f"bootloader --ptable gpt\n{line}\n")
    with pytest.raises(ValueError, match=re.escape(error)):
        wks.read(file)
