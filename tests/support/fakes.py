# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the outside rooms, for faults and moments that real peers do not produce on demand."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

from pycm.errors import ConflictError, NotFoundError, PycmError, UnavailableError
from pycm.model import units
from pycm.model.container import NetworkSettings
from pycm.model.frozen import replace
from pycm.ports import (
    ContainerMeasurements,
    ExecListener,
    ExecRequest,
    Exit,
    ImageConfig,
    ImageInfo,
    LocalImage,
    Measurement,
    PullProgress,
    RuntimeConnected,
    RuntimeEvent,
    Task,
    TaskExited,
    TaskIO,
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

    def __init__(self, images: Iterable[str] = (IMAGE,), *, any_image: bool = False) -> None:
        self.images = set(images)
        self.any_image = any_image
        self.snapshots: set[str] = set()
        self.live: dict[str, Task] = {}
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

    def end(self, container_id: str, code: int, *, quietly: bool = False) -> None:
        """The process ends by itself; `quietly`: no event, as while nobody is subscribed."""
        exit_ = Exit(code, units.now())
        task = self.live[container_id]._replace(status=TaskStatus.STOPPED, exit=exit_)
        self.live[container_id] = task
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
        elif container_id not in self.stubborn and task.status is not TaskStatus.PAUSED:
            self.end(container_id, 128 + number)

    async def pause(self, container_id: str) -> None:
        self._called("pause", container_id)
        self.live[container_id] = self.live[container_id]._replace(status=TaskStatus.PAUSED)

    async def resume(self, container_id: str) -> None:
        self._called("resume", container_id)
        self.live[container_id] = self.live[container_id]._replace(status=TaskStatus.RUNNING)

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
    """A client that is attached: what it wrote, and what it will read."""

    def __init__(self) -> None:
        self.out: asyncio.Queue[bytes] = asyncio.Queue()
        self.written = b""

    async def read(self) -> bytes:
        return await self.out.get()

    async def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        pass


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
    """Remembers who is attached; `lines` is what read yields. `clients` are attached to the containers.

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

    async def read(self, container_id: str, config: LogConfiguration | None, tail: int) -> AsyncIterator[str]:
        lines = self.lines.get(container_id, [])
        for line in lines[-tail:] if tail > 0 else lines:
            yield line

    async def close(self) -> None:
        pass


class FakeMeter:
    def __init__(self, figures: Mapping[str, Sequence[Measurement]]) -> None:
        self.figures = figures
        self.samples = 0

    def sample(self, container_ids: Iterable[str]) -> Sequence[ContainerMeasurements]:
        self.samples += 1
        return [
            ContainerMeasurements(name, tuple(self.figures[name]))
            for name in container_ids
            if name in self.figures
        ]


class FakeMetrics:
    """`figures`: container id to what a meter measures. `ended`: whether a process is gone."""

    def __init__(self) -> None:
        self.opened: dict[str, int] = {}
        self.ended: Callable[[str], bool] = lambda _: False
        self.kills: dict[str, int] = {}
        self.baselined: list[str] = []
        self.figures: dict[str, Sequence[Measurement]] = {}
        self.meters: list[FakeMeter] = []

    def meter(self) -> FakeMeter:
        self.meters.append(FakeMeter(self.figures))
        return self.meters[-1]

    def open(self, container_id: str, pid: int) -> None:
        self.opened.pop(container_id, None)
        if not self.ended(container_id):
            self.opened[container_id] = pid

    def close(self, container_id: str) -> int:
        kills = self.kills.get(container_id, 0) if container_id in self.opened else 0
        self.opened.pop(container_id, None)
        return kills

    def limits_changed(self, container_id: str) -> None:
        pass

    def baseline(self, container_ids: Iterable[str]) -> None:
        self.baselined.extend(container_ids)

    def sample(self, wanted: Mapping[str, Callable[[str], bool] | None]) -> Sequence[ContainerMeasurements]:
        return []


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
