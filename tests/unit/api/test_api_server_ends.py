# SPDX-License-Identifier: Apache-2.0
"""The server's start and end: its socket, its addresses, clients that stay, and the library's tracebacks."""

import asyncio
import contextlib
import logging
import os
import socket
import stat
from pathlib import Path

import pytest
from grpclib.client import Channel, UnaryUnaryMethod

from pycm.api import server as module
from pycm.api.proto.api.services.containers import containers_pb2 as m
from pycm.api.server.grpc import CONTAINERS
from pycm.errors import ConfigError
from support.api_world import WAIT, Raw, World, served


async def test_the_socket_is_for_owner_and_group_and_gone_at_the_end(world: World) -> None:
    assert stat.S_IMODE(os.stat(world.path).st_mode) == 0o660
    assert stat.S_IMODE(os.stat(os.path.dirname(world.path)).st_mode) == 0o711
    await world.server.close()
    assert not Path(world.path).exists()
    await world.server.close()


async def test_an_end_does_not_wait_for_clients_that_stay(world: World) -> None:
    idle = await Raw.connect(world.path)
    await idle.flush()
    call = asyncio.ensure_future(world.call("Start", m.StartContainerRequest(id="slow")))
    await asyncio.wait_for(world.containers.waiting.wait(), WAIT)
    await asyncio.wait_for(world.server.close(), WAIT)
    with contextlib.suppress(ConnectionError):
        await idle.closed()
    idle.close()
    assert world.containers.cancelled.is_set()
    with contextlib.suppress(Exception):
        await asyncio.wait_for(call, WAIT)


@pytest.mark.parametrize("protocol", ["tcp", "tcp4"])
async def test_tcp_is_served_too(tmp_path: Path, protocol: str) -> None:
    server = served("127.0.0.1:0", protocol)
    await server.start()
    port = server.sockets[0].getsockname()[1]
    channel = Channel("127.0.0.1", port)
    method = UnaryUnaryMethod(channel, CONTAINERS + "List", m.ListContainersRequest, m.ListContainersResponse)
    assert not (await method(m.ListContainersRequest())).containers
    channel.close()
    await server.close()


@pytest.mark.parametrize(
    ("protocol", "address"),
    [
        ("udp", "/x"),
        ("tcp", "nowhere"),
        ("tcp", "127.0.0.1:99999"),
        ("tcp4", "127.0.0.1:x"),
        ("unix", "/dev/null/s"),
    ],
)
async def test_an_address_that_cannot_be_used_is_named(protocol: str, address: str) -> None:
    server = served(address, protocol)
    with pytest.raises(ConfigError, match=r"^grpc_server"):
        await server.start()
    await server.close()


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"cannot listen at {address}: Address already in use$"):
            await served(address, "tcp").start()


def test_the_library_logs_no_tracebacks(caplog: pytest.LogCaptureFixture) -> None:
    module._quiet_library()
    try:
        raise KeyError(":path")
    except KeyError:
        logging.getLogger("grpclib.server").exception("Server error")
    assert "Server error: KeyError(':path')" in caplog.text
    assert "Traceback" not in caplog.text
