# SPDX-License-Identifier: Apache-2.0
"""Clients attached to a container's output and input, with a shim at the other end of the FIFOs."""

import asyncio
import os
import threading
from pathlib import Path

import pytest
from logs_shim import Shim

from pycm.errors import ConflictError, OperationFailedError
from pycm.logs import clients
from pycm.logs.clients import Tap
from pycm.logs.front import JsonFileLogs
from pycm.model.container import LogConfiguration, LogDriverConfiguration

JSON = LogConfiguration(driver_config=LogDriverConfiguration(type="json-file", max_files=2, max_size="100M"))
NONE = LogConfiguration(driver_config=LogDriverConfiguration(type="none"))
WAIT = 60.0


class Room:
    def __init__(self, directory):
        self.run = directory / "run"
        self.logs = JsonFileLogs(str(directory / "home"), str(self.run))
        self.shims = []

    def start(self, config=JSON, *, stdin=False, container_id="c1"):
        io = self.logs.make_fifos(container_id, terminal=False, stdin=stdin)
        self.logs.attach(container_id, io, config)
        self.shims.append(Shim(io))
        return io, self.shims[-1]

    async def close(self):
        for shim in self.shims:
            shim.end()
        await self.logs.close()
        for container_id in ("c1", "c2"):
            self.logs.forget(container_id)


@pytest.fixture
async def room(tmp_path):
    made = Room(tmp_path)
    yield made
    await made.close()


async def read(client, size):
    """At least *size* bytes of output."""
    data = b""
    while len(data) < size:
        piece = await asyncio.wait_for(client.read(), WAIT)
        assert piece, data
        data += piece
    return data


async def end(client):
    assert await asyncio.wait_for(client.read(), WAIT) == b""


@pytest.mark.parametrize("config", [JSON, NONE])
async def test_every_client_sees_both_streams_from_its_attaching_on(room, config):
    _, shim = room.start(config)
    first = await room.logs.connect("c1", next_run=False)
    shim.write(b"one\n")
    assert await read(first, 4) == b"one\n"
    second = await room.logs.connect("c1", next_run=False)
    shim.write(b"two", "stderr")  # an open line is not waited for
    assert [await read(client, 3) for client in (first, second)] == [b"two", b"two"]
    first.close()
    shim.write(b"3")
    assert await read(second, 1) == b"3"
    second.close()


async def test_the_end_of_the_output_is_the_end_for_clients_after_all_that_was_said(room):
    _, shim = room.start()
    client = await room.logs.connect("c1", next_run=False)
    shim.write(b"last words")
    shim.end()
    await room.logs.finish("c1")
    assert await read(client, 10) == b"last words"
    await end(client)


async def test_a_client_waits_for_the_next_run_and_does_not_see_the_end_of_the_last(room):
    _, shim = room.start()
    client = await room.logs.connect("c1", next_run=True)
    shim.write(b"old")
    shim.end()
    await room.logs.finish("c1")
    _, shim = room.start()
    shim.write(b"new")
    assert await read(client, 3) == b"new"
    client.close()


async def test_the_removal_of_the_container_ends_the_waiting(room):
    client = await room.logs.connect("c1", next_run=True)
    room.logs.forget("c1")
    with pytest.raises(OperationFailedError, match="c1 was removed"):
        await asyncio.wait_for(client.read(), WAIT)


async def test_a_client_that_does_not_read_is_cut_off_and_neither_log_nor_others_notice(room):
    _, shim = room.start()
    slow = await room.logs.connect("c1", next_run=False)
    quick = await room.logs.connect("c1", next_run=False)
    line = b"x" * 99 + b"\n"
    count = clients.LIMIT // len(line) + 1000
    writer = threading.Thread(target=lambda: [shim.write(line * 100) for _ in range(count // 100 + 1)])
    writer.start()
    total = (count // 100 + 1) * 100 * len(line)
    data = await read(quick, total)
    writer.join(WAIT)
    assert data == line * (total // len(line))
    with pytest.raises(OperationFailedError, match="reads too slowly"):
        await asyncio.wait_for(slow.read(), WAIT)
    assert len(slow.tap._data) == 0
    shim.end()
    await room.logs.finish("c1")
    assert Path(room.logs.path("c1", JSON)).read_bytes().count(b"\n") == total // len(line)


async def test_there_is_a_bound_of_clients_and_room_when_one_goes(room, monkeypatch):
    monkeypatch.setattr("pycm.logs.front.MOST_CLIENTS", 2)
    clients = [await room.logs.connect("c1", next_run=True) for _ in range(2)]
    with pytest.raises(ConflictError, match="2 clients are attached"):
        await room.logs.connect("c2", next_run=True)
    clients[0].close()
    clients[0].close()
    clients.append(await room.logs.connect("c2", next_run=True))
    for client in clients:
        client.close()


async def test_attached_clients_are_told_when_the_agent_ends(room):
    room.start()
    client = await room.logs.connect("c1", next_run=False)
    await room.logs.close()
    with pytest.raises(OperationFailedError, match="the container keeps running"):
        await asyncio.wait_for(client.read(), WAIT)


# ── input ──


async def test_input_reaches_the_container_and_waits_while_it_does_not_read(room):
    io, _ = room.start(stdin=True)
    client = await room.logs.connect("c1", next_run=False)
    data = os.urandom(300_000)  # more than a FIFO holds
    writing = asyncio.ensure_future(client.write(data))
    reader = os.open(io.stdin, os.O_RDONLY | os.O_NONBLOCK)
    got = b""
    while len(got) < len(data):
        try:
            got += os.read(reader, 65536)
        except BlockingIOError:
            await asyncio.sleep(0)
    await asyncio.wait_for(writing, WAIT)
    os.close(reader)
    assert got == data
    client.close()


async def test_the_end_of_input_is_seen_though_keeper_and_other_clients_held_it_open(room):
    io, _ = room.start(stdin=True)
    reader = os.open(io.stdin, os.O_RDONLY)
    client, other = [await room.logs.connect("c1", next_run=False) for _ in range(2)]
    await client.write(b"all")
    await other.write(b" of it")
    room.logs.close_stdin("c1")
    content = await asyncio.wait_for(asyncio.to_thread(_read_to_the_end, reader), WAIT)
    assert content == b"all of it"
    await client.write(b"too late: dropped")
    client.close()
    other.close()


def _read_to_the_end(descriptor):
    with open(descriptor, "rb") as file:
        return file.read()


async def test_output_is_still_kept_by_a_keeper_after_the_end_of_input(room):
    io, shim = room.start(stdin=True)
    room.logs.close_stdin("c1")
    client = await room.logs.connect("c1", next_run=False)
    shim.write(b"x")
    assert await read(client, 1) == b"x"

    def keeper_holds_output_only():
        try:
            pid = int((Path(io.stdout).parent / "keeper").read_text())
            held = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
        except (OSError, ValueError):  # it is being exchanged
            return False
        return io.stdout in held and io.stdin not in held

    async def wait():
        while not keeper_holds_output_only():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), WAIT)
    client.close()


async def test_a_blocked_writer_is_released_when_input_ends(room):
    io, _ = room.start(stdin=True)
    reader = os.open(io.stdin, os.O_RDONLY | os.O_NONBLOCK)
    client = await room.logs.connect("c1", next_run=False)
    writing = asyncio.ensure_future(client.write(bytes(2_000_000)))
    await asyncio.sleep(0)
    room.logs.close_stdin("c1")
    await asyncio.wait_for(writing, WAIT)
    os.close(reader)
    client.close()


async def test_a_container_without_stdin_drops_input(room):
    room.start()
    client = await room.logs.connect("c1", next_run=False)
    await asyncio.wait_for(client.write(b"x"), WAIT)
    client.close()


async def test_no_descriptor_is_left_behind(room):
    io, shim = room.start(stdin=True)
    reader = os.open(io.stdin, os.O_RDONLY | os.O_NONBLOCK)
    client = await room.logs.connect("c1", next_run=False)
    shim.write(b"x")
    assert await read(client, 1) == b"x"  # the pump's thread has opened its files
    client.close()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        client = await room.logs.connect("c1", next_run=False)
        await client.write(b"x")
        client.close()
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(reader)


# ── the tap alone ──


async def test_a_tap_that_is_closed_takes_nothing():
    tap = Tap(asyncio.get_running_loop())
    tap.put(b"x")
    tap.close()
    tap.put(b"y")
    assert await tap.read() == b""


async def test_an_error_comes_after_what_was_said_before():
    tap = Tap(asyncio.get_running_loop())
    tap.put(b"x")
    tap.end("why")
    tap.put(b"late")
    assert await tap.read() == b"x"
    with pytest.raises(OperationFailedError, match="why"):
        await tap.read()
