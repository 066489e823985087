# SPDX-License-Identifier: Apache-2.0
"""The faked world of a vector: containers, figures, and the runtime below the real manager."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from pycm.errors import ConflictError, NotFoundError, OperationFailedError
from pycm.model import states
from pycm.model.container import (
    Container,
    HostConfig,
    Image,
    LogConfiguration,
    Resources,
    RestartPolicy,
    State,
    UpdateOptions,
)
from pycm.model.defaults import fill_defaults
from pycm.model.frozen import replace
from pycm.model.states import Status
from pycm.ports import (
    Action,
    ContainerMeasurements,
    Event,
    Exit,
    HostMeasurements,
    ImageConfig,
    LocalImage,
    Measurement,
    RuntimeConnected,
    RuntimeEvent,
    Task,
    TaskExited,
    TaskIO,
    TaskOOM,
    TaskRequest,
    TaskStatus,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence

CREATED_AT = "2026-01-02T03:04:05.000000001Z"
STARTED_AT = "2026-01-02T03:04:06.5Z"
FINISHED_AT = "2026-01-02T03:05:06.25Z"


def container_of(given: Mapping[str, Any]) -> Container:
    """A stored container as a vector describes it; a status other than CREATED implies plausible times."""
    container = fill_defaults(
        Container(
            id=given["id"],
            name=given.get("name", ""),
            image=Image(name=given.get("image", "registry.test/demo/app:1.0")),
            created=CREATED_AT,
            host_config=HostConfig(restart_policy=_policy(given.get("restart_policy"))),
        )
    )
    return replace(
        container, state=_state(given), started_successfully_before=given.get("status") != "CREATED"
    )


def _policy(given: Any) -> RestartPolicy | None:
    """A type ("no", "ON_FAILURE"), or an object of the twin's form."""
    if not given:
        return None
    if isinstance(given, str):
        given = {"type": given}
    return RestartPolicy(
        type=given["type"].lower().replace("_", "-"),
        maximum_retry_count=given.get("maxRetryCount", given.get("maximum_retry_count", 0)),
        retry_timeout=given.get("retryTimeout", given.get("retry_timeout", 0)) * 10**9,
    )


def _state(given: Mapping[str, Any]) -> State:
    status = Status[given.get("status", "CREATED")]
    state = states.enter(State(pid=given.get("pid", 4242)), status)
    if status in (Status.CREATED, Status.CREATING):
        return state
    state = replace(state, started_at=STARTED_AT)
    if status in (Status.STOPPED, Status.EXITED, Status.DEAD):
        state = replace(state, finished_at=FINISHED_AT, exit_code=given.get("exit_code", 0))
    return state


class FakeContainers:
    """As much of `ports.Containers` as the core alone needs: no I/O, events told at once."""

    def __init__(self, given: Iterable[Mapping[str, Any]]) -> None:
        self.all = {container.id: container for container in map(container_of, given)}
        self._listeners: list[Callable[[Event], None]] = []

    def get(self, container_id: str) -> Container | None:
        return self.all.get(container_id)

    def list(self) -> list[Container]:
        return list(self.all.values())

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def tell(self, action: Action, container: Container) -> None:
        if action is Action.REMOVED:
            self.all.pop(container.id, None)
        else:
            self.all[container.id] = container
        for listener in list(self._listeners):
            listener(Event(action, container))

    def create_now(self, given: Mapping[str, Any]) -> None:
        self.tell(Action.CREATED, container_of(given))

    def add_now(self, container: Container) -> None:
        """A container as the manager leaves a new one."""
        state = states.created(State())
        self.tell(Action.CREATED, replace(container, created=CREATED_AT, state=state))

    def fail_now(self, container_id: str, error: str) -> None:
        old = self.all[container_id]
        state = states.stopped(old.state, exit_code=0, finished_at=FINISHED_AT, error=error)
        self.tell(Action.STOPPED, replace(old, state=state))

    def update_now(self, container_id: str, options: UpdateOptions) -> None:
        old = self.all[container_id]
        host = old.host_config
        assert host is not None
        if options.restart_policy is not None:
            host = replace(host, restart_policy=options.restart_policy)
        if options.resources is not None:
            host = replace(host, resources=options.resources if options.resources != Resources() else None)
        if host != old.host_config:
            self.tell(Action.UPDATED, replace(old, host_config=host))

    def run_now(self, container_id: str) -> None:
        old = self.all[container_id]
        state = states.running(old.state, pid=4243, started_at=STARTED_AT)
        self.tell(Action.RUNNING, replace(old, state=state))

    def exit_now(self, container_id: str, code: int, *, oom: bool = False) -> None:
        old = self.all[container_id]
        state = states.exited(old.state, exit_code=code, finished_at=FINISHED_AT, oom=oom)
        self.tell(Action.EXITED, replace(old, state=state))

    def stop_now(self, container_id: str) -> None:
        old = self.all[container_id]
        state = states.stopped(old.state, exit_code=143, finished_at=FINISHED_AT)
        self.tell(Action.STOPPED, replace(old, state=state))

    def freeze_now(self, container_id: str, status: Status) -> None:
        old = self.all[container_id]
        action = Action.PAUSED if status is Status.PAUSED else Action.RESUMED
        self.tell(action, replace(old, state=states.enter(old.state, status)))

    def rename_now(self, container_id: str, name: str) -> None:
        self.tell(Action.RENAMED, replace(self.all[container_id], name=name))

    def remove_now(self, container_id: str) -> None:
        old = self.all[container_id]
        self.tell(Action.REMOVED, replace(old, state=states.enter(old.state, Status.DEAD)))


class FakeMetrics:
    """`stats` of a vector: the first entry is the baseline, each later look takes the next, the last repeats."""

    def __init__(self, stats: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        self._stats = stats
        self._next: dict[str, int] = {}
        self._before: dict[str, Mapping[str, Any]] = {}

    def open(self, container_id: str, pid: int) -> None: ...

    def close(self, container_id: str) -> int:
        return 0

    def limits_changed(self, container_id: str) -> None: ...

    def _take(self, container_id: str) -> Mapping[str, Any] | None:
        entries = self._stats.get(container_id)
        if not entries:
            return None
        index = self._next.get(container_id, 0)
        self._next[container_id] = index + 1
        return entries[min(index, len(entries) - 1)]

    def baseline(self, container_ids: Iterable[str]) -> None:
        for container_id in container_ids:
            if (entry := self._take(container_id)) is not None:
                self._before[container_id] = entry

    def sample(self, wanted: Mapping[str, Callable[[str], bool] | None]) -> Sequence[ContainerMeasurements]:
        found = []
        for container_id, chosen in wanted.items():
            entry = self._take(container_id)
            if entry is None:
                continue
            figures = _figures(self._before.get(container_id), entry)
            self._before[container_id] = entry
            measurements = tuple(Measurement(i, v) for i, v in figures if chosen is None or chosen(i))
            found.append(ContainerMeasurements(container_id, measurements))
        return found

    def host_baseline(self, reader: str) -> None: ...

    def host(self, wanted: Mapping[str, frozenset[str]], reader: str) -> Sequence[HostMeasurements]:
        """`stats` of an originator that is no container: id to value."""
        found = []
        for originator, chosen in wanted.items():
            entry = self._take(originator)
            if entry is not None:
                figures = tuple(Measurement(name, entry[name]) for name in entry if name in chosen)
                found.append(HostMeasurements(originator, figures))
        return found


def _figures(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[tuple[str, float]]:
    figures = []
    if before and now.get("cpu_total", 0) > before.get("cpu_total", 0):
        used = now["cpu_used"] - before["cpu_used"]
        figures.append(
            ("cpu.utilization", min(100.0, max(0.0, 100 * used / (now["cpu_total"] - before["cpu_total"]))))
        )
    if "mem_total" in now:
        figures += [("memory.total", now["mem_total"]), ("memory.used", now["mem_used"])]
        if now["mem_total"]:
            figures.append(("memory.utilization", 100 * now["mem_used"] / now["mem_total"]))
    for name, key in (
        ("io.readBytes", "io_read"),
        ("io.writeBytes", "io_write"),
        ("net.readBytes", "net_read"),
        ("net.writeBytes", "net_write"),
    ):
        if key in now:
            figures.append((name, now[key]))
    if now.get("pids"):
        figures.append(("pids", now["pids"]))
    return [(name, float(value)) for name, value in figures]


class FakeImages:
    """Whether there is an image is the faked runtime's business."""

    def hold(self, reference: str) -> contextlib.AbstractAsyncContextManager[LocalImage]:
        return contextlib.nullcontext(LocalImage(reference))


class FakeRuntime:
    """A containerd with every image, whose tasks run until somebody ends them."""

    def __init__(self, tasks: Iterable[Task], manager: Mapping[str, str]) -> None:
        self._tasks = {task.id: task for task in tasks}
        self._errors = manager
        self._events: asyncio.Queue[RuntimeEvent] = asyncio.Queue()
        self._last_pid = 5000

    async def image(self, reference: str, container_id: str = "") -> ImageConfig:
        return ImageConfig(cmd=("/bin/app",))

    async def prepare(self, container_id: str, image: LocalImage) -> None:
        if "create_error" in self._errors:
            raise OperationFailedError(self._errors["create_error"])

    async def has_snapshot(self, container_id: str) -> bool:
        return True

    async def read_rootfs_file(self, container_id: str, path: str, limit: int) -> bytes | None:
        return None

    async def start(self, request: TaskRequest, created: Callable[[int], None] | None = None) -> int:
        if "start_error" in self._errors:
            raise OperationFailedError(self._errors["start_error"])
        if request.id in self._tasks:
            raise ConflictError(f"task {request.id} exists")
        self._last_pid += 1
        self._tasks[request.id] = Task(request.id, self._last_pid, TaskStatus.RUNNING, request.io)
        if created:
            created(self._last_pid)
        return self._last_pid

    def end(self, container_id: str, code: int, *, oom: bool = False) -> None:
        """The process ends by itself."""
        task = self._tasks[container_id]
        exit_ = Exit(code, FINISHED_AT)
        self._tasks[container_id] = task._replace(status=TaskStatus.STOPPED, exit=exit_)
        if oom:
            self._events.put_nowait(TaskOOM(container_id))
        self._events.put_nowait(TaskExited(container_id, task.pid, exit_))

    async def signal(self, container_id: str, number: int, *, everyone: bool = False) -> None:
        task = self._tasks.get(container_id)
        if task is None or task.exit:
            raise NotFoundError(f"no process in {container_id}")
        self.end(container_id, 128 + number)

    async def pause(self, container_id: str) -> None:
        self._tasks[container_id] = self._tasks[container_id]._replace(status=TaskStatus.PAUSED)

    async def resume(self, container_id: str) -> None:
        self._tasks[container_id] = self._tasks[container_id]._replace(status=TaskStatus.RUNNING)

    async def update(self, container_id: str, resources: Mapping[str, Any]) -> None: ...

    async def delete_task(self, container_id: str) -> None:
        self._tasks.pop(container_id, None)

    async def remove(self, container_id: str) -> None:
        self._tasks.pop(container_id, None)

    async def tasks(self) -> tuple[Task, ...]:
        return tuple(self._tasks.values())

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        yield RuntimeConnected(tuple(self._tasks.values()), "fake")
        while True:
            yield await self._events.get()

    async def close(self) -> None: ...


def task_of(given: Mapping[str, Any]) -> Task | None:
    """The live task of a container that a vector says to run."""
    status = {"RUNNING": TaskStatus.RUNNING, "PAUSED": TaskStatus.PAUSED}.get(given.get("status", ""))
    return Task(given["id"], given.get("pid", 4242), status, TaskIO()) if status else None


class FakeLogs:
    async def check(self, container_id: str, config: LogConfiguration | None) -> None: ...

    def make_fifos(self, container_id: str, *, terminal: bool, stdin: bool) -> TaskIO:
        return TaskIO()

    def attach(self, container_id: str, io: TaskIO, config: LogConfiguration | None) -> None: ...

    async def finish(self, container_id: str) -> None: ...

    def forget(self, container_id: str, config: LogConfiguration | None = None) -> None: ...

    def path(self, container_id: str, config: LogConfiguration | None) -> str:
        return ""

    async def read(
        self,
        container_id: str,
        config: LogConfiguration | None,
        tail: int,
    ) -> AsyncIterator[str]:
        return
        yield ""

    async def close(self) -> None: ...


class FakeNetwork:
    def check(self, container: Container) -> None: ...

    async def connect(self, container: Container) -> Container:
        return container

    async def disconnect(self, container_id: str) -> None: ...

    def found(self, container: Container) -> Container:
        return container

    async def clear(self, kept: Collection[str]) -> None: ...


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
