# SPDX-License-Identifier: Apache-2.0
"""Health checks of running containers: when they are made, and what follows. What a result means is in `model.health`.

A container with a check has one task, which sleeps between checks; without one there is nothing here, and nothing wakes up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pycm.containers.settings import PARALLEL
from pycm.errors import OperationFailedError, PycmError
from pycm.model.container import HostConfig
from pycm.model.defaults import HOST
from pycm.model.durations import SECOND, parse_duration
from pycm.model.frozen import replace
from pycm.model.restart import UNHEALTHY, Progress, check_of, printed, restarts_unhealthy, step
from pycm.model.states import Status
from pycm.ports import Action, ExecRequest, TaskIO
from pycm.waiting import within

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from pycm.containers.catalog import Catalog, Entry
    from pycm.model.container import Container, HealthCheck
    from pycm.ports import Logs, Pipes, Runtime

LOOPBACK = "127.0.0.1"
#: Bytes of a check's output that are kept, and seconds to wait for the last of them.
MOST_OUTPUT, LAST_OUTPUT = 4096, 0.5
#: Seconds between reads of a check that prints much: it must not keep the loop busy.
BREATH = 0.01
log = logging.getLogger("pycm.containers")


class Health:
    """*unhealthy*: restarts a container; it runs in a task of its own, which *spawn* starts."""

    def __init__(
        self,
        catalog: Catalog,
        runtime: Runtime,
        logs: Logs,
        unhealthy: Callable[[Entry, str], Coroutine[Any, Any, None]],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._catalog = catalog
        self._runtime = runtime
        self._logs = logs
        self._unhealthy = unhealthy
        self._spawn = spawn
        self._watchers: dict[str, asyncio.Task[None]] = {}
        #: Not all of a machine's containers are asked at once.
        self._at_once = asyncio.Semaphore(PARALLEL)

    def begin(self, entry: Entry) -> None:
        """The container runs, or was found running; called by whoever holds its lock."""
        self.end(entry)
        check = check_of(entry.container)
        if check is not None:
            self._watchers[entry.id] = asyncio.ensure_future(self._watch(entry, check))

    def end(self, entry: Entry) -> None:
        """Its run has ended."""
        watcher = self._watchers.pop(entry.id, None)
        if watcher is not None:
            watcher.cancel()

    async def close(self) -> None:
        """No more checks; the commands of those that are being made are ended."""
        watchers, self._watchers = list(self._watchers.values()), {}
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)

    async def _watch(self, entry: Entry, check: HealthCheck) -> None:
        loop = asyncio.get_running_loop()
        run = entry.exit
        start_period = _seconds(check.start_period or "0s")
        began = loop.time()
        progress = Progress(entry.container.state.health or Progress.health)
        told: tuple[str, str] | None = None
        while True:
            await asyncio.sleep(_seconds(check.interval))
            early = loop.time() - began < start_period
            asked = await self._ask(entry, check)
            if asked is None:
                continue
            error, output = asked
            progress = step(progress, error, early=early, retries=check.retries)
            # what a check prints may differ each time, and is no reason to write the record
            shown = None if (progress.health, progress.error) == told else printed(output) if error else ""
            told = progress.health, progress.error
            if not await self._show(entry, run, progress, shown):
                return

    async def _ask(self, entry: Entry, check: HealthCheck) -> tuple[str, bytes] | None:
        """Why the check failed, "" if it passed, and what it printed. None if it could not be made."""
        async with self._at_once:
            if entry.container.state.status is not Status.RUNNING:
                return None
            try:
                asked = await self._check(entry.container, check)
            except PycmError as problem:  # containerd is away, or the container just now
                log.debug("container %s: its health could not be checked: %s", entry.id, problem)
                return None
            except Exception:  # a bug must not end the checks, whose last result would be shown for ever
                log.exception("container %s: its health could not be checked", entry.id)
                return None
        return asked if entry.container.state.status is Status.RUNNING else None

    async def _check(self, container: Container, check: HealthCheck) -> tuple[str, bytes]:
        timeout = _seconds(check.timeout)
        if check.tcp:
            return await _connect(_address(container), check.tcp, timeout), b""
        output = _Output(self._logs, container.id)
        request = ExecRequest(container.id, check.exec, output.io, exec_id=output.exec_id)
        try:
            code = await self._runtime.exec(request, timeout, output)
        except OperationFailedError as error:
            return str(error), bytes(output.tail)
        finally:
            await output.close()
        return f"exit code {code}" if code else "", bytes(output.tail)

    async def _show(
        self, entry: Entry, run: asyncio.Future[Any] | None, progress: Progress, output: str | None
    ) -> bool:
        """Put *progress* into the state, but for None of *output*. False if there is nothing more to watch."""
        async with entry.lock:
            if entry.exit is not run or self._catalog.find(entry.id) is not entry:
                return False
            state = entry.container.state
            error = f"{progress.error}: {output}" if output else progress.error
            if output is not None and (state.health, state.health_error) != (progress.health, error):
                if state.health != progress.health:
                    log.info("container %s: %s %s", entry.id, progress.health, progress.error)
                shown = replace(state, health=progress.health, health_error=error)
                await self._catalog.record(entry, replace(entry.container, state=shown), Action.HEALTH)
            if progress.health != UNHEALTHY or not restarts_unhealthy(entry.container):
                return True
        self._watchers.pop(entry.id, None)
        self._spawn(self._unhealthy(entry, progress.error))
        return False


class _Output:
    """Implements ports.ExecListener: reads what a check prints and keeps the end of it. It is not needed for the result."""

    def __init__(self, logs: Logs, container_id: str) -> None:
        self.exec_id = f"pycm-{secrets.token_hex(8)}"
        self.io = TaskIO()
        self.tail = bytearray()
        self._pipes: Pipes | None = None
        try:
            self._pipes = logs.pipes(container_id, self.exec_id, terminal=False, stdin=False)
        except OperationFailedError as error:
            log.debug("container %s: output of its health check is not read: %s", container_id, error)
            self._readers: list[asyncio.Future[None]] = []
        else:
            self.io = self._pipes.io
            self._readers = [asyncio.ensure_future(self._read(self._pipes, stream)) for stream in (0, 1)]

    async def _read(self, pipes: Pipes, stream: int) -> None:
        while data := await pipes.read(stream):
            self.tail += data
            del self.tail[:-MOST_OUTPUT]
            await asyncio.sleep(BREATH if len(data) > MOST_OUTPUT else 0)

    def started(self) -> None:
        if self._pipes is not None:
            self._pipes.started()

    async def exited(self) -> None:
        """Wait for the rest, but not long for what the check left running with its output open."""
        if self._readers:
            await asyncio.wait(self._readers, timeout=LAST_OUTPUT)

    async def close(self) -> None:
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        if self._pipes is not None:
            self._pipes.close()


def _seconds(text: str) -> float:
    return parse_duration(text) / SECOND


def _address(container: Container) -> str:
    """Where the container's ports are, as seen from this machine."""
    host = container.host_config or HostConfig()
    if host.network_mode == HOST or container.network_settings is None:
        return LOOPBACK
    addresses = [end.ip_address for end in container.network_settings.networks.values() if end.ip_address]
    return addresses[0] if addresses else LOOPBACK


async def _connect(address: str, port: int, timeout: float) -> str:
    """Why no TCP connection came about, "" if one did."""
    try:
        _, writer = await within(timeout, asyncio.open_connection(address, port))
    except asyncio.TimeoutError:  # before OSError, of which it is one from Python 3.11 on
        return f"no connection to {address}:{port} within {timeout:g} s"
    except OSError as error:
        reason = (
            os.strerror(error.errno) if error.errno else str(error)
        )  # asyncio has a text of its own for strerror
        return f"no connection to {address}:{port}: {reason}"
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return ""
