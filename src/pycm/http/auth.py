# SPDX-License-Identifier: Apache-2.0
"""Logins as HTTP knows them: WWW-Authenticate read, Basic and Bearer made. Pure."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from pycm.errors import OperationFailedError, shorten
from pycm.http.addresses import Address, parse_address, relative_to

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Longest WWW-Authenticate header that is read, and longest token that is used.
CHALLENGE_LIMIT, TOKEN_LIMIT = 8192, 32768
# No two parts of a pattern can match the same characters: time is linear in the header's length.
_SCHEME = re.compile(r"[\s,]*([A-Za-z][A-Za-z0-9-]*)(?=[\s,]|$)")
_PARAMETER = re.compile(r'[\s,]*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_UNREADABLE = re.compile(r"[\s,]*[^,]*")


@dataclass(frozen=True)
class Challenge:
    """One way to log in that a server offers; `scheme` in small letters."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Login:
    user: str = ""
    password: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.user or self.password)


def challenges(headers: Iterable[str]) -> list[Challenge]:
    """What WWW-Authenticate headers offer; what cannot be read is left out, up to the next comma."""
    found = []
    for header in headers:
        text, place = header[:CHALLENGE_LIMIT], 0
        while place < len(text):
            scheme = _SCHEME.match(text, place)
            if scheme is None:
                place = max(_UNREADABLE.match(text, place).end(), place + 1)  # type: ignore[union-attr]
                continue
            place = scheme.end()
            parameters = {}
            while item := _PARAMETER.match(text, place):
                value = item[3] if item[2] is None else re.sub(r"\\(.)", r"\1", item[2])
                parameters[item[1].lower()] = value
                place = item.end()
            found.append(Challenge(scheme[1].lower(), parameters))
    return found


def basic(login: Login) -> str:
    """The value of an Authorization header."""
    return "Basic " + base64.b64encode(f"{login.user}:{login.password}".encode()).decode()


def token_address(challenge: Challenge, scope: str, asked: Address, *, secure: bool) -> Address:
    """Where the token is to be had, as *asked* said. With *secure* the password goes over https only, whatever the server says.

    *scope*: one or several with blanks between them.
    """
    try:
        realm = challenge.parameters.get("realm", "")
        address = relative_to(asked, realm) if realm else parse_address(realm)
    except OperationFailedError as error:
        raise OperationFailedError(f"the address of its token service is {error}") from None
    if secure and address.scheme != "https":
        raise OperationFailedError(f"its token service is at {address}: a login is not sent over plain http")
    query = [("service", challenge.parameters.get("service", "")), *(("scope", one) for one in scope.split())]
    words = urlencode([(name, value) for name, value in query if value])
    joined = f"{address.path}{'&' if '?' in address.path else '?'}{words}" if words else address.path
    return Address(address.scheme, address.host, address.port, joined)


def token(body: bytes) -> str:
    """The Authorization header that an answer of a token service makes possible."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    value = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
    if not isinstance(value, str) or not value or len(value) > TOKEN_LIMIT:
        raise OperationFailedError("its token service answered without a token")
    if not value.isascii() or not value.isprintable():
        raise OperationFailedError(
            f"its token service answered with a token that is none ({len(value)} characters)"
        )
    return f"Bearer {value}"


def server_message(body: bytes) -> str:
    """What a registry or token service says went wrong, on one line, shortened; "" if it says nothing that can be read."""
    try:
        errors = json.loads(body)["errors"]
        first = errors[0]
        text = first.get("message") or first.get("code") or ""
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return ""
    return shorten(" ".join(str(text)[:400].split()), 160)[1:-1] if text else ""
