# SPDX-License-Identifier: Apache-2.0
"""The script that copies an older image's container records to the data partition, on directories in the place of file systems.

Programs that stand first in PATH record their calls: mount and umount play with links; the others do their work, fail or end the script
as a power cut would, at the call that a test names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from layer_support import LAYER

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = LAYER / "dynamic-layers/meta-leda-distro/recipes-containers/pycm-leda/pycm-leda/migrate-state"
HOME = "var/lib/container-management"
SYSTEM_CONF = """
[system]
compatible=Eclipse Leda (qemuarm64)
[slot.efi.0]
device=/dev/vda
[slot.rescue.0]
device=/dev/vda3
[slot.rootfs.0]
device=/dev/vda4
bootname=SDV_A
[slot.rootfs.1]
bootname=SDV_B
device=/dev/vda5"""
MOUNT = """
[ "$FAIL_MOUNT" != "${3##*/}" ] || exit 32
case $1 in --bind) source=$2 ;; *) source=$3 ;; esac
for place; do :; done
rmdir "$place" && ln -s "$source" "$place"
"""
UMOUNT = 'rm "$1" && mkdir "$1"\n'
REAL = """
if [ "$(wc -l < "$CALLS")" = "$AT" ]; then
    case $HOW in cut) kill -9 $PPID ;; esac
    exit 1
fi
exec {program} "$@"
"""
CHANGING = ("cp", "mkdir", "mv", "rm", "rmdir", "sync")


@dataclass
class Machine:
    root: Path

    @property
    def state(self) -> Path:
        return self.root / "data" / HOME

    def run(self, at: int = 0, how: str = "", fail_mount: str = "") -> subprocess.CompletedProcess[str]:
        """Run the script; program call number *at* fails, or with *how* "cut" ends the script at once."""
        self.calls.write_text("")
        environment = {
            "PATH": f"{self.root.parent / 'bin'}:{os.environ['PATH']}",
            "CALLS": str(self.calls), "AT": str(at), "HOW": how, "FAIL_MOUNT": fail_mount,
        }  # fmt: skip
        return subprocess.run(
            ["/bin/sh", SCRIPT, "--root", self.root],
            env=environment, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    @property
    def calls(self) -> Path:
        return self.root.parent / "calls"

    def mounts(self) -> list[str]:
        return [line for line in self.calls.read_text().splitlines() if line.startswith("mount ")]

    def after_cut(self) -> None:
        """What a power cut takes: /run, and with it every mount."""
        shutil.rmtree(self.root / "run")
        (self.root / "run").mkdir()

    def copied(self) -> list[str]:
        return sorted(path.name for path in (self.state / "containers").iterdir())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A device of Leda's that booted slot A (vda4) with an empty data partition."""
    root, programs = tmp_path / "root", tmp_path / "bin"
    for name in ("data", "dev", "etc/rauc", "proc/self", "run", HOME):
        (root / name).mkdir(parents=True)
    (root / "etc/rauc/system.conf").write_text(SYSTEM_CONF)
    for number in (3, 4, 5):
        (root / f"dev/vda{number}" / HOME).mkdir(parents=True)
        place = root / f"sys/class/block/vda{number}"
        place.mkdir(parents=True)
        (place / "dev").write_text(f"254:{number}\n")
    (root / "proc/self/mountinfo").write_text(
        "22 1 254:4 / / rw,noatime shared:1 - ext4 /dev/root rw\n"
        "23 22 254:6 / /data rw,noatime shared:2 - ext4 /dev/vda6 rw\n"
    )
    programs.mkdir()
    texts = {name: REAL.format(program=shutil.which(name)) for name in CHANGING}
    for name, text in {**texts, "mount": MOUNT, "umount": UMOUNT}.items():
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "$CALLS"\n{text}')
        (programs / name).chmod(0o755)
    return Machine(root)


def kanto(place: Path, *names: str) -> None:
    """Make *place* Kanto's home directory with records of containers *names*."""
    for name in names:
        directory = place / "containers" / name
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(f'{{"container_id": "{name}"}}\n')
        (directory / "json.log").write_text("output\n")
    (place / "overlayfs/one/rootfs").mkdir(parents=True)
    (place / "deployment").mkdir()
    (place / "sup_back_edge_device.json").write_text("{}")


def test_migrate_state_copies_records_of_the_other_slot(machine: Machine) -> None:
    kanto(machine.root / "dev/vda5" / HOME, "one", "two")
    done = machine.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert machine.copied() == ["one", "two"]
    assert (machine.state / "containers/one/config.json").read_text() == '{"container_id": "one"}\n'
    assert (machine.state / "containers/one/json.log").is_file()
    assert (machine.state / "sup_back_edge_device.json").read_text() == "{}"
    assert (machine.state / "deployment").is_dir()
    assert not (machine.state / "overlayfs").exists()
    assert "copied 2 container records from root slot /dev/vda5" in done.stdout
    place = machine.root / "run/pycm-migrate-state/vda5"
    assert machine.mounts()[1] == f"mount -o ro,nodev,noexec,nosuid {machine.root}/dev/vda5 {place}"
    assert not place.exists()
    assert (machine.root / "dev/vda5" / HOME / "containers/one/config.json").is_file()


def test_migrate_state_prefers_records_of_its_own_slot(machine: Machine) -> None:
    kanto(machine.root / HOME, "own")
    kanto(machine.root / "dev/vda5" / HOME, "other")
    done = machine.run()
    assert machine.copied() == ["own"]
    assert "copied 1 container records from this root slot" in done.stdout
    assert machine.mounts() == [f"mount --bind {machine.root}/ {machine.root}/run/pycm-migrate-state/own"]


def test_migrate_state_mounts_neither_the_booted_slot_nor_rescue(machine: Machine) -> None:
    for device in ("vda3", "vda4"):
        kanto(machine.root / "dev" / device / HOME, device)
    done = machine.run()
    assert "no container records of an older image found" in done.stdout
    assert [line.split()[-1].rpartition("/")[2] for line in machine.mounts()] == ["own", "vda5"]
    assert not (machine.state / "containers").exists()


def test_migrate_state_follows_a_link_in_the_place_of_the_records_and_copies_links_among_them(
    machine: Machine,
) -> None:
    home = machine.root / "dev/vda5" / HOME
    kanto(home, "one")
    (home / "containers").rename(home / "elsewhere")
    (home / "containers").symlink_to("elsewhere")
    (home / "elsewhere").chmod(0o750)
    (home / "elsewhere/one/link").symlink_to("/nowhere")
    done = machine.run()
    assert "copied 1 container records" in done.stdout
    assert not (machine.state / "containers").is_symlink()
    assert (machine.state / "containers").stat().st_mode & 0o777 == 0o750
    assert (machine.state / "containers/one/config.json").is_file()
    assert os.readlink(machine.state / "containers/one/link") == "/nowhere"


def test_migrate_state_leaves_existing_records_as_they_are(machine: Machine) -> None:
    kanto(machine.state, "mine")
    kanto(machine.root / "dev/vda5" / HOME, "other")
    done = machine.run()
    assert done.returncode == 0
    assert machine.copied() == ["mine"]
    assert machine.mounts() == []


def test_migrate_state_brings_no_removed_container_back(machine: Machine) -> None:
    kanto(machine.root / "dev/vda5" / HOME, "one")
    machine.run()
    shutil.rmtree(machine.state / "containers/one")
    assert machine.run().returncode == 0
    assert machine.copied() == []
    assert machine.calls.read_text() == ""


def test_migrate_state_looks_once_where_nothing_is_found(machine: Machine) -> None:
    assert machine.run().returncode == 0
    kanto(machine.root / "dev/vda5" / HOME, "later")
    assert machine.run().returncode == 0
    assert not (machine.state / "containers").exists()


def test_migrate_state_fills_directories_that_an_agent_left_empty(machine: Machine) -> None:
    for name in ("containers", "deployment", "pycm"):
        (machine.state / name).mkdir(parents=True)
    kanto(machine.root / "dev/vda5" / HOME, "one")
    assert machine.run().returncode == 0
    assert machine.copied() == ["one"]


def test_migrate_state_tries_again_where_a_slot_cannot_be_mounted(machine: Machine) -> None:
    kanto(machine.root / "dev/vda5" / HOME, "one")
    done = machine.run(fail_mount="vda5")
    assert done.returncode == 1
    assert "<4>pycm-migrate-state: cannot mount root slot /dev/vda5" in done.stderr
    assert not (machine.state / ".migrated").exists()
    assert machine.run().returncode == 0
    assert machine.copied() == ["one"]


def test_migrate_state_looks_at_other_slots_where_its_own_cannot_be_seen(machine: Machine) -> None:
    kanto(machine.root / "dev/vda5" / HOME, "one")
    assert machine.run(fail_mount="own").returncode == 0
    assert machine.copied() == ["one"]


def test_migrate_state_ignores_a_slot_whose_device_is_missing(machine: Machine) -> None:
    shutil.rmtree(machine.root / "sys/class/block/vda5")
    done = machine.run()
    assert done.returncode == 0
    assert "root slot /dev/vda5 does not exist" in done.stderr
    assert (machine.state / ".migrated").exists()


@pytest.mark.parametrize("line", ["# was [slot.rootfs.7]", "description=slot [B]", "; [x]", "device.x=y"])
def test_migrate_state_reads_raucs_configuration_as_rauc_does(machine: Machine, line: str) -> None:
    text = f"[slot.rootfs.0]\ndevice\t=  /dev/vda4\n\n  [slot.rootfs.1]  \n{line}\n  device = /dev/vda5  \n#device=/dev/vda3\n"
    (machine.root / "etc/rauc/system.conf").write_text(text)
    kanto(machine.root / "dev/vda5" / HOME, "one")
    done = machine.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert machine.copied() == ["one"]
    assert [mount.rpartition("/")[2] for mount in machine.mounts()] == ["own", "vda5"]


def test_migrate_state_without_rauc_looks_at_its_own_slot(machine: Machine) -> None:
    (machine.root / "etc/rauc/system.conf").unlink()
    kanto(machine.root / HOME, "own")
    assert machine.run().returncode == 0
    assert machine.copied() == ["own"]


def changing_calls(machine: Machine) -> list[int]:
    """The numbers of the calls that change something."""
    assert machine.run().returncode == 0
    calls = machine.calls.read_text().splitlines()
    shutil.rmtree(machine.state)
    return [number for number, call in enumerate(calls, 1) if call.split()[0] in CHANGING]


@pytest.mark.parametrize("how", ["cut", "fail"])
def test_migrate_state_leaves_all_records_or_none_wherever_it_ends(machine: Machine, how: str) -> None:
    kanto(machine.root / "dev/vda5" / HOME, "one", "two")
    for at in changing_calls(machine):
        done = machine.run(at, how)
        call = machine.calls.read_text().splitlines()[at - 1]
        found = machine.state / "containers"
        assert not found.exists() or machine.copied() == ["one", "two"], call
        if call.startswith(("cp", "sync", "mv")):
            assert done.returncode != 0, call
            assert not (machine.state / ".migrated").exists() or call.startswith("sync"), call
        if how == "fail":
            assert not (machine.state / ".containers.new").exists(), call
        machine.after_cut()
        again = machine.run()
        assert again.returncode == 0, call
        assert machine.copied() == ["one", "two"], call
        assert (machine.state / ".migrated").exists(), call
        assert not (machine.state / ".containers.new").exists(), call
        shutil.rmtree(machine.state)


def test_migrate_state_holds_up_the_agent_for_little_more_than_a_minute() -> None:
    """Where a process hangs in a device, systemd waits for TimeoutStopSec after each of SIGTERM, SIGKILL and both once more."""
    lines = (SCRIPT.parent / "pycm-migrate-state.service").read_text().splitlines()
    limits = dict(line.split("=", 1) for line in lines if line.startswith("Timeout"))
    assert int(limits["TimeoutStartSec"]) + 4 * int(limits["TimeoutStopSec"]) <= 90
