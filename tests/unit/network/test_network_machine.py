# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from pycm.errors import ConflictError
from pycm.network import machine

ROUTES = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010200C0	0003	0	0	0	00000000	0	0	0
eth0	000200C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
kanto-cm0	000011AC	00000000	0001	0	0	0	0000FFFF	0	0	0
tun0	0000000A	00000000	0001	0	0	0	000000FF	0	0	0
odd	zz
odd	zz	0	0	0	0	0	zz
"""


def test_routes_but_the_default_one_and_the_bridges_take_their_network() -> None:
    assert machine.parse_routes(ROUTES, "kanto-cm0") == [
        (IPv4Network("192.0.2.0/24"), "a route through eth0"),
        (IPv4Network("10.0.0.0/8"), "a route through tun0"),
    ]


def test_addresses_of_interfaces_are_found() -> None:
    assert str(machine.interface_address("lo")) == "127.0.0.1/8"
    assert machine.interface_address("nowhere0") is None
    assert machine.interface_address("a-name-that-is-too-long") is None
    assert ("lo", IPv4Address("127.0.0.1")) in machine.addresses(1)
    assert machine.addresses(1) == machine.addresses()
    for network in ("127.0.0.0/8", "127.0.0.1/32"):
        assert (IPv4Network(network), "interface lo") in machine.taken("kanto-cm0")
        assert (IPv4Network(network), "interface lo") not in machine.taken("lo")


def test_a_name_that_something_else_has_is_none_for_the_bridge() -> None:
    machine.check_name("nowhere0")
    with pytest.raises(ConflictError, match=r"name: 'lo' is an interface of this machine, but not a bridge"):
        machine.check_name("lo")


def test_the_request_that_isolates_a_port_has_netlinks_form() -> None:
    request = machine.isolation(7)
    header = bytes.fromhex(
        "2c000000 1300 0500 01000000 00000000"
    )  # length, RTM_SETLINK, request with acknowledgement
    interface = bytes.fromhex("07 00 0000 07000000 00000000 00000000")  # AF_BRIDGE, interface 7
    attribute = bytes.fromhex(
        "0c00 0c80 0500 2100 01 000000"
    )  # IFLA_PROTINFO, nested: IFLA_BRPORT_ISOLATED = 1
    assert request == header + interface + attribute
