# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from pycm.errors import ConflictError, InvalidInputError
from pycm.model.container import PortMapping
from pycm.network import publish
from pycm.network.conf import Published
from pycm.network.publish import Wanted, choose, parse_sockets, wanted

if TYPE_CHECKING:
    from collections.abc import Iterator

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:7755 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0100007F:7755 0100007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4 30 10 -1
   2: 00000000:7756 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
short
"""


def mapping(**values: object) -> PortMapping:
    return PortMapping(**{"proto": "tcp", "container_port": 80, "host_ip": "", "host_port": 30555, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "30555:80/tcp"),
        ({"host_ip": "0.0.0.0"}, "30555:80/tcp"),
        ({"host_ip": "localhost"}, "127.0.0.1:30555:80/tcp"),
        ({"host_ip": "192.0.2.1", "proto": "UDP"}, "192.0.2.1:30555:80/udp"),
        ({"host_port_end": 30559, "proto": ""}, "30555-30559:80/tcp"),
    ],
)
def test_mappings_as_they_are_meant(values: dict[str, object], text: str) -> None:
    assert [str(want) for want in wanted([mapping(**values)])] == [text]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"proto": "icmp"}, "port mapping 30555:80/icmp: protocol must be one of tcp, udp, sctp, got 'icmp'"),
        ({"host_port": 0}, "ports must be between 1 and 65535"),
        ({"container_port": 0}, "ports must be between 1 and 65535"),
        ({"host_port_end": 30000}, "the range ends before it begins"),
        (
            {"host_ip": "device.local"},
            "host_ip must be localhost or an IPv4 address of this machine, got 'device.local'",
        ),
        ({"host_ip": "::1"}, "got '::1'"),
    ],
)
def test_what_cannot_be_published_is_said(values: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidInputError, match=text):
        wanted([mapping(**values)])


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server


def want(first: int, last: int = 0, host_ip: str = "127.0.0.1", proto: str = "tcp") -> Wanted:
    return Wanted(proto, host_ip, first, last or first, 80)


def test_a_port_that_a_program_has_is_refused_with_its_name(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    with open("/proc/self/comm") as file:
        own = f"pid {os.getpid()} ({file.read().strip()})"
    for host_ip in ("127.0.0.1", ""):
        with pytest.raises(ConflictError) as caught:
            choose([want(port, host_ip=host_ip)], {}, "c1")
        assert f"host port {port}/tcp is in use by {own}" in str(caught.value)


def test_another_protocol_has_ports_of_its_own(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    assert choose([want(port, proto="udp")], {}, "c1")[0].host_port == port
    assert choose([want(port, proto="sctp")], {}, "c1")[0].host_port == port


def test_a_udp_port_that_is_bound_is_taken() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        with pytest.raises(ConflictError, match=r"/udp is in use by pid "):
            choose([want(server.getsockname()[1], proto="udp")], {}, "c1")


def test_the_first_free_port_of_a_range_is_taken(listener: socket.socket) -> None:
    port = listener.getsockname()[1]
    others = {"c2": [Published("tcp", "", port + 1, 80)]}
    found = choose([want(port, port + 20), want(port, port + 20)], others, "c1")
    assert port + 2 <= found[0].host_port < found[1].host_port


def test_a_range_that_is_full_is_an_error() -> None:
    others = {"c2": [Published("tcp", "", port, 80) for port in (30555, 30556)]}
    with pytest.raises(
        ConflictError, match="30555/tcp is in use by container c2, and the others up to 30556 are in use too"
    ):
        choose([want(30555, 30556)], others, "c1")


def test_who_has_the_ports_of_a_full_range_is_searched_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Published] = []
    monkeypatch.setattr(publish, "_bound", lambda _port: True)
    monkeypatch.setattr(publish, "_program", lambda port: asked.append(port) or "pid 7 (other)")
    with pytest.raises(ConflictError, match=r"30000/tcp is in use by pid 7 \(other\), and the others"):
        choose([want(30000, 39999)], {}, "c1")
    assert len(asked) == 1


def test_the_same_port_twice_in_one_container_is_an_error() -> None:
    with pytest.raises(ConflictError, match="in use by container c1"):
        choose([want(30555), want(30555)], {}, "c1")


def test_an_address_that_the_machine_has_not_is_an_error() -> None:
    with pytest.raises(ConflictError, match=r"host_ip 198\.51\.100\.7 is not an address of this machine"):
        choose([want(30555, host_ip="198.51.100.7")], {}, "c1")


@pytest.mark.parametrize(
    ("held", "asked", "free"),
    [
        (Published("tcp", "127.0.0.1", 30555, 1), want(30555, host_ip="127.0.0.2"), True),
        (Published("tcp", "127.0.0.1", 30555, 1), want(30555, proto="udp"), True),
        (Published("tcp", "127.0.0.1", 30555, 1), want(30555, host_ip=""), False),
        (Published("tcp", "", 30555, 1), want(30555), False),
        (Published("tcp", "127.0.0.1", 30555, 1), want(30555), False),
    ],
)
def test_ports_of_two_addresses_do_not_overlap(
    monkeypatch: pytest.MonkeyPatch, held: Published, asked: Wanted, free: bool
) -> None:
    monkeypatch.setattr(publish, "_bound", lambda _port: False)
    if free:
        assert choose([asked], {"c2": [held]}, "c1")[0].host_port == 30555
    else:
        with pytest.raises(ConflictError, match="in use by container c2"):
            choose([asked], {"c2": [held]}, "c1")


def test_choose_tries_each_port_once_however_many_ranges_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(
        publish, "_bound", lambda port: bool(tried.append(port.host_port)) or port.host_port < 5000
    )
    ranges = [want(first, 65535) for first in (1, 1, 4000, 2, 4999, 1)]
    assert [port.host_port for port in choose(ranges, {}, "c1")] == [5000, 5001, 5002, 5003, 5004, 5005]
    assert sorted(tried) == list(range(1, 5006))


def test_choose_skips_ports_of_other_containers_without_trying_them(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(publish, "_bound", lambda port: bool(tried.append(port.host_port)))
    others = {"c2": [Published("tcp", "", port, 80) for port in range(1, 60_000)]}
    assert [port.host_port for port in choose([want(1, 65535)] * 2, others, "c1")] == [60_000, 60_001]
    assert tried == [60_000, 60_001]


def test_choose_gives_up_when_too_many_ports_were_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "MOST_PROBES", 10)
    monkeypatch.setattr(publish, "_bound", lambda port: port.host_port < 10)
    assert choose([want(1, 65535)], {}, "c1")[0].host_port == 10
    monkeypatch.setattr(publish, "_bound", lambda port: port.host_port < 11)
    with pytest.raises(ConflictError, match="no free port among the first 10"):
        choose([want(1, 65535)], {}, "c1")


def test_sockets_of_a_port_are_found_in_the_kernels_table() -> None:
    assert parse_sockets(TABLE, 0x7755, listening=True) == {"socket:[4711]"}
    assert parse_sockets(TABLE, 0x7755, listening=False) == {"socket:[4711]", "socket:[4712]"}
    assert parse_sockets(TABLE, 1, listening=False) == set()
