# SPDX-License-Identifier: Apache-2.0
"""What the layer has for Leda: the mount of the state and what copies an older image's records there, as systemd reads them beside Leda's
data partition and OE's volatile-binds; and the files of the recipe.
"""

from __future__ import annotations

import configparser
import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from layer_support import LAYER, REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from layer_support import Built, Release

LEDA = LAYER / "dynamic-layers/meta-leda-distro"
MOUNT = LEDA / "recipes-containers/pycm-leda/pycm-leda/data.mount"
UNIT = r"var-lib-container\x2dmanagement.mount"
MIGRATION = "pycm-migrate-state.service"
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
    for name in ("bin/program", "bin/touch", "usr/libexec/pycm/migrate-state", "usr/bin/pycmd"):
        program = tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    shutil.copy(REPOSITORY / "conf/pycm.service", units)
    shutil.copy(MOUNT, units / UNIT)
    shutil.copy(MOUNT.parent / MIGRATION, units)
    (units / "pycm.service.wants").mkdir()
    (units / "pycm.service.wants" / MIGRATION).symlink_to(f"../{MIGRATION}")
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


def test_order_in_a_circle_would_be_found_of_the_migration_too(installed: Path) -> None:
    unit = installed / "usr/lib/systemd/system" / MIGRATION
    unit.write_text(unit.read_text().replace("After=local-fs.target", "After=local-fs.target pycm.service"))
    assert "cycle" in verified(installed)


def test_migration_is_before_mount_and_agent_and_holds_up_no_boot() -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(MOUNT.parent / MIGRATION)
    unit, service = parser["Unit"], parser["Service"]
    assert {UNIT, "pycm.service"} <= set(unit["Before"].split())
    assert (unit["DefaultDependencies"], unit["After"], unit["RequiresMountsFor"]) == (
        "no",
        "local-fs.target",
        "/data",
    )
    assert unit["ConditionPathExists"] == "!/data/var/lib/container-management/.migrated"
    assert int(service["TimeoutStartSec"]) <= 60
    assert service["PrivateMounts"] == "yes"
    # an order, no requirement: a failure leaves the agent alone
    text = (MOUNT.parent / MIGRATION).read_text() + MOUNT.read_text()
    assert not any(word in text for word in ("RequiredBy", "Requires=pycm", "BindsTo", "PartOf"))


def test_recipe_installs_what_the_units_name(release: Release, read: Callable[..., Built]) -> None:
    packages = ("pycm-leda-data", "pycm-leda-conf")
    found = read(
        release, MOUNT.parent.parent / "pycm-leda_1.0.bb",
        *(f"{kind}:{package}" for kind in ("FILES", "RCONFLICTS") for package in packages),
        tasks=("do_fetch", "do_unpack", "do_install"),
    )  # fmt: skip
    files = {str(path.relative_to(found.image)) for path in found.image.rglob("*") if not path.is_dir()}
    units = "usr/lib/systemd/system"
    assert files == {
        "etc/container-management/config.json",
        f"{units}/{UNIT}",
        f"{units}/{MIGRATION}",
        f"{units}/pycm.service.wants/{MIGRATION}",
        "usr/libexec/pycm/migrate-state",
    }
    link = found.image / units / "pycm.service.wants" / MIGRATION
    assert link.resolve() == found.image / units / MIGRATION
    assert (found.image / "usr/libexec/pycm/migrate-state").stat().st_mode & 0o777 == 0o755
    assert {"/usr/libexec/pycm", f"/{units}"} <= set(found.words("FILES:pycm-leda-data"))
    assert {"kanto-auto-deployer", "pycm-conf"} <= set(found.words("RCONFLICTS:pycm-leda-conf"))


def test_configuration_starts_the_descriptors_of_ledas_data_partition() -> None:
    config = json.loads((MOUNT.parent / "config.json").read_text())
    assert config["deployment"] == {
        "enable": True, "mode": "update", "ctr_dir": "/data/var/containers/manifests",
    }  # fmt: skip


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
