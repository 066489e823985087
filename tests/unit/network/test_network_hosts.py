# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import pytest

from pycm.errors import InvalidInputError
from pycm.network.files import (
    LOCAL,
    Own,
    Peer,
    check_extra_hosts,
    hosts_file,
    providers,
    resolv_conf,
    resolve,
    servers,
    updated,
)

VECTORS = {v["name"]: v for v in json.loads((Path(__file__).parents[2] / "vectors/runtime.json").read_text())}
RECORDED = """\
127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
fe00::0	ip6-localnet
ff00::0	ip6-mcastprefix
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
172.17.0.1	me
172.17.0.2	seat-host.seat-domain seat-host
"""


def interface(name: str) -> str:
    return {"": "172.17.0.1", "eth0": "192.0.2.2"}.get(name, "")


def extra(*entries: str, peers: tuple[Peer, ...] = ()) -> list[str]:
    """The lines that the entries make."""
    content = hosts_file(Own("172.17.0.2", "own", "domain"), entries, peers, interface)
    return content.decode().splitlines()[len(LOCAL) : -1]


def test_the_file_is_the_one_that_the_original_wrote() -> None:
    own = Own("172.17.0.2", "seat-host", "seat-domain")
    content = hosts_file(own, ("db:container_databroker-host", "me:host_ip"), (), interface)
    assert content.decode() == RECORDED


def test_tokens_become_addresses_and_all_else_stays() -> None:
    peers = (Peer("databroker-host", "172.17.0.3"), Peer("h", "172.17.0.4"))
    assert extra(
        "m:host_ip",
        "e:host_ip_eth0",
        "db:container_databroker-host",
        "v:192.0.2.9",
        "six:2001:db8::1",
        peers=peers,
    ) == [
        "172.17.0.1\tm",
        "192.0.2.2\te",
        "172.17.0.3\tdb",
        "192.0.2.9\tv",
        "2001:db8::1\tsix",
    ]


def test_what_cannot_be_resolved_is_left_out() -> None:
    assert extra("a:host_ip_", "b:host_ip_wlan9", "c:container_nobody", "d:container_", "e:1.2.3.4") == [
        "1.2.3.4\te"
    ]


def test_vector_net_token_ambiguous() -> None:
    given = VECTORS["net-token-ambiguous"]["given"]
    peers = tuple(Peer(peer["host_name"], peer["ip"]) for peer in given["bridge_containers"])
    assert len(peers) == 2
    assert extra(given["extra_host"], peers=peers) == []
    assert extra(given["extra_host"], peers=peers[:1]) == [f"{peers[0].address}\tx"]


def test_the_names_that_entries_wait_for() -> None:
    assert providers(("a:container_x", "b:host_ip", "c:container_y-host", "d:1.2.3.4")) == {"x", "y-host"}


def test_without_a_domain_there_is_no_long_name() -> None:
    content = hosts_file(Own("172.17.0.2", "own", ""), (), (), interface)
    assert content.endswith(b"172.17.0.2\town\n")


@pytest.mark.parametrize(
    "entry", ["", "x", "x:", ":1.2.3.4", "a b:1.2.3.4", "a:1.2.3.4\nroot:x", "a\0:1.2.3.4", "a: 1"]
)
def test_what_is_no_line_of_a_hosts_file_is_refused(entry: str) -> None:
    with pytest.raises(InvalidInputError, match="is not of the form name:address"):
        check_extra_hosts((entry,))


def test_an_address_of_ipv6_may_be_given() -> None:
    check_extra_hosts(("a:2001:db8::1", "b:host_ip", "c:container_d"))
    assert resolve("2001:db8::1", {}, interface) == "2001:db8::1"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("nameserver 192.0.2.1\nsearch x\n", "nameserver 192.0.2.1\nsearch x\n"),
        ("nameserver 127.0.0.53\nnameserver 192.0.2.1\n", "nameserver 192.0.2.1\n"),
        ("nameserver ::1\noptions edns0\n", "options edns0\nnameserver 8.8.8.8\nnameserver 8.8.4.4\n"),
        ("", "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"),
        ("nameserver 2001:db8::1\nnameserver 192.0.2.1\n", "nameserver 192.0.2.1\n"),
        ("nameserver\n", "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"),
        ("# nameserver 127.0.0.1\nnameserver 192.0.2.1", "# nameserver 127.0.0.1\nnameserver 192.0.2.1\n"),
    ],
)
def test_name_servers_that_a_container_cannot_reach_are_taken_out(content: str, expected: str) -> None:
    assert resolv_conf(content.encode()).decode() == expected


def test_name_servers_take_their_address() -> None:
    content = b"# nameserver 192.0.2.9\nnameserver 172.17.0.53\nnameserver ::1\nnameserver\nnameserver x\nsearch 192.0.2.1\n"
    assert [str(server) for server in servers(content)] == ["172.17.0.53/32"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"127.0.0.1\tlocalhost\n10.0.0.1\tweb\n10.0.0.9\tc.d c\n", None),
        (
            b"127.0.0.1\tlocalhost\n10.0.0.9\tc.d c\n",
            b"127.0.0.1\tlocalhost\n10.0.0.1\tweb\n10.0.0.9\tc.d c\n",
        ),
        (
            b"127.0.0.1\tlocalhost\n10.0.0.7\tweb\n10.0.0.9\tc.d c\n1.2.3.4 mine\n",
            b"127.0.0.1\tlocalhost\n10.0.0.1\tweb\n10.0.0.9\tc.d c\n1.2.3.4 mine\n",
        ),
        (b"10.0.0.1\tweb\n1.2.3.4\tother\n", None),
        (
            b"# mine\r\n1.2.3.4 web\n\n127.0.0.1\tlocalhost\n10.0.0.7\tweb\n10.0.0.9\tc.d c\nend",
            b"# mine\r\n1.2.3.4 web\n\n127.0.0.1\tlocalhost\n10.0.0.1\tweb\n10.0.0.9\tc.d c\nend",
        ),
        (
            b"127.0.0.1\tlocalhost\n#10.0.0.7\tweb\n1.2.3.4 mine\n",
            b"127.0.0.1\tlocalhost\n10.0.0.1\tweb\n#10.0.0.7\tweb\n1.2.3.4 mine\n",
        ),
        (b"", b"10.0.0.1\tweb\n"),
        (b"1.2.3.4 web", b"1.2.3.4 web\n10.0.0.1\tweb\n"),
        (b"\xff\xfe mine\n", b"\xff\xfe mine\n10.0.0.1\tweb\n"),
        (b"\0" * 100, None),
        (b"x" * (1024 * 1024), None),
    ],
    ids=[
        "as wanted",
        "come",
        "moved",
        "own file",
        "in place",
        "comment",
        "emptied",
        "not ours",
        "no text",
        "zeros",
        "full",
    ],
)
def test_updated_replaces_the_lines_of_tokens_and_keeps_what_the_container_has_written(
    before: bytes, after: bytes | None
) -> None:
    wanted = b"127.0.0.1\tlocalhost\n10.0.0.1\tweb\n10.0.0.9\tc.d c\n"
    assert updated(before, wanted, ["web:container_web-host", "other:192.0.2.1"]) == (after or before)


def test_updated_takes_away_what_no_token_stands_for_any_more() -> None:
    before = b"127.0.0.1\tlocalhost\n10.0.0.1\tweb\n10.0.0.2\tgate\n1.2.3.4 mine\n"
    wanted = b"127.0.0.1\tlocalhost\n10.0.0.2\tgate\n"
    after = b"127.0.0.1\tlocalhost\n10.0.0.2\tgate\n1.2.3.4 mine\n"
    assert updated(before, wanted, ["web:container_web-host", "gate:host_ip"]) == after
