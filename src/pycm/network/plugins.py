# SPDX-License-Identifier: Apache-2.0
"""CNI plugins, which are programs, and the record of what they made for each container on the bridge.

The record is written before anything is made, so that it can be removed after any crash. Records are below
exec_root_dir, with the addresses that host-local gave away: both mean nothing after a reboot, and /run is empty then.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import shutil
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.errors import ConflictError, OperationFailedError
from pycm.failpoints import fail_point
from pycm.network import conf
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

#: Bytes of a record: usually a few KiB, at most 4 MiB, with all extra hosts that a description may have.
_LONGEST = 4 * 1024 * 1024
#: Seconds that one plugin may take. Plugins wait for the lock of the packet filter.
LIMIT = 30.0
_POLL = 0.1
#: Where plugins find iptables, whatever PATH the agent has.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: The firewall plugin also calls the second one, although the bridge has no IPv6.
_PROGRAMS = ("iptables", "ip6tables")
INSTALL = "Install the CNI plugins (Debian: containernetworking-plugins)"
log = logging.getLogger("pycm.network")


# ── records ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Sandbox(NamedTuple):
    """chain: the plugins as they were called. result: their answer so far. connected: all of them have answered."""

    id: str
    namespace: str
    chain: tuple[dict[str, Any], ...]
    published: tuple[conf.Published, ...] = ()
    result: dict[str, Any] | None = None
    connected: bool = False
    address: str = ""
    host_name: str = ""
    domain_name: str = ""
    extra_hosts: tuple[str, ...] = ()
    hosts_path: str = ""


class Records:
    """One file for each container. `sandboxes` is their content."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self.sandboxes: dict[str, Sandbox] = {}

    def load(self) -> list[str]:
        """Read all. Return the ids with a damaged record: what was made for them can only be guessed."""
        damaged = []
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        except OSError as error:  # only containers on the bridge need it
            log.error("network.exec_root_dir: cannot use %s: %s", self._directory, error.strerror)
            return []
        for name in names:
            container_id, suffix = os.path.splitext(name)
            path = os.path.join(self._directory, name)
            if suffix == TEMPORARY:
                discard(path)
            elif suffix == ".json":
                try:
                    self.sandboxes[container_id] = _parse(container_id, read_regular(path, _LONGEST))
                except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
                    log.error("container %s: damaged network record: %r (guessing it)", container_id, error)
                    damaged.append(container_id)
        return damaged

    def save(self, sandbox: Sandbox) -> None:
        """Errors: OperationFailedError if it cannot be written."""
        values = {**sandbox._asdict(), "published": [port._asdict() for port in sandbox.published]}
        try:
            make_directory(self._directory, 0o700)
            write_atomic(self._path(sandbox.id), json.dumps(values).encode(), 0o600)
        except OSError as error:
            raise OperationFailedError(
                f"cannot record the network of container {sandbox.id}: {error.filename or self._directory}:"
                f" {error.strerror}"
            ) from error
        self.sandboxes[sandbox.id] = sandbox

    def delete(self, container_id: str) -> None:
        """A missing record is not an error."""
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
    """The address that host-local gave to a container: the name of a file that begins with the id. "" for none."""
    with contextlib.suppress(OSError):
        for name in os.listdir(directory):
            with contextlib.suppress(ValueError, OSError):
                IPv4Address(name)
                data = read_regular(os.path.join(directory, name), 1024)
                if data.decode(errors="replace").split()[:1] == [container_id]:
                    return name
    return ""


def _parse(container_id: str, data: bytes) -> Sandbox:
    values = json.loads(data)
    if values["id"] != container_id:
        raise ValueError("it is that of another container")
    values["chain"] = tuple(values["chain"])
    values["published"] = tuple(conf.Published(**port) for port in values["published"])
    values["extra_hosts"] = tuple(values["extra_hosts"])
    return Sandbox(**values)


# ── programs ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Plugins:
    """CNI plugins are called one after the other, and undone in the opposite order."""

    def __init__(self, directories: Sequence[str], lock: str) -> None:
        """*lock*: a file that plugins hold while they run, so that the next agent sees those that outlive this one."""
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
        """ConflictError if plugins are missing, or the programs that they call to set rules (*packet_filter*)."""
        missing = [name for name in names if self.find(name) is None]
        if missing:
            raise ConflictError(
                f"the bridge network needs the CNI plugins {', '.join(missing)}, which are not in"
                f" {', '.join(self._directories)}",
                hint=f"{INSTALL}, or use network mode host.",
            )
        for program in _PROGRAMS if packet_filter else ():
            if shutil.which(program, path=_PATH) is None:
                raise ConflictError(
                    f"the bridge network needs the program {program}",
                    hint="Install the package iptables, use network mode host, or set"
                    " network.default_bridge.ip_tables = false.",
                )

    async def add(self, sandbox: Sandbox, keep: Callable[[Sandbox], Awaitable[None]]) -> Sandbox:
        """Call ADD of all plugins. After each, *keep* gets the result so far, which a complete DEL needs."""
        sandbox = sandbox._replace(result=None)
        for plugin in sandbox.chain:
            name = str(plugin["type"])
            output = await self._call("ADD", sandbox, plugin)
            fail_point(f"network.added-{name}")
            sandbox = sandbox._replace(result=conf.parse_result(name, output))
            await keep(sandbox)
        return sandbox

    async def delete(self, sandbox: Sandbox) -> None:
        """Call DEL of all plugins, the last first, even if one fails. Then the first failure is raised."""
        failures: list[OperationFailedError] = []
        for plugin in reversed(sandbox.chain):
            try:
                await self._call("DEL", sandbox, plugin)
            except OperationFailedError as error:
                failures.append(error)
            fail_point(f"network.deleted-{plugin['type']}")
        if failures:
            raise failures[0]

    async def _call(self, command: str, sandbox: Sandbox, plugin: Mapping[str, Any]) -> bytes:
        name = str(plugin["type"])
        path = self.find(name)
        if path is None:
            raise OperationFailedError(f"CNI plugin {name} is missing", hint=f"{INSTALL}.")
        request = {**plugin, "prevResult": sandbox.result} if sandbox.result is not None else plugin
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": sandbox.id,
            "CNI_NETNS": sandbox.namespace,
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
        """Wait for plugins of an agent that was killed: what they make now would stay behind."""
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
                            "bridge network: CNI plugins of an earlier agent are still running (waiting)"
                        )
                    await asyncio.sleep(_POLL)
            if not self._alone:
                raise OperationFailedError(f"CNI plugins of an earlier agent did not end within {LIMIT:g} s")


@contextlib.contextmanager
def _held(path: str, kind: int) -> Iterator[int]:
    """Hold a lock on *path*, also in processes that inherit it. BlockingIOError if another process has it."""
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
    """Run a program to its end: exit code, output, errors. *inherited*: further descriptors for it.

    Errors: OperationFailedError if it cannot start or takes longer than LIMIT.
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
    """Whether `iptables` exited with 0. It waits for the lock of the packet filter."""
    code, _, _ = await run(["iptables", "-w", "10", *arguments], {"PATH": _PATH})
    return code == 0
