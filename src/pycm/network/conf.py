# SPDX-License-Identifier: Apache-2.0
"""The CNI configuration of one container's network, and what plugins answer. Pure; the forms are those of the CNI specification."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING, Any

from pycm.errors import OperationFailedError, shorten
from pycm.network.addresses import Addressing, Range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pycm.config.types import DefaultBridge

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
