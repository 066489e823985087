# SPDX-License-Identifier: Apache-2.0
"""Devices, mounts and ports as one line: what is read, what is refused with which text."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycm.errors import InvalidInputError
from pycm.model.container import DeviceMapping, MountPoint, PortMapping
from pycm.model.parse import (
    parse_device,
    parse_mount,
    parse_port,
    parse_ulimit,
)


def device(host: str, inside: str, permissions: str) -> DeviceMapping:
    return DeviceMapping(path_on_host=host, path_in_container=inside, cgroup_permissions=permissions)


def port(start: int, end: int, inside: int, ip: str = "", proto: str = "") -> PortMapping:
    return PortMapping(host_ip=ip, host_port=start, host_port_end=end, container_port=inside, proto=proto)


def test_devices() -> None:
    assert parse_device("/a:/b") == device("/a", "/b", "rwm")
    assert parse_device("/a:/b:rr") == device("/a", "/b", "rr")


def test_mounts() -> None:
    assert parse_mount("/a:/b") == MountPoint(source="/a", destination="/b", propagation_mode="rprivate")
    assert parse_mount("/a:/b:odd") == MountPoint(source="/a", destination="/b", propagation_mode="odd")
    assert parse_mount("/a:/b:ro") == MountPoint(
        source="/a", destination="/b", propagation_mode="rprivate", read_only=True
    )
    shared = MountPoint(source="/a", destination="/b", propagation_mode="shared", read_only=True)
    assert parse_mount("/a:/b:shared:ro") == shared


def test_ports() -> None:
    assert parse_port("80:8080") == port(80, 0, 8080)
    assert parse_port("80-90:8080/udp") == port(80, 90, 8080, proto="udp")
    assert parse_port("127.0.0.1:80:8080/tcp") == port(80, 0, 8080, "127.0.0.1", "tcp")


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_device, "/a", "incorrect configuration value for device mapping"),
        (parse_device, "/a:/b:r:w", "incorrect configuration value for device mapping"),
        (parse_device, "/a:/b:x", "incorrect cgroup permissions format for device mapping"),
        (parse_device, "/a:/b:", "incorrect cgroup permissions format for device mapping"),
        (parse_mount, "/a", "Incorrect number of parameters of the mount point"),
        (parse_mount, "/a:/b:c:d", "Incorrect number of parameters of the mount point"),
        (parse_ulimit, "nofile", "incorrect ulimit, name=soft[:hard] is wanted:"),
        (parse_ulimit, "nofile=1:2:3", "incorrect ulimit, name=soft[:hard] is wanted:"),
        (parse_ulimit, "nofile=-2", "incorrect ulimit, name=soft[:hard] is wanted:"),
        (parse_port, "80", "Incorrect port mapping configuration"),
        (parse_port, "1:2:3:4", "Incorrect port mapping configuration"),
        (parse_port, "localhost:80:80", "Incorrect host ip port mapping configuration"),
        (parse_port, ":80:80", "Incorrect host ip port mapping configuration"),
        (parse_port, "01.2.3.4:80:80", "Incorrect host ip port mapping configuration"),
        (parse_port, "80-70:80", "Incorrect host range port mapping configuration"),
        (parse_port, "80-:80", "Incorrect host range port mapping configuration"),
        (parse_port, "1-2-3:80", "Incorrect host range port mapping configuration"),
        (parse_port, "70000:80", "Incorrect host port mapping configuration"),
        (parse_port, "+80:80", "Incorrect host port mapping configuration"),
        (parse_port, "80:65536", "Incorrect container port mapping configuration"),
        (parse_port, "80:80-90", "Incorrect container port mapping configuration"),
        (parse_port, "80:80/tcp/x", "Incorrect container port mapping configuration"),
        (parse_port, "80:٨٠", "Incorrect container port mapping configuration"),
    ],
)
def test_wrong_entries_are_refused_with_the_text_of_the_original(parse, text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^{re.escape(message)} {re.escape(text)}$"):
        parse(text)


def test_a_long_or_unprintable_entry_is_shortened_in_the_message() -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_mount("x\n" * 5000)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_device, parse_mount, parse_port):
        try:
            parse(text)
        except InvalidInputError as error:
            assert "\n" not in str(error)  # noqa: PT017 - both ends are right, but no other
