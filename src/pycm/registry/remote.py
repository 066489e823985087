# SPDX-License-Identifier: Apache-2.0
"""One repository of a registry: manifests and blobs over the distribution API, with the login that it requires.

The calls block, and several threads use them at the same time. A passing failure (too many requests, a server in
trouble, a cut connection) is a TryLaterError; the caller decides how often to try. Kanto's clients know the beginnings
of the messages.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Protocol

from pycm.containerd.image_format import DOCUMENT_LIMIT, MANIFEST_TYPES, quote
from pycm.errors import (
    InvalidInputError,
    NotFoundError,
    OperationFailedError,
    PycmError,
    UnavailableError,
    shorten,
)
from pycm.http import rules
from pycm.http.client import Http, Response
from pycm.http.rules import Address, TryLaterError, parse_address
from pycm.tls import TlsFiles

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pycm.containerd.image_format import Descriptor
    from pycm.registry.job import Access, Reference

#: Bytes of a token service's answer (tokens have a few KiB) and of an error.
TOKEN_LIMIT, ERROR_LIMIT = 256 << 10, 64 << 10
MANIFESTS = ", ".join(MANIFEST_TYPES)
#: What TLS servers answer to a plain request.
_PLAIN_TO_TLS = (
    b"HTTP request to an HTTPS server",
    b"HTTP request was sent to HTTPS port",
    b"speaking plain HTTP",
)


class Repository:
    """*access*: how to connect to the registry of *reference*."""

    def __init__(self, reference: Reference, access: Access) -> None:
        self._reference = reference
        self._login = rules.Login(access.user, access.password)
        self._insecure = access.insecure
        home = parse_address(f"https://{reference.registry}").host
        files = TlsFiles(access.root_ca, access.client_cert, access.client_key)
        self._http = Http(TlsFiles(verify=False) if access.insecure else files, home)
        self._scheme = "" if access.insecure else "https"
        self._lock = threading.Lock()
        self._authorization = ""

    @property
    def host(self) -> str:
        return self._reference.host

    def manifest(self, name: str) -> tuple[bytes, str, str]:
        """Return document, media type and digest, as the registry claims, of a tag or digest.

        The caller verifies them.
        """
        with contextlib.closing(self._get(f"manifests/{name}", {"Accept": MANIFESTS})) as response:
            if not _is_whole(response):
                raise self._refused(response, "manifest")
            kind, digest = (
                response.headers.get(name) or "" for name in ("Content-Type", "Docker-Content-Digest")
            )
            return response.whole(DOCUMENT_LIMIT), kind.partition(";")[0].strip(), digest

    def blob(self, digest: str, headers: Mapping[str, str]) -> Response:
        """Return an open answer: all of the blob, a part (206), or status 416 (there is no such part)."""
        response = self._get(f"blobs/{digest}", headers)
        if not _is_whole(response) and response.status not in (206, 416):
            with contextlib.closing(response):
                raise self._refused(response, f"blob {digest}")
        return response

    def _get(self, path: str, headers: Mapping[str, str]) -> Response:
        """Send a request with the last login that worked; if it is refused, log in again and repeat it once."""
        prefix = self._prefix()
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
            raise TryLaterError(f"{prefix}failed to do request: {error}") from None
        except InvalidInputError as error:
            raise InvalidInputError(f"{prefix}{self.host} has an invalid configuration: {error}") from None
        except OperationFailedError as error:
            text = str(error)
            raise OperationFailedError(
                text if text.startswith(prefix) else f"{prefix}failed to do request: {text}"
            ) from None

    def _address(self, path: str) -> Address:
        with self._lock:
            if not self._scheme:
                self._scheme = self._find_scheme()
        root = parse_address(f"{self._scheme}://{self._reference.registry}")
        return root._replace(path=f"/v2/{self._reference.path}/{path}")

    def _find_scheme(self) -> str:
        """Choose plain HTTP for an insecure registry that speaks it, as the original does."""
        address = parse_address(f"http://{self._reference.registry}/v2/")
        try:
            with contextlib.closing(self._http.get(address)) as response:
                if response.status != 400 or not any(
                    word in response.whole(ERROR_LIMIT) for word in _PLAIN_TO_TLS
                ):
                    return "http"
        except PycmError as error:
            try:
                self._http.get(parse_address(f"https://{self._reference.registry}/v2/")).close()
            except PycmError:
                raise error from None
        return "https"

    # ── login ──

    def _log_in(self, response: Response, used: str) -> str:
        """Return a new Authorization header, "" if there is none. One thread logs in, the others use its result."""
        offers = rules.read_challenges(response.headers.get_all("WWW-Authenticate") or ())
        with self._lock:
            if self._authorization != used:
                return self._authorization
            for offer in offers:
                if offer.scheme == "bearer":
                    self._authorization = self._token(offer, response.address)
                    return self._authorization
            if self._login and any(offer.scheme == "basic" for offer in offers):
                fresh = rules.make_basic(self._login)
                if fresh != used:
                    self._authorization = fresh
                    return fresh
        return ""

    def _token(self, offer: rules.Challenge, asked: Address) -> str:
        scope = offer.parameters.get("scope") or f"repository:{self._reference.path}:pull"
        # the request for an anonymous token contains no secret
        secure = self._scheme == "https" and not self._insecure and bool(self._login)
        address = rules.make_token_address(offer, scope, asked, secure=secure)
        login = {"Authorization": rules.make_basic(self._login)} if self._login else {}
        with contextlib.closing(self._http.get(address, login)) as response:
            if not _is_whole(response):
                raise self._refused(response, "token")
            return rules.read_token(response.whole(TOKEN_LIMIT))

    # ── refusals ──

    def _prefix(self) -> str:
        return f"failed to resolve reference {quote(self._reference.text)}: "  # compat

    def _refused(self, response: Response, what: str) -> PycmError:
        status, message = response.status, self._message(response)
        said = f": server message: {message}" if message else ""
        if status in rules.PASSING:
            after = rules.read_retry_after(response.headers.get("Retry-After"))
            wait = f", and asks to wait {after:g} s" if after else ""
            text = f"{self._prefix()}{response.address} answers {status}{said}{wait}"
            return TryLaterError(text, after, answered=True)
        if status in (401, 403):
            denied = "pull access denied, repository does not exist or may require authorization"  # compat
            return OperationFailedError(
                f"{self._prefix()}{denied}{said}: {self.host} answers {status}",
                hint=""
                if self._login
                else f'Add a login for "{self.host}" to containers.registry_configurations.',
            )
        if status == 404:
            missing = self._reference.text if what == "manifest" else f"{what} of {self._reference.text}"
            return NotFoundError(f"{self._prefix()}{missing}: not found{said}")  # compat
        return OperationFailedError(
            f"{self._prefix()}unexpected status {status} from {response.address}{said}"
        )

    @staticmethod
    def _message(response: Response) -> str:
        try:
            return rules.read_server_message(response.whole(ERROR_LIMIT))
        except PycmError:
            return ""


def _is_whole(response: Response) -> bool:
    """A proxy may answer for the registry, for instance with status 203."""
    return 200 <= response.status < 300 and response.status != 206


def _authorized(value: str) -> dict[str, str]:
    return {"Authorization": value} if value else {}


# ── sources ──


class Reader(Protocol):
    """The rest of a blob. Both calls block."""

    def read(self, limit: int) -> bytes:
        """Return at least one byte, or b"" at the end."""

    def close(self) -> None: ...


class Source(Protocol):
    """Documents and blobs by digest, from a registry or an archive.

    The calls block and may come from several threads.
    """

    #: The name of the source in messages.
    name: str

    def document(self, descriptor: Descriptor) -> bytes:
        """Return a manifest or index. The caller verifies digest and size."""

    def open(self, descriptor: Descriptor, offset: int) -> Reader:
        """Open the blob at *offset*. TryLaterError if another attempt may work."""


class RegistrySource:
    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self.name = f"registry {repository.host}"

    def document(self, descriptor: Descriptor) -> bytes:
        return self._repository.manifest(descriptor.digest)[0]

    def open(self, descriptor: Descriptor, offset: int) -> Reader:
        response = self._repository.blob(descriptor.digest, rules.make_range_header(offset))
        if response.status == 206 and response.encoded:  # a part of the encoded blob is of no use
            response.close()
            response = self._repository.blob(descriptor.digest, {})
        try:
            if response.sent == descriptor.size:
                response.take_as_sent()
            if response.status == 416:
                raise OperationFailedError(f"the server has nothing after byte {offset}")
            start = rules.find_start(response.status, response.headers, offset, descriptor.size)
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
    """The body of an answer, with *size* bytes: fewer mean a cut connection, more an invalid answer."""

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
        """Read what is here already, from servers that do not support ranges."""
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
