# SPDX-License-Identifier: Apache-2.0
"""Which network the bridge has, and which addresses of it containers get. Pure: what the machine has comes in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.config.values import bridge_address, container_range, gateway_address
from pycm.errors import ConflictError, OperationFailedError, shorten

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

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


def choose_network(
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


#: Spoken by plugins from 0.8 (2019) on; 1.x answers in it too.
VERSION = "0.4.0"
BRIDGE, ADDRESSES, PORTS, FIREWALL = "bridge", "host-local", "portmap", "firewall"
#: Chain of the firewall plugin that is asked before its own rules.
ADMIN_CHAIN = "CNI-ADMIN"
#: Name of the interface in the container.
INTERFACE = "eth0"


@dataclass(frozen=True)
class Published:
    """One port of a container on the machine; host_ip "" means all addresses."""

    proto: str
    host_ip: str
    host_port: int
    container_port: int


@dataclass(frozen=True)
class Endpoint:
    """What the bridge plugin gave the container. peer: the machine's end of the cable."""

    address: str
    gateway: str
    mac: str
    peer: str


def needed(options: DefaultBridge, *, publishes: bool) -> tuple[str, ...]:
    """The plugins that a container needs, the one for addresses included, which the bridge plugin calls."""
    names = [BRIDGE, ADDRESSES]
    if publishes:
        names.append(PORTS)
    if options.ip_tables:
        names.append(FIREWALL)
    return tuple(names)


def conf_list(
    options: DefaultBridge, addressing: Addressing, data_dir: str, published: Sequence[Published]
) -> list[dict[str, Any]]:
    """The plugins in the order of ADD, each with its configuration.

    The agent gives the bridge its address and switches forwarding on by itself (`isGateway` false): plugins would switch it on
    unasked, and would take the gateway that containers are told for the bridge's own address.
    """
    bridge = {
        "type": BRIDGE,
        "bridge": options.name,
        "isGateway": False,
        "ipMasq": options.ip_masq and options.ip_tables,
        "hairpinMode": True,
        "ipam": _addresses(addressing, data_dir),
    }
    if options.mtu:
        bridge["mtu"] = options.mtu
    plugins = [bridge]
    if published:
        plugins.append({"type": PORTS, "snat": True, "runtimeConfig": {"portMappings": _mappings(published)}})
    if options.ip_tables:
        plugins.append({"type": FIREWALL, "backend": "iptables"})
    return [{"cniVersion": VERSION, "name": options.name, **plugin} for plugin in plugins]


def guess(
    options: DefaultBridge, data_dir: str, address: str
) -> tuple[tuple[dict[str, Any], ...], dict[str, Any] | None]:
    """Plugins and result for undoing what was done for a container of which only the id and the address, "" for none, are known.

    What is undone is found by the id. A range and a port must be there for plugins to do anything; which does not matter.
    """
    interface = IPv4Interface(f"{address or '192.0.2.1'}/24")
    addressing = Addressing(interface, interface.ip, (Range(interface.ip, interface.ip),))
    chain = tuple(conf_list(options, addressing, data_dir, (Published("tcp", "", 1, 1),)))
    if not address:
        return chain, None
    return chain, {"cniVersion": VERSION, "ips": [{"version": "4", "address": f"{address}/32"}]}


def _addresses(addressing: Addressing, data_dir: str) -> dict[str, Any]:
    ranges = [
        {
            "subnet": str(addressing.bridge.network),
            "rangeStart": str(first),
            "rangeEnd": str(last),
            "gateway": str(addressing.gateway),
        }
        for first, last in addressing.ranges
    ]
    return {"type": ADDRESSES, "dataDir": data_dir, "ranges": [ranges], "routes": [{"dst": "0.0.0.0/0"}]}


def _mappings(published: Sequence[Published]) -> list[dict[str, Any]]:
    return [
        {
            "hostPort": port.host_port,
            "containerPort": port.container_port,
            "protocol": port.proto,
            **({"hostIP": port.host_ip} if port.host_ip else {}),
        }
        for port in published
    ]


def parse_result(plugin: str, output: bytes) -> dict[str, Any]:
    """The result of an ADD, as the next plugin and a later DEL are given it. OperationFailedError if it is none."""
    try:
        result = json.loads(output)
    except (ValueError, RecursionError):
        result = None
    if not isinstance(result, dict):
        raise OperationFailedError(f"CNI plugin {plugin} gave no result: {shorten(output)}")
    return result


def parse_endpoint(result: Mapping[str, Any]) -> Endpoint:
    """Address, gateway and interfaces of a result in the form of 0.3.0 to 1.1.0. OperationFailedError if there is no address."""
    interfaces = [entry for entry in _list(result, "interfaces") if isinstance(entry, dict)]
    inside = next((entry for entry in interfaces if entry.get("sandbox")), {})
    peers = [
        str(entry.get("name", ""))
        for entry in interfaces
        if not entry.get("sandbox") and str(entry.get("name", "")).startswith("veth")
    ]
    for entry in _list(result, "ips"):
        address = str(entry.get("address", "")) if isinstance(entry, dict) else ""
        if "." in address:
            return Endpoint(
                address=address.partition("/")[0],
                gateway=str(entry.get("gateway", "")),
                mac=str(inside.get("mac", "")),
                peer=peers[0] if peers else "",
            )
    raise OperationFailedError(f"the CNI plugins gave the container no IPv4 address: {shorten(dict(result))}")


def _list(result: Mapping[str, Any], key: str) -> list[Any]:
    value = result.get(key)
    return value if isinstance(value, list) else []


def failure(plugin: str, code: int, output: bytes, errors: bytes) -> str:
    """What a plugin that failed says: its "msg" and "details", else the end of what it printed."""
    try:
        answer = json.loads(output)
        words = [str(answer[key]) for key in ("msg", "details") if answer.get(key)]
    except (ValueError, AttributeError, RecursionError):
        words = []
    said = ": ".join(words) or (errors or output).decode(errors="replace").strip()
    reason = " ".join(said.split())[-600:] or f"it ended with {code} and said nothing"
    return f"CNI plugin {plugin} failed: {reason}"
