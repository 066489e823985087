# SPDX-License-Identifier: Apache-2.0
"""What agent and worker tell each other: an image reference, access to its registry, a job, and news. No I/O.

A job is one line of JSON, and so is each of the news that follow. Neither side relies on whole lines: a worker may be
killed in the middle of one.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.containerd.image_format import is_digest, quote
from pycm.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    OperationFailedError,
    PycmError,
    UnavailableError,
    shorten,
)
from pycm.ports import PullStep

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

REFERENCE_LIMIT = 512
HIGHEST_PORT = 65535
#: Bytes of a line that either side reads, and lines that a worker may send.
LINE_LIMIT, LINES_LIMIT = 64 << 10, 200_000
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_PORT = re.compile(r":([0-9]+)$")
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
#: The names of Docker Hub's images do not contain the host of its registry.
_HUB, _HUB_REGISTRY = "docker.io", "registry-1.docker.io"
_ERRORS = {
    error.__name__: error
    for error in (ConflictError, InvalidInputError, NotFoundError, OperationFailedError, UnavailableError)
}


class NoRoomError(OperationFailedError):
    """There is no space for an image; `missing`: bytes."""

    def __init__(self, text: str, missing: int) -> None:
        super().__init__(text)
        self.missing = missing


# ── references ──


class Reference(NamedTuple):
    """`host` with port, as in the name. At least one of tag and digest is set; the digest has precedence."""

    text: str
    host: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def wanted(self) -> str:
        """The tag or digest for requests to the registry."""
        return self.digest or self.tag

    @property
    def registry(self) -> str:
        """Host and port of the registry itself."""
        return _HUB_REGISTRY if self.host == _HUB else self.host


def parse_reference(text: str) -> Reference:
    """Read *text*. InvalidInputError names the fault; NotFoundError, in Kanto's words, a missing tag and digest."""
    host, slash, rest = text.partition("/")
    path, at, digest = rest.partition("@")
    path, colon, tag = path.partition(":")
    start = f"failed to resolve reference {quote(text)}: "  # compat
    if len(text) <= REFERENCE_LIMIT and not colon and not at:
        raise NotFoundError(f"{start}object required")  # compat
    why = ""
    if len(text) > REFERENCE_LIMIT:
        why = f"longer than {REFERENCE_LIMIT} characters"
    elif not slash or not _HOST.fullmatch(host):
        why = "it must begin with the registry's host, as in registry.example/app:1.0"
    elif (port := _PORT.search(host)) and not 0 < int(port[1]) <= HIGHEST_PORT:
        why = f"port {port[1]} is not between 1 and {HIGHEST_PORT}"
    elif not _PATH.fullmatch(path):
        why = (
            f"repository {shorten(path)} may contain small letters and digits, with single . _ - between them"
        )
    elif colon and not _TAG.fullmatch(tag):
        why = f"tag {shorten(tag)} must be up to 128 letters, digits, _ . -"
    elif at and not is_digest(digest):
        why = f"digest {shorten(digest)} must be sha256: and 64 hexadecimal digits"
    if why:
        raise InvalidInputError(start + why)
    return Reference(text, host, path, tag, digest)


# ── access ──


class Access(NamedTuple):
    """How to connect to a registry. `insecure`: plain HTTP, or HTTPS without verification, as the registry speaks.

    `usable`: False if the configuration of the registry has an error.
    """

    insecure: bool = False
    user: str = ""
    password: str = ""
    root_ca: str = ""
    client_cert: str = ""
    client_key: str = ""
    usable: bool = True

    def __repr__(self) -> str:
        return f"Access(insecure={self.insecure}, user={self.user!r}, root_ca={self.root_ca!r})"


def find_access(host: str, configured: Mapping[str, Access], insecure: Collection[str]) -> Access:
    """Return the access to *host*, as in a reference, with its port.

    An insecure registry keeps its login; its TLS files are not used. OperationFailedError for an unusable one.
    """
    found = configured.get(host)
    if found is not None and not found.usable:
        raise OperationFailedError(
            f'containers.registry_configurations."{host}" has an error, which the log names: pulls are refused'
        )
    if host in insecure:
        return Access(True, found.user, found.password) if found else Access(True)
    if found is not None:
        return found._replace(insecure=False)
    return Access(insecure=_is_here(host))


def _is_here(host: str) -> bool:
    """As for the original, a registry on this machine without a configuration is insecure."""
    from pycm.http.rules import is_loopback, parse_address  # only for pulls

    try:
        return is_loopback(parse_address(f"https://{host}").host)
    except OperationFailedError:
        return False


# ── jobs and news ──


class Job(NamedTuple):
    """reference: the image to pull. preload: the directory of archives to import, if there is no reference.

    machine: as uname -m prints it, "" for this one. reserve: bytes of free space to keep.
    """

    address: str
    namespace: str
    snapshotter: str
    lease: str
    reference: str = ""
    preload: str = ""
    machine: str = ""
    reserve: int = 0
    access: Access = Access()

    def line(self) -> bytes:
        return json.dumps({**self._asdict(), "access": self.access._asdict()}).encode() + b"\n"


def parse_job(line: bytes) -> Job:
    value = json.loads(line)
    return Job(**{**value, "access": Access(**value["access"])})


class News(NamedTuple):
    """step: value of a ports.PullStep. done, total: see ports.PullProgress.

    The last line reports the result. fetched: bytes that came over the network. images: what is in containerd now.
    failed: the reason for each archive that could not be imported.
    """

    step: str
    done: int = 0
    total: int = 0
    fetched: int = 0
    images: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    def line(self) -> bytes:
        return json.dumps(self._asdict()).encode() + b"\n"


def make_error_line(error: PycmError) -> bytes:
    known = next((name for name, kind in _ERRORS.items() if isinstance(error, kind)), "OperationFailedError")
    value: dict[str, Any] = {"error": known, "text": str(error), "hint": error.hint}
    if isinstance(error, NoRoomError):
        value["missing"] = error.missing
    return json.dumps(value).encode() + b"\n"


def parse_news(line: bytes) -> News | PycmError:
    """Read a line of a worker. ValueError, LookupError, TypeError, OverflowError or RecursionError if it is invalid."""
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004  the error for invalid lines
    if "error" not in value:
        done, total, fetched = (int(value.get(name, 0)) for name in ("done", "total", "fetched"))
        images, failed = (tuple(map(str, value.get(name, ()))) for name in ("images", "failed"))
        return News(PullStep(value["step"]).value, done, total, fetched, images, failed)
    text = str(value.get("text"))
    if "missing" in value:
        return NoRoomError(text, int(value["missing"]))
    kind = _ERRORS.get(str(value["error"]), OperationFailedError)
    return kind(text, hint=str(value.get("hint", "")))
