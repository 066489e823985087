# SPDX-License-Identifier: Apache-2.0
"""What the layer has for Leda: the mount of the state, as systemd reads it beside Leda's data partition and OE's volatile-binds."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from layer_support import LAYER, REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

LEDA = LAYER / "dynamic-layers/meta-leda-distro"
MOUNT = LEDA / "recipes-containers/pycm-leda/pycm-leda/data.mount"
UNIT = r"var-lib-container\x2dmanagement.mount"
DATA = "[Unit]\nDefaultDependencies=no\n[Mount]\nWhat=/dev/vda7\nWhere=/data\n"
"""As fstab's generator makes it of Leda's line, which has nofail: not before local-fs.target."""
VOLATILE = (
    "[Unit]\nDefaultDependencies=no\nBefore=local-fs.target\nRequiresMountsFor=/var\n"
    "[Service]\nType=oneshot\nExecStart=/bin/program\n[Install]\nWantedBy=local-fs.target\n"
)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A root directory with Debian's units, and those of an image of Leda's with a read-only root."""
    units = tmp_path / "usr/lib/systemd/system"
    shutil.copytree("/lib/systemd/system", units, symlinks=True)
    for name in ("bin/program", "bin/touch", "usr/bin/pycmd"):
        program = tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    shutil.copy(REPOSITORY / "conf/pycm.service", units)
    shutil.copy(MOUNT, units / UNIT)
    (units / "data.mount").write_text(DATA)
    (units / "var-volatile-lib.service").write_text(VOLATILE)
    (units / "local-fs.target.wants").mkdir(exist_ok=True)
    (units / "local-fs.target.wants/var-volatile-lib.service").symlink_to("../var-volatile-lib.service")
    for name in ("containerd", "mosquitto"):
        (units / f"{name}.service").write_text("[Service]\nExecStart=/bin/program\n")
    return tmp_path


def verified(root: Path) -> str:
    """What systemd says of the unit and all that it wants, its name and orders that run in a circle among it."""
    command = [
        "systemd-analyze",
        "verify",
        "--man=no",
        f"--root={root}",
        UNIT,
        "pycm.service",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def test_systemd_finds_nothing_wrong_with_the_mount_of_the_state(installed: Path) -> None:
    said = verified(installed)
    assert "container" not in said
    assert "cycle" not in said


def test_an_order_that_runs_in_a_circle_would_be_found(installed: Path) -> None:
    unit = installed / "usr/lib/systemd/system" / UNIT
    unit.write_text(
        unit.read_text().replace("RequiresMountsFor", "Before=var-volatile-lib.service\nRequiresMountsFor")
    )
    assert "cycle" in verified(installed)


def test_the_state_is_mounted_when_var_lib_is_final_and_holds_up_no_boot() -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(MOUNT)
    unit = parser["Unit"]
    # volatile-binds is before this target; a mount with default dependencies would be, too
    assert (unit["DefaultDependencies"], unit["After"]) == ("no", "local-fs.target")
    assert unit["RequiresMountsFor"] == "/data"
    assert unit["Before"].split() == ["pycm.service", "umount.target"]
    assert unit["Conflicts"] == "umount.target"
