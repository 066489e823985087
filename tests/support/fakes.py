# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the outside rooms, for faults and moments that real peers do not produce on demand."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

from pycm.errors import ConflictError, NotFoundError, OperationFailedError, PycmError, UnavailableError
from pycm.model import units
from pycm.model.container import NetworkSettings
from pycm.model.frozen import replace
from pycm.ports import (
    ExecListener,
    ExecRequest,
    Exit,
    ImageConfig,
    ImageInfo,
    LocalImage,
    PullProgress,
    RuntimeConnected,
    RuntimeEvent,
    Task,
    TaskExited,
    TaskIO,
    TaskOOM,
    TaskRequest,
    TaskStatus,
)
from pycm.storage.store import DiskFullError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence

    from pycm.model.container import Container, LogConfiguration
    from pycm.ports import Pipes

IMAGE = "registry.test/demo/app:1.0"


class FakeRuntime:
    """containerd in memory. A task ends on SIGTERM with 143 unless its id is in `stubborn`, on SIGKILL with 137.

    `fail`: method name to the error it raises. `calls`: what was asked, in order. `any_image`: every reference exists.
    """

    def __init__(
        self, images: Iterable[str] = (IMAGE,), *, any_image: bool = False, tasks: Iterable[Task] = ()
    ) -> None:
        self.images = set(images)
        self.any_image = any_image
        self.snapshots: set[str] = set()
        self.live = {task.id: task for task in tasks}
        self.now = units.now
        self._frozen: dict[str, int] = {}
        self.requests: dict[str, TaskRequest] = {}
        self.updates: list[tuple[str, Mapping[str, Any]]] = []
        self.execs: list[ExecRequest] = []
        self.exec_codes: dict[str, int] = {}
        self.stubborn: set[str] = set()
        self.exit_before_start_returns: int | None = None
        self.fail: dict[str, Exception] = {}
        self.calls: list[tuple[str, str]] = []
        self.available = True
        self.first: RuntimeEvent | None = None
        self._pids = itertools.count(4242)
        self._events: asyncio.Queue[RuntimeEvent] = asyncio.Queue()

    def _called(self, method: str, container_id: str) -> None:
        self.calls.append((method, container_id))
        if not self.available:
            raise UnavailableError("containerd does not answer")
        if method in self.fail:
            raise self.fail[method]

    async def image(self, reference: str, container_id: str = "") -> ImageConfig:
        self._called("image", reference)
        if not self.any_image and reference not in self.images:
            raise NotFoundError(f'failed to resolve reference "{reference}": not found')
        return ImageConfig(entrypoint=("/bin/app",), env=("PATH=/bin",))

    async def prepare(self, container_id: str, image: LocalImage) -> None:
        self._called("prepare", container_id)
        await self.image(image.reference)
        self.snapshots.add(container_id)

    async def has_snapshot(self, container_id: str) -> bool:
        return container_id in self.snapshots

    async def read_rootfs_file(self, container_id: str, path: str, limit: int) -> bytes | None:
        return None

    async def start(self, request: TaskRequest, created: Callable[[int], None] | None = None) -> int:
        self._called("start", request.id)
        if request.id in self.live:
            raise ConflictError(f"container with ID = {request.id} already exists")
        pid = next(self._pids)
        self.requests[request.id] = request
        self.live[request.id] = Task(request.id, pid, TaskStatus.RUNNING, request.io)
        if created:
            created(pid)
        if self.exit_before_start_returns is not None:
            self.end(request.id, self.exit_before_start_returns)
            await asyncio.sleep(0)
        return pid

    def end(self, container_id: str, code: int, *, quietly: bool = False, oom: bool = False) -> None:
        """The process ends by itself; `quietly`: no event, as while nobody is subscribed."""
        exit_ = Exit(code, self.now())
        task = self.live[container_id]._replace(status=TaskStatus.STOPPED, exit=exit_)
        self.live[container_id] = task
        if oom:
            self._events.put_nowait(TaskOOM(container_id))
        if not quietly:
            self._events.put_nowait(TaskExited(container_id, task.pid, exit_))

    def emit(self, event: RuntimeEvent) -> None:
        self._events.put_nowait(event)

    async def signal(
        self, container_id: str, number: int, *, everyone: bool = False, exec_id: str = ""
    ) -> None:
        self._called("signal", container_id)
        task = self.live.get(container_id)
        if task is None or task.status is TaskStatus.STOPPED:
            raise NotFoundError("no such process")
        if number == 9:
            self.end(container_id, 137)
        elif task.status is TaskStatus.PAUSED:
            self._frozen[container_id] = number
        elif container_id not in self.stubborn:
            self.end(container_id, 128 + number)

    async def pause(self, container_id: str) -> None:
        self._called("pause", container_id)
        self.live[container_id] = self.live[container_id]._replace(status=TaskStatus.PAUSED)

    async def resume(self, container_id: str) -> None:
        self._called("resume", container_id)
        self.live[container_id] = self.live[container_id]._replace(status=TaskStatus.RUNNING)
        if container_id in self._frozen:
            await self.signal(container_id, self._frozen.pop(container_id))

    async def update(self, container_id: str, resources: Mapping[str, Any]) -> None:
        self._called("update", container_id)
        self.updates.append((container_id, resources))

    async def exec(
        self, request: ExecRequest, timeout: float | None = None, listener: ExecListener | None = None
    ) -> int:
        self._called("exec", request.id)
        self.execs.append(request)
        if listener is not None:
            listener.started()
            await listener.exited()
        return self.exec_codes.get(request.id, 0)

    async def close_stdin(self, container_id: str, exec_id: str = "") -> None:
        self._called("close_stdin", container_id)

    async def resize(self, container_id: str, width: int, height: int, exec_id: str = "") -> None:
        self._called(f"resize {width}x{height}", container_id)

    async def delete_task(self, container_id: str) -> None:
        self._called("delete_task", container_id)
        self.live.pop(container_id, None)

    async def remove(self, container_id: str) -> None:
        self._called("remove", container_id)
        self.live.pop(container_id, None)
        self.snapshots.discard(container_id)

    async def tasks(self) -> tuple[Task, ...]:
        self._called("tasks", "")
        return tuple(self.live.values())

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        self.calls.append(("events", ""))
        while not self.available:
            await asyncio.sleep(0.005)
        if self.first is not None:
            yield self.first
        yield RuntimeConnected(tuple(self.live.values()), "fake")
        while True:
            yield await self._events.get()

    async def close(self) -> None:
        pass


class FakeImages:
    """Every image is here. `holding`: what is held now."""

    def __init__(self) -> None:
        self.holding: list[str] = []
        self.images: dict[str, ImageInfo] = {}
        self.steps: list[PullProgress] = []
        self.fail: PycmError | None = None

    @contextlib.asynccontextmanager
    async def hold(self, reference: str) -> AsyncIterator[LocalImage]:
        self.holding.append(reference)
        try:
            if self.fail:
                raise self.fail
            yield LocalImage(reference)
        finally:
            self.holding.remove(reference)

    async def pull(self, reference: str, progress: Callable[[PullProgress], None] | None = None) -> ImageInfo:
        for step in self.steps:
            await asyncio.sleep(0)
            if progress:
                progress(step)
                await asyncio.sleep(0)  # time for a client to see it
        if self.fail:
            raise self.fail
        self.images[reference] = ImageInfo(reference, "sha256:" + "1" * 64, 1000, units.now())
        return self.images[reference]

    async def remove(self, reference: str) -> None:
        if reference not in self.images:
            raise NotFoundError(f"there is no image {reference}")
        if self.images[reference].containers:
            raise ConflictError(f"image {reference} is in use")
        del self.images[reference]

    async def prune(self) -> list[str]:
        unused = [name for name, image in self.images.items() if not image.containers]
        for name in unused:
            del self.images[name]
        return unused

    async def list(self) -> list[ImageInfo]:
        return sorted(self.images.values(), key=lambda image: image.reference)


class FakeAttachment:
    """Output is what a test puts into `out` (b"" ends it, an error is raised); input gathers in `written`."""

    def __init__(self) -> None:
        self.out: asyncio.Queue[bytes | PycmError] = asyncio.Queue()
        self.written: list[bytes] = []
        self.closed = False

    async def read(self) -> bytes:
        item = await self.out.get()
        if isinstance(item, PycmError):
            raise item
        return item

    async def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True


class FakePipes:
    """A command's ends, from which *printed* can be read, by stream; *held*: something keeps them open after that."""

    def __init__(self, printed: Sequence[bytes], *, held: bool) -> None:
        self.io = TaskIO(stdout="/pipes/stdout", stderr="/pipes/stderr")
        self.begun = self.closed = False
        self._printed = [[data] if data else [] for data in printed]
        self._held = held

    async def read(self, stream: int) -> bytes:
        if self._printed[stream]:
            return self._printed[stream].pop()
        if self._held:
            await asyncio.Event().wait()
        return b""

    async def write(self, data: bytes) -> None:
        pass

    def started(self) -> None:
        self.begun = True

    def end_input(self) -> None:
        pass

    idle = ended = True

    def close(self) -> None:
        self.closed = True


class FakeLogs:
    """Remembers who is attached; `clients` are attached to the containers.

    `lines` is what read yields for a container, `texts` for the others, unless `error` is set. `taken` counts them; `closed`: a
    read has ended.

    `printed`: what commands print on stdout and stderr; `held`: with something left that holds their output open.
    """

    def __init__(self) -> None:
        self.printed: tuple[bytes, bytes] = (b"", b"")
        self.held = False
        self.fail_pipes: PycmError | None = None
        self.made_pipes: list[FakePipes] = []
        self.attached: dict[str, TaskIO] = {}
        self.finished: list[str] = []
        self.lines: dict[str, list[str]] = {}
        self.texts: list[str] = []
        self.taken = 0
        self.closed = asyncio.Event()
        self.error: PycmError | None = None
        self._reads: list[AsyncIterator[str]] = []
        self.clients: list[FakeAttachment] = []

    def pipes(self, container_id: str, exec_id: str, *, terminal: bool, stdin: bool) -> Pipes:
        if self.fail_pipes:
            raise self.fail_pipes
        self.made_pipes.append(FakePipes(self.printed, held=self.held))
        return self.made_pipes[-1]

    async def connect(self, container_id: str, *, next_run: bool) -> FakeAttachment:
        self.clients.append(FakeAttachment())
        return self.clients[-1]

    def close_stdin(self, container_id: str) -> None:
        pass

    async def check(self, container_id: str, config: LogConfiguration | None) -> None:
        pass

    def make_fifos(self, container_id: str, *, terminal: bool, stdin: bool) -> TaskIO:
        return TaskIO(stdout=f"/fifo/{container_id}-stdout", terminal=terminal)

    def attach(self, container_id: str, io: TaskIO, config: LogConfiguration | None) -> None:
        self.attached[container_id] = io

    async def finish(self, container_id: str) -> None:
        self.attached.pop(container_id, None)
        for client in self.clients:
            client.out.put_nowait(b"")
        self.finished.append(container_id)

    def forget(self, container_id: str, config: LogConfiguration | None = None) -> None:
        self.lines.pop(container_id, None)

    def path(self, container_id: str, config: LogConfiguration | None) -> str:
        return f"/logs/{container_id}/json.log"

    def read(self, container_id: str, config: LogConfiguration | None, tail: int) -> AsyncIterator[str]:
        self._reads.append(
            self._read(container_id, tail)
        )  # kept: no garbage collection closes it in place of the server
        return self._reads[-1]

    async def _read(self, container_id: str, tail: int) -> AsyncIterator[str]:
        lines = self.lines.get(container_id, self.texts)
        try:
            if self.error is not None:
                raise self.error
            for line in lines[-tail:] if tail > 0 else lines:
                self.taken += 1
                yield line
        finally:
            self.closed.set()

    async def close(self) -> None:
        pass


class FakeNetwork:
    """Any mode is possible; host mode takes the machine's name "device", as in the recordings."""

    def check(self, container: Container) -> None:
        pass

    async def connect(self, container: Container) -> Container:
        host = container.host_config is not None and container.host_config.network_mode == "host"
        return replace(container, host_name="device") if host else container

    def found(self, container: Container) -> Container:
        return replace(container, network_settings=NetworkSettings(sandbox_key="found"))

    async def disconnect(self, container_id: str) -> None:
        pass

    async def clear(self, kept: Collection[str]) -> None:
        pass


class FakeStore:
    """ContainerStore in memory; `full` makes every write fail as a full disk does."""

    def __init__(self, containers: Iterable[Container] = ()) -> None:
        self.saved: dict[str, Container] = {c.id: c for c in containers}
        self.writes = 0
        self.full = False

    def directory(self, container_id: str) -> str:
        return f"/store/{container_id}"

    def prepare(self) -> None:
        pass

    def load(self) -> list[Container]:
        return list(self.saved.values())

    def save(self, container: Container) -> None:
        if self.full:
            raise DiskFullError(f"cannot store container {container.id}: No space left on device")
        self.saved[container.id] = container
        self.writes += 1

    def delete(self, container_id: str) -> None:
        self.saved.pop(container_id, None)


class FakeDownloads:
    """The `http` of a vector: URL to status and body."""

    def __init__(self, http: Mapping[str, Mapping[str, Any]]) -> None:
        self._http = http

    def read(self, url: str) -> bytes:
        found = self._http.get(url)
        if found is None:
            raise OperationFailedError(f"{url}: connection refused")
        if not 200 <= found.get("status", 200) < 300:
            raise OperationFailedError(f"{url}: status {found['status']}")
        return str(found["body"]).encode()

    async def fetch(self, url: str, limit: int) -> bytes:
        return self.read(url)
