# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the core, as the fronts see it: containers, sessions, and containers that tests and vectors describe."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pycm.errors import NotFoundError, OperationFailedError, PycmError
from pycm.model import states
from pycm.model.container import (
    Container,
    HostConfig,
    Image,
    Resources,
    RestartPolicy,
    State,
    StopOptions,
    UpdateOptions,
)
from pycm.model.defaults import fill_defaults, fill_swap
from pycm.model.frozen import replace
from pycm.model.states import Operation, Status, check_allowed
from pycm.model.units import parse_signal
from pycm.model.validation import check_id, check_name, check_resources, check_restart_policy, validate
from pycm.ports import Action, Command, Event, Task, TaskIO, TaskStatus
from support.fakes import FakeAttachment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

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


def task_of(given: Mapping[str, Any]) -> Task | None:
    """The live task of a container that a vector says to run."""
    status = {"RUNNING": TaskStatus.RUNNING, "PAUSED": TaskStatus.PAUSED}.get(given.get("status", ""))
    return Task(given["id"], given.get("pid", 4242), status, TaskIO()) if status else None


class FakeContainers:
    """As much of `ports.Containers` as the core alone needs: no I/O, events told at once."""

    def __init__(self, given: Iterable[Mapping[str, Any]]) -> None:
        self.all = {container.id: container for container in map(container_of, given)}
        self.listeners: list[Callable[[Event], None]] = []

    def get(self, container_id: str) -> Container | None:
        return self.all.get(container_id)

    def list(self) -> list[Container]:
        return list(self.all.values())

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def tell(self, action: Action, container: Container) -> None:
        if action is Action.REMOVED:
            self.all.pop(container.id, None)
        else:
            self.all[container.id] = container
        for listener in list(self.listeners):
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


class FakeManager:
    """As much of `ports.Containers` as jobs call. No method waits."""

    def __init__(self, containers: FakeContainers, given: Mapping[str, Any]) -> None:
        self._containers = containers
        self._errors: Mapping[str, str] = given.get("manager") or {}

    def _existing(self, container_id: str, operation: Operation | None = None) -> Container:
        container = self._containers.get(container_id)
        if container is None:
            raise NotFoundError(f"no such container with id = {container_id} exists")
        if operation is not None:
            check_allowed(operation, container)
        return container

    async def create(self, container: Container) -> Container:
        container = fill_swap(fill_defaults(container))
        check_id(container.id)
        validate(container)
        if error := self._errors.get("create_error"):
            raise OperationFailedError(error)
        self._containers.add_now(container)
        return container

    async def start(self, container_id: str) -> None:
        self._existing(container_id, Operation.START)
        if error := self._errors.get("start_error"):
            self._containers.fail_now(container_id, error)
            raise OperationFailedError(error)
        self._containers.run_now(container_id)

    async def stop(self, container_id: str, options: StopOptions | None = None) -> None:
        options = options or StopOptions()
        if options.timeout < 0:
            raise OperationFailedError(f"the timeout = {options.timeout} shouldn't be negative")
        parse_signal(options.signal)
        self._existing(container_id, Operation.STOP)
        self._containers.stop_now(container_id)

    async def pause(self, container_id: str) -> None:
        self._existing(container_id, Operation.PAUSE)
        self._containers.freeze_now(container_id, Status.PAUSED)

    async def unpause(self, container_id: str) -> None:
        self._existing(container_id, Operation.UNPAUSE)
        self._containers.freeze_now(container_id, Status.RUNNING)

    async def rename(self, container_id: str, name: str) -> None:
        container = self._existing(container_id)
        check_name(name)
        if name != container.name:
            self._containers.rename_now(container_id, name)

    async def update(self, container_id: str, options: UpdateOptions) -> None:
        self._existing(container_id)
        if options.restart_policy is not None:
            check_restart_policy(options.restart_policy)
        check_resources(options.resources)
        self._containers.update_now(container_id, options)

    async def remove(self, container_id: str, *, force: bool = False) -> None:
        self._existing(container_id, Operation.FORCE_REMOVE if force else Operation.REMOVE)
        self._containers.remove_now(container_id)


class RecordingContainers(FakeContainers):
    """They do not change by themselves: `asked` has the calls, and `error` is what the next one raises."""

    def __init__(self) -> None:
        super().__init__(())
        self.asked: list[tuple[Any, ...]] = []
        self.error: BaseException | None = None
        self.waiting = asyncio.Event()
        self.cancelled = asyncio.Event()

    @property
    def present(self) -> dict[str, Container]:
        return self.all

    @present.setter
    def present(self, containers: dict[str, Container]) -> None:
        self.all = containers

    def _ask(self, *what: Any) -> None:
        self.asked.append(what)
        if self.error is not None:
            raise self.error

    async def create(self, container: Container) -> Container:
        self._ask("create", container)
        return replace(container, id=container.id or "made")

    async def start(self, container_id: str) -> None:
        self._ask("start", container_id)
        if container_id == "slow":
            self.waiting.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()

    async def stop(self, container_id: str, options: StopOptions | None = None) -> None:
        self._ask("stop", container_id, options)

    async def pause(self, container_id: str) -> None:
        self._ask("pause", container_id)

    async def unpause(self, container_id: str) -> None:
        self._ask("unpause", container_id)

    async def rename(self, container_id: str, name: str) -> None:
        self._ask("rename", container_id, name)

    async def update(self, container_id: str, options: UpdateOptions) -> None:
        self._ask("update", container_id, options)

    async def remove(
        self, container_id: str, *, force: bool = False, options: StopOptions | None = None
    ) -> None:
        self._ask("remove", container_id, force, options)


class FakeSession:
    """A command: a test puts output into `out` and `err` (b"" ends them) and its end into `code`; `asked` has what the client wanted."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.streams: tuple[asyncio.Queue[bytes], ...] = (asyncio.Queue(), asyncio.Queue())
        self.out, self.err = self.streams
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.asked: list[Any] = []
        self.left = False

    async def read(self, stream: int) -> bytes:
        return await self.streams[stream].get()

    async def write(self, data: bytes) -> None:
        self.asked.append(data)

    async def end_input(self) -> None:
        self.asked.append("end of input")

    async def resize(self, width: int, height: int) -> None:
        self.asked.append((width, height))

    async def signal(self, number: int) -> None:
        self.asked.append(number)

    async def exit_code(self) -> int:
        return await self.code


class FakeSessions:
    """ports.Sessions: the attachments and commands that were asked for, and what else was. `failure`: of the next commands."""

    def __init__(self) -> None:
        self.attachments: list[FakeAttachment] = []
        self.commands: list[FakeSession] = []
        self.failure: PycmError | None = None
        self.asked: list[tuple[Any, ...]] = []

    @asynccontextmanager
    async def exec(self, command: Command) -> AsyncIterator[FakeSession]:
        if self.failure is not None:
            raise self.failure
        session = FakeSession(command)
        self.commands.append(session)
        try:
            yield session
        finally:
            session.left = True

    async def attach(self, container_id: str) -> FakeAttachment:
        self.attachments.append(FakeAttachment())
        return self.attachments[-1]

    async def close_stdin(self, container_id: str) -> None:
        self.asked.append(("close_stdin", container_id))

    async def resize(self, container_id: str, width: int, height: int) -> None:
        self.asked.append(("resize", container_id, width, height))
