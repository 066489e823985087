# SPDX-License-Identifier: Apache-2.0
"""What agent and worker say to each other: a job on one line, then lines of news, all JSON. Pure.

Neither side trusts the other's lines to be whole: a worker may be killed in the middle of one.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pycm.containerd.image_format import is_digest
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
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_PORT = re.compile(r":([0-9]+)$")
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
#: Docker Hub's registry does not live where its images' names say.
_HUB, _HUB_REGISTRY = "docker.io", "registry-1.docker.io"


@dataclass(frozen=True)
class Reference:
    """`host` with port, as in the name; of tag and digest at least one is set, and the digest counts."""

    text: str
    host: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def wanted(self) -> str:
        """What to ask the registry for."""
        return self.digest or self.tag

    @property
    def registry(self) -> str:
        """Host and port of the registry itself."""
        return _HUB_REGISTRY if self.host == _HUB else self.host


def parse_reference(text: str) -> Reference:
    """InvalidInputError says what is wrong with *text*; NotFoundError, in Kanto's words, that tag and digest are missing."""
    host, slash, rest = text.partition("/")
    path, at, digest = rest.partition("@")
    path, colon, tag = path.partition(":")
    if len(text) <= REFERENCE_LIMIT and not colon and not at:
        raise NotFoundError(f"failed to resolve reference {quote(text)}: object required")
    why = ""
    if len(text) > REFERENCE_LIMIT:
        why = f"longer than {REFERENCE_LIMIT} characters"
    elif not slash or not _HOST.fullmatch(host):
        why = "it must begin with the registry's host, as in registry.example/app:1.0"
    elif (port := _PORT.search(host)) and not 0 < int(port[1]) <= HIGHEST_PORT:
        why = f"port {port[1]} is not between 1 and {HIGHEST_PORT}"
    elif not _PATH.fullmatch(path):
        why = f"{shorten(path)} is no repository: small letters, digits and single . _ - between them"
    elif colon and not _TAG.fullmatch(tag):
        why = f"{shorten(tag)} is no tag: up to 128 letters, digits, _ . -"
    elif at and not is_digest(digest):
        why = f"{shorten(digest)} is no digest: sha256: and 64 hexadecimal digits"
    if why:
        raise InvalidInputError(f"failed to resolve reference {quote(text)}: {why}")
    return Reference(text, host, path, tag, digest)


def quote(text: str) -> str:
    """A reference as Kanto's messages show it: in double quotes, here escaped and shortened."""
    shown = shorten(text, 200)[1:-1].replace('"', '\\"')
    return f'"{shown}"'


@dataclass(frozen=True)
class Access:
    """How to get into a registry: `insecure` means plain HTTP, or HTTPS without verification, whichever it speaks.

    `usable`: False if what is configured of the registry has an error.
    """

    insecure: bool = False
    user: str = ""
    password: str = field(default="", repr=False)
    root_ca: str = ""
    client_cert: str = ""
    client_key: str = ""
    usable: bool = True


def access_to(host: str, configured: Mapping[str, Access], insecure: Collection[str]) -> Access:
    """*host* as it stands in a reference, with its port. An insecure registry keeps its login; its TLS files have no use.

    Errors: OperationFailedError for one that is not usable.
    """
    found = configured.get(host)
    if found is not None and not found.usable:
        raise OperationFailedError(
            f'containers.registry_configurations."{host}" has an error, which the log names: pulls are refused'
        )
    if host in insecure:
        return (
            Access(insecure=True, user=found.user, password=found.password)
            if found
            else Access(insecure=True)
        )
    if found is not None:
        return replace(found, insecure=False)
    return Access(insecure=_plain_by_default(host))


def _plain_by_default(host: str) -> bool:
    """As the original does: a registry on this machine of which nothing is configured speaks plain HTTP."""
    from pycm.http.rules import is_loopback, parse_address  # only for those who pull

    try:
        return is_loopback(parse_address(f"https://{host}").host)
    except OperationFailedError:
        return False


#: Longest line either side reads, and the most lines that a worker may send.
LINE_LIMIT, LINES_LIMIT = 64 << 10, 200_000
_ERRORS = {
    error.__name__: error
    for error in (ConflictError, InvalidInputError, NotFoundError, OperationFailedError, UnavailableError)
}


class NoRoomError(OperationFailedError):
    """There is no room for an image; `missing`: bytes by which."""

    def __init__(self, text: str, missing: int) -> None:
        super().__init__(text)
        self.missing = missing


@dataclass(frozen=True)
class Job:
    """reference: what to pull. preload: directory of archives and layouts to import, where there is no reference.

    machine: as uname -m says it, "" for this one. reserve: bytes of free space that stay free.
    """

    address: str
    namespace: str
    snapshotter: str
    lease: str
    reference: str = ""
    preload: str = ""
    machine: str = ""
    reserve: int = 0
    access: Access = field(default_factory=Access)

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


def parse_job(line: bytes) -> Job:
    value = json.loads(line)
    return Job(**{**value, "access": Access(**value["access"])})


@dataclass(frozen=True)
class News:
    """step: a ports.PullStep's value. Of the last line: what came of the job.

    done, total: see ports.PullProgress. fetched: bytes that came over the network. images: what is in containerd now. failed: for
    each archive that could not be imported the reason.
    """

    step: str
    done: int = 0
    total: int = 0
    fetched: int = 0
    images: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    def line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


def error_line(error: PycmError) -> bytes:
    known = next((name for name, kind in _ERRORS.items() if isinstance(error, kind)), "OperationFailedError")
    value: dict[str, Any] = {"error": known, "text": str(error)}
    if isinstance(error, NoRoomError):
        value["missing"] = error.missing
    return json.dumps(value).encode() + b"\n"


def parse_news(line: bytes) -> News | PycmError:
    """One line of a worker. ValueError, LookupError, TypeError, OverflowError or RecursionError if it is none."""
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("no object")  # noqa: TRY004  the one error of a line that is none
    if "error" not in value:
        done, total, fetched = (int(value.get(name, 0)) for name in ("done", "total", "fetched"))
        images, failed = (tuple(map(str, value.get(name, ()))) for name in ("images", "failed"))
        return News(PullStep(value["step"]).value, done, total, fetched, images, failed)
    text = str(value.get("text"))
    if "missing" in value:
        return NoRoomError(text, int(value["missing"]))
    return _ERRORS.get(str(value["error"]), OperationFailedError)(text)
