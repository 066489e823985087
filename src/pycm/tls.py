# SPDX-License-Identifier: Apache-2.0
"""TLS contexts from PEM files, for the MQTT connection and for downloads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pycm.errors import InvalidInputError, shorten
from pycm.storage.files import check_regular

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence


class TlsFiles(NamedTuple):
    """PEM files: the certificate authority, and the client's certificate with its key. `verify` False trusts any
    server.
    """

    root_ca: str = ""
    client_cert: str = ""
    client_key: str = ""
    verify: bool = True


class PemFiles(Protocol):
    """TlsFiles, or a section `transport` of the configuration."""

    @property
    def root_ca(self) -> str: ...
    @property
    def client_cert(self) -> str: ...
    @property
    def client_key(self) -> str: ...


def fingerprint(files: PemFiles) -> tuple[tuple[int, ...], ...]:
    """A value that changes when one of the files is replaced or written; it costs a stat for each."""
    return stamp(files.root_ca), stamp(files.client_cert), stamp(files.client_key)


def stamp(path: str) -> tuple[int, ...]:
    """Identity, time and size of a file; () if it does not exist."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def make_context(
    files: PemFiles,
    *,
    system_cas: bool,
    show_cert: bool = True,
    alpn: Sequence[str] = (),
    kind: type[ssl.SSLContext] | None = None,
) -> ssl.SSLContext:
    """Return a client's context for TLS 1.2 or newer. Blocking. InvalidInputError names the key and the file that is
    unusable.

    *system_cas*: trust the machine's authorities too. *show_cert*: offer the client's certificate. *kind*: the class to
    make where the machine's authorities are not trusted.
    """
    import ssl  # 3 MiB, for connections with TLS only

    if system_cas:
        context = ssl.create_default_context()
        # since Python 3.13 this flag refuses authorities without all extensions of RFC 5280, which many devices were
        # given
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    else:
        context = (kind or ssl.SSLContext)(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if isinstance(files, TlsFiles) and not files.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    if files.root_ca or not system_cas:
        _load_ca(context, files.root_ca)
    if bool(files.client_cert) != bool(files.client_key):
        raise InvalidInputError("client_cert and client_key must be set together")
    if show_cert and files.client_cert:
        _load_pair(context, files.client_cert, files.client_key)
    return context


def _load_ca(context: ssl.SSLContext, path: str) -> None:
    try:
        check_regular(path)
        context.load_verify_locations(path)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise _unusable("root_ca", shorten(path), error) from None


def _load_pair(context: ssl.SSLContext, cert: str, key: str) -> None:
    try:
        for path in (cert, key):
            check_regular(path)
        # a key with a passphrase must be an error: OpenSSL would ask for it on the terminal
        context.load_cert_chain(cert, key, password=lambda: b"")
    except (OSError, ValueError) as error:
        if getattr(error, "filename", None) == key:
            raise _unusable("client_key", shorten(key), error) from None
        raise _unusable("client_cert", f"{shorten(cert)} with client_key {shorten(key)}", error) from None


def _unusable(field: str, value: str, error: Exception) -> InvalidInputError:
    reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or "not a PEM file"
    return InvalidInputError.of(field, value, f"cannot be used: {reason}")
