# SPDX-License-Identifier: Apache-2.0
"""Downloads that may only come from public addresses: names, redirects, rebinding, proxies."""

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pycm.errors import OperationFailedError, UnavailableError
from pycm.http.client import Http
from pycm.http.rules import is_public, parse_address

PUBLIC = "93.184.216.34"


@pytest.mark.parametrize(
    "ip",
    ["127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1",
     "169.254.169.254", "192.0.2.1", "224.0.0.1", "233.1.1.1", "240.0.0.1", "255.255.255.255", "::", "::1", "fe80::1",
     "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "ff0e::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
     "::ffff:93.184.216.34%1", "64:ff9b::7f00:1", "64:ff9b::10.0.0.1", "64:ff9b:1::1", "2002:7f00:1::1", "2001:0:1::1", "2001:db8::1"],
)  # fmt: skip
def test_address_that_is_not_of_the_internet_is_not_public(ip):
    assert is_public(ip) is (ip == "::ffff:93.184.216.34%1")


@pytest.mark.parametrize(
    "ip",
    [
        PUBLIC,
        "1.1.1.1",
        "172.32.0.1",
        "172.15.0.1",
        "100.128.0.1",
        "2606:4700::1",
        "::ffff:1.1.1.1",
        "64:ff9b::1.1.1.1",
    ],
)
def test_address_of_the_internet_is_public(ip):
    assert is_public(ip) is True


class Internet:
    """`answers`: what a resolver says, one a call, the last repeats. Public addresses lead to a server on another loopback address."""

    def __init__(self, monkeypatch):
        self.answers = []
        self.dialled = []
        self.location = ""
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append((self.path, self.headers["Host"]))
                self.send_response(302 if outer.location else 200)
                if outer.location:
                    self.send_header("Location", outer.location)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.2", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.connect = socket.create_connection
        monkeypatch.setattr(socket, "getaddrinfo", self.resolve)
        monkeypatch.setattr(socket, "create_connection", self.dial)

    def resolve(self, host, port, *_, **__):
        ips = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            (socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))
            for ip in ips
        ]

    def dial(self, where, timeout=None, *_):
        self.dialled.append(where[0])
        if where[0] == "198.18.0.1":
            raise ConnectionRefusedError(111, "Connection refused")
        sock = socket.socket()
        sock.settimeout(timeout)
        if where[0] == "8.8.8.8":  # an address of this machine
            sock.bind(("127.0.0.2", 0))
        sock.connect(self.server.server_address)
        return sock


@pytest.fixture
def internet(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Internet(monkeypatch)
    yield made
    made.server.shutdown()
    made.server.server_close()


def get(url, *, private=False):
    with contextlib.closing(Http(private=private).get(parse_address(url))) as response:
        return response.whole(100)


def test_public_name_is_asked_with_its_own_name(internet):
    internet.answers = [[PUBLIC]]
    assert get("http://files.test/a?b") == b"ok"
    assert internet.requests == [("/a?b", "files.test")]


def test_name_that_resolves_to_private_after_the_check_gets_no_second_chance(internet):
    internet.answers = [[PUBLIC], ["127.0.0.1"]]
    assert get("http://rebind.test/") == b"ok"
    assert internet.dialled == [PUBLIC]
    with pytest.raises(
        OperationFailedError, match=r"rebind\.test/ is at 127\.0\.0\.1: denied by things\.private_downloads"
    ):
        get("http://rebind.test/")
    assert internet.dialled == [PUBLIC]


@pytest.mark.parametrize("answer", [["10.0.0.1"], [PUBLIC, "10.0.0.1"], ["::ffff:10.0.0.1"], ["fe80::1"]])
def test_name_with_a_private_address_is_never_connected_to(internet, answer):
    internet.answers = [answer]
    with pytest.raises(OperationFailedError, match=r"denied by things\.private_downloads$"):
        get("http://files.test/")
    assert internet.dialled == []


def test_redirect_to_a_private_address_is_not_followed(internet):
    internet.answers = [[PUBLIC], ["169.254.169.254"]]
    internet.location = "http://metadata.test/latest"
    with pytest.raises(OperationFailedError, match=r"metadata\.test/latest is at 169\.254\.169\.254: denied"):
        get("http://files.test/")
    assert internet.dialled == [PUBLIC]


def test_public_address_of_this_machine_gets_no_request(internet):
    internet.answers = [["8.8.8.8"]]
    with pytest.raises(
        OperationFailedError, match=r"files\.test/ is this machine: denied by things\.private_downloads"
    ):
        get("http://files.test/")
    assert internet.requests == []


def test_next_address_of_a_name_is_tried(internet, monkeypatch):
    monkeypatch.setattr("pycm.http.client.is_public", lambda ip: True)
    internet.answers = [["198.18.0.1", PUBLIC]]
    assert get("http://files.test/") == b"ok"
    assert internet.dialled == ["198.18.0.1", PUBLIC]
    internet.answers = [["198.18.0.1"]]
    with pytest.raises(UnavailableError, match="Connection refused"):
        get("http://files.test/")


def test_proxy_is_not_used_since_it_would_resolve_names_itself(internet, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    internet.answers = [[PUBLIC]]
    assert get("http://files.test/") == b"ok"
    assert internet.dialled == [PUBLIC]


def test_private_addresses_are_allowed_by_default(internet):
    internet.answers = [["10.0.0.1"]]
    assert get("http://files.test/", private=True) == b"ok"
    assert Http()._private is True
