# SPDX-License-Identifier: Apache-2.0
"""Commands in running containers, on a real, private containerd: exit codes, time-outs, and nothing left behind."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from containerd_server import ContainerdServer, connect, prepare, private_containerd
from images import Image, write_archive
from test_containerd_runtime import BUSYBOX, SECONDS, request

from pycm.containerd import execs
from pycm.containerd.runtime import ContainerdRuntime
from pycm.errors import ConflictError, NotFoundError, OperationFailedError, UnavailableError
from pycm.ports import ExecRequest, RuntimeConnected, TaskExited, TaskIO

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerdServer]:
    archive = tmp_path_factory.mktemp("archives") / "busybox.tar"
    with private_containerd() as running:
        running.ctr("images", "import", write_archive(archive, Image(name=BUSYBOX)))
        yield running


@pytest.fixture
async def runtime(server: ContainerdServer, tmp_path: Path) -> AsyncIterator[ContainerdRuntime]:
    made = ContainerdRuntime(server.address, namespace=server.namespace, exec_dir=str(tmp_path / "exec"))
    await asyncio.wait_for(connect(made), SECONDS)
    await prepare(made, "c1", BUSYBOX)
    await made.start(request(server, "c1", "/bin/sleep", "1000"))
    yield made
    await made.remove("c1")
    await made.close()


def sh(script: str, **more: object) -> ExecRequest:
    return ExecRequest("c1", ("/bin/sh", "-c", script), **more)  # type: ignore[arg-type]


def processes(word: str) -> list[int]:
    """Pids on this machine whose command line has *word* in it."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and word.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


async def until(condition: object) -> None:
    async def poll() -> None:
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.02)

    await asyncio.wait_for(poll(), SECONDS)


@pytest.fixture
def seconds() -> str:
    """An argument of sleep by which its process is known; others on this machine may run the same test."""
    return str(random.randint(10**6, 10**9))


class Started(asyncio.Event):
    """An ExecListener that tells when the command runs, and containerd knows of it."""

    def started(self) -> None:
        self.set()

    async def exited(self) -> None:
        pass


def notes(tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "exec")


async def test_the_exit_code_of_a_command_is_returned_and_nothing_of_it_stays(
    runtime: ContainerdRuntime, tmp_path: Path
) -> None:
    assert await runtime.exec(sh("exit 0")) == 0
    assert await runtime.exec(sh("exit 7"), timeout=SECONDS) == 7
    assert await runtime.exec(sh("kill -9 $$")) == 128 + signal.SIGKILL
    assert notes(tmp_path) == []


async def test_a_command_has_the_environment_of_the_container_and_its_own(runtime: ContainerdRuntime) -> None:
    assert (
        await runtime.exec(
            sh('[ "$PATH" = /bin ] && [ "$A" = 1 ] && [ "$PWD" = /etc ]', env=("A=1",), cwd="/etc")
        )
        == 0
    )
    assert await runtime.exec(sh('[ "$PATH" = /etc ]', env=("PATH=/etc",))) == 0


async def test_output_goes_to_the_fifos_that_are_given(runtime: ContainerdRuntime, tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("out", "err")]
    for path in paths:
        os.mkfifo(path)
    readers = [os.open(path, os.O_RDONLY | os.O_NONBLOCK) for path in paths]
    try:
        assert await runtime.exec(sh("echo hello; echo oops >&2", io=TaskIO("", *paths))) == 0
        assert [os.read(reader, 100) for reader in readers] == [b"hello\n", b"oops\n"]
    finally:
        for reader in readers:
            os.close(reader)


async def test_a_command_that_does_not_end_in_time_is_killed(
    runtime: ContainerdRuntime, seconds: str, tmp_path: Path
) -> None:
    with pytest.raises(OperationFailedError, match=r"did not end within 0\.5 s"):
        await runtime.exec(ExecRequest("c1", ("/bin/sleep", seconds)), timeout=0.5)
    assert processes(seconds) == []
    assert notes(tmp_path) == []


async def test_a_command_whose_caller_goes_away_is_killed(
    runtime: ContainerdRuntime, seconds: str, tmp_path: Path
) -> None:
    task = asyncio.ensure_future(runtime.exec(ExecRequest("c1", ("/bin/sleep", seconds))))
    await until(lambda: processes(seconds))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    await until(lambda: not processes(seconds) and not notes(tmp_path))


async def test_what_cannot_be_started_says_why(runtime: ContainerdRuntime, tmp_path: Path) -> None:
    with pytest.raises(OperationFailedError, match="no-such-program"):
        await runtime.exec(ExecRequest("c1", ("/bin/no-such-program",)))
    with pytest.raises(NotFoundError):
        await runtime.exec(ExecRequest("c2", ("/bin/true",)))
    assert notes(tmp_path) == []


async def test_a_command_that_a_dead_agent_left_is_ended_by_the_next_one(
    runtime: ContainerdRuntime, seconds: str, server: ContainerdServer, tmp_path: Path
) -> None:
    """The first runtime plays the dead agent: the second one knows of its command by the note alone."""
    task = asyncio.ensure_future(runtime.exec(ExecRequest("c1", ("/bin/sleep", seconds))))
    await until(lambda: processes(seconds))
    assert len(notes(tmp_path)) == 1
    (tmp_path / "exec" / "gone@pycm-1").touch()  # of a container that is gone
    second = ContainerdRuntime(server.address, namespace=server.namespace, exec_dir=str(tmp_path / "exec"))
    async with aclosing(second.events()) as events:  # type: ignore[type-var]
        assert isinstance(await events.__anext__(), RuntimeConnected)
    await second.close()
    assert processes(seconds) == []
    assert notes(tmp_path) == []
    assert await task == 128 + signal.SIGKILL


async def test_a_lost_containerd_is_told_and_the_command_is_ended_when_it_is_back(
    runtime: ContainerdRuntime, seconds: str, server: ContainerdServer, tmp_path: Path
) -> None:
    listener = Started()
    command = ExecRequest("c1", ("/bin/sleep", seconds))
    task = asyncio.ensure_future(runtime.exec(command, listener=listener))
    await asyncio.wait_for(listener.wait(), SECONDS)
    await until(lambda: len(processes(seconds)) == 1)  # started, and runc's init has become the program
    server.kill()
    try:
        with pytest.raises(UnavailableError):
            await task
        assert len(notes(tmp_path)) == 1
    finally:
        server.start()
    async with aclosing(runtime.events()) as events:  # type: ignore[type-var]
        async for event in events:
            if isinstance(event, RuntimeConnected):
                break
    assert processes(seconds) == []
    assert notes(tmp_path) == []


async def test_the_end_of_a_command_is_no_end_of_the_container(
    runtime: ContainerdRuntime,
) -> None:
    async with aclosing(runtime.events()) as events:  # type: ignore[type-var]
        assert isinstance(await events.__anext__(), RuntimeConnected)
        await runtime.exec(sh("exit 3"))
        await runtime.signal("c1", signal.SIGKILL)
        event = await asyncio.wait_for(events.__anext__(), SECONDS)
    assert isinstance(event, TaskExited)
    assert event.exit.code == 128 + signal.SIGKILL


async def test_commands_in_one_container_are_bounded(
    runtime: ContainerdRuntime, seconds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execs, "MOST", 1)
    task = asyncio.ensure_future(runtime.exec(ExecRequest("c1", ("/bin/sleep", seconds))))
    await until(lambda: processes(seconds))
    with pytest.raises(ConflictError, match="already runs 1 commands"):
        await runtime.exec(sh("exit 0"))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
