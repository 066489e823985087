# SPDX-License-Identifier: Apache-2.0
"""Proxies as the environment names them: http_proxy, https_proxy, no_proxy, in small or capital letters."""

from __future__ import annotations

import base64
import http.client
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pycm.errors import InvalidInputError

if TYPE_CHECKING:
    from pycm.http.addresses import Address

_NAMES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")


class Proxy:
    """host, port and, where the variable holds a login, the header that shows it."""

    def __init__(self, variable: str, text: str) -> None:
        try:
            parts = urlsplit(text if "//" in text else f"//{text}")
            host, port = parts.hostname, parts.port or 3128
        except ValueError:
            host, port = None, 0
        if not host or parts.scheme not in ("", "http"):
            raise InvalidInputError(
                f"{variable} in the environment of the agent is no proxy's address (http://host:port)"
            )
        self.host, self.port = host, port
        self.headers: dict[str, str] = {}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self.headers["Proxy-Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()


class PlainProxyConnection(http.client.HTTPConnection):
    """To a proxy that is asked for whole addresses."""

    def __init__(self, proxy: Proxy, timeout: float) -> None:
        super().__init__(proxy.host, proxy.port, timeout=timeout)
        self.headers = proxy.headers


def headers(connection: http.client.HTTPConnection) -> dict[str, str]:
    """What the proxy itself wants to see in each request."""
    return connection.headers if isinstance(connection, PlainProxyConnection) else {}


def tunnel(proxy: Proxy, address: Address, context: Any, timeout: float) -> http.client.HTTPSConnection:
    connection = http.client.HTTPSConnection(proxy.host, proxy.port, timeout=timeout, context=context)
    connection.set_tunnel(address.host, address.port, headers=proxy.headers)
    return connection


def proxy_of(address: Address) -> Proxy | None:
    if not any(os.environ.get(name) for name in _NAMES):
        return None
    from urllib import request  # 1 MiB: only where there is a proxy

    if request.proxy_bypass(f"{address.host}:{address.port}"):
        return None
    text = request.getproxies_environment().get(address.scheme)
    return Proxy(f"{address.scheme}_proxy", text) if text else None
