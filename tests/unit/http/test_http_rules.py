# SPDX-License-Identifier: Apache-2.0
"""The pure parts: addresses and redirects, what servers want as a login, tokens, when to ask again."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycm.errors import InvalidInputError, OperationFailedError
from pycm.http import rules
from pycm.http.rules import (
    Address,
    Challenge,
    Login,
    TryLaterError,
    find_start,
    is_loopback,
    make_basic,
    make_token_address,
    parse_address,
    read_challenges,
    read_server_message,
    read_token,
    redirected,
)
from pycm.tls import TlsFiles, make_context

HERE = parse_address("https://r.test/v2/a")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://r.test/v2/", Address("https", "r.test", 443, "/v2/")),
        ("http://r.test:5000", Address("http", "r.test", 5000, "/")),
        ("https://[::1]:8/x?y=1", Address("https", "::1", 8, "/x?y=1")),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "r.test",
        "ftp://r.test/",
        "https:///x",
        "https://r.test:x/",
        "https://r.test:99999/",
        "https://r.test/a b",
        "https://ü.test/",
    ],
)
def test_what_is_no_address_is_an_error(text: str) -> None:
    with pytest.raises(OperationFailedError, match="not an http or https address"):
        parse_address(text)


def test_a_signed_address_is_shown_without_its_secret() -> None:
    assert str(parse_address("https://s3.test/blob?signature=geheim")) == "https://s3.test/blob"


def test_redirects_lead_on_but_never_from_https_to_http() -> None:
    assert str(redirected(HERE, "/other")) == "https://r.test/other"
    assert redirected(HERE, "https://s3.test/x").origin != HERE.origin
    assert redirected(parse_address("http://r.test/"), "http://s3.test/").host == "s3.test"
    for location in (None, "", "http://r.test/v2/a", "file:///etc/passwd"):
        with pytest.raises(OperationFailedError):
            redirected(HERE, location)


def test_this_machine() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.1.2.3", "::1")))
    assert not any(map(is_loopback, ("localhost.test", "127.evil.test", "10.0.0.1", "127.0.0")))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="x"', [Challenge("basic", {"realm": "x"})]),
        (
            'Bearer realm="https://a.test/token",service="s",scope="repository:a/b:pull,push"',
            [
                Challenge(
                    "bearer",
                    {"realm": "https://a.test/token", "service": "s", "scope": "repository:a/b:pull,push"},
                )
            ],
        ),
        (
            'Basic realm="a \\"b\\"", Bearer realm=plain',
            [Challenge("basic", {"realm": 'a "b"'}), Challenge("bearer", {"realm": "plain"})],
        ),
        ("Negotiate", [Challenge("negotiate", {})]),
        ('Negotiate, Basic realm="x"', [Challenge("negotiate"), Challenge("basic", {"realm": "x"})]),
        (
            'NTLM TlR/+MTVNTUAAB==, BEARER Realm = "/t" , service=s',
            [Challenge("ntlm", {}), Challenge("bearer", {"realm": "/t", "service": "s"})],
        ),
        (
            '  ,, Bearer realm="a,b",x5="1",error="x"',
            [Challenge("bearer", {"realm": "a,b", "x5": "1", "error": "x"})],
        ),
        (
            'Bearer realm="never closed, Basic realm="x"',
            [Challenge("bearer", {"realm": "never closed, Basic realm="})],
        ),
        ("", []),
        ('=,"', []),
    ],
)
def test_what_a_server_offers(header: str, expected: list[Challenge]) -> None:
    assert read_challenges([header]) == expected


@given(st.text(max_size=300))
def test_any_header_is_read_or_left_out(header: str) -> None:
    assert isinstance(read_challenges([header]), list)


@pytest.mark.parametrize("piece", [" ", ",", ", ", 'a="', "a=b ", "\\", '"', 'a="\\"', "Basic ", "= "])
def test_challenges_take_time_in_step_with_their_length(piece: str) -> None:
    """Counted in steps of the pattern matcher's work that cannot be seen from here: at a square, these headers would take hours."""
    long = piece * (100_000 // len(piece)) + "x"
    for pattern in (rules._SCHEME, rules._PARAMETER, rules._UNREADABLE):
        pattern.match(long * 10)
    assert isinstance(read_challenges([long] * 100), list)


def test_where_the_token_is() -> None:
    offer = Challenge("bearer", {"realm": "https://a.test/token?x=1", "service": "my registry"})
    found = make_token_address(offer, "repository:a:pull", HERE, secure=True)
    assert found.path == "/token?x=1&service=my+registry&scope=repository%3Aa%3Apull"
    assert make_token_address(offer, "a b", HERE, secure=True).path.endswith("&scope=a&scope=b")
    plain = Challenge("bearer", {"realm": "https://a.test/token"})
    assert make_token_address(plain, "", HERE, secure=True).path == "/token"
    with pytest.raises(OperationFailedError, match="not sent over plain http"):
        make_token_address(Challenge("bearer", {"realm": "http://a.test/token"}), "", HERE, secure=True)
    with pytest.raises(OperationFailedError, match="its token service"):
        make_token_address(Challenge("bearer", {}), "", HERE, secure=False)


@pytest.mark.parametrize(
    ("realm", "expected"),
    [
        ("/token", "https://r.test/token"),
        ("token", "https://r.test/v2/token"),
        ("../token", "https://r.test/token"),
        ("//rules.test/token", "https://rules.test/token"),
        (" https://rules.test/to ken ", "https://rules.test/to%20ken"),
        ("HTTPS://rules.test:443/token", "https://rules.test/token"),
    ],
)
def test_realm_may_be_relative_or_in_need_of_escapes(realm: str, expected: str) -> None:
    assert str(make_token_address(Challenge("bearer", {"realm": realm}), "", HERE, secure=True)) == expected


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/a b", "/a%20b"),
        ("  /a ", "/a"),
        ("b?x=y z&n=1+2", "/v2/b?x=y%20z&n=1+2"),
        ("/\xc3\xa4", "/%C3%A4"),  # UTF-8 as http.client shows it
        ("/a%20b%2Fc", "/a%20b%2Fc"),  # escaped already
        ('/<a>"{b}|c\\^`', "/%3Ca%3E%22%7Bb%7D%7Cc%5C%5E%60"),
        ("/a#fragment", "/a"),
        ("?only=query", "/v2/a?only=query"),
        ("/sig?X-Amz-Signature=a%2Bb/c=&d=[1]:2", "/sig?X-Amz-Signature=a%2Bb/c=&d=[1]:2"),
        ("/" + "\x01", "/%01"),
    ],
)
def test_location_may_be_relative_or_in_need_of_escapes(location: str, expected: str) -> None:
    assert redirected(HERE, location) == Address("https", "r.test", 443, expected)


@pytest.mark.parametrize("location", ["https://a b/", "https://\xfc.test/", "https://r.test:x/", "https://[::1/", "/" + " " * 3000 + "x"])  # fmt: skip
def test_location_that_names_no_server_or_too_much_is_refused(location: str) -> None:
    with pytest.raises(OperationFailedError, match="redirects: not an http or https address"):
        redirected(HERE, location)


def test_logins_and_tokens() -> None:
    assert make_basic(Login("me", "geheim")) == "Basic bWU6Z2VoZWlt"
    assert "geheim" not in repr(Login("me", "geheim"))
    assert read_token(b'{"token": "a"}') == read_token(b'{"access_token": "a"}') == "Bearer a"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"token": 1}',
        b'{"token": ""}',
        b'{"token": "a\\r\\nX-Evil: 1"}',
        b"[" * 100000,
        json.dumps({"token": "x" * 40000}).encode(),
    ],
)
def test_an_answer_without_a_token_is_an_error_that_does_not_show_it(body: bytes) -> None:
    with pytest.raises(OperationFailedError) as caught:
        read_token(body)
    assert "Evil" not in str(caught.value)


def test_what_a_server_says_is_on_one_line() -> None:
    assert read_server_message(b'{"errors": [{"code": "X", "message": "a\\nb"}]}') == "a b"
    assert read_server_message(b'{"errors": [{"code": "DENIED"}]}') == "DENIED"
    assert all(
        read_server_message(body) == ""
        for body in (b"", b"<html>", b"[]", b'{"errors": []}', b'{"errors": [1]}')
    )


def test_retry_after_is_a_number_or_a_date() -> None:
    assert rules.read_retry_after("120") == 120
    assert rules.read_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    texts = (None, "", "soon", "-1", "1e9", "9999 y")
    assert [rules.read_retry_after(text) for text in texts] == [None] * 6


class Attempts:
    """Each attempt gains the next number of bytes of *gains*, the last repeats, and fails with *error*."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *gains: int, **error: Any) -> None:
        self.pauses: list[float] = []
        self.received = self.count = 0
        self._gains = gains
        self._error = error
        self._loop = asyncio.get_running_loop()
        monkeypatch.setattr(rules.asyncio, "sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def attempt(self) -> None:
        self.received += self._gains[min(self.count, len(self._gains) - 1)]
        self.count += 1
        raise TryLaterError("in trouble", **self._error)

    async def fail(self, **more: Any) -> int:
        with pytest.raises(TryLaterError):
            await rules.resume(self.attempt, lambda: self.received, **more)
        return self.count


async def test_resume_gives_up_after_attempts_without_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts(monkeypatch, 0)
    assert await attempts.fail() == rules.ATTEMPTS
    assert all(
        0.75 * full <= pause <= full for pause, full in zip(attempts.pauses, (0.5, 1, 2, 4, 8), strict=True)
    )


@pytest.mark.parametrize(("gain", "count"), [(9, rules.ATTEMPTS), (10, 2 + rules.ATTEMPTS)])
async def test_resume_counts_again_after_progress(
    monkeypatch: pytest.MonkeyPatch, gain: int, count: int
) -> None:
    assert await Attempts(monkeypatch, 0, 0, gain, 0).fail(progress=10) == count


@pytest.mark.parametrize(("answered", "count"), [(False, 3), (True, rules.ATTEMPTS)])
async def test_resume_gives_up_sooner_on_a_server_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, answered: bool, count: int
) -> None:
    assert await Attempts(monkeypatch, 0, answered=answered).fail(unreached=3) == count


@pytest.mark.parametrize(("after", "count"), [(60.0, rules.ATTEMPTS), (60.1, 1)])
async def test_resume_waits_as_long_as_the_server_asks_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch, after: float, count: int
) -> None:
    attempts = Attempts(monkeypatch, 0, after=after)
    assert await attempts.fail() == count
    assert attempts.pauses == [after] * (count - 1)


async def test_resume_ends_when_the_next_attempt_would_be_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await Attempts(monkeypatch, 0, after=30.0).fail(total=29.0) == 1


@pytest.mark.parametrize(
    ("status", "headers", "begin"),
    [
        (200, {}, 0),
        (200, {"Content-Length": "10"}, 0),
        (206, {"Content-Range": "bytes 4-9/10"}, 4),
        (206, {"Content-Range": "bytes 4-9/*"}, 4),
    ],
)
def test_where_a_part_begins(status: int, headers: dict[str, str], begin: int) -> None:
    assert find_start(status, headers, 4, 10) == begin


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, {"Content-Length": "11"}),
        (206, {}),
        (206, {"Content-Range": "bytes 3-9/10"}),
        (206, {"Content-Range": "bytes 4-9/11"}),
        (206, {"Content-Range": "bytes x"}),
    ],
)
def test_a_part_that_is_another_one_is_an_error(status: int, headers: dict[str, str]) -> None:
    with pytest.raises(OperationFailedError):
        find_start(status, headers, 4, 10)


@pytest.mark.parametrize("key", ["root_ca", "client_cert", "client_key"])
def test_context_refuses_a_fifo_in_place_of_a_tls_file(tmp_path: Path, key: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("")
    files = {"client_cert": str(tmp_path / "file"), "client_key": str(tmp_path / "file")}
    with pytest.raises(InvalidInputError, match="cannot be used: not a regular file"):
        make_context(TlsFiles(**{**files, key: str(tmp_path / "fifo")}), system_cas=True)
