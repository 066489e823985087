# SPDX-License-Identifier: Apache-2.0
"""Cut the power at each step of an operation that writes: after the boot the operation, repeated, reaches its goal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from boot_story import UNIT, ready, until

if TYPE_CHECKING:
    from booted_machine import BootedMachine

pytestmark = pytest.mark.vm

SOURCES = Path(__file__).resolve().parents[2] / "src/pycm/containers"
ID = "cut"
DESCRIPTOR = f'sed \'s/"demo"/"{ID}"/; 2s/.*/"container_id": "{ID}", &/\' /usr/share/pycm-demo/demo.json > /run/{ID}.json'
CREATE = f"kanto-cm create --file /run/{ID}.json"
START = f"kanto-cm start {ID}"
RUNNING = f"kanto-cm list | grep {ID} | grep -q Running"
STOPPED = f"kanto-cm list | grep {ID} | grep -q Stopped"
TASKS = "ctr -n kanto-cm task ls -q"
OPERATIONS = {
    # operation: (what comes before, the operation, what holds when it has been repeated)
    "create": ("true", CREATE, f"kanto-cm list | grep -q {ID}"),
    "start": (CREATE, START, RUNNING),
    "stop": (f"{CREATE} && {START}", f"kanto-cm stop {ID}", STOPPED),
    "end": (f"{CREATE} && {START}", f"ctr -n kanto-cm task kill --signal KILL {ID}", RUNNING),
    "update": (
        f"{CREATE} && {START}",
        f"kanto-cm update -m 64M {ID}",
        f"kanto-cm get {ID} | grep -q 64M && {RUNNING}",
    ),
    "remove": (f"{CREATE} && {START}", f"kanto-cm remove -f {ID}", f"! kanto-cm list | grep -q {ID}"),
}


def points() -> list[tuple[str, str]]:
    """Each fail point of the core and the operation that passes it, as their names have it."""
    found = []
    for path in sorted(SOURCES.glob("*.py")):
        found += re.findall(r'fail_point\("(containers\.([a-z]+)-[a-z-]+)"\)', path.read_text())
    return [(operation, point) for point, operation in found]


def test_each_operation_has_points() -> None:
    assert {operation for operation, _ in points()} == set(OPERATIONS)


@pytest.mark.parametrize(("operation", "point"), points())
def test_power_is_cut_at(machine: BootedMachine, operation: str, point: str) -> None:
    before, command, goal = OPERATIONS[operation]
    machine.run(f"{DESCRIPTOR} && {before} && sync")
    agent = arm(machine, point)
    machine.run(
        f"{command} >/dev/null 2>&1 & end=$(($(date +%s) + 60)); while [ -d /proc/{agent} ]; do [ $(date +%s) -lt $end ] || exit 1; done"
    )
    machine.power_cut()
    machine.power_on()
    ready(machine)
    machine.run(f"{DESCRIPTOR}; {command} >/dev/null 2>&1; true")
    until(machine, goal, 120)
    assert machine.run(f"{TASKS} | grep -c . || true") == (
        "1" if operation in {"start", "end", "update"} else "0"
    )
    machine.run(f"kanto-cm remove -f {ID} >/dev/null 2>&1; true")
    until(machine, f"! kanto-cm list | grep -q {ID}", 60)
    assert (
        machine.run(f"{TASKS}; ctr -n kanto-cm container ls -q; ls /var/lib/container-management/containers")
        == ""
    )


def arm(machine: BootedMachine, point: str) -> str:
    """Restart the agent so that it dies at *point*, and return its pid. The drop-in is in memory: the power cut takes it away."""
    place = f"/run/systemd/system/{UNIT}.d"
    machine.run(
        f"mkdir -p {place} && printf '[Service]\\nEnvironment=PYCM_FAIL_POINT={point}\\n' > {place}/point.conf"
        f" && systemctl daemon-reload && systemctl restart {UNIT}"
    )
    return machine.run(f"systemctl show -P MainPID {UNIT}")
