# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from ipaddress import IPv4Interface

import pytest

from pycm.config.types import DefaultBridge
from pycm.errors import OperationFailedError
from pycm.network.conf import (
    Published,
    choose_network,
    conf_list,
    failure,
    guess,
    needed,
    parse_endpoint,
    parse_result,
)

OPTIONS = DefaultBridge(name="br7", ip4="10.77.3.1/24", gwip4="10.77.3.9", mtu=1400)
PORT = Published("tcp", "127.0.0.1", 30555, 80)
V04 = {
    "cniVersion": "0.4.0",
    "interfaces": [
        {"name": "br7", "mac": "aa:00:00:00:00:01"},
        {"name": "veth1", "mac": "aa:00:00:00:00:02"},
        {"name": "eth0", "mac": "aa:00:00:00:00:03", "sandbox": "/n"},
    ],
    "ips": [{"version": "4", "interface": 2, "address": "10.77.3.2/24", "gateway": "10.77.3.9"}],
}


def plugins(options: DefaultBridge, *published: Published) -> dict[str, dict]:
    addressing = choose_network(options, None, (), in_use=False)
    return {plugin["type"]: plugin for plugin in conf_list(options, addressing, "/data", published)}


def test_the_options_of_the_bridge_reach_the_plugins() -> None:
    found = plugins(OPTIONS, PORT)
    assert list(found) == ["bridge", "portmap", "firewall"]
    assert all((plugin["cniVersion"], plugin["name"]) == ("0.4.0", "br7") for plugin in found.values())
    assert (found["bridge"]["bridge"], found["bridge"]["mtu"], found["bridge"]["ipMasq"]) == (
        "br7",
        1400,
        True,
    )
    assert found["bridge"]["ipam"] == {
        "type": "host-local",
        "dataDir": "/data",
        "routes": [{"dst": "0.0.0.0/0"}],
        "ranges": [
            [
                {
                    "subnet": "10.77.3.0/24",
                    "rangeStart": "10.77.3.2",
                    "rangeEnd": "10.77.3.8",
                    "gateway": "10.77.3.9",
                },
                {
                    "subnet": "10.77.3.0/24",
                    "rangeStart": "10.77.3.10",
                    "rangeEnd": "10.77.3.254",
                    "gateway": "10.77.3.9",
                },
            ]
        ],
    }
    assert found["portmap"]["runtimeConfig"]["portMappings"] == [
        {"hostPort": 30555, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"}
    ]


@pytest.mark.parametrize(
    ("options", "masquerade", "types"),
    [
        (DefaultBridge(), True, ["bridge", "firewall"]),
        (DefaultBridge(ip_masq=False), False, ["bridge", "firewall"]),
        (DefaultBridge(ip_tables=False), False, ["bridge"]),
    ],
)
def test_rules_are_only_set_where_they_may(
    options: DefaultBridge, masquerade: bool, types: list[str]
) -> None:
    found = plugins(options)
    assert (list(found), found["bridge"]["ipMasq"]) == (types, masquerade)
    assert set(needed(options, publishes=False)) == {*types, "host-local"}


def test_an_mtu_of_zero_is_the_plugins_default() -> None:
    assert "mtu" not in plugins(DefaultBridge(mtu=0))["bridge"]


def test_results_of_all_versions_are_understood() -> None:
    v1 = {
        **V04,
        "cniVersion": "1.0.0",
        "ips": [{"address": "10.77.3.2/24", "gateway": "10.77.3.9", "interface": 2}],
    }
    for result in (V04, v1):
        found = parse_endpoint(parse_result("bridge", json.dumps(result).encode()))
        assert (found.address, found.gateway) == ("10.77.3.2", "10.77.3.9")
        assert (found.mac, found.peer) == ("aa:00:00:00:00:03", "veth1")


def test_the_first_ipv4_address_counts() -> None:
    ips = [{"address": "fd00::2/64"}, {"address": "10.77.3.2/24"}, {"address": "10.77.3.3/24"}]
    found = parse_endpoint({"ips": ips})
    assert (found.address, found.gateway, found.mac, found.peer) == ("10.77.3.2", "", "", "")


@pytest.mark.parametrize("output", [b"", b"[]", b"{", b"1", b"[" * 100_000, b"\xff"])
def test_what_is_no_result_is_an_error(output: bytes) -> None:
    with pytest.raises(OperationFailedError, match="CNI plugin bridge returned no result"):
        parse_result("bridge", output)


@pytest.mark.parametrize(
    "result", [{}, {"ips": None}, {"ips": [1, {}]}, {"interfaces": "x", "ips": [{"address": "fd00::1/64"}]}]
)
def test_a_result_without_an_address_is_an_error(result: dict) -> None:
    with pytest.raises(OperationFailedError, match="gave the container no IPv4 address"):
        parse_endpoint(result)


@pytest.mark.parametrize(
    ("output", "errors", "text"),
    [
        (b'{"code": 7, "msg": "no route", "details": "to eth9"}', b"", "failed: no route: to eth9"),
        (b'{"code": 7, "msg": ""}', b"boom\nbang", "failed: boom bang"),
        (b"panic", b"", "failed: panic"),
        (b"", b"", "failed: exit code 3 without a message"),
        (b"[1]", b"", r"failed: \[1\]"),
    ],
)
def test_what_a_plugin_says_is_told(output: bytes, errors: bytes, text: str) -> None:
    with pytest.raises(OperationFailedError, match=text):
        raise OperationFailedError(failure("portmap", 3, output, errors))


def test_the_address_of_the_bridge_is_not_given_away() -> None:
    addressing = choose_network(OPTIONS, None, (), in_use=False)
    assert addressing.bridge == IPv4Interface("10.77.3.1/24")
    assert all(not first <= addressing.bridge.ip <= last for first, last in addressing.ranges)


def test_of_a_forgotten_container_all_is_undone_that_could_have_been_done() -> None:
    chain, result = guess(OPTIONS, "/data", "10.77.3.4")
    assert [plugin["type"] for plugin in chain] == ["bridge", "portmap", "firewall"]
    assert chain[1]["runtimeConfig"]["portMappings"] != []
    assert result == {"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "10.77.3.4/32"}]}
    chain, result = guess(DefaultBridge(), "/data", "")
    assert chain[0]["ipam"]["dataDir"] == "/data"
    assert chain[0]["ipam"]["ranges"] != []
    assert result is None
