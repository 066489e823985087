# SPDX-License-Identifier: Apache-2.0
"""One repository of one registry: manifests and blobs over the distribution API, with whatever login it asks for.

Blocking, and used from several threads at once. What passes (too many requests, a server in trouble, a cut connection) is raised as
TryLaterError; whoever calls decides how often. Kanto's clients know the beginnings of the messages.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from pycm.containerd.image_format import MANIFEST_TYPES
from pycm.errors import InvalidInputError, NotFoundError, OperationFailedError, PycmError, UnavailableError
from pycm.http import auth, retry
from pycm.http.addresses import Address, parse_address
from pycm.http.client import Http, Response
from pycm.http.tls import Tls
from pycm.registry.reference import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pycm.registry.access import Access
    from pycm.registry.reference import Reference

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
        self._login = auth.Login(access.user, access.password)
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
        offers = auth.challenges(response.headers.get_all("WWW-Authenticate") or ())
        with self._lock:
            if self._authorization != used:
                return self._authorization
            for offer in offers:
                if offer.scheme == "bearer":
                    self._authorization = self._token(offer, response.address)
                    return self._authorization
            if self._login and any(offer.scheme == "basic" for offer in offers):
                fresh = auth.basic(self._login)
                if fresh != used:
                    self._authorization = fresh
                    return fresh
        return ""

    def _token(self, offer: auth.Challenge, asked: Address) -> str:
        scope = offer.parameters.get("scope") or f"repository:{self._reference.path}:pull"
        # a token for everybody is no secret on its way here
        secure = self._scheme == "https" and not self._insecure and bool(self._login)
        address = auth.token_address(offer, scope, asked, secure=secure)
        login = {"Authorization": auth.basic(self._login)} if self._login else {}
        with contextlib.closing(self._http.get(address, login)) as response:
            if not _is_whole(response):
                raise self._refused(response, "token")
            return auth.token(response.whole(TOKEN_LIMIT))

    # ── refusals ──

    def _prefix(self) -> str:
        return f"failed to resolve reference {quote(self._reference.text)}: "

    def _refused(self, response: Response, what: str) -> PycmError:
        status, words = response.status, self._said(response)
        said = f": server message: {words}" if words else ""
        if status in retry.PASSING:
            after = retry.retry_after(response.headers.get("Retry-After"))
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
            return auth.server_message(response.whole(ERROR_LIMIT))
        except PycmError:
            return ""


def _is_whole(response: Response) -> bool:
    """A proxy may answer for the registry: 203, for instance."""
    return 200 <= response.status < 300 and response.status != 206


def _authorized(value: str) -> dict[str, str]:
    return {"Authorization": value} if value else {}


def _tls_port(registry: str) -> int:
    return parse_address(f"https://{registry}").port
