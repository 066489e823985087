# SPDX-License-Identifier: Apache-2.0
"""Pure rules of the bridge network: which addresses it has, the CNI configuration of a container, and what plugins
answer.

The forms of configurations and results are those of the CNI specification. What the machine has comes in as arguments.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.config.values import bridge_address, container_range, gateway_address
from pycm.errors import ConflictError, InvalidInputError, OperationFailedError, shorten
from pycm.model import gojson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pycm.config.types import DefaultBridge

# ── addresses ───────────────────────────────────────────────────────────────────────────────────────────────────────

#: The private ranges that the original tries, in its order.
POOLS = (
    *(IPv4Network(f"172.{number}.0.0/16") for number in range(17, 32)),
    *(IPv4Network(f"192.168.{number}.0/20") for number in range(0, 256, 16)),
)


class Taken(NamedTuple):
    """Addresses that the machine uses elsewhere, and what for, such as "interface eth0". A single address is a /32."""

    network: IPv4Network
    what: str


class Range(NamedTuple):
    first: IPv4Address
    last: IPv4Address


class Addressing(NamedTuple):
    """The bridge's own address with its prefix, the containers' gateway, and the addresses for containers."""

    bridge: IPv4Interface
    gateway: IPv4Address
    ranges: tuple[Range, ...]


def choose_network(
    options: DefaultBridge, current: IPv4Interface | None, taken: Sequence[Taken], *, in_use: bool
) -> Addressing:
    """The bridge's network: the one that is in use, else the configured one, else the present one, else the first free
    range.

    *current*: the bridge's present address. *in_use*: containers are connected to it. Errors: ConflictError if the
    configured network is occupied, OperationFailedError if no range is free.

    A range that is part of a wider route, such as that of a VPN, works because the bridge's own route is more specific.
    It is chosen only if every range is part of some route.
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
        "no private range of addresses is free for the bridge", hint="Set network.default_bridge.ip4."
    )


def check_free(wanted: IPv4Interface, taken: Iterable[Taken]) -> None:
    """Errors: ConflictError with the configured network and the one that overlaps it."""
    conflict = _conflict(wanted.network, taken)
    if conflict is not None:
        raise ConflictError(
            f"network.default_bridge.ip4: {wanted} overlaps {conflict.network} of {conflict.what}",
            hint="Choose another network.",
        )


def _overlap(network: IPv4Network, taken: Iterable[Taken]) -> Taken | None:
    return next((other for other in taken if other.network.overlaps(network)), None)


def _conflict(network: IPv4Network, taken: Iterable[Taken]) -> Taken | None:
    """An overlap at least as specific as *network*: one of the two would get packets for the other."""
    return _overlap(network, (other for other in taken if other.network.prefixlen >= network.prefixlen))


def _addressing(options: DefaultBridge, bridge: IPv4Interface, *, keep: bool = False) -> Addressing:
    """*keep*: the address is in use, and options that do not fit it are ignored until it is free."""
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
            f"network.default_bridge.fcidr4: {options.fcidr4} has no address for a container beside bridge and gateway"
        )
    return Addressing(bridge, gateway, ranges)


def without(whole: Range, holes: set[IPv4Address]) -> tuple[Range, ...]:
    """*whole* without single addresses."""
    ranges = []
    first = whole.first
    for hole in sorted(hole for hole in holes if whole.first <= hole <= whole.last):
        if first < hole:
            ranges.append(Range(first, hole - 1))
        first = hole + 1
    return (*ranges, Range(first, whole.last)) if first <= whole.last else tuple(ranges)


# ── configuration of the plugins ────────────────────────────────────────────────────────────────────────────────────

#: Plugins understand it since 0.8 (2019); 1.x answers in it too.
VERSION = "0.4.0"
BRIDGE, ADDRESSES, PORTS, FIREWALL = "bridge", "host-local", "portmap", "firewall"
#: The chain of the firewall plugin that is evaluated before its own rules.
ADMIN_CHAIN = "CNI-ADMIN"
#: Name of the interface in the container.
INTERFACE = "eth0"


class Published(NamedTuple):
    """One port of a container on the machine. host_ip "" means all addresses."""

    proto: str
    host_ip: str
    host_port: int
    container_port: int


def needed(options: DefaultBridge, *, publishes: bool) -> tuple[str, ...]:
    """The plugins that a container needs, with the one for addresses, which the bridge plugin calls."""
    optional = ((publishes, PORTS), (options.ip_tables, FIREWALL))
    return (BRIDGE, ADDRESSES, *(name for wanted, name in optional if wanted))


def conf_list(
    options: DefaultBridge, addressing: Addressing, data_dir: str, published: Sequence[Published]
) -> list[dict[str, Any]]:
    """The plugins in the order of ADD, each with its configuration.

    The agent itself gives the bridge its address and enables forwarding (`isGateway` is false). The plugin would enable
    forwarding unasked, and would use the containers' gateway as the bridge's own address.
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
    """Plugins and result that undo the network of a container of which only the id and the address ("" for none) are
    known.

    The plugins find what they undo by the id. They need some range and some port to do anything.
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
        {"hostPort": port.host_port, "containerPort": port.container_port, "protocol": port.proto}
        | ({"hostIP": port.host_ip} if port.host_ip else {})
        for port in published
    ]


# ── answers of the plugins ──────────────────────────────────────────────────────────────────────────────────────────


class Endpoint(NamedTuple):
    """What the bridge plugin gave the container. peer: the machine's end of the cable."""

    address: str
    gateway: str
    mac: str
    peer: str


def parse_result(plugin: str, output: bytes) -> dict[str, Any]:
    """The result of an ADD, which the next plugin and a later DEL get. OperationFailedError if *output* is not one."""
    try:
        result = gojson.read(output)
    except InvalidInputError:
        result = None
    if not isinstance(result, dict):
        raise OperationFailedError(f"CNI plugin {plugin} returned no result: {shorten(output)}")
    return result


def parse_endpoint(result: Mapping[str, Any]) -> Endpoint:
    """Read a result in the form of 0.3.0 to 1.1.0. OperationFailedError without an IPv4 address."""
    interfaces = [entry for entry in _list(result, "interfaces") if isinstance(entry, dict)]
    inside = next((entry for entry in interfaces if entry.get("sandbox")), {})
    outside = (str(entry.get("name", "")) for entry in interfaces if not entry.get("sandbox"))
    peer = next((name for name in outside if name.startswith("veth")), "")
    for entry in _list(result, "ips"):
        address = str(entry.get("address", "")) if isinstance(entry, dict) else ""
        if "." in address:
            gateway, mac = str(entry.get("gateway", "")), str(inside.get("mac", ""))
            return Endpoint(address.partition("/")[0], gateway, mac, peer)
    raise OperationFailedError(f"CNI plugins gave the container no IPv4 address: {shorten(dict(result))}")


def _list(result: Mapping[str, Any], key: str) -> list[Any]:
    value = result.get(key)
    return value if isinstance(value, list) else []


def failure(plugin: str, code: int, output: bytes, errors: bytes) -> str:
    """The text of a failed plugin: its "msg" and "details", else the end of what it printed."""
    try:
        answer = gojson.read(output)
        words = [str(answer[key]) for key in ("msg", "details") if answer.get(key)]
    except (InvalidInputError, AttributeError):
        words = []
    said = ": ".join(words) or (errors or output).decode(errors="replace").strip()
    reason = " ".join(said.split())[-600:] or f"exit code {code} without a message"
    return f"CNI plugin {plugin} failed: {reason}"
