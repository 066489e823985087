# SPDX-License-Identifier: Apache-2.0
"""The files of a container's network (hosts, hostname, resolv.conf): their contents, and network mode "host", which has
nothing else.

An entry of `extra_hosts` is `name:value`. The value is an address or a token: `host_ip` (the bridge),
`host_ip_<interface>` (an interface of the machine), `container_<host name>` (a container on the bridge). An entry whose
token is not resolvable now is left out.

The files are in `<home>/containers/<id>/`, as Kanto's. The container may write to them: so that it cannot fill the
disk, files of a small tmpfs are mounted over them while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, NamedTuple

from pycm.errors import InvalidInputError, OperationFailedError, shorten
from pycm.model.container import Container, EndpointSettings, NetworkSettings
from pycm.model.defaults import HOST
from pycm.model.frozen import replace
from pycm.storage.files import make_directory, read_regular, write_atomic
from pycm.storage.mounts import cover, in_own_thread, mounted_below, see_as_init, uncover
from pycm.waiting import Once

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

NAMES = ("hostname", "hosts", "resolv.conf")
log = logging.getLogger("pycm.network")


# ── contents (pure) ─────────────────────────────────────────────────────────────────────────────────────────────────

LOCAL = (
    "127.0.0.1\tlocalhost",
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::0\tip6-localnet",
    "ff00::0\tip6-mcastprefix",
    "ff02::1\tip6-allnodes",
    "ff02::2\tip6-allrouters",
)
HOST_TOKEN, CONTAINER_TOKEN = "host_ip", "container_"
#: Bytes of a hosts file that is updated: those of all extra hosts, and as many of the container's own.
_LONGEST = 1024 * 1024 - 1
_NAMESERVERS = ("8.8.8.8", "8.8.4.4")


class Peer(NamedTuple):
    """A container that is connected to the bridge."""

    host_name: str
    address: str


class Own(NamedTuple):
    """The container that gets the file."""

    address: str
    host_name: str
    domain_name: str


def check_extra_hosts(entries: Iterable[str]) -> None:
    """InvalidInputError for an entry that cannot be a line of the file."""
    for entry in entries:
        name, _, value = entry.partition(":")
        if not _is_word(name) or not _is_word(value):
            raise InvalidInputError(f"extra host {shorten(entry)} is not of the form name:address")


def _is_word(text: str) -> bool:
    return bool(text) and text.isprintable() and not any(map(str.isspace, text))


def providers(entries: Iterable[str]) -> set[str]:
    """Host names of the containers that the entries name."""
    values = (entry.partition(":")[2] for entry in entries)
    return {value[len(CONTAINER_TOKEN) :] for value in values if value.startswith(CONTAINER_TOKEN)}


def resolve(value: str, peers: Mapping[str, Sequence[str]], interface: Callable[[str], str]) -> str:
    """The address for a value, "" if its token means none now, or more than one.

    *peers*: addresses by host name. *interface*: returns the address of an interface of the machine; "" is the bridge.
    """
    if value == HOST_TOKEN:
        return interface("")
    if value.startswith(f"{HOST_TOKEN}_"):
        name = value[len(HOST_TOKEN) + 1 :]
        return interface(name) if name else ""
    if value.startswith(CONTAINER_TOKEN):
        found = peers.get(value[len(CONTAINER_TOKEN) :], ())
        return found[0] if len(found) == 1 else ""
    return value


def hosts_file(
    own: Own, entries: Iterable[str], peers: Sequence[Peer], interface: Callable[[str], str]
) -> bytes:
    """In the original's order: local names, the extra hosts that are resolvable, the container's own names."""
    full = f"{own.host_name}.{own.domain_name} " if own.domain_name else ""
    return hosts_lines(entries, peers, interface) + f"{own.address}\t{full}{own.host_name}\n".encode()


def hosts_lines(entries: Iterable[str], peers: Sequence[Peer], interface: Callable[[str], str]) -> bytes:
    """The file without the container's own names."""
    lines = list(LOCAL)
    by_name: dict[str, list[str]] = {}
    for peer in peers:
        by_name.setdefault(peer.host_name, []).append(peer.address)
    for entry in entries:
        name, _, value = entry.partition(":")
        address = resolve(value, by_name, interface)
        if address:
            lines.append(f"{address}\t{name}")
    return ("\n".join(lines) + "\n").encode()


def updated(before: bytes, wanted: bytes, entries: Iterable[str]) -> bytes:
    """The file of a running container with the lines of tokens as in *wanted*. Everything else stays where it is.

    *before* itself, if those lines are up to date, or if the container has turned the file into something else than
    lines.
    """
    if len(before) > _LONGEST or b"\0" in before:
        return before
    split = (entry.partition(":") for entry in entries)
    names = {name.encode() for name, _, value in split if value.startswith((HOST_TOKEN, CONTAINER_TOKEN))}
    old, new = before.splitlines(keepends=True), wanted.splitlines()
    ours = [line for line in new if _name_on(line) in names]
    if [line.rstrip(b"\r\n") for line in old if _name_on(line) in names] == ours:
        return before
    first = next((number for number, line in enumerate(new) if _name_on(line) in names), len(new))
    place = _place(old, names, frozenset(new[:first]))
    kept = ([line for line in part if _name_on(line) not in names] for part in (old[:place], old[place:]))
    head, tail = map(b"".join, kept)
    separator = b"" if not head or head.endswith((b"\r", b"\n")) else b"\n"
    return head + separator + b"".join(line + b"\n" for line in ours) + tail


def _place(old: Sequence[bytes], names: Collection[bytes], above: Collection[bytes]) -> int:
    """Index in *old* for the lines of tokens: the first present one, else behind the lines *above*, else the end."""
    found = next((number for number, line in enumerate(old) if _name_on(line) in names), None)
    if found is not None:
        return found
    behind = (number for number in range(len(old), 0, -1) if old[number - 1].rstrip(b"\r\n") in above)
    return next(behind, len(old))


def _name_on(line: bytes) -> bytes:
    """The name on a line as this module writes it, with a tab. For other lines, nothing that could be a name."""
    return b"" if line.startswith(b"#") else line.rstrip(b"\r\n").partition(b"\t")[2]


def resolv_conf(content: bytes) -> bytes:
    """The machine's, without name servers that a container cannot reach. Public ones if none is left."""
    lines = content.decode(errors="replace").splitlines()
    kept = [line for line in lines if not _is_out_of_reach(line)]
    if not any(line.split()[:1] == ["nameserver"] for line in kept):
        kept += [f"nameserver {address}" for address in _NAMESERVERS]
    return ("\n".join(kept) + "\n").encode()


def servers(content: bytes) -> list[IPv4Network]:
    """The IPv4 name servers of a resolv.conf, which the bridge's network must not contain."""
    found = []
    for line in content.decode(errors="replace").splitlines():
        words = line.split()
        if words[:1] == ["nameserver"]:
            with contextlib.suppress(ValueError, IndexError):
                found.append(IPv4Network(words[1]))
    return found


def _is_out_of_reach(line: str) -> bool:
    """Whether a name server is on the machine's loopback, or an IPv6 one, which the bridge cannot reach."""
    words = line.split()
    return words[:1] == ["nameserver"] and (len(words) < 2 or words[1].startswith("127.") or ":" in words[1])


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────

#: systemd-resolved's stub listens on an address of the host. Its full list is here.
_RESOLVED = "/run/systemd/resolve/resolv.conf"
_STUB = b"nameserver 127.0.0.53"
#: Bytes of a file that are read.
_READ_LIMIT = 1024 * 1024
#: Size of the tmpfs for the files of one container: the largest that are written, and some reserve.
_SIZE = "4m"
#: Errors of a mount without the right to do it, or with an unusable directory in /run. The container then gets the
# files on the disk.
_NO_PLACE = {
    errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip


class ContainerFiles:
    """Call `prepare` first, once. Blocking: call it in a worker thread.

    *run*: a directory of the agent that is empty after a boot, "" for files that stay on the disk.
    """

    def __init__(self, home: str, run: str = "") -> None:
        self._directory = os.path.join(home, "containers")
        self._staging = os.path.join(run, "files") if run else ""
        #: Ids of containers with something mounted over their files.
        self._covered: set[str] = set()
        self._no_place = Once()

    def prepare(self) -> None:
        """Find what earlier agents mounted. Running containers keep it."""
        if not self._staging:
            return
        directory, staging = os.path.realpath(self._directory), os.path.realpath(self._staging)
        for path in mounted_below(directory):
            container_id, _, name = os.path.relpath(path, directory).partition("/")
            if name in NAMES:
                self._covered.add(container_id)
        # Left by an interrupted start. What cannot be removed is used by the container's next start.
        with contextlib.suppress(OSError):
            if left := mounted_below(staging):
                self._as_process_1(lambda: uncover(left))
            for name in os.listdir(staging):
                os.rmdir(os.path.join(staging, name))

    def write(self, container: Container, contents: Mapping[str, bytes]) -> Container:
        """Write the files and return the container with their paths. OperationFailedError names the file."""
        directory = os.path.join(self._directory, container.id)
        files = {os.path.join(directory, name): content for name, content in contents.items()}
        try:
            self.release(container.id)
            make_directory(directory)
            for path, content in files.items():
                if read(path) != content or not os.path.exists(path):  # an unchanged restart costs no write
                    write_atomic(path, content)
            self._cover(container.id, files)
        except OSError as error:
            raise OperationFailedError(
                f"cannot write {error.filename or directory}: {error.strerror}"
            ) from error
        hostname, hosts, resolv = (os.path.join(directory, name) for name in NAMES)
        return replace(container, hostname_path=hostname, hosts_path=hosts, resolv_conf_path=resolv)

    def _cover(self, container_id: str, files: Mapping[str, bytes]) -> None:
        if not self._staging:
            return
        staging = os.path.join(os.path.realpath(self._staging), container_id)
        self._covered.add(container_id)
        try:
            self._as_process_1(lambda: cover(files, staging, _SIZE))
        except OSError as error:
            if error.errno not in _NO_PLACE:
                raise
            self._covered.discard(container_id)
            if self._no_place.is_new():
                text = "network files: cannot mount a tmpfs: %s (containers can fill the disk of %s)"
                log.warning(text, error.strerror, self._directory)

    def release(self, container_id: str) -> None:
        """The files are no longer used. OperationFailedError if they cannot be unmounted; call it again later."""
        if container_id not in self._covered:
            return
        paths = [os.path.join(self._directory, container_id, name) for name in NAMES]
        try:
            self._as_process_1(lambda: uncover(paths))
        except OSError as error:
            raise OperationFailedError(
                f"container {container_id}: cannot unmount its network files: {error.strerror}"
            ) from error
        self._covered.discard(container_id)

    def others(self, kept: Collection[str]) -> set[str]:
        """Containers with mounted files that are not *kept*."""
        return self._covered.difference(kept)

    def as_containers_see_them(self, work: Callable[[], None]) -> None:
        """Run *work* where the paths lead to the mounted files."""
        if self._covered:
            self._as_process_1(work)
        else:
            work()

    def _as_process_1(self, work: Callable[[], None]) -> None:
        def run() -> None:
            see_as_init(self._directory)
            work()

        in_own_thread(run)


class HostNetwork:
    """The part of ports.Network for mode "host": the container has the machine's network and name."""

    def __init__(self, files: ContainerFiles, etc: str = "/etc") -> None:
        self._files = files
        self._etc = etc

    async def connect(self, container: Container) -> Container:
        return await asyncio.to_thread(self._connect, container)

    def _connect(self, container: Container) -> Container:
        host_name = socket.gethostname()
        contents = {
            "hostname": f"{host_name}\n".encode(),
            "hosts": self._hosts(container),
            "resolv.conf": read_resolv_conf(self._etc),
        }
        container = self._files.write(container, contents)
        return self.found(replace(container, host_name=host_name))

    def found(self, container: Container) -> Container:
        return replace(container, network_settings=NetworkSettings(networks={HOST: EndpointSettings()}))

    def _hosts(self, container: Container) -> bytes:
        extra = container.host_config.extra_hosts if container.host_config else ()
        if not extra:
            return read(os.path.join(self._etc, "hosts"), follow=True)
        return hosts_lines(extra, (), lambda _name: "")


def read_resolv_conf(etc: str) -> bytes:
    content = read(os.path.join(etc, "resolv.conf"), follow=True)
    return read(_RESOLVED, follow=True) or content if _STUB in content else content


def read(path: str, *, follow: bool = False) -> bytes:
    """The content, empty if it cannot be read. *follow* links only for files of the machine."""
    try:
        return read_regular(path, _READ_LIMIT, follow=follow)
    except OSError:
        return b""
