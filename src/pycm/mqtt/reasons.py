# SPDX-License-Identifier: Apache-2.0
"""Why there is no connection, in words: tables from exceptions and MQTT codes to one line each."""

from __future__ import annotations

import asyncio
import socket
import ssl

from pycm.errors import PycmError, shorten

#: CONNACK return codes of MQTT 3.1.1, and the MQTT 5 codes that paho 2 turns them into.
REFUSALS = {
    1: "the broker does not speak MQTT 3.1.1",
    2: "the broker rejects the client id",
    3: "the broker says that it is not available",
    4: "the broker refuses user name or password; see connection.client_username and client_password",
    5: "the broker does not authorise this client; see connection.client_username and client_password",
}
REFUSALS.update(dict(zip((132, 133, 136, 134, 135), REFUSALS.values(), strict=True)))

#: First match counts, so subclasses stand before their bases.
_FAILURES: tuple[tuple[type[Exception], str], ...] = (
    (ConnectionRefusedError, "connection refused, nothing listens there"),
    (ConnectionResetError, "the broker closed the connection"),
    (socket.gaierror, "the host name cannot be resolved"),
    (TimeoutError, "no answer in time"),
    (asyncio.TimeoutError, "no answer in time"),  # a class of its own before Python 3.11
)


def of_refusal(code: int) -> str:
    return REFUSALS.get(code, f"the broker refuses the connection with code {code}")


def of_failure(error: BaseException) -> str:
    """One line for an exception out of name resolution, connecting, TLS or reading its files."""
    if isinstance(error, PycmError):
        return str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the broker's certificate does not fit connection.transport.root_ca: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {getattr(error, 'reason', None) or error}"
    found = next((text for kind, text in _FAILURES if isinstance(error, kind)), None)
    if found or isinstance(error, (OSError, ValueError)):
        return found or f"{getattr(error, 'strerror', None) or error}"
    return f"unexpected {type(error).__name__}: {shorten(str(error))}"
