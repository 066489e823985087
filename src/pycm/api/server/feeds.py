# SPDX-License-Identifier: Apache-2.0
"""Tell a client what happens, as long as it listens: events, stats, the end of a wait, the progress of a pull.

Each feed is an async context manager: entering it checks the request and starts listening, its value yields the lines.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from pycm.api.server.routes import MOST_IDS, ApiError
from pycm.errors import BusyError, InvalidInputError, NotFoundError, shorten
from pycm.model import measurements as ids
from pycm.model import units
from pycm.model.states import ALIVE, Status
from pycm.ports import Action, PullStep
from pycm.waiting import cancel, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from pycm.api.server.operations import Operations
    from pycm.model.container import Container
    from pycm.ports import ContainerMeasurements, Event, ImageInfo, PullProgress

    Line = dict[str, Any]
    Condition = Callable[[Action | None, Container], Line | None]

#: Events that wait for one client; the client is cut off at the next one.
MOST_EVENTS = 1024
#: Feeds of events, and of stats, that may be open at one time.
MOST_CLIENTS = 64
#: What ends a container's run.
ENDS = (Action.EXITED, Action.STOPPED, Action.REMOVED)

#: Members of a container's stats, and their types, by the id of the measurement.
STATS = {
    ids.CPU_UTILIZATION: ("cpu_percent", float),
    ids.MEMORY_USED: ("memory_used_bytes", int),
    ids.MEMORY_TOTAL: ("memory_total_bytes", int),
    ids.IO_READ_BYTES: ("io_read_bytes", int),
    ids.IO_WRITE_BYTES: ("io_write_bytes", int),
    ids.NET_READ_BYTES: ("net_read_bytes", int),
    ids.NET_WRITE_BYTES: ("net_write_bytes", int),
    ids.PIDS: ("pids", int),
}


class Feeds:
    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._containers = operations.containers
        self._metrics = operations.rooms.metrics
        self._images = operations.rooms.images
        self._open = {"events": 0, "stats": 0}

    @contextlib.contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        if self._open[name] >= MOST_CLIENTS:
            raise BusyError(f"{MOST_CLIENTS} feeds of {name} are open", hint="End one of them first.")
        self._open[name] += 1
        try:
            yield
        finally:
            self._open[name] -= 1

    # ── events ──

    @contextlib.asynccontextmanager
    async def events(
        self, container_ids: list[str], actions: list[str]
    ) -> AsyncIterator[AsyncIterator[Line]]:
        wanted, chosen = frozenset(_checked(container_ids)), _actions(actions)
        backlog = Backlog()

        def listen(event: Event) -> None:
            if event.action in chosen and (not wanted or event.container.id in wanted):
                backlog.put(_event(event))

        with self._counted("events"):
            unsubscribe = self._containers.subscribe(listen)
            try:
                yield backlog.lines()
            finally:
                unsubscribe()

    # ── stats ──

    @contextlib.asynccontextmanager
    async def stats(
        self, container_ids: list[str], interval_ms: int, samples: int
    ) -> AsyncIterator[AsyncIterator[Line]]:
        wanted = _checked(container_ids)
        for container_id in wanted:
            self._operations.known(container_id)
        with self._counted("stats"):
            yield self._samples(wanted, interval_ms / 1000, samples)

    async def _samples(self, wanted: list[str], interval: float, samples: int) -> AsyncIterator[Line]:
        meter = self._metrics.meter()
        meter.sample(self._alive(wanted))
        loop = asyncio.get_running_loop()
        due, sent = loop.time(), 0
        while not samples or sent < samples:
            due = max(due + interval, loop.time())  # a client that reads slowly gets fewer, not later ones
            await asyncio.sleep(due - loop.time())
            measured = meter.sample(self._alive(wanted))
            yield {"time": units.now(), "containers": [self._figures(sample) for sample in measured]}
            sent += 1

    def _alive(self, wanted: list[str]) -> list[str]:
        found = map(self._containers.get, wanted) if wanted else self._containers.list()
        return [c.id for c in found if c is not None and c.state.status in ALIVE]

    def _figures(self, sample: ContainerMeasurements) -> Line:
        container = self._containers.get(sample.container_id)
        figures: Line = {
            "container_id": sample.container_id,
            "container_name": container.name if container else "",
        }
        for one in sample.measurements:
            if one.id in STATS:
                name, kind = STATS[one.id]
                figures[name] = kind(one.value)
        return figures

    # ── wait ──

    async def wait(self, container_id: str, condition: str, seconds: float | None) -> Line:
        """Return how the container was when it met *condition*, a key of CONDITIONS. NotFoundError, ApiError after
        *seconds*.
        """
        meets = CONDITIONS[condition]
        container = self._operations.known(container_id)
        answer = meets(None, container)
        if answer is not None:
            return answer
        try:
            return await within(seconds, self._until(meets, container.id))
        except asyncio.TimeoutError:
            text = f"container {container_id} did not become {condition} within {seconds:g} s"
            raise ApiError("timeout", text) from None

    async def _until(self, meets: Condition, container_id: str) -> Line:
        met: asyncio.Future[Line] = asyncio.get_running_loop().create_future()

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

    # ── pull ──

    @contextlib.asynccontextmanager
    async def pull(self, reference: str) -> AsyncIterator[AsyncIterator[Line]]:
        """A client that leaves ends the pull, unless somebody else waits for it."""
        latest = Latest()
        task = asyncio.ensure_future(self._images.pull(reference, latest.put))
        task.add_done_callback(latest.wake)
        try:
            yield latest.lines(task)
        finally:
            await cancel(task)


class Backlog:
    """Events on their way to one client."""

    def __init__(self) -> None:
        self._events: deque[Line] = deque()
        self._overflow = False
        self._wake = asyncio.Event()

    def put(self, event: Line) -> None:
        if len(self._events) >= MOST_EVENTS:
            self._overflow = True
            self._events.clear()
        elif not self._overflow:
            self._events.append(event)
        self._wake.set()

    async def lines(self) -> AsyncIterator[Line]:
        while not self._overflow:
            while self._events:
                yield self._events.popleft()
            if not self._overflow:
                await self._wake.wait()
                self._wake.clear()
        text = f"the client reads too slowly: more than {MOST_EVENTS} events were waiting for it"
        raise ApiError("too-slow", text, hint="Open the feed again, and compare with the list of containers.")


class Latest:
    """The state of a pull. A client that reads slowly misses steps; it does not delay the pull, and nothing piles up
    for it.
    """

    def __init__(self) -> None:
        self._progress: PullProgress | None = None
        self._wake = asyncio.Event()

    def put(self, progress: PullProgress) -> None:
        self._progress = progress
        self._wake.set()

    def wake(self, _task: asyncio.Future[ImageInfo]) -> None:
        self._wake.set()

    async def lines(self, task: asyncio.Future[ImageInfo]) -> AsyncIterator[Line]:
        while not task.done():
            await self._wake.wait()
            self._wake.clear()
            now, self._progress = self._progress, None
            if now is not None and now.step is not PullStep.DONE and not task.done():
                yield {"step": now.step.value, "done": now.done, "total": now.total}
        image = image_of(task.result())
        yield {"step": PullStep.DONE.value, "done": 0, "total": 0, "image": image}


def image_of(image: ImageInfo) -> Line:
    return {
        "reference": image.reference,
        "digest": image.digest,
        "size_bytes": image.size,
        "created": image.created,
        "container_ids": list(image.containers),
    }


def _event(event: Event) -> Line:
    container = event.container
    return {
        "time": units.now(),
        "action": event.action.value,
        "container_id": container.id,
        "container_name": container.name,
        "image": container.image.name,
        "status": container.state.status.word,
        "exit_code": container.state.exit_code,
        "error": container.state.error,
    }


def _actions(names: list[str]) -> frozenset[Action]:
    known = {action.value: action for action in Action}
    for name in names:
        if name not in known:
            raise InvalidInputError.of("action", shorten(name), f"is not one of {', '.join(known)}")
    return frozenset(known[name] for name in names) or frozenset(Action)


def _checked(container_ids: list[str]) -> list[str]:
    if len(container_ids) > MOST_IDS:
        raise InvalidInputError.of(
            "id", f"{len(container_ids)} values", f"are more than the {MOST_IDS} allowed"
        )
    return list(dict.fromkeys(container_ids))


# ── conditions: the answer if the container meets it after an action (None: at the time of the call), else None ──


def _answer(container: Container, *, removed: bool = False) -> Line:
    state = container.state
    return {
        "status": state.status.word,
        "exit_code": state.exit_code,
        "error": state.error,
        "removed": removed,
    }


def _stopped(action: Action | None, container: Container) -> Line | None:
    ended = action in ENDS or container.state.status not in ALIVE
    return _answer(container, removed=action is Action.REMOVED) if ended else None


def _next_exit(action: Action | None, container: Container) -> Line | None:
    return _answer(container, removed=action is Action.REMOVED) if action in ENDS else None


def _removed(action: Action | None, container: Container) -> Line | None:
    return _answer(container, removed=True) if action is Action.REMOVED else None


def _running(_action: Action | None, container: Container) -> Line | None:
    return _answer(container) if container.state.status is Status.RUNNING else None


CONDITIONS: dict[str, Condition] = {
    "stopped": _stopped,
    "next-exit": _next_exit,
    "removed": _removed,
    "running": _running,
}
