# SPDX-License-Identifier: Apache-2.0
"""Events, Stats and Wait of `pycm.v1.Agent`: what happens to containers, and what they use, told to whoever asks."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from pycm.api.proto.pycm.v1 import agent_pb2 as m
from pycm.api.server.grpc import receive, send
from pycm.errors import InvalidInputError, NotFoundError, shorten
from pycm.model import measurements as ids
from pycm.model import units
from pycm.model.states import ALIVE
from pycm.model.states import Status as ContainerStatus
from pycm.ports import Action

if TYPE_CHECKING:
    from collections.abc import Iterator

    from grpclib.server import Stream

    from pycm.model.container import Container
    from pycm.ports import ContainerMeasurements, Containers, Event, Metrics

#: Events that wait for one client; one more, and it is cut off.
MOST_EVENTS = 1024
#: Calls of Events and Stats, each, that may be open at one time.
MOST_CLIENTS = 64
#: Milliseconds between samples.
INTERVAL, SHORTEST, LONGEST = 1000, 500, 24 * 3600 * 1000
#: Ids in one request.
MOST_IDS = 1000
ENDED = (Action.EXITED, Action.STOPPED)

_FIELDS = {
    ids.CPU_UTILIZATION: ("cpu_percent", float),
    ids.MEMORY_USED: ("memory_used_bytes", int),
    ids.MEMORY_TOTAL: ("memory_total_bytes", int),
    ids.IO_READ_BYTES: ("io_read_bytes", int),
    ids.IO_WRITE_BYTES: ("io_write_bytes", int),
    ids.NET_READ_BYTES: ("net_read_bytes", int),
    ids.NET_WRITE_BYTES: ("net_write_bytes", int),
    ids.PIDS: ("pids", int),
}


class Watching:
    def __init__(self, containers: Containers, metrics: Metrics) -> None:
        self._containers = containers
        self._metrics = metrics
        self._open = {"Events": 0, "Stats": 0}

    @contextlib.contextmanager
    def _counted(self, method: str) -> Iterator[None]:
        if self._open[method] >= MOST_CLIENTS:
            text = f"{MOST_CLIENTS} calls of {method} are open already: end one of them first"
            raise GRPCError(Status.RESOURCE_EXHAUSTED, text)
        self._open[method] += 1
        try:
            yield
        finally:
            self._open[method] -= 1

    # ── events ──

    async def events(self, stream: Stream[Any, Any]) -> None:
        request = await receive(stream, m.EventsRequest)
        wanted = frozenset(_checked(request.container_ids))
        actions = _actions(request.actions)
        waiting = _Waiting()

        def listen(event: Event) -> None:
            if event.action in actions and (not wanted or event.container.id in wanted):
                waiting.put(_event(event))

        with self._counted("Events"):
            unsubscribe = self._containers.subscribe(listen)
            try:
                await stream.send_initial_metadata()  # from here on nothing is missed
                while True:
                    await send(stream, await waiting.get())
            finally:
                unsubscribe()

    # ── stats ──

    async def stats(self, stream: Stream[Any, Any]) -> None:
        request = await receive(stream, m.StatsRequest)
        wanted = _checked(request.container_ids)
        for container_id in wanted:
            _known(self._containers, container_id)
        interval = _interval(request.interval_ms) / 1000
        with self._counted("Stats"):
            meter = self._metrics.meter()
            meter.sample(self._alive(wanted))
            loop = asyncio.get_running_loop()
            due, sent = loop.time(), 0
            while not request.samples or sent < request.samples:
                due = max(
                    due + interval, loop.time()
                )  # a client that reads slowly gets fewer, not later ones
                await asyncio.sleep(due - loop.time())
                samples = meter.sample(self._alive(wanted))
                await send(stream, m.StatsResponse(time=units.now(), containers=map(self._figures, samples)))
                sent += 1

    def _alive(self, wanted: list[str]) -> list[str]:
        found = map(self._containers.get, wanted) if wanted else self._containers.list()
        return [c.id for c in found if c is not None and c.state.status in ALIVE]

    def _figures(self, sample: ContainerMeasurements) -> Any:
        container = self._containers.get(sample.container_id)
        figures = m.ContainerStats(container_id=sample.container_id)
        figures.container_name = container.name if container else ""
        for one in sample.measurements:
            if one.id in _FIELDS:
                name, kind = _FIELDS[one.id]
                setattr(figures, name, kind(one.value))
        return figures

    # ── wait ──

    async def wait(self, stream: Stream[Any, Any]) -> None:
        request = await receive(stream, m.WaitRequest)
        container = _known(self._containers, request.container_id)
        meets = _CONDITIONS.get(request.condition)
        if meets is None:
            raise InvalidInputError(f"condition: {request.condition} is none of {m.WaitCondition.keys()}")
        answer = meets(None, container)
        if answer is None:
            answer = await self._until(meets, container.id)
        await stream.send_message(answer)

    async def _until(self, meets: Any, container_id: str) -> Any:
        met: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def listen(event: Event) -> None:
            if event.container.id != container_id or met.done():
                return
            answer = meets(event.action, event.container)
            if answer is not None:
                met.set_result(answer)
            elif event.action is Action.REMOVED:
                met.set_exception(NotFoundError(f"container {container_id} was removed before that"))

        unsubscribe = self._containers.subscribe(listen)
        try:
            return await met
        finally:
            unsubscribe()


class _Waiting:
    """Events on their way to one client."""

    def __init__(self) -> None:
        self._events: deque[Any] = deque()
        self._overflow = False
        self._wake = asyncio.Event()

    def put(self, message: Any) -> None:
        if len(self._events) >= MOST_EVENTS:
            self._overflow = True
            self._events.clear()
        elif not self._overflow:
            self._events.append(message)
        self._wake.set()

    async def get(self) -> Any:
        while not self._events:
            if self._overflow:
                text = f"the client reads too slowly: {MOST_EVENTS} events waited for it; call again and compare with List"
                raise GRPCError(Status.RESOURCE_EXHAUSTED, text)
            self._wake.clear()
            await self._wake.wait()
        return self._events.popleft()


def _event(event: Event) -> Any:
    container = event.container
    return m.Event(
        time=units.now(),
        action=event.action.value,
        container_id=container.id,
        container_name=container.name,
        image=container.image.name,
        status=container.state.status.word,
        exit_code=container.state.exit_code,
        error=container.state.error,
    )


def _actions(names: Any) -> frozenset[Action]:
    if not names:
        return frozenset(Action)
    known = {action.value: action for action in Action}
    for name in names:
        if name not in known:
            raise InvalidInputError(f"action {shorten(name)} is none of {', '.join(known)}")
    return frozenset(known[name] for name in names)


def _checked(container_ids: Any) -> list[str]:
    if len(container_ids) > MOST_IDS:
        raise InvalidInputError(f"{len(container_ids)} ids, {MOST_IDS} are allowed")
    return list(dict.fromkeys(container_ids))


def _interval(milliseconds: int) -> int:
    if milliseconds and not SHORTEST <= milliseconds <= LONGEST:
        raise InvalidInputError(
            f"an interval of {milliseconds} ms cannot be: {SHORTEST} to {LONGEST} are possible"
        )
    return milliseconds or INTERVAL


def _known(containers: Containers, container_id: str) -> Container:
    container = containers.get(container_id)
    if container is None:
        raise NotFoundError(f"no such container with id = {shorten(container_id).strip(chr(39))} exists")
    return container


# ── conditions: the answer if the container meets it after an action (None: when the call comes), else None ──


def _answer(container: Container, *, removed: bool = False) -> Any:
    state = container.state
    return m.WaitResponse(
        status=state.status.word, exit_code=state.exit_code, error=state.error, removed=removed
    )


def _not_running(action: Action | None, container: Container) -> Any:
    ended = action in ENDED or action is Action.REMOVED or container.state.status not in ALIVE
    return _answer(container, removed=action is Action.REMOVED) if ended else None


def _next_exit(action: Action | None, container: Container) -> Any:
    ended = action in ENDED or action is Action.REMOVED
    return _answer(container, removed=action is Action.REMOVED) if ended else None


def _removed(action: Action | None, container: Container) -> Any:
    return _answer(container, removed=True) if action is Action.REMOVED else None


def _running(_action: Action | None, container: Container) -> Any:
    return _answer(container) if container.state.status is ContainerStatus.RUNNING else None


_CONDITIONS = {
    m.NOT_RUNNING: _not_running,
    m.NEXT_EXIT: _next_exit,
    m.REMOVED: _removed,
    m.RUNNING: _running,
}
