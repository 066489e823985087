# SPDX-License-Identifier: Apache-2.0
"""Downloads from a server that does what the test tells it: cuts, lies, stalls, changes the file."""

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pycm.errors import OperationFailedError, PycmError, UnavailableError
from pycm.http import download, rules
from pycm.http.download import WebDownloads

BODY = bytes(range(256)) * 40


class Server:
    """Each request takes the next of `plays`, the last repeats. `asked`: the Range headers."""

    def __init__(self):
        self.asked = []
        self.plays = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.headers.get("Range"))
                play = outer.plays.pop(0) if len(outer.plays) > 1 else outer.plays[0]
                play(self)
                self.close_connection = True

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/a.json"

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(rules, "FIRST_DELAY", 0.001)
    monkeypatch.setattr(rules, "LAST_DELAY", 0.01)
    made = Server()
    yield made
    made.close()


def whole(body=BODY, tag='"1"', cut=None, status=200, **headers):
    """An answer with the part that is asked for, of which only *cut* bytes are sent."""

    def play(handler):
        begin = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
        if handler.headers.get("If-Range") not in (None, tag):
            begin = 0
        part = body[begin:]
        handler.send_response(206 if begin else status)
        if begin:
            handler.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        handler.send_header("Content-Length", str(len(part)))
        if tag:
            handler.send_header("ETag", tag)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(part[:cut])

    return play


def answer(status, **headers):
    return whole(b"", "", status=status, **headers)


def fetch(server, limit=1 << 20):
    return asyncio.run(WebDownloads().fetch(server.url, limit))


def test_a_file_comes_whole(server):
    server.plays = [whole()]
    assert fetch(server) == BODY


def test_what_breaks_off_is_taken_up_there(server):
    server.plays = [whole(cut=100), whole(cut=5000), whole()]
    assert fetch(server) == BODY
    assert server.asked == [None, "bytes=100-", "bytes=5100-"]


def test_a_file_that_changed_meanwhile_begins_anew(server):
    other = BODY[::-1]
    server.plays = [whole(cut=100), whole(other, '"2"')]
    assert fetch(server) == other


@pytest.mark.parametrize("tag", ["", 'W/"1"'])
def test_without_a_sign_that_it_is_the_same_file_it_begins_anew(server, tag):
    server.plays = [whole(tag=tag, cut=100), whole(tag=tag)]
    assert fetch(server) == BODY
    assert server.asked == [None, None]


def test_a_shorter_file_begins_anew(server):
    server.plays = [whole(cut=100), answer(416), whole(b"short", '"2"')]
    assert fetch(server) == b"short"


def test_a_wrong_part_is_refused(server):
    def lie(handler):
        handler.send_response(206)
        handler.send_header("Content-Range", "bytes 0-9/10")
        handler.end_headers()

    server.plays = [whole(cut=100), lie]
    with pytest.raises(OperationFailedError, match="expected bytes 100 to 10240"):
        fetch(server)


@pytest.mark.parametrize("status", [204, 301, 400, 401, 404])
def test_what_is_no_file_is_an_error_at_once(server, status):
    server.plays = [answer(status)]
    if status == 204:
        assert fetch(server) == b""
        return
    with pytest.raises(OperationFailedError):
        fetch(server)
    assert len(server.asked) == 1


def test_a_passing_trouble_is_waited_out(server):
    server.plays = [answer(503), answer(429, Retry_After="0"), whole()]
    assert fetch(server) == BODY


def test_a_server_that_stays_in_trouble_is_given_up_with_its_answer(server):
    server.plays = [answer(503)]
    with pytest.raises(UnavailableError, match="503"):
        fetch(server)
    assert len(server.asked) == rules.ATTEMPTS


def test_a_server_that_wants_to_be_left_alone_for_long_is_taken_at_its_word(server):
    server.plays = [answer(503, Retry_After="3600")]
    with pytest.raises(OperationFailedError, match="3600"):
        fetch(server)


def test_nobody_who_listens_is_an_error(server):
    server.close()
    with pytest.raises(UnavailableError):
        fetch(server)


@pytest.mark.parametrize("url", ["", "ftp://h/x", "file:///etc/passwd", "http://", "http://h:x/"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(PycmError, match="address"):
        asyncio.run(WebDownloads().fetch(url, 10))


def test_a_file_beyond_the_limit_is_refused_before_and_while_it_comes(server):
    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 1000)
        except OSError:
            pass

    server.plays = [whole()]
    with pytest.raises(OperationFailedError, match="10240 bytes, more than the 10 that"):
        fetch(server, 10)
    server.plays = [endless]
    with pytest.raises(OperationFailedError, match="more than the 5000"):
        fetch(server, 5000)


def test_download_ends_when_the_next_attempt_would_be_too_late(server, monkeypatch):
    monkeypatch.setattr(download, "TOTAL", 0.0)
    server.plays = [answer(503)]
    with pytest.raises(UnavailableError, match="503"):
        fetch(server)
    assert len(server.asked) == 1


async def test_a_download_that_nobody_waits_for_ends(server):
    ends = threading.Event()

    def drip(handler):
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 100_000)
        except OSError:
            ends.set()

    server.plays = [drip]
    task = asyncio.create_task(WebDownloads().fetch(server.url, 1 << 40))
    while not server.asked:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ends.wait, 60)
