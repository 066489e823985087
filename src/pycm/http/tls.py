# SPDX-License-Identifier: Apache-2.0
"""TLS contexts of HTTP connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pycm.errors import InvalidInputError, shorten
from pycm.storage.files import check_regular

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True)
class Tls:
    """PEM files: root_ca beside the machine's authorities; client_cert and client_key together. verify false: anybody is believed."""

    root_ca: str = ""
    client_cert: str = ""
    client_key: str = ""
    verify: bool = True


def context(tls: Tls, *, client: bool) -> ssl.SSLContext:
    """*client*: show the client certificate. InvalidInputError names the file that cannot be used; TLS 1.2 is the least."""
    import ssl  # 3 MiB: only for those who use it

    made = ssl.create_default_context()
    # from Python 3.13 on, authorities without all extensions of RFC 5280 are refused: many that devices were given lack one
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not tls.verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
        return made
    if tls.root_ca:
        try:
            check_regular(tls.root_ca)
            made.load_verify_locations(tls.root_ca)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise InvalidInputError(
                f"root_ca {shorten(tls.root_ca)} cannot be used: {_reason(error)}"
            ) from None
    if bool(tls.client_cert) != bool(tls.client_key):
        raise InvalidInputError("client_cert and client_key are needed both, only one is set")
    if client and tls.client_cert:
        try:
            for path in (tls.client_cert, tls.client_key):
                check_regular(path)
            # a key that asks for a passphrase must not wait for a terminal
            made.load_cert_chain(tls.client_cert, tls.client_key, password=lambda: b"")
        except (OSError, ValueError) as error:
            files = f"{shorten(tls.client_cert)} with client_key {shorten(tls.client_key)}"
            raise InvalidInputError(f"client_cert {files} cannot be used: {_reason(error)}") from None
    return made


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or "no PEM file"
