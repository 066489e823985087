# SPDX-License-Identifier: Apache-2.0
"""Mounts that open the machine to a container are named when it is created."""

from __future__ import annotations

import logging

import pytest

from pycm.model.container import MountPoint
from pycm.model.frozen import replace
from support.managers import described, world


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("/", ["/ (the whole file system of the machine)"]),
        ("//proc/", ["/proc (the kernel's view of all processes)"]),
        ("/proc/cpuinfo", []),
        ("/run/c", ["/run/c (with /run/c/c.sock, by which all containers can be commanded)"]),
        ("/run/c/c.sock", ["/run/c/c.sock (with /run/c/c.sock, by which all containers can be commanded)"]),
        ("/run/c2", []),
        ("/var/lib", ["/var/lib (state of the agent: /var/lib/cm)"]),
        ("/var/lib/cm/containers", ["/var/lib/cm/containers (state of the agent: /var/lib/cm)"]),
        ("/var/lib/cm2", []),
        ("/data", []),
    ],
)
async def test_what_a_mount_opens_is_named_in_the_log(
    source: str, expected: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    mount = MountPoint(source=source, destination="/mnt")
    async with world(home="/var/lib/cm", address_path="/run/c/c.sock") as w:
        await w.manager.create(replace(described(), mount_points=(mount,)))
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert told == [f"container c1 mounts {mount}" for mount in expected]
