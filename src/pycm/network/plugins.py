# SPDX-License-Identifier: Apache-2.0
"""What the agent has made for each container on the bridge, written before it is made, so that it can be unmade after any crash.

Records lie below exec_root_dir, with the addresses that host-local gave away: both mean nothing after a reboot, and /run forgets.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from pycm.errors import ConflictError, OperationFailedError
from pycm.failpoints import fail_point
from pycm.network import conf
from pycm.network.conf import Published
from pycm.storage.files import (
    TEMPORARY,
    discard,
    make_directory,
    read_regular,
    sync_directory,
    write_atomic,
)
from pycm.waiting import within

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

#: A record has a few KiB, with all extra hosts that a description may have 4 MiB at most; a larger file is none.
_LONGEST = 4 * 1024 * 1024
log = logging.getLogger("pycm.network")


@dataclass(frozen=True)
class Sandbox:
    """chain: the plugins as they were called. result: what they have answered so far. connected: all of them have."""

    id: str
    namespace: str
    chain: tuple[dict[str, Any], ...]
    published: tuple[Published, ...] = ()
    result: dict[str, Any] | None = None
    connected: bool = False
    address: str = ""
    host_name: str = ""
    domain_name: str = ""
    extra_hosts: tuple[str, ...] = ()
    hosts_path: str = ""


class Records:
    """One file a container; `sandboxes` is their content."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self.sandboxes: dict[str, Sandbox] = {}

    def load(self) -> list[str]:
        """Read all. Returns the ids whose record is damaged: what was made for them can only be guessed."""
        damaged = []
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        except OSError as error:  # only bridge containers need it
            log.error("network.exec_root_dir cannot be used: %s: %s", self._directory, error.strerror)
            return []
        for name in names:
            container_id, suffix = os.path.splitext(name)
            if suffix == TEMPORARY:
                discard(os.path.join(self._directory, name))
            elif suffix == ".json":
                try:
                    data = read_regular(os.path.join(self._directory, name), _LONGEST)
                    self.sandboxes[container_id] = _parse(container_id, data)
                except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
                    log.error(
                        "the record of the network of container %s cannot be read: %r", container_id, error
                    )
                    damaged.append(container_id)
        return damaged

    def save(self, sandbox: Sandbox) -> None:
        """OperationFailedError if it cannot be written."""
        try:
            make_directory(self._directory, 0o700)
            write_atomic(self._path(sandbox.id), json.dumps(asdict(sandbox)).encode(), 0o600)
        except OSError as error:
            raise OperationFailedError(
                f"cannot record the network of container {sandbox.id}: {error.filename or self._directory}:"
                f" {error.strerror}"
            ) from error
        self.sandboxes[sandbox.id] = sandbox

    def delete(self, container_id: str) -> None:
        """What is not there is no error."""
        self.sandboxes.pop(container_id, None)
        try:
            os.unlink(self._path(container_id))
            sync_directory(self._directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise OperationFailedError(
                f"cannot remove {self._path(container_id)}: {error.strerror}"
            ) from error

    def _path(self, container_id: str) -> str:
        return os.path.join(self._directory, f"{container_id}.json")


def find_address(directory: str, container_id: str) -> str:
    """The address that host-local has given to a container: the name of a file that begins with its id; "" if there is none."""
    try:
        names = os.listdir(directory)
    except OSError:
        return ""
    for name in names:
        try:
            IPv4Address(name)
            data = read_regular(os.path.join(directory, name), 1024)
            if data.decode(errors="replace").split()[:1] == [container_id]:
                return name
        except (ValueError, OSError):
            continue
    return ""


def _parse(container_id: str, data: bytes) -> Sandbox:
    values = json.loads(data)
    if values["id"] != container_id:
        raise ValueError("it is that of another container")
    values["chain"] = tuple(values["chain"])
    values["published"] = tuple(Published(**port) for port in values["published"])
    values["extra_hosts"] = tuple(values["extra_hosts"])
    return Sandbox(**values)


#: Seconds that one plugin may take: they wait for the lock of the packet filter, which others may hold.
LIMIT = 30.0
_POLL = 0.1
#: Where plugins find iptables, whatever the agent was started with.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: The firewall plugin wants the second one too, though there is no IPv6 on the bridge.
_PROGRAMS = ("iptables", "ip6tables")
PACKAGE = "install the CNI plugins (Debian: containernetworking-plugins)"
log = logging.getLogger("pycm.network")


class Plugins:
    def __init__(self, directories: Sequence[str], lock: str) -> None:
        """*lock*: a file that every plugin holds while it runs, so that the next agent sees those that outlive this one."""
        self._directories = tuple(directories)
        self._lock = lock
        self._waiting = asyncio.Lock()
        self._alone = False

    def find(self, name: str) -> str | None:
        for directory in self._directories:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        return None

    def check(self, names: Iterable[str], *, packet_filter: bool) -> None:
        """ConflictError that says which are missing, where they were looked for, and the package to install.

        *packet_filter*: they will set rules, for which they call a program.
        """
        missing = [name for name in names if self.find(name) is None]
        if missing:
            raise ConflictError(
                f"the bridge network needs the CNI plugins {', '.join(missing)}, which are not in"
                f" {', '.join(self._directories)}: {PACKAGE} or use network mode host"
            )
        for program in _PROGRAMS if packet_filter else ():
            if shutil.which(program, path=_PATH) is None:
                raise ConflictError(
                    f"the bridge network needs the program {program}: install the package iptables, use network mode host, or"
                    " set network.default_bridge.ip_tables = false"
                )

    async def add(
        self,
        container_id: str,
        namespace: str,
        chain: Sequence[Mapping[str, Any]],
        keep: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> dict[str, Any]:
        """Call ADD of all plugins. After each, *keep* gets the result so far: what an undoing needs to be complete."""
        result: dict[str, Any] | None = None
        for plugin in chain:
            name = str(plugin["type"])
            output = await self._call("ADD", container_id, namespace, plugin, result)
            fail_point(f"network.added-{name}")
            result = conf.parse_result(name, output)
            await keep(result)
        assert result is not None
        return result

    async def delete(
        self,
        container_id: str,
        namespace: str,
        chain: Sequence[Mapping[str, Any]],
        result: Mapping[str, Any] | None,
    ) -> None:
        """Call DEL of all plugins, the last first, each even if another failed; then the first failure is raised."""
        failures: list[OperationFailedError] = []
        for plugin in reversed(chain):
            try:
                await self._call("DEL", container_id, namespace, plugin, result)
            except OperationFailedError as error:
                failures.append(error)
            fail_point(f"network.deleted-{plugin['type']}")
        if failures:
            raise failures[0]

    async def _call(
        self,
        command: str,
        container_id: str,
        namespace: str,
        plugin: Mapping[str, Any],
        result: Mapping[str, Any] | None,
    ) -> bytes:
        name = str(plugin["type"])
        path = self.find(name)
        if path is None:
            raise OperationFailedError(f"CNI plugin {name} is not there: {PACKAGE}")
        request = {**plugin, "prevResult": result} if result is not None else plugin
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container_id,
            "CNI_NETNS": namespace,
            "CNI_IFNAME": conf.INTERFACE,
            "CNI_PATH": ":".join(self._directories),
            "PATH": _PATH,
        }
        await self._wait_for_others()
        with _held(self._lock, fcntl.LOCK_SH) as lock:
            code, output, errors = await run([path], environment, json.dumps(request).encode(), (lock,))
        if code != 0:
            raise OperationFailedError(conf.failure(name, code, output, errors))
        return output

    async def _wait_for_others(self) -> None:
        """Until those have ended that an agent which was killed has left: what they make would be made after it was removed."""
        async with self._waiting:
            for attempt in range(int(LIMIT / _POLL)):
                if self._alone:
                    return
                try:
                    with _held(self._lock, fcntl.LOCK_EX):
                        self._alone = True
                except BlockingIOError:
                    if attempt == 0:
                        log.warning(
                            "CNI plugins that an earlier agent has started still run and are waited for"
                        )
                    await asyncio.sleep(_POLL)
            if not self._alone:
                raise OperationFailedError(
                    f"CNI plugins that an earlier agent has started have not ended within {LIMIT:g} s"
                )


@contextlib.contextmanager
def _held(path: str, kind: int) -> Iterator[int]:
    """Hold a lock on *path*; BlockingIOError if somebody else has it. Held on by every process that inherits the descriptor."""
    try:
        make_directory(os.path.dirname(path), 0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise OperationFailedError(f"cannot use {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)


async def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    request: bytes = b"",
    inherited: Sequence[int] = (),
) -> tuple[int, bytes, bytes]:
    """Run a program to its end: exit code, output, errors. OperationFailedError if it cannot run or takes longer than LIMIT.

    *inherited*: descriptors that it gets too.
    """
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(environment), pass_fds=tuple(inherited)
        )
    except OSError as error:
        raise OperationFailedError(f"cannot run {command[0]}: {error.strerror}") from error
    try:
        output, errors = await within(LIMIT, process.communicate(request))
    except asyncio.TimeoutError:
        raise OperationFailedError(f"{command[0]} did not end within {LIMIT:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output, errors


async def iptables(*arguments: str) -> bool:
    """Whether `iptables` with these arguments ended with 0; it waits for its lock."""
    code, _, _ = await run(["iptables", "-w", "10", *arguments], {"PATH": _PATH})
    return code == 0
