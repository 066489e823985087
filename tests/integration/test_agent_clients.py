# SPDX-License-Identifier: Apache-2.0
"""A real agent and clients that abuse its API or say nothing: its memory stays as it was, and others are served."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from containerd_server import wait_until

from pycm.api.server.clients import MAX_CONNECTIONS, MAX_PER_PEER

if TYPE_CHECKING:
    from agent_process import AgentProcess

pytestmark = pytest.mark.integration

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
MB = 1024 * 1024


def resident(agent: AgentProcess) -> int:
    assert agent.process
    return int(Path(f"/proc/{agent.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def resets(count: int) -> bytes:
    # :method POST, :scheme http, :path / from the static table, te: trailers as a literal
    headers = b"\x83\x86\x84\x00\x02te\x08trailers\x00\x0ccontent-type\x10application/grpc"
    pairs = (
        frame(1, 4, 2 * number + 1, headers) + frame(3, 0, 2 * number + 1, bytes(4))
        for number in range(count)
    )
    return PREFACE + SETTINGS + b"".join(pairs)


def connect(agent: AgentProcess) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(agent.socket))
    client.settimeout(60)
    return client


def test_agent_keeps_nothing_of_a_client_that_resets_its_calls(agent: AgentProcess) -> None:
    assert agent.call("list", "-q").returncode == 0
    before = resident(agent)
    attack = resets(30_000)
    for _ in range(3):
        with contextlib.closing(connect(agent)) as client, contextlib.suppress(ConnectionError):
            client.sendall(attack)
            while client.recv(65536):
                pass
    lines = re.findall(
        r"API client \(uid \d+, pid \d+\): connection closed: too many frames.*", agent.log.read_text()
    )
    assert len(lines) == 3
    assert resident(agent) - before < 8 * MB
    assert agent.call("list", "-q").returncode == 0


def test_agent_serves_others_beside_silent_connections(agent: AgentProcess) -> None:
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(contextlib.closing(connect(agent))) for _ in range(MAX_CONNECTIONS + 88)
        ]
        assert agent.call("list", "-q").returncode == 0
        greeted = [client for client in silent[-MAX_PER_PEER:] if _is_open(client)]
        for client in greeted:
            with contextlib.suppress(ConnectionError):
                client.sendall(PREFACE + SETTINGS)
        assert agent.call("list", "-q").returncode == 0
    assert agent.process
    descriptors = Path(f"/proc/{agent.process.pid}/fd")
    wait_until(lambda: len(list(descriptors.iterdir())) < MAX_PER_PEER, 30, "descriptors are closed")


def _is_open(client: socket.socket) -> bool:
    try:
        return client.recv(1, socket.MSG_PEEK) != b""
    except ConnectionError:
        return False
