# SPDX-License-Identifier: Apache-2.0
"""Answers that no decent server gives: each ends the download with an error, and whoever waits for it hears of that."""

import asyncio
import itertools
import socket
import threading

import pytest

from pycm.errors import OperationFailedError, PycmError, UnavailableError
from pycm.http import client, download, rules
from pycm.http.download import Download, WebDownloads

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n"


class RawServer:
    """Sends `pieces()` to whoever connects, and closes; `count`: connections."""

    def __init__(self):
        self.count = 0
        self.pieces = lambda: [b""]
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/file?signature=secret"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.count += 1
            with connection:
                try:
                    connection.recv(65536)
                    for piece in self.pieces():
                        connection.sendall(piece)
                except OSError:
                    pass

    def close(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(rules, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(rules, "LAST_DELAY", 0.001)
    monkeypatch.setattr(client, "IDLE", 1.0)
    made = RawServer()
    yield made
    made.close()


def fetch(server, limit=100_000):
    return asyncio.run(WebDownloads().fetch(server.url, limit))


HOSTILE = {
    "chunked with a length of 5000 digits": [
        CHUNKED + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    ],
    "length of 5000 digits": [OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nabc"],
    "length of 18 digits": [OK + b"Content-Length: " + b"9" * 18 + b"\r\n\r\nabc"],
    "negative length": [OK + b"Content-Length: -5\r\n\r\nabc"],
    "length that is text": [OK + b"Content-Length: many\r\n\r\nabc"],
    "length in other digits": [OK + "Content-Length: \u0663\r\n\r\nabcd".encode()],
    "negative chunk": [CHUNKED + b"\r\n-5\r\nabc\r\n0\r\n\r\n"],
    "chunk size of 5000 digits": [CHUNKED + b"\r\n" + b"f" * 5000 + b"\r\nabc"],
    "chunk size that is text": [CHUNKED + b"\r\nmany\r\nabc"],
    "chunk size that does not end": [CHUNKED + b"\r\n", *[b"1" * 65536] * 3],
    "chunk that is cut": [CHUNKED + b"\r\n10\r\nabc"],
    "10000 headers": [OK, *[b"X: y\r\n" * 1000] * 10, b"\r\nabc"],
    "header of a megabyte": [OK + b"X: ", *[b"y" * 65536] * 16, b"\r\n\r\n"],
    "status of 5000 digits": [b"HTTP/1.1 " + b"2" * 5000 + b" OK\r\n\r\nabc"],
    "negative status": [b"HTTP/1.1 -20 OK\r\n\r\nabc"],
    "status line without end": [b"HTTP/1.1 200 ", *[b"x" * 65536] * 3],
    "not HTTP": [b"\x00\x01\x02\xff" * 100],
    "HTTP/0.9": [b"abc"],
    "nothing": [b""],
    "rules after 5000 digits": [
        b"HTTP/1.1 503 no\r\nRetry-After: " + b"9" * 5000 + b"\r\nContent-Length: 0\r\n\r\n"
    ],
    "rules after the year 99999": [
        b"HTTP/1.1 503 no\r\nRetry-After: Fri, 31 Dec 99999 23:59:59 +9999\r\nContent-Length: 0\r\n\r\n"
    ],
    "part of a range of 5000 digits": [
        b"HTTP/1.1 206 part\r\nContent-Range: bytes 0-" + b"9" * 5000 + b"/9\r\n\r\nabc"
    ],
    "redirect without end": [b"HTTP/1.1 302 go\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n"],
    "redirect to an address that is none": [
        b"HTTP/1.1 302 go\r\nLocation: http://[::1/\r\nContent-Length: 0\r\n\r\n"
    ],
    "redirect to port 99999": [b"HTTP/1.1 302 go\r\nLocation: http://h:99999/\r\nContent-Length: 0\r\n\r\n"],
    "redirect of 60000 bytes": [b"HTTP/1.1 302 go\r\nLocation: /" + b"a" * 60_000 + b"\r\n\r\n"],
    "header that is not text": [OK + b"Content-Length\xff: 3\r\nContent-Encoding: \xff\r\n\r\nabc"],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_download_of_a_hostile_answer_ends(server, name):
    """Some are tolerated, as they are by others: what counts is an end, without a traceback."""
    server.pieces = lambda: HOSTILE[name]

    async def outcome():
        return (await asyncio.gather(WebDownloads().fetch(server.url, 100_000), return_exceptions=True))[0]

    found = asyncio.run(outcome())
    text = str(found)
    assert found in (b"abc", b"") or isinstance(found, PycmError)
    assert "unexpected" not in text
    assert "\n" not in text
    assert len(text) < 400


def test_download_goes_on_after_a_hostile_answer(server):
    async def both():
        downloads = WebDownloads()
        server.pieces = lambda: HOSTILE["chunked with a length of 5000 digits"]
        await asyncio.gather(downloads.fetch(server.url, 1000), return_exceptions=True)
        server.pieces = lambda: [OK + b"Content-Length: 3\r\n\r\nabc"]
        return await downloads.fetch(server.url, 1000)

    assert asyncio.run(both()) == b"abc"


ENDLESS = {
    "interim answers": [b"HTTP/1.1 100 Continue\r\n\r\n" * 100],
    "interim answers with headers": [b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" * 100],
    "headers": [OK, b"X: y\r\n" * 100],
    "a header": [OK + b"X: ", b"y" * 65536],
}


@pytest.mark.parametrize("name", ENDLESS)
def test_download_ends_endless_headers_by_their_size(server, name):
    *first, again = ENDLESS[name]
    sent = []

    def pieces():
        for piece in itertools.chain(first, itertools.repeat(again)):
            sent.append(len(piece))
            yield piece

    server.pieces = pieces
    with pytest.raises(OperationFailedError):
        fetch(server)
    assert server.count == 1
    assert sum(sent) < client.HEAD + (8 << 20), "the rest lies in buffers of the kernel"


@pytest.mark.parametrize(("before", "taken"), [(0, True), (1, False)])
def test_download_reads_headers_up_to_the_bound(server, monkeypatch, before, taken):
    answer = (
        b"HTTP/1.1 100 Continue\r\nX: " + b"y" * 1000 + b"\r\n\r\n" + OK + b"Content-Length: 3\r\n\r\nabc"
    )
    monkeypatch.setattr(client, "HEAD", len(answer) - before)
    server.pieces = lambda: [answer]
    if taken:
        assert fetch(server) == b"abc"
    else:
        with pytest.raises(OperationFailedError, match="bytes of headers"):
            fetch(server)


def test_download_that_trickles_ends_in_time(server):
    ticks = iter(range(0, 10_000, 100))
    server.pieces = lambda: itertools.chain([OK + b"\r\n"], itertools.repeat(b"x" * 65536))
    with pytest.raises(UnavailableError, match="did not finish its answer within 300 s"):
        Download(1 << 30, clock=lambda: next(ticks)).attempt(rules.parse_address(server.url))
    assert server.count == 1


@pytest.mark.parametrize(
    "bug", [ValueError("a bug"), MemoryError(), SystemExit(3), RecursionError(), KeyError()]
)
def test_download_thread_hands_over_whatever_ends_it(server, monkeypatch, caplog, bug):
    def broken(*_):
        raise bug

    monkeypatch.setattr(Download, "attempt", broken)
    with pytest.raises(OperationFailedError, match=f"unexpected {type(bug).__name__}") as raised:
        fetch(server)
    assert "secret" not in str(raised.value) + caplog.text
    assert "download of http://127.0.0.1" in caplog.text


async def test_download_thread_that_hangs_is_not_waited_for(server, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPT", 0.05)
    hangs = threading.Event()
    monkeypatch.setattr(Download, "attempt", lambda self, url: hangs.wait() and b"")
    with pytest.raises(UnavailableError, match="was not read within"):
        await WebDownloads().fetch(server.url, 1000)
    hangs.set()
