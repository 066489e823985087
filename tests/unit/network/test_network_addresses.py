# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from pycm.config.types import DefaultBridge
from pycm.errors import ConflictError, OperationFailedError
from pycm.network.conf import POOLS, Addressing, Range, Taken, choose_network, without

CONFIGURED = DefaultBridge(ip4="10.77.3.1/24")


def taken(*networks: str) -> list[Taken]:
    return [Taken(IPv4Network(network), "interface eth0") for network in networks]


def chosen(options: DefaultBridge, *networks: str, current: str = "", in_use: bool = False) -> Addressing:
    now = IPv4Interface(current) if current else None
    return choose_network(options, now, taken(*networks), in_use=in_use)


def test_without_an_address_the_first_free_private_range_is_taken() -> None:
    assert str(chosen(DefaultBridge()).bridge) == "172.17.0.1/16"
    assert str(chosen(DefaultBridge(), "172.17.3.0/24", "172.18.0.0/15").bridge) == "172.20.0.1/16"
    assert str(chosen(DefaultBridge(), "172.16.0.0/12", "192.168.1.0/24").bridge) == "192.168.16.1/20"


def test_no_free_range_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(OperationFailedError, match="no private range") as caught:
        chosen(DefaultBridge(), *(f"{pool.network_address + 9}/32" for pool in POOLS))
    assert "network.default_bridge.ip4" in caught.value.hint


@pytest.mark.parametrize(
    "routes",
    [("0.0.0.0/1", "128.0.0.0/1"), ("172.16.0.0/12", "192.168.0.0/16"), ("172.16.0.0/15", "172.18.0.0/15")],
)
def test_choose_takes_a_range_inside_wider_routes_where_no_other_is_free(routes: tuple[str, ...]) -> None:
    wide = [*routes, *(str(pool) for pool in POOLS[3:])]
    assert str(chosen(DefaultBridge(), *wide).bridge) == "172.17.0.1/16"
    assert str(chosen(DefaultBridge(), *wide, "172.17.0.0/16").bridge) == "172.18.0.1/16"
    assert str(chosen(DefaultBridge(), *wide, "172.17.9.9/32", "172.18.128.0/17").bridge) == "172.19.0.1/16"
    assert str(chosen(DefaultBridge(), *wide, current="172.18.0.1/16").bridge) == "172.18.0.1/16"
    assert (
        str(chosen(DefaultBridge(), *wide, "172.18.0.0/16", current="172.18.0.1/16").bridge)
        == "172.17.0.1/16"
    )


@pytest.mark.parametrize(
    ("other", "free"),
    [
        ("0.0.0.0/1", True),
        ("10.0.0.0/8", True),
        ("10.77.2.0/23", True),
        ("10.77.3.0/24", False),
        ("10.77.3.128/25", False),
        ("10.77.3.7/32", False),
        ("10.77.4.0/24", True),
    ],
)
def test_choose_refuses_a_configured_network_for_what_is_as_specific_only(other: str, free: bool) -> None:
    if free:
        assert str(chosen(CONFIGURED, other).bridge) == "10.77.3.1/24"
    else:
        with pytest.raises(ConflictError, match=f"10.77.3.1/24 overlaps {other} of interface eth0"):
            chosen(CONFIGURED, other)


def test_the_pools_are_those_of_the_original() -> None:
    assert (str(POOLS[0]), str(POOLS[14]), str(POOLS[15]), str(POOLS[-1]), len(POOLS)) == (
        "172.17.0.0/16",
        "172.31.0.0/16",
        "192.168.0.0/20",
        "192.168.240.0/20",
        31,
    )


def test_a_clash_names_both_networks() -> None:
    with pytest.raises(
        ConflictError,
        match=r"ip4: 10\.77\.3\.1/24 overlaps 10\.77\.3\.0/25 of interface eth0",
    ):
        chosen(CONFIGURED, "192.0.2.0/24", "10.77.3.0/25")


def test_what_the_bridge_has_already_is_kept_though_another_network_came_later() -> None:
    assert str(chosen(CONFIGURED, "10.77.3.0/24", current="10.77.3.1/24").bridge) == "10.77.3.1/24"


def test_an_address_of_an_earlier_agent_is_kept_while_it_is_free() -> None:
    assert str(chosen(DefaultBridge(), current="172.20.0.1/16").bridge) == "172.20.0.1/16"
    assert str(chosen(DefaultBridge(), "172.20.0.0/24", current="172.20.0.1/16").bridge) == "172.17.0.1/16"
    assert str(chosen(CONFIGURED, current="172.20.0.1/16").bridge) == "10.77.3.1/24"


def test_a_network_in_use_stays_whatever_is_configured() -> None:
    options = DefaultBridge(ip4="10.77.3.1/24", fcidr4="10.77.3.128/25", gwip4="10.77.3.2")
    found = chosen(options, current="172.20.0.1/16", in_use=True)
    assert (str(found.bridge), str(found.gateway)) == ("172.20.0.1/16", "172.20.0.1")
    assert found.ranges[0].first == IPv4Address("172.20.0.2")


def shown(ranges: tuple[Range, ...]) -> list[str]:
    return [f"{first}-{last}".replace("10.77.3.", "") for first, last in ranges]


def test_containers_get_what_is_neither_the_bridge_nor_the_gateway_nor_an_end() -> None:
    found = chosen(CONFIGURED)
    assert (str(found.gateway), shown(found.ranges)) == ("10.77.3.1", ["2-254"])
    found = chosen(DefaultBridge(ip4="10.77.3.1/24", gwip4="10.77.3.9"))
    assert (str(found.gateway), shown(found.ranges)) == ("10.77.3.9", ["2-8", "10-254"])
    found = chosen(DefaultBridge(ip4="10.77.3.200/24", fcidr4="10.77.3.128/25"))
    assert shown(found.ranges) == ["128-199", "201-254"]


def test_a_range_with_no_address_for_a_container_is_refused() -> None:
    with pytest.raises(ConflictError, match=r"fcidr4: 10\.77\.3\.1/32 has no address"):
        chosen(DefaultBridge(ip4="10.77.3.1/24", fcidr4="10.77.3.1/32"))


def test_single_addresses_are_taken_out_of_a_range() -> None:
    whole = Range(IPv4Address("10.77.3.4"), IPv4Address("10.77.3.6"))
    holes = [IPv4Address(f"10.77.3.{number}") for number in range(10)]
    assert shown(without(whole, {holes[1]})) == ["4-6"]
    assert shown(without(whole, {holes[4], holes[6]})) == ["5-5"]
    assert without(whole, set(holes)) == ()
