# SPDX-License-Identifier: Apache-2.0
"""Devices of the machine that a container shall see. /dev/null and /dev/zero are on every machine."""

import os

import pytest

from pycm.errors import InvalidInputError
from pycm.model.container import DeviceMapping, HostConfig
from pycm.oci import machine
from pycm.oci.machine import HostDevices


def find(*mappings):
    return HostDevices().find(
        HostConfig(
            devices=tuple(
                DeviceMapping(path_on_host=str(host), path_in_container=inside, cgroup_permissions=access)
                for host, inside, access in mappings
            )
        )
    )


def test_a_node_is_described_under_its_path_in_the_container():
    (null,) = find(("/dev/null", "/dev/nothing", "r"))
    assert (null.path, null.type, null.major, null.minor, null.access) == ("/dev/nothing", "c", 1, 3, "r")
    assert null.mode == 0o666


def test_a_link_leads_to_its_node(tmp_path):
    (tmp_path / "link").symlink_to("/dev/zero")
    (zero,) = find((tmp_path / "link", "/dev/z", "rwm"))
    assert (zero.major, zero.minor) == (1, 5)


def test_a_directory_stands_for_the_nodes_below_it(tmp_path):
    inner = tmp_path / "bus" / "inner"
    inner.mkdir(parents=True)
    (inner / "plain").write_text("no device")
    (inner / "link").symlink_to("/dev/null")
    os.mkfifo(inner / "fifo")
    try:
        os.mknod(inner / "node", 0o600 | 0o020000, os.makedev(1, 3))
    except PermissionError:
        pytest.fail("making a device node needs root, as the agent does")
    (node,) = find((tmp_path / "bus", "/dev/bus", "rw"))
    assert (node.path, node.mode, node.access) == ("/dev/bus/inner/node", 0o600, "rw")


@pytest.mark.parametrize("path", ["/dev/no-such-device", "/etc/passwd"])
def test_what_is_no_device_is_named(path):
    with pytest.raises(InvalidInputError, match=path):
        find((path, "/dev/x", "rwm"))


def test_a_directory_that_cannot_be_meant_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "MAX_ENTRIES", 10)
    for number in range(11):
        (tmp_path / str(number)).touch()
    with pytest.raises(InvalidInputError, match="more than 10 entries"):
        find((tmp_path, "/dev/x", "rwm"))


def make_nodes(directory, count):
    for number in range(count):
        os.mknod(directory / f"n{number}", 0o600 | 0o020000, os.makedev(1, 3))


def test_devices_that_are_mapped_twice_in_the_same_way_are_one(tmp_path):
    make_nodes(tmp_path, 3)
    found = find(
        *[(tmp_path, "/dev/x", "rwm")] * 200, (tmp_path, "/dev/x", "r"), ("/dev/null", "/dev/x/n0", "rwm")
    )
    seen = sorted((device.path, device.access, device.mode) for device in found)
    assert seen == sorted(
        [(f"/dev/x/n{number}", access, 0o600) for number in range(3) for access in ("rwm", "r")]
        + [("/dev/x/n0", "rwm", 0o666)]
    )


def test_all_mappings_together_stand_for_a_bounded_number_of_nodes(tmp_path, monkeypatch):
    make_nodes(tmp_path, 4)
    monkeypatch.setattr(machine, "MAX_NODES", 8)
    assert len(find((tmp_path, "/dev/x", "rwm"), (tmp_path, "/dev/y", "rwm"))) == 8
    with pytest.raises(InvalidInputError, match="devices: the mappings expand to more than 8 nodes"):
        find((tmp_path, "/dev/x", "rwm"), (tmp_path, "/dev/y", "rwm"), ("/dev/null", "/dev/z", "rwm"))


def test_all_mappings_together_look_at_a_bounded_number_of_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "MAX_ENTRIES", 10)
    for number in range(5):
        (tmp_path / str(number)).touch()
    assert find(*[(tmp_path, "/dev/x", "rwm")] * 2) == ()
    with pytest.raises(InvalidInputError, match="more than 10 entries"):
        find(*[(tmp_path, "/dev/x", "rwm")] * 3)


def test_privileged_stands_for_all_nodes_but_those_made_for_each_container():
    paths = {device.path for device in HostDevices().find(HostConfig(privileged=True))}
    assert {"/dev/null", "/dev/zero"} <= paths
    assert not any(path.startswith(("/dev/pts/", "/dev/shm/", "/dev/mqueue/")) for path in paths)
    assert "/dev/console" not in paths
