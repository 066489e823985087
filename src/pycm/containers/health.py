# SPDX-License-Identifier: Apache-2.0
"""Health checks of running containers: when they are made, and what follows. What a result means is in `model.restart`.

A run of a container with a check has one task, which sleeps between checks; without a check nothing wakes up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING

from pycm.containers.launch import PARALLEL, Stop
from pycm.errors import OperationFailedError, PycmError
from pycm.model.container import HostConfig
from pycm.model.defaults import HOST
from pycm.model.durations import SECOND, parse_duration
from pycm.model.frozen import replace
from pycm.model.restart import STARTING, UNHEALTHY, Progress, check_of, printed, restarts_unhealthy, step
from pycm.model.states import Action, Status, Trigger
from pycm.model.units import DEFAULT_SIGNAL as SIGTERM
from pycm.ports import ExecRequest, TaskIO
from pycm.waiting import within

if TYPE_CHECKING:
    from pycm.containers.unit import Unit
    from pycm.model.container import Container, HealthCheck
    from pycm.ports import Exit, Logs, Pipes, Runtime

LOOPBACK = "127.0.0.1"
#: Bytes of a check's output that are kept, and seconds to wait for the last of them.
MOST_OUTPUT, LAST_OUTPUT = 4096, 0.5
#: Seconds between reads of a check that prints much: it must not keep the loop busy.
BREATH = 0.01
log = logging.getLogger("pycm.containers")


class HealthChecks:
    """Makes the checks of all containers, PARALLEL at a time."""

    def __init__(self, runtime: Runtime, logs: Logs) -> None:
        self._runtime = runtime
        self._logs = logs
        self._at_once = asyncio.Semaphore(PARALLEL)

    def begin(self, unit: Unit) -> asyncio.Task[None] | None:
        """The task that checks *unit* in the run that it is in; None without a check."""
        check = check_of(unit.container)
        if check is None or unit.exit is None:
            return None
        return asyncio.ensure_future(self._watch(unit, unit.exit, check))

    async def _watch(self, unit: Unit, run: asyncio.Future[Exit], check: HealthCheck) -> None:
        loop = asyncio.get_running_loop()
        start_period = _seconds(check.start_period or "0s")
        began = loop.time()
        progress = Progress(unit.container.state.health or STARTING)
        shown: tuple[str, str] | None = None
        while True:
            await asyncio.sleep(_seconds(check.interval))
            early = loop.time() - began < start_period
            asked = await self._ask(unit, check)
            if asked is None:
                continue
            error, output = asked
            progress = step(progress, error, early=early, retries=check.retries)
            # the output may differ each time, which alone does not justify a write of the record
            text = None if (progress.health, progress.error) == shown else printed(output) if error else ""
            shown = progress.health, progress.error
            if not await _show(unit, run, progress, text):
                return

    async def _ask(self, unit: Unit, check: HealthCheck) -> tuple[str, bytes] | None:
        """Why the check failed, "" if it passed, and what it printed. None if it could not be made."""
        async with self._at_once:
            if unit.container.state.status is not Status.RUNNING:
                return None
            try:
                asked = await self._check(unit.container, check)
            except PycmError as problem:  # containerd is away, or the container just now
                log.debug("container %s: its health could not be checked: %s", unit.id, problem)
                return None
            except Exception:  # a bug must not end the checks, whose last result would be shown for ever
                log.exception("container %s: its health could not be checked", unit.id)
                return None
        return asked if unit.container.state.status is Status.RUNNING else None

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


async def _show(unit: Unit, run: asyncio.Future[Exit], progress: Progress, output: str | None) -> bool:
    """Put *progress* into the state, unless *output* is None. False if there is nothing more to watch."""
    async with unit.lock:
        if unit.exit is not run or unit.is_gone:
            return False
        state = unit.container.state
        error = f"{progress.error}: {output}" if output else progress.error
        if output is not None and (state.health, state.health_error) != (progress.health, error):
            if state.health != progress.health:
                log.info("container %s: %s%s", unit.id, progress.health, error and f": {progress.error}")
            shown = replace(state, health=progress.health, health_error=error)
            await unit.peers.catalog.record(unit, replace(unit.container, state=shown), Action.HEALTH)
        if progress.health != UNHEALTHY or not restarts_unhealthy(unit.container):
            return True
    unit.peers.jobs.spawn(_restart(unit, progress.error))
    return False


async def _restart(unit: Unit, reason: str) -> None:
    """End the run as if it had failed by itself: the container's policy restarts it."""
    async with unit.lock:
        state = unit.container.state
        if unit.is_gone or state.health != UNHEALTHY or unit.peers.jobs.closing or not unit.is_alive:
            return
        log.warning("container %s: unhealthy: %s (restarting it)", unit.id, reason)
        try:
            exit_ = await unit.terminate(Stop(int(SIGTERM), unit.peers.stop_timeout, force=True))
        except PycmError as error:
            log.error("container %s: unhealthy, and cannot be stopped: %s", unit.id, error)
            unit.begin_health()
            return
        why = f"unhealthy: {state.health_error or reason}"
        await unit.end(Trigger.EXIT, exit_, why, cause="unhealthy")


class _Output:
    """Implements ports.ExecListener: reads what a check prints and keeps the end of it. It is not needed for the
    result.
    """

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
