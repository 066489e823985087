# SPDX-License-Identifier: Apache-2.0
"""What systemd is told, seen from a socket as systemd has it."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING

import pytest

from pycm.systemd import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LIMIT = 60.0
"""Seconds in which a datagram must come."""


class Systemd:
    """systemd's end of the notification socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(LIMIT)
        self.address = address

    def told(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")

    async def hears(self) -> list[str]:
        return await asyncio.to_thread(self.told)

    def silent(self) -> bool:
        self.socket.settimeout(0)
        try:
            self.socket.recv(4096)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(LIMIT)
        return False


@pytest.fixture(params=["file", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    address = f"{tmp_path}/notify" if request.param == "file" else f"@pycm-test-{os.getpid()}-{tmp_path.name}"
    server = Systemd(address)
    yield server
    server.socket.close()


@pytest.fixture
def connect(systemd: Systemd) -> Iterator[Callable[..., Supervisor]]:
    made: list[Supervisor] = []

    def make(**variables: str) -> Supervisor:
        made.append(Supervisor.from_environment({"NOTIFY_SOCKET": systemd.address, **variables}))
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.close()


def test_ready_and_stopping_are_told_with_a_line_of_status(
    systemd: Systemd, connect: Callable[..., Supervisor]
) -> None:
    supervisor = connect()
    supervisor.ready("pycm 1: 2 of 3 containers run")
    assert systemd.told() == ["READY=1", "STATUS=pycm 1: 2 of 3 containers run"]
    supervisor.stopping()
    assert systemd.told() == ["STOPPING=1", "STATUS=The agent ends"]


def test_a_status_with_line_breaks_sets_no_other_variable(
    systemd: Systemd, connect: Callable[..., Supervisor]
) -> None:
    connect().ready("fine\nWATCHDOG=trigger\r\nERRNO=1")
    assert systemd.told() == ["READY=1", "STATUS=fine WATCHDOG=trigger ERRNO=1"]


async def test_the_watchdog_is_pinged_again_and_again_with_the_newest_status(
    systemd: Systemd, connect: Callable[..., Supervisor]
) -> None:
    texts = iter(["first", "second", "third", *("later" for _ in range(1000))])
    connect(WATCHDOG_USEC="200000").watch(lambda: True, lambda: next(texts))
    for status in ("first", "second", "third"):
        assert await systemd.hears() == ["WATCHDOG=1", f"STATUS={status}"]


async def test_the_time_between_pings_is_half_of_what_systemd_waits(
    connect: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    loop = asyncio.get_running_loop()
    real = loop.call_later

    def call_later(delay: float, *arguments: object, **more: object) -> asyncio.TimerHandle:
        waits.append(delay)
        return real(delay, *arguments, **more)

    monkeypatch.setattr(loop, "call_later", call_later)
    connect(WATCHDOG_USEC="60000000").watch(lambda: True, str)
    assert waits == [30.0]


async def test_no_ping_is_sent_while_a_part_does_not_work_and_they_go_on_when_it_does(
    systemd: Systemd, connect: Callable[..., Supervisor], caplog: pytest.LogCaptureFixture
) -> None:
    healthy, asked = False, asyncio.Event()

    def is_healthy() -> bool:
        asked.set()
        return healthy

    connect(WATCHDOG_USEC="200000").watch(is_healthy, str)
    for _ in range(3):
        asked.clear()
        await asyncio.wait_for(asked.wait(), LIMIT)
    assert systemd.silent()
    assert "no ping is sent to systemd" in caplog.text
    healthy = True
    assert await systemd.hears() == ["WATCHDOG=1", "STATUS="]


async def test_no_ping_comes_from_a_loop_that_hangs(
    systemd: Systemd, connect: Callable[..., Supervisor]
) -> None:
    connect(WATCHDOG_USEC="200000").watch(lambda: True, str)
    await systemd.hears()
    while not systemd.silent():  # from here on the loop is blocked, as by a bug
        pass
    systemd.socket.settimeout(1.0)  # ten times the interval
    with pytest.raises(TimeoutError):
        systemd.told()


async def test_pings_end_when_the_agent_stops(systemd: Systemd, connect: Callable[..., Supervisor]) -> None:
    supervisor = connect(WATCHDOG_USEC="200000")
    supervisor.watch(lambda: True, str)
    supervisor.stopping()
    assert await systemd.hears() == ["WATCHDOG=1", "STATUS="]
    assert (await systemd.hears())[0] == "STOPPING=1"
    turned = asyncio.Event()
    asyncio.get_running_loop().call_later(0.5, turned.set)
    await turned.wait()
    assert systemd.silent()


async def test_without_a_watchdog_no_timer_wakes_the_agent(
    systemd: Systemd, connect: Callable[..., Supervisor]
) -> None:
    asked: list[bool] = []
    connect().watch(lambda: bool(asked.append(True)), str)
    assert not asked
    assert systemd.silent()


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_USEC": "-5"}, 0.0),
        ({"WATCHDOG_USEC": ""}, 0.0),
    ],
)
def test_only_a_watchdog_that_is_meant_for_this_process_counts(
    variables: dict[str, str], seconds: float
) -> None:
    assert Supervisor.from_environment(dict(variables)).watchdog == seconds


def test_programs_that_the_agent_starts_do_not_inherit_the_variables() -> None:
    environment = {"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    Supervisor.from_environment(environment)
    assert environment == {"HOME": "/"}


async def test_without_systemd_nothing_happens() -> None:
    supervisor = Supervisor.from_environment({})
    supervisor.ready("fine")
    supervisor.watch(lambda: True, str)
    supervisor.stopping()
    supervisor.close()


@pytest.mark.parametrize("address", ["vsock:2:1234", "relative/path", "\0"])
def test_an_address_that_is_no_socket_of_ours_is_named_and_left(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(address)
    supervisor.ready("fine")
    assert "unsupported socket" in caplog.text


def test_a_socket_that_is_gone_is_named_and_does_not_stop_the_agent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(f"{tmp_path}/gone")
    supervisor.ready("fine")
    assert "systemd: cannot send READY=1" in caplog.text
    supervisor.close()


def test_a_socket_that_comes_back_is_used_again(tmp_path: Path) -> None:
    address = f"{tmp_path}/notify"
    supervisor = Supervisor(address)
    supervisor.ready("lost")
    server = Systemd(address)
    supervisor.ready("heard")
    assert server.told()[1] == "STATUS=heard"
    server.socket.close()
    supervisor.close()


def test_a_full_queue_does_not_block_the_agent(systemd: Systemd, connect: Callable[..., Supervisor]) -> None:
    supervisor = connect()
    for _ in range(5000):  # more than any queue of datagrams holds
        supervisor.ready("again")
    assert systemd.told()[0] == "READY=1"
