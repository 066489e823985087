# SPDX-License-Identifier: Apache-2.0
"""What the machine's network has, and the little that the agent changes in it itself: the bridge, its address, forwarding.

By ioctl and one netlink message, so that no program is needed. Everything here is quick and may still not run on the event loop.
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

_ROUTES = "/proc/net/route"
_FORWARD = "/proc/sys/net/ipv4/ip_forward"


def _ioctl(request: int, name: str, value: bytes = b"") -> bytes:
    """One `struct ifreq` of the interface *name*; returns what follows the name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        answer = fcntl.ioctl(control, request, struct.pack("16s24s", name.encode(), value))
    return answer[16:]


def _address(request: int, name: str) -> IPv4Address:
    return IPv4Address(_ioctl(request, name)[4:8])


def _socket_address(address: IPv4Address) -> bytes:
    return struct.pack("HH4s", socket.AF_INET, 0, address.packed)


def interface_address(name: str) -> IPv4Interface | None:
    """The first IPv4 address of an interface with its prefix; None if it has none or is not there."""
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
    """All IPv4 addresses with their interfaces, which may have several. *room*: for so many at first."""
    entry = struct.calcsize("16sP") + struct.calcsize("P") * 2  # struct ifreq
    while True:
        buffer = array.array("B", bytes(entry * room))
        asked = struct.pack("iP", len(buffer), buffer.buffer_info()[0])  # struct ifconf
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
            (length,) = struct.unpack_from("i", fcntl.ioctl(control, _SIOCGIFCONF, asked))
        if length < len(buffer):
            break
        room *= 2
    found = []
    for start in range(0, length, entry):
        name = buffer[start : start + 16].tobytes().partition(b"\0")[0].partition(b":")[0]  # eth0:1 is eth0
        found.append((name.decode(errors="replace"), IPv4Address(buffer[start + 20 : start + 24].tobytes())))
    return found


def taken(bridge: str) -> list[Taken]:
    """The addresses and networks of all interfaces, and the routes, but those of *bridge*; default routes take nothing."""
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
    """The lines of /proc/net/route: name, destination, gateway, flags, …, mask; numbers in the byte order of the machine."""
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


def ensure_bridge(name: str, address: IPv4Interface, mtu: int) -> None:
    """The bridge is there, is up, and has this address and no other. ConflictError if the name is that of something else."""
    try:
        _make_bridge(name)
        if mtu:
            _ioctl(_SIOCSIFMTU, name, struct.pack("i", mtu))
        if interface_address(name) != address:
            _ioctl(_SIOCSIFADDR, name, _socket_address(address.ip))
            _ioctl(_SIOCSIFNETMASK, name, _socket_address(address.netmask))
        flags = struct.unpack_from("H", _ioctl(_SIOCGIFFLAGS, name))[0]
        if not flags & _IFF_UP:
            _ioctl(_SIOCSIFFLAGS, name, struct.pack("H", flags | _IFF_UP))
    except OSError as error:
        raise OperationFailedError(f"cannot set up the bridge {name}: {error.strerror}") from error


def _make_bridge(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        try:
            fcntl.ioctl(control, _SIOCBRADDBR, struct.pack("16s", name.encode()))
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            check_name(name)
            return
    # its own, for good: else it takes the smallest of its ports' at each change, and containers have stale ARP entries
    _ioctl(_SIOCSIFHWADDR, name, _ioctl(_SIOCGIFHWADDR, name))


def check_name(name: str) -> None:
    """ConflictError if another interface than a bridge has this name; nobody may have it."""
    info = array.array("B", struct.pack("I192x", _GDRVINFO))
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
            fcntl.ioctl(control, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), info.buffer_info()[0]))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return
        if error.errno != errno.EOPNOTSUPP:  # as of the loopback, which has no driver
            raise OperationFailedError(f"cannot look at the interface {name}: {error.strerror}") from error
    if info.tobytes()[4:36].partition(b"\0")[0] != b"bridge":
        raise ConflictError(
            f"network.default_bridge.name: {shorten(name)} is an interface of this machine and no bridge"
        )


def forward() -> None:
    """Switch the machine's IPv4 forwarding on."""
    try:
        with open(_FORWARD, encoding="ascii") as file:
            if file.read().strip() == "1":
                return
        with open(_FORWARD, "w", encoding="ascii") as file:
            file.write("1")
    except OSError as error:
        raise OperationFailedError(
            f"cannot switch on IP forwarding: {_FORWARD}: {error.strerror}; or set network.default_bridge.ip_forward"
            " = false"
        ) from error


def isolate(port: str) -> None:
    """Let a port of the bridge reach the bridge itself and no other isolated port (Linux 4.18)."""
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
            f"cannot keep {port} apart from other containers (network.default_bridge.icc): {error.strerror}"
        ) from error


def isolation(index: int) -> bytes:
    """The netlink request: isolate the bridge port with this interface index."""
    attribute = struct.pack("=HHB3x", 5, _ISOLATED, 1)
    nested = struct.pack("=HH", 4 + len(attribute), _PROTINFO) + attribute
    body = struct.pack("=BxHiII", _AF_BRIDGE, 0, index, 0, 0) + nested
    return struct.pack("=IHHII", 16 + len(body), _RTM_SETLINK, _REQUEST_ACK, 1, 0) + body


_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_OWN = "/proc/thread-self/ns/net"


def make_namespace(path: str) -> None:
    """Make a network namespace with a loopback that is up, and bind it to *path*. OperationFailedError, and nothing is left."""
    try:
        make_directory(os.path.dirname(path))
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    except OSError as error:
        raise OperationFailedError(f"cannot make {path}: {error.strerror}") from error
    try:
        in_own_thread(lambda: _make_namespace(path))
    except OSError as error:
        discard(path)
        raise OperationFailedError(f"cannot make a network namespace at {path}: {error.strerror}") from error


def remove_namespace(path: str) -> None:
    """Let go of the namespace: with no process in it, it ends. What is gone already is no error."""
    try:
        in_own_thread(lambda: _remove_namespace(path))
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OperationFailedError(f"cannot remove the network namespace {path}: {error.strerror}") from error


def list_namespaces(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:  # not there, or a place that cannot be used
        return []


def _make_namespace(path: str) -> None:
    see_as_init(os.path.dirname(path))
    system_call("unshare", _CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        flags = struct.unpack_from("H", request, 16)[0]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))
    system_call("mount", _OWN.encode(), path.encode(), None, _MS_BIND, None)


def _remove_namespace(path: str) -> None:
    see_as_init(os.path.dirname(path))
    unmount(path)
    os.unlink(path)
