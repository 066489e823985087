# SPDX-License-Identifier: Apache-2.0
"""One repository of one registry: manifests and blobs over the distribution API, with whatever login it asks for.

Blocking, and used from several threads at once. What passes (too many requests, a server in trouble, a cut connection) is raised as
TryLaterError; whoever calls decides how often. Kanto's clients know the beginnings of the messages.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Protocol

from pycm.containerd.image_format import MANIFEST_TYPES
from pycm.errors import (
    InvalidInputError,
    NotFoundError,
    OperationFailedError,
    PycmError,
    UnavailableError,
    shorten,
)
from pycm.http import rules
from pycm.http.client import Http, Response, Tls
from pycm.http.rules import Address, begins_at, parse_address, range_header
from pycm.registry.job import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pycm.containerd.image_format import Descriptor
    from pycm.http.client import Response
    from pycm.registry.job import Access, Reference

#: Registries refuse manifests beyond 4 MiB; tokens are a few KiB.
DOCUMENT_LIMIT, TOKEN_LIMIT, ERROR_LIMIT = 4 << 20, 256 << 10, 64 << 10
MANIFESTS = ", ".join(MANIFEST_TYPES)
#: What servers that speak TLS say to somebody who does not.
_PLAIN_TO_TLS = (
    b"HTTP request to an HTTPS server",
    b"HTTP request was sent to HTTPS port",
    b"speaking plain HTTP",
)


class TryLaterError(UnavailableError):
    """`after`: seconds that the server wants to be left alone, None if it does not say. `answered`: it is there, but in trouble."""

    def __init__(self, text: str, after: float | None = None, *, answered: bool = False) -> None:
        super().__init__(text)
        self.after = after
        self.answered = answered


class Repository:
    """*access*: how to get into the registry of *reference*."""

    def __init__(self, reference: Reference, access: Access) -> None:
        self._reference = reference
        self._login = rules.Login(access.user, access.password)
        self._insecure = access.insecure
        home = parse_address(f"https://{reference.registry}").host
        files = Tls(access.root_ca, access.client_cert, access.client_key)
        self._http = Http(Tls(verify=False) if access.insecure else files, home)
        self._scheme = "" if access.insecure else "https"
        self._lock = threading.Lock()
        self._authorization = ""

    @property
    def host(self) -> str:
        return self._reference.host

    def manifest(self, name: str) -> tuple[bytes, str, str]:
        """Document, media type, and digest as the registry says, of a tag or digest: for the caller to check."""
        with contextlib.closing(self._get(f"manifests/{name}", {"Accept": MANIFESTS})) as response:
            if not _is_whole(response):
                raise self._refused(response, "manifest")
            kind, digest = (
                response.headers.get(name) or "" for name in ("Content-Type", "Docker-Content-Digest")
            )
            return response.whole(DOCUMENT_LIMIT), kind.partition(";")[0].strip(), digest

    def blob(self, digest: str, headers: Mapping[str, str]) -> Response:
        """An open answer: all of it, a part (206), or status 416 (there is no such part)."""
        response = self._get(f"blobs/{digest}", headers)
        if not _is_whole(response) and response.status not in (206, 416):
            with contextlib.closing(response):
                raise self._refused(response, f"blob {digest}")
        return response

    def _get(self, path: str, headers: Mapping[str, str]) -> Response:
        """With the login that worked the last time; once more with a new one if that is no longer taken."""
        try:
            address = self._address(path)
            used = self._authorization
            response = self._http.get(address, {**headers, **_authorized(used)})
            if response.status == 401 and response.address.origin == address.origin:
                fresh = self._log_in(response, used)
                if fresh:
                    response.close()
                    response = self._http.get(address, {**headers, **_authorized(fresh)})
            return response
        except TryLaterError:
            raise
        except UnavailableError as error:
            raise TryLaterError(f"{self._prefix()}failed to do request: {error}") from None
        except InvalidInputError as error:
            raise InvalidInputError(f"{self._prefix()}{self.host} is not configured well: {error}") from None
        except OperationFailedError as error:
            text = str(error)
            raise OperationFailedError(
                text if text.startswith(self._prefix()) else f"{self._prefix()}failed to do request: {text}"
            ) from None

    def _address(self, path: str) -> Address:
        with self._lock:
            if not self._scheme:
                self._scheme = self._find_scheme()
        root = parse_address(f"{self._scheme}://{self._reference.registry}")
        return Address(root.scheme, root.host, root.port, f"/v2/{self._reference.path}/{path}")

    def _find_scheme(self) -> str:
        """Of an insecure registry: plain HTTP if it speaks that, as the original tries it."""
        address = parse_address(f"http://{self._reference.registry}/v2/")
        try:
            with contextlib.closing(self._http.get(address)) as response:
                if response.status != 400 or not any(
                    word in response.whole(ERROR_LIMIT) for word in _PLAIN_TO_TLS
                ):
                    return "http"
        except PycmError as error:
            secure = Address("https", address.host, _tls_port(self._reference.registry), "/v2/")
            try:
                self._http.get(secure).close()
            except PycmError:
                raise error from None
        return "https"

    # ── login ──

    def _log_in(self, response: Response, used: str) -> str:
        """A new Authorization header, "" if there is none to be had. One thread asks, the others take what it got."""
        offers = rules.challenges(response.headers.get_all("WWW-Authenticate") or ())
        with self._lock:
            if self._authorization != used:
                return self._authorization
            for offer in offers:
                if offer.scheme == "bearer":
                    self._authorization = self._token(offer, response.address)
                    return self._authorization
            if self._login and any(offer.scheme == "basic" for offer in offers):
                fresh = rules.basic(self._login)
                if fresh != used:
                    self._authorization = fresh
                    return fresh
        return ""

    def _token(self, offer: rules.Challenge, asked: Address) -> str:
        scope = offer.parameters.get("scope") or f"repository:{self._reference.path}:pull"
        # a token for everybody is no secret on its way here
        secure = self._scheme == "https" and not self._insecure and bool(self._login)
        address = rules.token_address(offer, scope, asked, secure=secure)
        login = {"Authorization": rules.basic(self._login)} if self._login else {}
        with contextlib.closing(self._http.get(address, login)) as response:
            if not _is_whole(response):
                raise self._refused(response, "token")
            return rules.token(response.whole(TOKEN_LIMIT))

    # ── refusals ──

    def _prefix(self) -> str:
        return f"failed to resolve reference {quote(self._reference.text)}: "

    def _refused(self, response: Response, what: str) -> PycmError:
        status, words = response.status, self._said(response)
        said = f": server message: {words}" if words else ""
        if status in rules.PASSING:
            after = rules.retry_after(response.headers.get("Retry-After"))
            wait = f"; it wants to be left alone for {after:g} s" if after else ""
            text = f"{self._prefix()}{response.address} answers {status}{said}{wait}"
            return TryLaterError(text, after, answered=True)
        if status in (401, 403):
            login = "" if self._login else " (there is no login for it in containers.registry_configurations)"
            return OperationFailedError(
                f"{self._prefix()}pull access denied, repository does not exist or may require authorization"
                f"{said}: {self.host} answers {status}{login}"
            )
        if status == 404:
            missing = self._reference.text if what == "manifest" else f"{what} of {self._reference.text}"
            return NotFoundError(f"{self._prefix()}{missing}: not found{said}")
        return OperationFailedError(
            f"{self._prefix()}unexpected status {status} from {response.address}{said}"
        )

    @staticmethod
    def _said(response: Response) -> str:
        try:
            return rules.server_message(response.whole(ERROR_LIMIT))
        except PycmError:
            return ""


def _is_whole(response: Response) -> bool:
    """A proxy may answer for the registry: 203, for instance."""
    return 200 <= response.status < 300 and response.status != 206


def _authorized(value: str) -> dict[str, str]:
    return {"Authorization": value} if value else {}


def _tls_port(registry: str) -> int:
    return parse_address(f"https://{registry}").port


class Reader(Protocol):
    """The rest of a blob. Both calls block."""

    def read(self, limit: int) -> bytes:
        """At least one byte, or b"" where it ends."""

    def close(self) -> None: ...


class Source(Protocol):
    """Documents and blobs by digest. The calls block and may come from several threads."""

    #: Who is to blame, for messages.
    name: str

    def document(self, descriptor: Descriptor) -> bytes:
        """A manifest or index; digest and size are checked by the caller."""

    def open(self, descriptor: Descriptor, offset: int) -> Reader:
        """The blob from *offset* on. TryLaterError where a repetition may help."""


class RegistrySource:
    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self.name = f"registry {repository.host}"

    def document(self, descriptor: Descriptor) -> bytes:
        return self._repository.manifest(descriptor.digest)[0]

    def open(self, descriptor: Descriptor, offset: int) -> Reader:
        response = self._repository.blob(descriptor.digest, range_header(offset))
        if (
            response.status == 206 and response.encoded
        ):  # a part of what it is encoded to: nothing can be done with it
            response.close()
            response = self._repository.blob(descriptor.digest, {})
        try:
            if response.sent == descriptor.size:
                response.take_as_sent()
            if response.status == 416:
                raise OperationFailedError(f"there is nothing after byte {offset} of it")
            start = begins_at(response.status, response.headers, offset, descriptor.size)
            reader = BlobReader(response, descriptor.size - start)
            reader.skip(offset - start)
        except OperationFailedError as error:
            response.close()
            raise OperationFailedError(f"{self.name}, blob {descriptor.digest}: {error}") from None
        except BaseException:
            response.close()
            raise
        return reader


class BlobReader:
    """An answer's body of which *size* bytes are expected: fewer are a cut, more are a lie."""

    def __init__(self, response: Response, size: int) -> None:
        self._response = response
        self._left = size

    def read(self, limit: int) -> bytes:
        if self._left == 0:
            self._expect_end()
            return b""
        data = self._response.read(min(limit, self._left))
        if not data:
            raise TryLaterError(f"{self._response.address} ended {self._left} bytes too early")
        self._left -= len(data)
        return data

    def skip(self, size: int) -> None:
        """Read over what is here already: for servers that do not send parts."""
        while size:
            size -= len(self.read(min(size, 1 << 20)))

    def _expect_end(self) -> None:
        if self._response.headers.get("Content-Length") is None:
            more = self._response.read(1, 0)
            if more:
                raise OperationFailedError(
                    f"{self._response.address} sends more than it should: {shorten(more)} follows"
                )

    def close(self) -> None:
        self._response.close()
