# SPDX-License-Identifier: Apache-2.0
"""Which network the bridge has, and which addresses of it containers get. Pure: what the machine has comes in."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TYPE_CHECKING, NamedTuple

from pycm.config.bridge import bridge_address, container_range, gateway_address
from pycm.errors import ConflictError, OperationFailedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pycm.config.types import DefaultBridge

#: The private ranges that the original tries, in its order.
POOLS = (
    *(IPv4Network(f"172.{number}.0.0/16") for number in range(17, 32)),
    *(IPv4Network(f"192.168.{number}.0/20") for number in range(0, 256, 16)),
)


class Taken(NamedTuple):
    """Addresses that the machine uses elsewhere; `what` says for what, as "interface eth0". A single address is a /32."""

    network: IPv4Network
    what: str


class Range(NamedTuple):
    first: IPv4Address
    last: IPv4Address


@dataclass(frozen=True)
class Addressing:
    """bridge: the bridge's own address and prefix. gateway: what containers are told. ranges: what they get addresses from."""

    bridge: IPv4Interface
    gateway: IPv4Address
    ranges: tuple[Range, ...]


def choose(
    options: DefaultBridge, current: IPv4Interface | None, taken: Sequence[Taken], *, in_use: bool
) -> Addressing:
    """The bridge's network: what is in use stays; else what is configured; else what it has; else the first free range.

    *current*: the address that the bridge has now. *in_use*: containers are connected to it. Raises ConflictError for a configured
    network that is taken, OperationFailedError if no range is free.

    A range that a wider route includes, as that of a VPN, works: the bridge's own route is the more specific one. It is chosen
    where all ranges are included in some.
    """
    if in_use and current is not None:
        return _addressing(options, current, keep=True)
    if options.ip4:
        wanted = bridge_address(options.ip4)
        if wanted != current:
            check_free(wanted, taken)
        return _addressing(options, wanted)
    if current is not None and _conflict(current.network, taken) is None:
        return _addressing(options, current)
    for look in (_overlap, _conflict):
        for pool in POOLS:
            if look(pool, taken) is None:
                return _addressing(options, IPv4Interface((pool.network_address + 1, pool.prefixlen)))
    raise OperationFailedError(
        "no private range of addresses is free for the bridge: name one with network.default_bridge.ip4"
    )


def check_free(wanted: IPv4Interface, taken: Iterable[Taken]) -> None:
    """ConflictError that names the configured network and the one that is there already."""
    conflict = _conflict(wanted.network, taken)
    if conflict is not None:
        raise ConflictError(
            f"network.default_bridge.ip4: {wanted} overlaps {conflict.network} of {conflict.what}: choose another network"
        )


def _overlap(network: IPv4Network, taken: Iterable[Taken]) -> Taken | None:
    return next((other for other in taken if other.network.overlaps(network)), None)


def _conflict(network: IPv4Network, taken: Iterable[Taken]) -> Taken | None:
    """What is as specific as *network* at least: packets for it would no longer go there, or those for containers would."""
    return _overlap(network, (other for other in taken if other.network.prefixlen >= network.prefixlen))


def _addressing(options: DefaultBridge, bridge: IPv4Interface, *, keep: bool = False) -> Addressing:
    """*keep*: an address that may differ from the configured one; options that do not fit it wait until it is free."""
    network = bridge.network
    pool = container_range(options.fcidr4) if options.fcidr4 else network
    gateway = gateway_address(options.gwip4) if options.gwip4 else bridge.ip
    if keep and not pool.subnet_of(network):
        pool = network
    if keep and gateway not in network:
        gateway = bridge.ip
    low = max(pool.network_address, network.network_address + 1)
    high = min(pool.broadcast_address, network.broadcast_address - 1)
    ranges = without(Range(low, high), {bridge.ip, gateway})
    if not ranges:
        raise ConflictError(
            f"network.default_bridge.fcidr4: {options.fcidr4} leaves no address for a container beside bridge and gateway"
        )
    return Addressing(bridge, gateway, ranges)


def without(whole: Range, holes: set[IPv4Address]) -> tuple[Range, ...]:
    """*whole* with single addresses taken out."""
    ranges = [whole] if whole.first <= whole.last else []
    for hole in holes:
        parts = []
        for first, last in ranges:
            if not first <= hole <= last:
                parts.append(Range(first, last))
                continue
            if first < hole:
                parts.append(Range(first, hole - 1))
            if hole < last:
                parts.append(Range(hole + 1, last))
        ranges = parts
    return tuple(sorted(ranges))
