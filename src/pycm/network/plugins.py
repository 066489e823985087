# SPDX-License-Identifier: Apache-2.0
"""CNI plugins as programs: found in the configured directories, called one after the other, undone in the opposite order."""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

from pycm.errors import ConflictError, OperationFailedError
from pycm.failpoints import fail_point
from pycm.network import conf

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

#: Seconds that one plugin may take: they wait for the lock of the packet filter, which others may hold.
LIMIT = 30.0
#: Where plugins find iptables, whatever the agent was started with.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PACKAGE = "install the CNI plugins (Debian: containernetworking-plugins)"


class Plugins:
    def __init__(self, directories: Sequence[str]) -> None:
        self._directories = tuple(directories)

    def find(self, name: str) -> str | None:
        for directory in self._directories:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        return None

    def check(self, names: Iterable[str]) -> None:
        """ConflictError that says which are missing, where they were looked for, and the package to install."""
        missing = [name for name in names if self.find(name) is None]
        if missing:
            raise ConflictError(
                f"the bridge network needs the CNI plugins {', '.join(missing)}, which are not in"
                f" {', '.join(self._directories)}: {PACKAGE} or use network mode host"
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
        code, output, errors = await run([path], environment, json.dumps(request).encode())
        if code != 0:
            raise OperationFailedError(conf.failure(name, code, output, errors))
        return output


async def run(
    command: Sequence[str], environment: Mapping[str, str], request: bytes = b""
) -> tuple[int, bytes, bytes]:
    """Run a program to its end: exit code, output, errors. OperationFailedError if it cannot run or takes longer than LIMIT."""
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(environment)
        )
    except OSError as error:
        raise OperationFailedError(f"cannot run {command[0]}: {error.strerror}") from error
    try:
        output, errors = await asyncio.wait_for(process.communicate(request), LIMIT)
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
