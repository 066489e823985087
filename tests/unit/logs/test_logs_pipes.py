# SPDX-License-Identifier: Apache-2.0
"""The FIFOs of a client's command, with the command played by this process at the other end."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from pycm.errors import OperationFailedError
from pycm.logs.clients import ExecPipes
from pycm.logs.front import JsonFileLogs

WAIT = 60.0


class Command:
    """Its ends of the FIFOs, as the runtime opens them."""

    def __init__(self, pipes: ExecPipes) -> None:
        io = pipes.io
        self.outputs = [os.open(path, os.O_WRONLY) for path in (io.stdout, io.stderr) if path]
        self.stdin = os.open(io.stdin, os.O_RDONLY | os.O_NONBLOCK) if io.stdin else -1

    def write(self, data: bytes, stream: int = 0) -> None:
        os.write(self.outputs[stream], data)

    def end(self) -> None:
        for descriptor in self.outputs:
            os.close(descriptor)
        self.outputs.clear()
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1


@pytest.fixture
def descriptors() -> Iterator[None]:
    """A test leaves as many descriptors open as there were."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[tuple[ExecPipes, Command]]:

    pipes = ExecPipes(str(tmp_path / "pipes"), terminal=False, stdin=True)
    command = Command(pipes)
    yield pipes, command
    command.end()
    pipes.close()
    assert not (tmp_path / "pipes").exists()


async def read(pipes: ExecPipes, stream: int = 0) -> bytes:
    return await asyncio.wait_for(pipes.read(stream), WAIT)


async def test_each_output_is_read_by_itself_and_ends_with_the_command(
    made: tuple[ExecPipes, Command],
) -> None:
    pipes, command = made
    pipes.started()
    command.write(b"out")
    command.write(b"err", 1)
    assert (await read(pipes, 1), await read(pipes)) == (b"err", b"out")
    assert not pipes.ended
    command.write(b"last")
    command.end()
    assert (await read(pipes), await read(pipes), await read(pipes, 1)) == (b"last", b"", b"")
    assert pipes.ended


async def test_no_output_ends_before_the_command_has_begun(tmp_path: Path) -> None:
    pipes = ExecPipes(str(tmp_path / "pipes"), terminal=True, stdin=False)
    reading = asyncio.ensure_future(pipes.read(0))
    try:
        await asyncio.sleep(0)
        assert not reading.done()
        command = Command(pipes)
        pipes.started()
        command.write(b"x")
        assert await asyncio.wait_for(reading, WAIT) == b"x"
        command.end()
        assert await read(pipes) == b""
        assert await read(pipes, 1) == b""  # a terminal has one output
        assert pipes.ended
    finally:
        reading.cancel()
        pipes.close()


async def test_input_waits_while_the_command_does_not_read_and_loses_nothing(
    made: tuple[ExecPipes, Command],
) -> None:
    pipes, command = made
    data = os.urandom(3 * 1024 * 1024)
    writing = asyncio.ensure_future(pipes.write(data))
    got = bytearray()
    while len(got) < len(data):
        try:
            got += os.read(command.stdin, 65536)
        except BlockingIOError:
            await asyncio.sleep(0)
        assert len(got) == len(data) or not writing.done() or len(data) - len(got) <= 1024 * 1024
        await asyncio.sleep(0)
    await asyncio.wait_for(writing, WAIT)
    assert got == data
    pipes.end_input()
    assert os.read(command.stdin, 1) == b""
    await pipes.write(b"after its end: nowhere")
    pipes.end_input()


async def test_idle_is_who_has_read_all_and_waits(made: tuple[ExecPipes, Command]) -> None:
    pipes, command = made
    pipes.started()
    assert not pipes.idle
    tasks = [asyncio.ensure_future(pipes.read(stream)) for stream in (0, 1)]
    await asyncio.sleep(0)
    assert pipes.idle
    command.write(b"x")
    assert await asyncio.wait_for(tasks[0], WAIT) == b"x"
    assert not pipes.idle
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.usefixtures("descriptors")
def test_what_cannot_be_made_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperationFailedError, match=r"cannot create FIFOs in .*/file/x: Not a directory"):
        ExecPipes(str(tmp_path / "file" / "x"), terminal=False, stdin=False)
    opened = iter((True, False))

    def open_input(path: str) -> int:
        if next(opened):
            return os.open(path, os.O_RDWR | os.O_NONBLOCK)
        raise OSError(24, "Too many open files", path)

    monkeypatch.setattr("pycm.logs.fifos.open_input", open_input)
    with pytest.raises(OperationFailedError, match=r"cannot open .*stderr: Too many open files"):
        ExecPipes(str(tmp_path / "pipes"), terminal=False, stdin=False)
    assert not (tmp_path / "pipes").exists()


@pytest.mark.usefixtures("descriptors")
async def test_pipes_of_an_agent_that_was_killed_are_removed_by_the_next(tmp_path: Path) -> None:
    logs = JsonFileLogs(str(tmp_path / "home"), str(tmp_path / "run"))
    left = logs.pipes("c1", "e1", terminal=False, stdin=True)
    await logs.close()
    assert os.path.exists(left.io.stdin)
    logs = JsonFileLogs(str(tmp_path / "home"), str(tmp_path / "run"))
    assert not os.path.exists(left.io.stdin)
    await logs.close()
    left.close()
