# SPDX-License-Identifier: Apache-2.0
"""The front of the room: implements ports.Logs with json.log files, for the event loop."""

from __future__ import annotations

import asyncio
import errno
import glob
import logging
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from pycm.errors import ConflictError, InvalidInputError, OperationFailedError, shorten
from pycm.logs import fifos
from pycm.logs.clients import MOST_CLIENTS, Attachment, ExecPipes, Tap
from pycm.logs.jsonlog import LogReader, Quota, Target
from pycm.logs.pump import FINISH_LIMIT, Drain, Pump
from pycm.logs.sink import JsonSink, Sink
from pycm.model.container import LogDriverConfiguration
from pycm.model.units import size_to_bytes
from pycm.storage.files import open_regular
from pycm.waiting import LOOK, apart, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pycm.model.container import LogConfiguration
    from pycm.ports import TaskIO

#: As the defaults of the model, for records without them.
DEFAULT_FILES, DEFAULT_SIZE = 2, 100 * 1024 * 1024
#: A rotation renames all files of a log while the logs of all containers wait: the number of files and their size have
# limits.
MOST_FILES, LEAST_SIZE = 1000, 1024
#: Of the non-blocking mode. A smaller buffer cannot hold the parts of a long line; a larger one fills the memory, where
# it lies.
DEFAULT_BUFFER, LEAST_BUFFER, MOST_BUFFER = 1024 * 1024, 64 * 1024, 64 * 1024 * 1024
log = logging.getLogger("pycm.logs")


class JsonFileLogs:
    """*total_limit*: bytes for the logs of all containers together, 0 for no limit."""

    def __init__(self, home_dir: str, exec_root_dir: str, total_limit: int = 0) -> None:
        self._containers = os.path.join(home_dir, "containers")
        self._fifo_root = os.path.join(exec_root_dir, "fifo")
        self._spool_root = os.path.join(exec_root_dir, "spool")
        self._pipe_root = os.path.join(exec_root_dir, "pipes")
        self._pump = Pump()
        self._quota = Quota(self._containers, total_limit)  # only the pump's thread uses it
        self._prepared: dict[str, fifos.Opened] = {}  # by make_fifos, not attached yet
        self._attached: dict[str, TaskIO] = {}
        self._clients: set[Attachment] = set()
        shutil.rmtree(self._pipe_root, ignore_errors=True)  # of an agent that was killed

    # ── output ──

    async def check(self, container_id: str, config: LogConfiguration | None) -> None:
        driver = _driver(config)
        if driver.type == "json-file" and driver.root_dir:
            path = self.path(container_id, config)
            try:
                await apart(f"log of {container_id}", lambda: _try_log(driver.root_dir, path))
            except asyncio.TimeoutError:
                raise OperationFailedError(
                    f"log root directory {shorten(driver.root_dir)} did not answer within {LOOK:g} s"
                ) from None

    def make_fifos(self, container_id: str, *, terminal: bool, stdin: bool) -> TaskIO:
        self._drop_prepared(container_id)
        self._attached.pop(container_id, None)
        directory = self._fifos(container_id)
        if self._left_over(container_id):
            left = fifos.Opened(fifos.find(directory))
            self._pump.post(lambda: self._end_run(container_id, left))
        io = fifos.make(directory, terminal=terminal, stdin=stdin)
        opened = fifos.Opened(io)
        if opened.error:
            opened.close()
            fifos.remove_all(directory)
            raise OperationFailedError(opened.error)
        fifos.start_keeper(directory, (*opened.outputs.values(), *opened.held))
        self._prepared[container_id] = opened
        return io

    def attach(self, container_id: str, io: TaskIO, config: LogConfiguration | None) -> None:
        opened = self._prepared.pop(container_id, None)
        if opened is None or opened.io != io:
            if opened is not None:
                opened.close()
            opened = fifos.Opened(io)
        if opened.error:
            log.error("container %s: cannot read its output: %s", container_id, opened.error)
        make_sink = self._sink_maker(container_id, config)
        self._attached[container_id] = io
        new = [client for client in self._clients_of(container_id) if client.waiting]
        for client in new:
            client.begin(io)
        taps = [client.tap for client in new]
        self._pump.post(lambda: self._attach(container_id, opened, make_sink, taps))

    def _sink_maker(self, container_id: str, config: LogConfiguration | None) -> Callable[[], Sink]:
        driver = _driver(config)
        if driver.type == "none":
            return Sink
        size = _bytes(container_id, "max_size", driver.max_size, DEFAULT_SIZE)
        files = min(driver.max_files or DEFAULT_FILES, MOST_FILES)
        if files < driver.max_files:
            text = "container %s: max_files of its log is %d (using %d)"
            log.warning(text, container_id, driver.max_files, files)
        target = Target(self.path(container_id, config), max(size, LEAST_SIZE), files)
        buffer = _buffer(container_id, config)
        directory = self._spool(container_id)
        return lambda: JsonSink(container_id, directory, target, buffer=buffer, quota=self._quota)

    async def finish(self, container_id: str) -> None:
        self._drop_prepared(container_id)
        io = self._attached.pop(container_id, None)
        directory = self._fifos(container_id)
        if io is not None or self._left_over(container_id):
            finished = _Signal()
            if not self._pump.post(lambda: self._finish(container_id, finished.set)):
                return
            try:
                await within(FINISH_LIMIT + 5, finished.wait())
            except asyncio.TimeoutError:
                log.warning("container %s: its log is still being written (not waiting for it)", container_id)
            if io is not None:
                fifos.remove(self._fifo_root, io)
        fifos.remove_all(directory)

    def forget(self, container_id: str, config: LogConfiguration | None = None) -> None:
        self._drop_prepared(container_id)
        self._attached.pop(container_id, None)
        for client in self._clients_of(container_id):
            client.tap.end(f"container {container_id} was removed")
        fifos.remove_all(self._fifos(container_id))
        fifos.remove_all(self._spool(container_id))
        if _driver(config).root_dir:
            path = self.path(container_id, config)
            for file in (path, *glob.glob(glob.escape(path) + ".[0-9]*")):
                with suppress(OSError):
                    os.unlink(file)
            with suppress(OSError):
                os.rmdir(os.path.dirname(path))

    async def close(self) -> None:
        stopped = _Signal()
        self._pump.stop(stopped.set)
        await stopped.wait()
        for container_id in tuple(self._prepared):
            self._drop_prepared(container_id)

    def _fifos(self, container_id: str) -> str:
        return os.path.join(self._fifo_root, container_id)

    def _spool(self, container_id: str) -> str:
        return os.path.join(self._spool_root, container_id)

    def _left_over(self, container_id: str) -> bool:
        """Whether an agent that was killed left a spool."""
        return os.path.isdir(self._spool(container_id))

    def _drop_prepared(self, container_id: str) -> None:
        """Close the FIFOs of a start that failed before `attach`."""
        opened = self._prepared.pop(container_id, None)
        if opened is not None:
            opened.close()
            fifos.remove_all(self._fifos(container_id))

    # ── clients ──

    async def connect(self, container_id: str, *, next_run: bool) -> Attachment:
        if len(self._clients) >= MOST_CLIENTS:
            raise ConflictError(
                f"{MOST_CLIENTS} clients are attached to containers already",
                hint="Disconnect one of them first.",
            )
        client = Attachment(container_id, Tap(asyncio.get_running_loop()), self._leave)
        self._clients.add(client)
        io = self._attached.get(container_id)
        if io is not None and not next_run:
            client.begin(io)
            try:
                await self._in_pump(lambda: self._tap(container_id, client.tap))
            except BaseException:
                client.close()
                raise
        return client

    async def _in_pump(self, command: Callable[[], None]) -> None:
        """Run *command* in the pump's thread and wait for its end. OperationFailedError if it failed."""
        done = _Signal()
        failures: list[Exception] = []

        def run() -> None:
            try:
                command()
            except Exception as error:
                failures.append(error)
                raise
            finally:
                done.set()

        if self._pump.post(run):
            await done.wait()
        if failures:
            raise OperationFailedError(f"cannot read the container's output: {failures[0]}")

    def pipes(self, container_id: str, exec_id: str, *, terminal: bool, stdin: bool) -> ExecPipes:
        directory = os.path.join(self._pipe_root, f"{container_id}@{exec_id}")
        return ExecPipes(directory, terminal=terminal, stdin=stdin)

    def _leave(self, client: Attachment) -> None:
        self._clients.discard(client)
        self._pump.post(lambda: self._untap(client.container_id, client.tap))

    def _clients_of(self, container_id: str) -> list[Attachment]:
        return [client for client in self._clients if client.container_id == container_id]

    def close_stdin(self, container_id: str) -> None:
        for client in self._clients_of(container_id):
            if not client.waiting:
                client.shut()
        self._pump.post(lambda: self._release_stdin(container_id))

    # ── in the pump's thread ──

    def _attach(
        self, container_id: str, opened: fifos.Opened, make_sink: Callable[[], Sink], taps: list[Tap]
    ) -> None:
        self._pump.detach(container_id, final=False)
        self._pump.attach(Drain(container_id, opened.outputs, opened.held, make_sink(), taps))

    def _tap(self, container_id: str, tap: Tap) -> None:
        drain = self._pump.drain(container_id)
        if drain is None:
            tap.end()  # the run has ended since
        else:
            drain.tap(tap)

    def _untap(self, container_id: str, tap: Tap) -> None:
        drain = self._pump.drain(container_id)
        if drain is not None:
            drain.untap(tap)

    def _release_stdin(self, container_id: str) -> None:
        drain = self._pump.drain(container_id)
        if drain is not None:
            drain.release_stdin()
            fifos.renew_keeper(self._fifos(container_id), drain.outputs.values())

    def _finish(self, container_id: str, done: Callable[[], None]) -> None:
        """Drain the output to its end. If an earlier agent served the task, continue with what it left."""
        if self._pump.drain(container_id) is None:
            self._adopt(container_id, fifos.Opened(fifos.find(self._fifos(container_id))))
        if not self._pump.finish(container_id, done):
            done()

    def _end_run(self, container_id: str, left: fifos.Opened) -> None:
        """End the previous run, because a new one begins. Waits for nothing."""
        if self._pump.drain(container_id) is None:
            self._adopt(container_id, left)
        else:
            left.close()
        self._pump.detach(container_id, final=True)

    def _adopt(self, container_id: str, left: fifos.Opened) -> None:
        """Serve the FIFOs and the spool that a killed agent left."""
        try:
            sink = JsonSink(container_id, self._spool(container_id), None, quota=self._quota)
        except (OSError, ValueError, TypeError) as error:
            text = "container %s: cannot read the spool that an earlier agent left: %s (its output is lost)"
            log.warning(text, container_id, error)
            left.close()
            fifos.remove_all(self._spool(container_id))
        else:
            self._pump.attach(Drain(container_id, left.outputs, left.held, sink))

    # ── reading ──

    def path(self, container_id: str, config: LogConfiguration | None) -> str:
        root = _driver(config).root_dir
        return os.path.join(root or self._containers, container_id, "json.log")

    async def read(self, container_id: str, config: LogConfiguration | None, tail: int) -> AsyncIterator[str]:
        _check_readable(container_id, config)
        files = _driver(config).max_files or DEFAULT_FILES
        reader = await asyncio.to_thread(LogReader, self.path(container_id, config), files, tail)
        try:
            while batch := await asyncio.to_thread(reader.batch):
                for message in batch:
                    yield message
        finally:
            reader.close()


class _Signal:
    """An event that the loop awaits and the pump's thread sets."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self) -> None:
        await self._event.wait()


def _driver(config: LogConfiguration | None) -> LogDriverConfiguration:
    return (config and config.driver_config) or LogDriverConfiguration()


def _buffer(container_id: str, config: LogConfiguration | None) -> int:
    """Bytes that wait for the log of a container in non-blocking mode, else 0."""
    mode = config.mode_config if config else None
    if mode is None or mode.mode != "non-blocking":
        return 0
    size = _bytes(container_id, "max_buffer_size", mode.max_buffer_size, DEFAULT_BUFFER)
    return min(max(size, LEAST_BUFFER), MOST_BUFFER)


def _bytes(container_id: str, key: str, text: str, default: int) -> int:
    try:
        return size_to_bytes(text) if text else default
    except InvalidInputError as error:
        log.warning("container %s: %s of its log: %s (using %dM)", container_id, key, error, default >> 20)
        return default


def _try_log(root: str, path: str) -> None:
    """Open the log as the pump will do. Otherwise the reason for a failure would only be in the agent's log."""
    try:
        with suppress(FileExistsError):
            os.makedirs(os.path.dirname(path), 0o711)
        os.close(open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return
        raise OperationFailedError(
            f"log root directory {shorten(root)} cannot be used: {error.strerror}",
            hint="Choose a directory that the agent may write to. A systemd unit lists these in ReadWritePaths.",
        ) from None


def _check_readable(container_id: str, config: LogConfiguration | None) -> None:  # compat: the texts
    if config is None:
        raise ConflictError(f"no log config for container {container_id}")
    if config.driver_config is None:
        raise ConflictError(f"log driver config is not set for container {container_id}")
    if config.driver_config.type == "none":
        raise ConflictError(f"there are not any logs for container {container_id} with log type none")
    if config.driver_config.type != "json-file":
        raise ConflictError(f"unknown log type {shorten(config.driver_config.type).strip(chr(39))}")
