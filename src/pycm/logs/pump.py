# SPDX-License-Identifier: Apache-2.0
"""The thread that moves the output of all containers.

It sleeps in epoll until a FIFO has output or another thread posts a command. There is no periodic wake-up. FIFOs are
watched edge-triggered: after an edge, a container gets turns of a bounded size, alternating with the others, until its
FIFOs are empty.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from pycm.logs.fifos import waiting
from pycm.logs.sink import JsonSink, Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pycm.logs.clients import Tap

#: Seconds that the agent waits for the end of the output after the task was deleted.
FINISH_LIMIT = 10.0
#: Output that comes line by line would cost a wake-up for each line. If a turn found less than LITTLE bytes, and so did
# the turn less
#: than CHATTY seconds before, the thread rests for REST seconds. The FIFOs hold what comes meanwhile.
LITTLE = 8 * 1024
CHATTY = 0.008
REST = 0.005
#: Seconds before the next attempt after an error that belongs to no container.
AFTER_BUG = 1.0
log = logging.getLogger("pycm.logs")


class Drain:
    """One container's FIFOs and the sink of their output.

    *outputs*: stream number to descriptor. *held*: its stdin, only kept open. *taps*: attached clients.
    """

    def __init__(
        self,
        container_id: str,
        outputs: Mapping[int, int],
        held: tuple[int, ...],
        sink: Sink,
        taps: Iterable[Tap] = (),
    ) -> None:
        self.id = container_id
        self.outputs = dict(outputs)
        self.sink = sink
        self._held = held
        self._taps: list[Tap] = []
        for tap in taps:
            self.tap(tap)
        self.found = 0  # bytes in the FIFOs at the last turn
        self.deadline: float | None = None
        self._done: Callable[[], None] | None = None

    def turn(self, now: float) -> bool:
        """Serve both streams once. Return whether more output is waiting."""
        self.found = 0
        for stream, descriptor in self.outputs.items():
            count = waiting(descriptor)
            if count:
                self.sink.take(stream, descriptor, count)
                self.found += count
        retry_at = self.sink.retry_at
        due = self.found or self.sink.behind
        if (due and retry_at is None) or (retry_at is not None and now >= retry_at):
            self.sink.store()
        if self.sink.behind and self.sink.retry_at is None:
            return True
        return self.found > 0 and any(map(waiting, self.outputs.values()))

    @property
    def due(self) -> float | None:
        """When it needs a turn even if no output comes."""
        times = [moment for moment in (self.deadline, self.sink.retry_at) if moment is not None]
        return min(times, default=None)

    def finish(self, deadline: float, done: Callable[[], None]) -> None:
        """The task was deleted: call *done* at the end of its output, or at the deadline."""
        if self._done is not None:
            self._done()
        self.deadline, self._done = deadline, done

    def at_end(self, now: float) -> bool:
        if self.deadline is None:
            return False
        if all(map(_ended, self.outputs.values())):
            return True
        if now >= self.deadline:
            text = "container %s: output did not end within %.0f s after the task (its rest is lost)"
            log.warning(text, self.id, FINISH_LIMIT)
            return True
        return False

    def tap(self, tap: Tap) -> None:
        self._taps.append(tap)
        self.sink.tee = self._copy

    def untap(self, tap: Tap) -> None:
        if tap in self._taps:
            self._taps.remove(tap)
        self.sink.tee = self._copy if self._taps else None

    def _copy(self, data: bytes) -> None:
        for tap in self._taps:
            tap.put(data)

    def release_stdin(self) -> None:
        """Close the container's stdin."""
        for descriptor in self._held:
            os.close(descriptor)
        self._held = ()

    def give_up(self) -> None:
        """Continue without the log, so that the container does not wait."""
        sink, self.sink = self.sink, Sink()
        self.sink.tee = sink.tee
        sink.close(final=False)

    def close(self, *, final: bool) -> None:
        """*final*: the output has ended, and the FIFOs hold the rest of it."""
        with (
            contextlib.ExitStack() as stack
        ):  # whatever fails, no caller waits for ever and nothing stays open
            if self._done is not None:
                stack.callback(self._done)
            stack.callback(self.sink.close, final=final)
            for tap in self._taps:
                stack.callback(tap.end, "" if final else "the agent stops; the container keeps running")
            for descriptor in (*self.outputs.values(), *self._held):
                stack.callback(os.close, descriptor)
            while final and self.turn(time.monotonic()):
                pass
        self.outputs, self._held = {}, ()


def _ended(descriptor: int) -> bool:
    """No writer and no data. Checked in this order, so that the last data of a writer is seen."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0)) and not waiting(descriptor)


class Pump:
    """Commands are functions that run in the thread in order. Their queue has no limit: a container has only a few."""

    def __init__(self) -> None:
        self._commands: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None
        self._drains: dict[str, Drain] = {}
        self._owner: dict[int, str] = {}  # descriptor to container
        self._ready: dict[str, None] = {}  # containers with output, in the order of their turns
        self._timed: dict[str, Drain] = {}  # those that need a turn at some time
        self._stopped: Callable[[], None] | None = None
        self._closing = False
        self._ringing = threading.Lock()  # the thread must not close the bell while another one rings it
        self._served_at = 0.0

    # ── for other threads ──

    def post(self, command: Callable[[], None]) -> bool:
        """Run *command* in the thread, which starts with the first one. False after `stop`: it is not run."""
        with self._ringing:
            if self._closing:
                return False
            self._commands.append(command)
            if self._thread is None:
                self._start()
            os.eventfd_write(self._bell, 1)
        return True

    def _start(self) -> None:
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._bell_only = select.poll()
        self._bell_only.register(self._bell, select.POLLIN)
        self._thread = threading.Thread(target=self._run, name="pycm-logs", daemon=True)
        self._thread.start()

    def stop(self, stopped: Callable[[], None]) -> None:
        """End the thread after the commands posted before, and call *stopped* in it."""

        def command() -> None:
            self._stopped = stopped

        if self._thread is None or not self.post(command):
            stopped()
        self._closing = True

    # ── commands ──

    def attach(self, drain: Drain) -> None:
        """Serve *drain*, whose container must not be attached yet."""
        self._drains[drain.id] = drain
        for descriptor in drain.outputs.values():
            self._owner[descriptor] = drain.id
            self._epoll.register(descriptor, select.EPOLLIN | select.EPOLLET)
        self._ready[drain.id] = None

    def drain(self, container_id: str) -> Drain | None:
        return self._drains.get(container_id)

    def finish(self, container_id: str, done: Callable[[], None]) -> bool:
        """Drain to the end, then call *done*. False, without a call, if the container is not attached."""
        drain = self._drains.get(container_id)
        if drain is None:
            return False
        drain.finish(time.monotonic() + FINISH_LIMIT, done)
        self._ready[container_id] = None
        return True

    def detach(self, container_id: str, *, final: bool) -> None:
        """Stop serving the container now. *final*: its output has ended."""
        drain = self._drains.pop(container_id, None)
        if drain is None:
            return
        self._timed.pop(container_id, None)
        for descriptor in drain.outputs.values():
            del self._owner[descriptor]  # closing it removes it from the epoll
        self._guarded(lambda: drain.close(final=final), f"container {container_id}: output")

    # ── the thread ──

    def _run(self) -> None:
        while self._stopped is None:
            if not self._guarded(self._step, "container output: thread"):
                time.sleep(AFTER_BUG)
        for container_id in tuple(self._drains):
            self._guarded(
                partial(self.detach, container_id, final=False), f"container {container_id}: output"
            )
        with self._ringing:
            self._closing = True
            self._epoll.close()
            os.close(self._bell)
        self._stopped()

    def _step(self) -> None:
        for descriptor, _ in self._epoll.poll(self._patience()):
            self._noticed(descriptor)
        while self._commands:
            self._guarded(self._commands.popleft(), "container output: command")
        self._round()

    def _round(self) -> None:
        served = [self._drains[key] for key in self._ready if key in self._drains]
        for container_id in tuple(self._ready):
            self._serve(container_id)
        if 0 < sum(drain.found for drain in served) < LITTLE:
            now = time.monotonic()
            if now - self._served_at < CHATTY and not self._ready and not self._commands:
                self._bell_only.poll(REST * 1000)
            self._served_at = now

    def _noticed(self, descriptor: int) -> None:
        if descriptor == self._bell:
            os.eventfd_read(self._bell)
        elif descriptor in self._owner:
            self._ready[self._owner[descriptor]] = None

    def _patience(self) -> float | None:
        """Seconds to sleep, None for ever. Makes containers ready whose time has come."""
        now = time.monotonic()
        dues = {key: drain.due or now for key, drain in self._timed.items()}
        self._ready.update(dict.fromkeys(key for key, due in dues.items() if due <= now))
        if self._ready or self._commands:
            return 0.0
        return min(dues.values()) - now if dues else None

    def _serve(self, container_id: str) -> None:
        del self._ready[container_id]
        drain = self._drains.get(container_id)
        if drain is None or self._guarded(lambda: self._turn(drain), f"container {container_id}: output"):
            return
        if isinstance(drain.sink, JsonSink):
            log.error("container %s: its output is dropped until the agent restarts", container_id)
            self._guarded(drain.give_up, f"container {container_id}: output")
            self._ready[container_id] = None
        else:
            self.detach(container_id, final=False)

    def _turn(self, drain: Drain) -> None:
        now = time.monotonic()
        if drain.turn(now):
            self._ready[drain.id] = None
        elif drain.at_end(now):
            self.detach(drain.id, final=True)
        elif drain.due is not None:
            self._timed[drain.id] = drain
        else:
            self._timed.pop(drain.id, None)

    @staticmethod
    def _guarded(function: Callable[[], object], what: str) -> bool:
        """Call *function* and log any error: one container must not end the thread, which serves all of them."""
        try:
            function()
        except Exception as error:  # noqa: BLE001  see above
            log.error("%s: unexpected error: %s: %s", what, type(error).__name__, error)
            return False
        return True
