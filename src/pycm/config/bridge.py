# SPDX-License-Identifier: Apache-2.0
"""What makes the options of the bridge acceptable, as far as it can be said without looking at the machine."""

from __future__ import annotations

import re

from pycm.errors import ConfigError, shorten

TYPE_CHECKING = False  # not from typing: that module is slow to import
if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Interface, IPv4Network

    from pycm.config.types import DefaultBridge, Network

_WHERE = "network.default_bridge"
#: What the kernel takes for the name of an interface: 15 characters, and none that mean something in a path or an alias.
_NAME = re.compile(r"(?!\.\.?$)[^\s/:\0]{1,15}")
#: Smallest packet that IPv4 asks every link to carry; 0 leaves it to the default.
_SMALLEST_MTU = 68
#: The bridge, one container, and the two ends of the range.
_LONGEST_PREFIX = 30


def check_network(network: Network) -> None:
    """ConfigError that names the option, its value and the reason; with two that do not fit each other, both."""
    bridge = network.default_bridge
    if not _NAME.fullmatch(bridge.name):
        raise _wrong(
            "name", bridge.name, "is no name of an interface: 1 to 15 characters without / : and spaces"
        )
    if 0 < bridge.mtu < _SMALLEST_MTU:
        raise ConfigError(
            f"{_WHERE}.mtu: {bridge.mtu} is less than {_SMALLEST_MTU}, the smallest that IPv4 knows"
        )
    if not bridge.icc and not bridge.ip_tables:
        raise ConfigError(
            f"{_WHERE}.icc = false needs ip_tables = true: without rules nothing keeps containers apart"
        )
    for directory in network.cni_bin_dirs:
        if not directory.startswith("/"):
            raise ConfigError(f"network.cni_bin_dirs: {shorten(directory)} is not an absolute path")
    _check_addresses(bridge)


def _check_addresses(bridge: DefaultBridge) -> None:
    if not bridge.ip4:
        for name in ("fcidr4", "gwip4"):
            value = getattr(bridge, name)
            if value:
                raise _wrong(name, value, "needs ip4, the address of the bridge that it belongs to")
        return
    own = bridge_address(bridge.ip4)
    if bridge.fcidr4 and not container_range(bridge.fcidr4).subnet_of(own.network):
        raise _wrong("fcidr4", bridge.fcidr4, f"is not inside ip4 {own}")
    if bridge.gwip4 and gateway_address(bridge.gwip4) not in own.network:
        raise _wrong("gwip4", bridge.gwip4, f"is not inside ip4 {own}")


def bridge_address(text: str) -> IPv4Interface:
    """`ip4`: the bridge's own address with the length of its network's prefix."""
    from ipaddress import IPv4Interface

    address, slash, _ = text.partition("/")
    try:
        interface = IPv4Interface(text)
    except ValueError:
        slash = ""
    if not slash:
        raise _wrong("ip4", text, "is no address with a prefix length, as 172.18.0.1/16")
    network = interface.network
    if network.prefixlen > _LONGEST_PREFIX:
        raise _wrong(
            "ip4", text, f"leaves no address for a container: the prefix may be {_LONGEST_PREFIX} at most"
        )
    if interface.is_loopback or interface.is_multicast or interface.is_unspecified or network.prefixlen < 8:
        raise _wrong("ip4", text, "is no address that a bridge can have")
    if interface.ip in (network.network_address, network.broadcast_address):
        raise _wrong(
            "ip4", text, f"is the first or last of its network: {address} is no address of a machine"
        )
    return interface


def container_range(text: str) -> IPv4Network:
    """`fcidr4`: the range that containers get their addresses from."""
    from ipaddress import IPv4Network

    try:
        return IPv4Network(text)
    except ValueError as error:
        hint = "; the bits after the prefix must be 0" if "host bits" in str(error) else ""
        raise _wrong("fcidr4", text, f"is no range of addresses, as 172.18.4.0/24{hint}") from None


def gateway_address(text: str) -> IPv4Address:
    """`gwip4`: the gateway that containers are told."""
    from ipaddress import IPv4Address

    try:
        return IPv4Address(text)
    except ValueError:
        raise _wrong("gwip4", text, "is no address, as 172.18.0.1") from None


def _wrong(name: str, value: str, why: str) -> ConfigError:
    return ConfigError(f"{_WHERE}.{name}: {shorten(value)} {why}")
