# SPDX-License-Identifier: Apache-2.0
"""A disk that is full, or read-only, from any single write of an operation on: an error that says so, or an operation that is done
all the same; and full service once there is room."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pycm.containers import catalog
from pycm.errors import OperationFailedError
from pycm.model.container import Resources, StopOptions, UpdateOptions
from pycm.model.states import Status
from pycm.network.files import ContainerFiles, HostNetwork
from pycm.storage.store import ContainerStore
from support.fakes import FakeRuntime
from support.managers import World, configured, described, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

FAULTS = (errno.ENOSPC, errno.EROFS)
#: No operation writes more often; the loops end before, at the first run in which nothing was refused.
MOST_WRITES = 100


class Disk:
    """Counts what changes the files below a directory, and refuses it from the armed time on."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = str(root)
        self.left: int | None = None
        self.code = errno.ENOSPC
        self.refused = 0
        for name in ("mkdir", "rename", "unlink", "rmdir"):
            monkeypatch.setattr(os, name, self._of_path(getattr(os, name), grows=name in ("mkdir", "rename")))
        for name in ("write", "fsync", "fchmod"):
            monkeypatch.setattr(os, name, self._of_descriptor(getattr(os, name)))
        monkeypatch.setattr(os, "open", self._opening(os.open))

    def break_at(self, number: int, code: int) -> None:
        self.left, self.code, self.refused = number, code, 0

    def mend(self) -> None:
        self.left = None

    def _change(self, path: object, *, grows: bool = True) -> None:
        """A full disk still lets go of files; a read-only one does not."""
        if self.left is None or not str(path).startswith(self.root):
            return
        if self.code == errno.ENOSPC and not grows:
            return
        self.left -= 1
        if self.left < 0:
            self.refused += 1
            raise OSError(self.code, os.strerror(self.code), str(path))

    def _of_path(self, real: Callable[..., Any], *, grows: bool) -> Callable[..., Any]:
        def call(path: Any, *arguments: Any, **named: Any) -> Any:
            self._change(path, grows=grows)
            return real(path, *arguments, **named)

        return call

    def _of_descriptor(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(descriptor: int, *arguments: Any) -> Any:
            self._change(os.readlink(f"/proc/self/fd/{descriptor}"))
            return real(descriptor, *arguments)

        return call

    def _opening(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, flags: int, *arguments: Any, **named: Any) -> Any:
            if flags & (os.O_WRONLY | os.O_RDWR):
                self._change(path)
            return real(path, flags, *arguments, **named)

        return call


class Files(HostNetwork):
    """The real files of the network, for a manager on faked peers."""

    def check(self, _: object) -> None: ...

    async def disconnect(self, _: str) -> None: ...

    async def clear(self, _: object) -> None: ...


@asynccontextmanager
async def on_disk(home: Path, runtime: FakeRuntime) -> AsyncIterator[World]:
    store = ContainerStore(str(home))
    made = World(runtime, store, configured(stop_timeout=5), Files(ContainerFiles(str(home))))  # type: ignore[arg-type]
    await made.manager.load()
    task = asyncio.create_task(made.manager.run())
    await made.until(lambda: made.manager._boot_begun)
    try:
        yield made
    finally:
        await made.manager.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def exits(w: World) -> None:
    w.runtime.end("c1", 3)
    await w.until(lambda: w.state("c1").status is Status.EXITED and w.manager._jobs.idle)


async def nothing(_: World) -> None: ...


async def created(w: World) -> None:
    await w.manager.create(described())


async def running(w: World) -> None:
    await started(w)


LIMITS = UpdateOptions(resources=Resources(memory="64M"))
#: Name to what is there before, the operation, and the status that it leads to (None: gone).
OPERATIONS: dict[str, tuple[Callable[[World], Coroutine[Any, Any, None]], Any, Status | None]] = {
    "create": (nothing, lambda w: w.manager.create(described()), Status.CREATED),
    "start": (created, lambda w: w.manager.start("c1"), Status.RUNNING),
    "rename": (created, lambda w: w.manager.rename("c1", "other"), Status.CREATED),
    "update": (running, lambda w: w.manager.update("c1", LIMITS), Status.RUNNING),
    "pause": (running, lambda w: w.manager.pause("c1"), Status.PAUSED),
    "stop": (running, lambda w: w.manager.stop("c1"), Status.STOPPED),
    "exit": (running, exits, Status.EXITED),
    "remove": (created, lambda w: w.manager.remove("c1"), None),
    "remove -f": (running, lambda w: w.manager.remove("c1", force=True), None),
}
#: Where it ends otherwise than it began: a start says in the state why it failed; a forced removal has stopped the container before.
REFUSED = {"start": Status.STOPPED, "remove -f": Status.STOPPED}


def status(w: World) -> Status | None:
    container = w.manager.get("c1")
    return container.state.status if container else None


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr(catalog, "RETRY_SAVE", 0.001)
    return Disk(tmp_path, monkeypatch)


@pytest.mark.parametrize("code", FAULTS, ids=lambda code: errno.errorcode[code])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_disk_that_refuses_any_write_of_an_operation(
    disk: Disk, tmp_path: Path, operation: str, code: int
) -> None:
    for number in range(MOST_WRITES):
        home = tmp_path / str(number)
        await refused_at(disk, home, operation, number, code)
        if not disk.refused:
            break
    assert 0 < number < MOST_WRITES - 1, "the operation writes, and all its writes were refused once"


async def refused_at(disk: Disk, home: Path, operation: str, number: int, code: int) -> None:
    before, act, goal = OPERATIONS[operation]
    runtime = FakeRuntime()
    async with on_disk(home, runtime) as w:
        await before(w)
        was = status(w)
        disk.break_at(number, code)
        try:
            await act(w)
            assert status(w) is goal
        except OperationFailedError as error:
            assert os.strerror(code) in str(error)  # noqa: PT017  whether it fails is the disk's choice
            assert status(w) in (was, REFUSED.get(operation, was))
            disk.mend()
            await act(w)
        disk.mend()
        assert status(w) is goal
        await w.until(lambda: not w.manager._catalog._unsaved)
        known = w.manager.list()
    assert [c for c in ContainerStore(str(home)).load() if alive(c)] == known
    async with on_disk(home, runtime) as w:  # the next agent finds the same, and all of it still works
        assert status(w) is goal
        if goal is None:
            await w.manager.create(described())
        await w.manager.remove("c1", force=True, options=StopOptions(signal="SIGKILL", force=True))
    assert (runtime.snapshots, dict(runtime.live)) == (set(), {})
    assert os.listdir(home / "containers") == []


def alive(container: Any) -> bool:
    """A record of what was removed, or not made, while the disk was read-only goes with the next agent's start."""
    return container.state.status not in (Status.DEAD, Status.CREATING)
