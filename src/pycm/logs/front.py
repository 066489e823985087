# SPDX-License-Identifier: Apache-2.0
"""The front of the room: implements ports.Logs with json.log files, for the event loop."""

from __future__ import annotations

import asyncio
import errno
import glob
import itertools
import logging
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from pycm.errors import ConflictError, InvalidInputError, NotFoundError, OperationFailedError, shorten
from pycm.logs import fifos, jsonlog
from pycm.logs.clients import MOST_CLIENTS, Attachment, ExecPipes, Tap
from pycm.logs.jsonlog import Quota, Target
from pycm.logs.pump import FINISH_LIMIT, Drain, Pump
from pycm.logs.sink import JsonSink, NullSink, Sink
from pycm.model.container import LogDriverConfiguration
from pycm.model.units import size_to_bytes
from pycm.storage.files import open_regular
from pycm.waiting import LOOK, apart, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from pycm.model.container import LogConfiguration
    from pycm.ports import TaskIO

#: As the defaults of the model, for records that lack them.
DEFAULT_FILES, DEFAULT_SIZE = 2, 100 * 1024 * 1024
#: Each rotation renames all files of a log, and the logs of all containers wait meanwhile: no more files, and none that is smaller.
MOST_FILES, LEAST_SIZE = 1000, 1024
#: Of the non-blocking mode. A smaller buffer would not hold the parts of a long line; a larger one fills memory, where it lies.
DEFAULT_BUFFER, LEAST_BUFFER, MOST_BUFFER = 1024 * 1024, 64 * 1024, 64 * 1024 * 1024
#: Files of one log that are read back at most: each is open meanwhile.
MOST_READ = 100
#: Records that a worker reads before the event loop sends them.
RECORDS_A_CALL = 64
log = logging.getLogger("pycm.logs")


class JsonFileLogs:
    """*total_limit*: bytes that the logs of all containers may have together; 0 for no bound."""

    def __init__(self, home_dir: str, exec_root_dir: str, total_limit: int = 0) -> None:
        self._containers = os.path.join(home_dir, "containers")
        self._fifo_root = os.path.join(exec_root_dir, "fifo")
        self._spool_root = os.path.join(exec_root_dir, "spool")
        self._pump = Pump()
        self._quota = Quota(self._containers, total_limit)  # the pump's thread's alone
        self._prepared: dict[str, _Opened] = {}  # opened by make_fifos, not attached yet
        self._attached: dict[str, TaskIO] = {}
        self._clients: set[Attachment] = set()
        self._pipe_root = os.path.join(exec_root_dir, "pipes")
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
                    f"log root directory {shorten(driver.root_dir)} does not answer within {LOOK:g} s"
                ) from None

    def make_fifos(self, container_id: str, *, terminal: bool, stdin: bool) -> TaskIO:
        self._drop_prepared(container_id)
        self._attached.pop(container_id, None)
        if os.path.isdir(self._spool(container_id)):
            left = _Opened(fifos.find(self._fifos(container_id)))
            self._pump.post(lambda: self._end_run(container_id, left))
        directory = self._fifos(container_id)
        io = fifos.make(directory, terminal=terminal, stdin=stdin)
        opened = _Opened(io)
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
            opened = _Opened(io)
        if opened.error:
            log.error("container %s: its output cannot be read: %s", container_id, opened.error)
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
            return NullSink
        try:
            size = size_to_bytes(driver.max_size) if driver.max_size else DEFAULT_SIZE
        except InvalidInputError as error:
            log.warning("container %s: max_size of its log: %s; 100M is used", container_id, error)
            size = DEFAULT_SIZE
        files = min(driver.max_files or DEFAULT_FILES, MOST_FILES)
        if files < driver.max_files:
            log.warning(
                "container %s: %d files of its log are kept, not %d", container_id, files, driver.max_files
            )
        target = Target(self.path(container_id, config), max(size, LEAST_SIZE), files)
        buffer = _buffer(container_id, config)
        return lambda: JsonSink(
            container_id, self._spool(container_id), target, buffer=buffer, quota=self._quota
        )

    # ── clients ──

    async def connect(self, container_id: str, *, next_run: bool) -> Attachment:
        if len(self._clients) >= MOST_CLIENTS:
            raise ConflictError(
                f"{MOST_CLIENTS} clients are attached to containers already: end one of them first"
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
        """Have the pump's thread do *command*, and wait until it has. OperationFailedError if it could not."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        failures: list[Exception] = []

        def do() -> None:
            try:
                command()
            except Exception as error:
                failures.append(error)
                raise
            finally:
                with suppress(RuntimeError):  # the loop has ended: nobody waits
                    loop.call_soon_threadsafe(done.set)

        if self._pump.post(do):
            await done.wait()
        if failures:
            raise OperationFailedError(f"the container's output cannot be read: {failures[0]}")

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

    async def finish(self, container_id: str) -> None:
        self._drop_prepared(container_id)
        io = self._attached.pop(container_id, None)
        if io is None and not self._left_over(container_id):
            fifos.remove_all(self._fifos(container_id))
            return
        loop = asyncio.get_running_loop()
        finished = asyncio.Event()

        def done() -> None:
            with suppress(RuntimeError):  # the loop has ended: nobody waits
                loop.call_soon_threadsafe(finished.set)

        if not self._pump.post(lambda: self._finish(container_id, done)):
            return
        try:
            await within(FINISH_LIMIT + 5, finished.wait())
        except asyncio.TimeoutError:
            log.warning("container %s: its log is still being written; not waited for", container_id)
        if io is not None:
            fifos.remove(self._fifo_root, io)
        fifos.remove_all(self._fifos(container_id))

    def forget(self, container_id: str, config: LogConfiguration | None = None) -> None:
        self._drop_prepared(container_id)
        self._attached.pop(container_id, None)
        for client in self._clients_of(container_id):
            client.tap.end(f"container {container_id} is removed")
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
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()

        def ring() -> None:
            loop.call_soon_threadsafe(stopped.set)

        self._pump.stop(ring)
        await stopped.wait()
        for container_id in tuple(self._prepared):
            self._drop_prepared(container_id)

    def _fifos(self, container_id: str) -> str:
        return os.path.join(self._fifo_root, container_id)

    def _spool(self, container_id: str) -> str:
        return os.path.join(self._spool_root, container_id)

    def _left_over(self, container_id: str) -> bool:
        """A spool without a pump is that of an agent that was killed."""
        return os.path.isdir(self._spool(container_id))

    def _drop_prepared(self, container_id: str) -> None:
        """A start that did not come to its attach."""
        opened = self._prepared.pop(container_id, None)
        if opened is not None:
            opened.close()
            fifos.remove_all(self._fifos(container_id))

    # ── in the pump's thread ──

    def _attach(
        self, container_id: str, opened: _Opened, make_sink: Callable[[], Sink], taps: list[Tap]
    ) -> None:
        self._pump.detach(container_id, final=False)
        self._pump.attach(Drain(container_id, opened.outputs, opened.held, make_sink(), taps))

    def _tap(self, container_id: str, tap: Tap) -> None:
        drain = self._pump.drain(container_id)
        if drain is None:
            tap.end()  # it has ended since
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
        """Of a task that an agent before us served, take what that one left."""
        if not self._pump.attached(container_id):
            self._adopt(container_id, _Opened(fifos.find(self._fifos(container_id))))
        if not self._pump.finish(container_id, done):
            done()

    def _end_run(self, container_id: str, left: _Opened) -> None:
        """A new run begins: end the one before without waiting for anything."""
        if self._pump.attached(container_id):
            left.close()
        else:
            self._adopt(container_id, left)
        self._pump.detach(container_id, final=True)

    def _adopt(self, container_id: str, left: _Opened) -> None:
        """Serve the *left* FIFOs and the spool as an agent that was killed left them."""
        try:
            sink = JsonSink(container_id, self._spool(container_id), None, quota=self._quota)
        except (OSError, ValueError, TypeError) as error:
            log.warning("container %s: left-over output cannot be used: %s", container_id, error)
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
        path = self.path(container_id, config)
        opened = [await asyncio.to_thread(_open_log, path)]
        files = _newest_first(path, _driver(config).max_files or DEFAULT_FILES, opened)
        try:
            messages = jsonlog.last_records(files, tail) if tail >= 0 else jsonlog.all_records(files)
            at_once = RECORDS_A_CALL if tail >= 0 else 1
            while batch := await asyncio.to_thread(_some, messages, at_once, path):
                for message in batch:
                    yield message
        finally:
            for descriptor in opened:
                os.close(descriptor)


class _Opened:
    """Descriptors of a task's FIFOs; `error` says what could not be opened."""

    def __init__(self, io: TaskIO) -> None:
        self.io = io
        self.outputs: dict[int, int] = {}
        self.held: tuple[int, ...] = ()
        self.error = ""
        try:
            for stream, path in enumerate((io.stdout, io.stderr)):
                if path:
                    self.outputs[stream] = fifos.open_output(path)
            if io.stdin:
                self.held = (fifos.open_input(io.stdin),)
        except OSError as error:
            self.error = f"cannot open {error.filename}: {error.strerror}"

    def close(self) -> None:
        for descriptor in (*self.outputs.values(), *self.held):
            os.close(descriptor)
        self.outputs, self.held = {}, ()


def _driver(config: LogConfiguration | None) -> LogDriverConfiguration:
    return (config and config.driver_config) or LogDriverConfiguration()


def _buffer(container_id: str, config: LogConfiguration | None) -> int:
    """Bytes that wait for the log of a container that does not wait for it; 0 for one that does."""
    mode = config.mode_config if config else None
    if mode is None or mode.mode != "non-blocking":
        return 0
    try:
        if not mode.max_buffer_size:
            return DEFAULT_BUFFER
        return min(max(size_to_bytes(mode.max_buffer_size), LEAST_BUFFER), MOST_BUFFER)
    except InvalidInputError as error:
        log.warning("container %s: max_buffer_size of its log: %s; 1M is used", container_id, error)
        return DEFAULT_BUFFER


def _try_log(root: str, path: str) -> None:
    """As the log will be opened; who asked for this directory would else have to look for the reason in the agent's log."""
    try:
        with suppress(FileExistsError):
            os.makedirs(os.path.dirname(path), 0o711)
        os.close(open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return
        raise OperationFailedError(
            f"log root directory {shorten(root)} cannot be used: {error.strerror}: name one in which the agent may write"
            " (of one that runs as a systemd unit: in its ReadWritePaths)"
        ) from None


def _check_readable(container_id: str, config: LogConfiguration | None) -> None:
    """Texts of the original."""
    if config is None:
        raise ConflictError(f"no log config for container {container_id}")
    if config.driver_config is None:
        raise ConflictError(f"log driver config is not set for container {container_id}")
    if config.driver_config.type == "none":
        raise ConflictError(f"there are not any logs for container {container_id} with log type none")
    if config.driver_config.type != "json-file":
        raise ConflictError(f"unknown log type {shorten(config.driver_config.type).strip(chr(39))}")


def _open_log(path: str) -> int:
    try:
        return open_regular(path)
    except FileNotFoundError:
        raise NotFoundError(f"log file not found {path}") from None
    except OSError as error:
        raise OperationFailedError(f"cannot read {path}: {error.strerror}") from error


def _newest_first(path: str, files: int, opened: list[int]) -> Iterator[int]:
    """The live file, which is *opened*, then its older ones as long as somebody asks; each is added to *opened*.

    Where a rotation has renamed a file meanwhile, it comes once.
    """
    yield opened[0]
    seen = {_identity(opened[0])}
    for number in range(1, min(files, MOST_READ)):
        with suppress(OSError, NotFoundError, OperationFailedError):
            descriptor = _open_log(f"{path}.{number}")
            opened.append(descriptor)
            if _identity(descriptor) not in seen:
                seen.add(_identity(descriptor))
                yield descriptor


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _some(messages: Iterator[str], count: int, path: str) -> list[str]:
    try:
        return list(itertools.islice(messages, count))
    except OSError as error:
        raise OperationFailedError(f"cannot read {path}: {error.strerror}") from error
