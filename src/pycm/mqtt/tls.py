# SPDX-License-Identifier: Apache-2.0
"""The TLS context of the broker connection: only the given CA, host name checked, TLS 1.2 or newer.

Made anew for each attempt to connect. A connection that is up is made anew when its files have changed and can be used.
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Any

from pycm.errors import UnavailableError
from pycm.storage.files import check_regular

if TYPE_CHECKING:
    from pycm.mqtt.settings import MqttSettings


class Context(ssl.SSLContext):
    """Remembers its socket, since paho leaves one open whose handshake failed."""

    made: ssl.SSLSocket | None = None

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        self.made = super().wrap_socket(*arguments, **options)
        return self.made

    def close_made(self) -> None:
        if self.made is not None:
            self.made.close()


def make_context(settings: MqttSettings) -> Context:
    """Reads files: call it in a worker. Errors: UnavailableError, since the files may be right at the next attempt."""
    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_ca(context, settings.root_ca)
    if settings.client_cert:
        _load_pair(context, settings.client_cert, settings.client_key)
    if settings.alpn:
        context.set_alpn_protocols(list(settings.alpn))
    return context


def fingerprint(settings: MqttSettings) -> tuple[object, ...]:
    """Differs when one of the files has been exchanged or written; costs a stat for each."""
    return tuple(map(stamp, (settings.root_ca, settings.client_cert, settings.client_key)))


def stamp(path: str) -> tuple[int, ...]:
    """() if there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _load_ca(context: ssl.SSLContext, path: str) -> None:
    try:
        check_regular(path)
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise UnavailableError(f"failed to parse CA {path}") from None
    except OSError as error:
        raise UnavailableError(f"failed to load CA: {path}: {error.strerror}") from None


def _load_pair(context: ssl.SSLContext, cert: str, key: str) -> None:
    try:
        for path in (cert, key):
            check_regular(path)
        context.load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        raise UnavailableError(
            f"failed to load X509 key pair: {cert}, {key}: {getattr(error, 'reason', None) or error}"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnavailableError(f"failed to load X509 key pair: {cert}, {key}: {reason}") from None


def _no_password() -> str:
    """An encrypted key must be an error: without this, OpenSSL would ask on the terminal and block."""
    return ""
