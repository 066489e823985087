# SPDX-License-Identifier: Apache-2.0
"""The systemd unit, by systemd's own tools. The programs that it starts are made up here, since it is verified as if installed."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[3] / "conf/pycm.service"
EXPOSURE = 4.8
"""Of 10; what is left is root, the sight of all processes and files, and the machine's network, which bridge containers need.

0.8 are directives that hide what containers get; capabilities, system calls and the device policy take away the same.
"""


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert shutil.which("systemd-analyze"), "systemd-analyze is missing: apt-get install systemd"
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A root directory with the unit, the program, and Debian's units around it."""
    program = tmp_path / "usr/bin/pycmd"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    units = tmp_path / "usr/lib/systemd/system"
    shutil.copytree("/lib/systemd/system", units, symlinks=True)
    shutil.copy(UNIT, units)
    for name in ("containerd", "mosquitto"):
        (units / f"{name}.service").write_text("[Service]\nExecStart=/usr/bin/pycmd\n")
    return tmp_path


def values() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser


def test_systemd_finds_nothing_wrong_with_the_unit(installed: Path) -> None:
    done = analyze("verify", "--man=no", f"--root={installed}", "pycm.service")
    assert "pycm" not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr


def test_what_is_wrong_with_a_unit_would_be_found(installed: Path) -> None:
    unit = installed / "usr/lib/systemd/system/pycm.service"
    unit.write_text(unit.read_text().replace("MemoryMax=", "MemoryMaximum="))
    done = analyze("verify", "--man=no", f"--root={installed}", "pycm.service")
    assert "MemoryMaximum" in done.stderr


def test_little_is_left_open_by_the_hardening() -> None:
    done = analyze("security", "--offline=true", "--no-pager", str(UNIT))
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= EXPOSURE


def test_all_that_the_bridge_network_needs_is_allowed_and_no_more() -> None:
    text = UNIT.read_text()
    assert "\nCapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_SYS_ADMIN CAP_SYS_CHROOT\n" in text
    service = values()["Service"]
    assert service["RestrictNamespaces"] == "net mnt"
    assert service["SystemCallFilter"] == "@system-service mount umount2 adjtimex clock_adjtime"
    assert service["ReadWritePaths"] == "/proc/sys/net -/run/xtables.lock"
    assert (service["ProtectSystem"], service["ProtectKernelTunables"]) == ("strict", "yes")


#: Each of them changes what the agent sees, or puts a node of its own in the place of one of the machine's.
HIDE = (
    "PrivateTmp",
    "ProtectKernelLogs",
    "ProtectKernelModules",
    "ProtectHostname",
    "ProtectClock",
    "PrivateDevices",
    "PrivateUsers",
    "PrivateNetwork",
    "PrivateIPC",
    "PrivatePIDs",
    "InaccessiblePaths",
    "TemporaryFileSystem",
    "RootDirectory",
    "RootImage",
    "BindPaths",
    "BindReadOnlyPaths",
    "ProcSubset",
    "NoExecPaths",
    "MountImages",
    "ExtensionImages",
    "DynamicUser",
    "NetworkNamespacePath",
    "IPCNamespacePath",
    "MountFlags",
)


def test_unit_hides_nothing_that_a_container_can_get() -> None:
    service = values()["Service"]
    assert [name for name in HIDE if service.get(name, "no") != "no"] == []
    assert service["ProtectHome"] in ("no", "read-only")  # "yes" and "tmpfs" show an empty /home
    assert service["ProtectProc"] == "default"
    assert service["ProtectControlGroups"] == "yes"  # read-only; "private" and "strict" show another tree


def test_unit_takes_away_by_capabilities_what_the_left_out_directives_would() -> None:
    allowed = set(
        " ".join(re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)).split()
    )
    assert not allowed & {
        "CAP_SYSLOG",
        "CAP_SYS_MODULE",
        "CAP_SYS_TIME",
        "CAP_WAKE_ALARM",
        "CAP_SYS_RAWIO",
        "CAP_MKNOD",
    }
    assert len(allowed) == 8
    listed = analyze("syscall-filter").stdout
    sets = {block.split()[0]: set(block.split()) for block in re.split(r"\n(?=@)", listed)}

    def calls(name: str) -> set[str]:
        inside = sets.get(name, {name})
        return {name} if inside == {name} else set().union(*map(calls, inside - {name}))

    can = set().union(*map(calls, values()["Service"]["SystemCallFilter"].split()))
    assert "mount" in can
    assert not can & {
        "syslog",
        "sethostname",
        "init_module",
        "finit_module",
        "delete_module",
        "clock_settime",
    }


def test_unit_has_no_alias_of_its_own() -> None:
    """Kanto's name for it is a link that a package brings: an Alias= would be a second one, in /etc."""
    assert dict(values()["Install"]) == {"WantedBy": "multi-user.target"}


def test_unit_is_the_one_that_units_of_leda_order_themselves_by(installed: Path) -> None:
    """Before the one name and after the other: systemd finds the cycle only if both are one unit."""
    units = installed / "usr/lib/systemd/system"
    (units / "leda.service").write_text(
        "[Unit]\nAfter=container-management.service\nBefore=pycm.service\n"
        "[Service]\nType=oneshot\nExecStart=/usr/bin/pycmd\n"
    )
    wants = units / "pycm.service.wants"
    wants.mkdir()
    (wants / "leda.service").symlink_to("../leda.service")
    for linked in (False, True):
        if linked:
            (units / "container-management.service").symlink_to("pycm.service")
        done = analyze("verify", "--man=no", f"--root={installed}", "pycm.service")
        assert ("cycle" in done.stderr) == linked, done.stderr


def test_the_end_of_the_agent_ends_no_other_process_and_keeps_the_fifos() -> None:
    service = values()["Service"]
    assert service["KillMode"] == "process"
    assert service["RuntimeDirectoryPreserve"] == "yes"
    assert service["OOMPolicy"] == "continue"


def test_a_crash_of_the_agent_leaves_no_core_file_with_its_secrets() -> None:
    assert values()["Service"]["LimitCORE"] == "0"


def test_the_watchdog_costs_at_most_two_wake_ups_a_minute() -> None:
    assert int(values()["Service"]["WatchdogSec"]) / 2 >= 30


def test_a_crash_loop_is_slowed_down_and_never_given_up() -> None:
    parsed = values()
    assert parsed["Service"]["Restart"] == "always"
    assert int(parsed["Service"]["RestartSec"]) >= 5
    assert parsed["Unit"]["StartLimitIntervalSec"] == "0"


def test_only_an_order_binds_the_agent_to_containerd_and_the_broker() -> None:
    unit = values()["Unit"]
    for name in ("containerd.service", "mosquitto.service"):
        assert name in unit["After"].split()
        assert name in unit["Wants"].split()
    assert "Requires" not in unit
    assert "BindsTo" not in unit
