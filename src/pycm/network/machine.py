# SPDX-License-Identifier: Apache-2.0
"""What the machine's network has, and the little that the agent itself changes in it: the bridge, forwarding, network
namespaces.

It needs no program: ioctl, one netlink message, and the system calls of `ip netns` do it. All of this is quick, but
must not run on the event loop. A namespace lives without a process: it is bound to a file, where process 1 and so
containerd see it (`storage.mounts`).
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from pycm.errors import ConflictError, OperationFailedError, shorten
from pycm.network.conf import Taken
from pycm.storage.files import discard, make_directory
from pycm.storage.mounts import in_own_thread, see_as_init, system_call, unmount

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_SIOCGIFADDR, _SIOCSIFADDR = 0x8915, 0x8916
_SIOCGIFNETMASK, _SIOCSIFNETMASK = 0x891B, 0x891C
_SIOCSIFMTU, _SIOCGIFHWADDR, _SIOCSIFHWADDR = 0x8922, 0x8927, 0x8924
_SIOCETHTOOL, _GDRVINFO = 0x8946, 3
_SIOCBRADDBR = 0x89A0
_SIOCGIFCONF = 0x8912
_IFF_UP = 1
_NO_ADDRESS = (errno.EADDRNOTAVAIL, errno.ENODEV)
#: netlink: RTM_SETLINK for AF_BRIDGE with IFLA_PROTINFO (nested) { IFLA_BRPORT_ISOLATED }, acknowledged
_RTM_SETLINK, _NLMSG_ERROR, _REQUEST_ACK = 19, 2, 5
_AF_BRIDGE, _PROTINFO, _ISOLATED = 7, 12 | 0x8000, 33
_CLONE_NEWNET, _MS_BIND = 0x40000000, 0x1000

_ROUTES = "/proc/net/route"
_FORWARD = "/proc/sys/net/ipv4/ip_forward"
_OWN = "/proc/thread-self/ns/net"


def _control(request: int, argument: bytes) -> bytes:
    """One ioctl on a socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        return fcntl.ioctl(control, request, argument)


def _ioctl(request: int, name: str, value: bytes = b"") -> bytes:
    """One `struct ifreq` of the interface *name*. Returns what follows the name."""
    return _control(request, struct.pack("16s24s", name.encode(), value))[16:]


def _address(request: int, name: str) -> IPv4Address:
    return IPv4Address(_ioctl(request, name)[4:8])


def _socket_address(address: IPv4Address) -> bytes:
    return struct.pack("HH4s", socket.AF_INET, 0, address.packed)


def _set_up(name: str) -> None:
    flags = struct.unpack_from("H", _ioctl(_SIOCGIFFLAGS, name))[0]
    if not flags & _IFF_UP:
        _ioctl(_SIOCSIFFLAGS, name, struct.pack("H", flags | _IFF_UP))


# ── what there is ───────────────────────────────────────────────────────────────────────────────────────────────────


def interface_address(name: str) -> IPv4Interface | None:
    """The first IPv4 address of an interface with its prefix. None without an address or interface."""
    if len(name.encode()) > 15:
        return None
    try:
        address, mask = _address(_SIOCGIFADDR, name), _address(_SIOCGIFNETMASK, name)
    except OSError as error:
        if error.errno in _NO_ADDRESS:
            return None
        raise
    return IPv4Interface(f"{address}/{mask}")


def addresses(room: int = 64) -> list[tuple[str, IPv4Address]]:
    """All IPv4 addresses with their interfaces. *room*: number of addresses in the first attempt."""
    entry = struct.calcsize("16sP") + struct.calcsize("P") * 2  # struct ifreq
    while True:
        buffer = array.array("B", bytes(entry * room))
        ifconf = struct.pack("iP", len(buffer), buffer.buffer_info()[0])
        (length,) = struct.unpack_from("i", _control(_SIOCGIFCONF, ifconf))
        if length < len(buffer):
            break
        room *= 2
    found = []
    for start in range(0, length, entry):
        name = buffer[start : start + 16].tobytes().partition(b"\0")[0].partition(b":")[0]  # eth0:1 is eth0
        found.append((name.decode(errors="replace"), IPv4Address(buffer[start + 20 : start + 24].tobytes())))
    return found


def taken(bridge: str) -> list[Taken]:
    """Addresses, networks and routes of all interfaces except *bridge*, without default routes."""
    names = [name for _, name in socket.if_nameindex() if name != bridge]
    networks = [(name, address.network) for name in names if (address := interface_address(name)) is not None]
    single = [(name, IPv4Network(address)) for name, address in addresses() if name != bridge]
    found = [Taken(network, f"interface {name}") for name, network in (*single, *networks)]
    try:
        with open(_ROUTES, encoding="ascii", errors="replace") as file:
            table = file.read()
    except OSError:
        table = ""
    return found + parse_routes(table, bridge)


def parse_routes(table: str, bridge: str) -> list[Taken]:
    """/proc/net/route has name, destination, gateway, flags, …, mask, in the byte order of the machine."""
    found = []
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) < 8 or words[0] == bridge:
            continue
        try:
            destination, mask = (IPv4Address(struct.pack("=I", int(words[i], 16))) for i in (1, 7))
            network = IPv4Network(f"{destination}/{mask}")
        except (ValueError, struct.error):
            continue
        if network.prefixlen:
            found.append(Taken(network, f"a route through {words[0]}"))
    return found


# ── the bridge ──────────────────────────────────────────────────────────────────────────────────────────────────────


def ensure_bridge(name: str, address: IPv4Interface, mtu: int) -> None:
    """Make the bridge be up with exactly this address. ConflictError if the name is of another interface."""
    try:
        _make_bridge(name)
        if mtu:
            _ioctl(_SIOCSIFMTU, name, struct.pack("i", mtu))
        if interface_address(name) != address:
            _ioctl(_SIOCSIFADDR, name, _socket_address(address.ip))
            _ioctl(_SIOCSIFNETMASK, name, _socket_address(address.netmask))
        _set_up(name)
    except OSError as error:
        raise OperationFailedError(f"cannot set up the bridge {name}: {error.strerror}") from error


def _make_bridge(name: str) -> None:
    try:
        _control(_SIOCBRADDBR, struct.pack("16s", name.encode()))
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
        check_name(name)
        return
    # Fix its hardware address. Otherwise it takes the smallest one of its ports at each change, and containers' ARP
    # entries are stale.
    _ioctl(_SIOCSIFHWADDR, name, _ioctl(_SIOCGIFHWADDR, name))


def check_name(name: str) -> None:
    """ConflictError if an interface that is not a bridge has this name."""
    info = array.array("B", struct.pack("I192x", _GDRVINFO))
    try:
        _control(_SIOCETHTOOL, struct.pack("16sP16x", name.encode(), info.buffer_info()[0]))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return
        if error.errno != errno.EOPNOTSUPP:  # as of the loopback, which has no driver
            raise OperationFailedError(f"cannot inspect the interface {name}: {error.strerror}") from error
    if info.tobytes()[4:36].partition(b"\0")[0] != b"bridge":
        raise ConflictError(
            f"network.default_bridge.name: {shorten(name)} is an interface of this machine, but not a bridge"
        )


def forward() -> None:
    """Enable IPv4 forwarding on the machine."""
    try:
        with open(_FORWARD, encoding="ascii") as file:
            if file.read().strip() == "1":
                return
        with open(_FORWARD, "w", encoding="ascii") as file:
            file.write("1")
    except OSError as error:
        raise OperationFailedError(
            f"cannot enable IP forwarding: {_FORWARD}: {error.strerror}",
            hint="Enable it on the machine, or set network.default_bridge.ip_forward = false.",
        ) from error


def isolate(port: str) -> None:
    """Let a port of the bridge reach the bridge itself, but no other isolated port (Linux 4.18)."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as netlink:
            netlink.bind((0, 0))
            netlink.send(isolation(socket.if_nametoindex(port)))
            answer = netlink.recv(4096)
        code = -struct.unpack_from("=i", answer, 16)[0]
        if struct.unpack_from("=H", answer, 4)[0] == _NLMSG_ERROR and code:
            raise OSError(code, os.strerror(code))
    except OSError as error:
        raise OperationFailedError(
            f"cannot isolate {port} from other containers (network.default_bridge.icc): {error.strerror}"
        ) from error


def isolation(index: int) -> bytes:
    """The netlink request that isolates the bridge port with this interface index."""
    attribute = struct.pack("=HHB3x", 5, _ISOLATED, 1)
    nested = struct.pack("=HH", 4 + len(attribute), _PROTINFO) + attribute
    body = struct.pack("=BxHiII", _AF_BRIDGE, 0, index, 0, 0) + nested
    return struct.pack("=IHHII", 16 + len(body), _RTM_SETLINK, _REQUEST_ACK, 1, 0) + body


# ── namespaces ──────────────────────────────────────────────────────────────────────────────────────────────────────


def make_namespace(path: str) -> None:
    """Create a network namespace with a loopback, bound to *path*. OperationFailedError leaves nothing."""

    def make() -> None:
        see_as_init(os.path.dirname(path))
        system_call("unshare", _CLONE_NEWNET)
        _set_up("lo")
        system_call("mount", _OWN.encode(), path.encode(), None, _MS_BIND, None)

    try:
        make_directory(os.path.dirname(path))
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    except OSError as error:
        raise OperationFailedError(f"cannot create {path}: {error.strerror}") from error
    try:
        in_own_thread(make)
    except OSError as error:
        discard(path)
        raise OperationFailedError(
            f"cannot create a network namespace at {path}: {error.strerror}"
        ) from error


def remove_namespace(path: str) -> None:
    """Release the namespace, which ends if no process is in it. A missing one is not an error."""

    def remove() -> None:
        see_as_init(os.path.dirname(path))
        unmount(path)
        os.unlink(path)

    try:
        in_own_thread(remove)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OperationFailedError(f"cannot remove the network namespace {path}: {error.strerror}") from error


def list_namespaces(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:  # missing, or unusable
        return []
