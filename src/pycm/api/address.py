# SPDX-License-Identifier: Apache-2.0
"""Where the agent listens, as `--host` says it: a bare path, unix://path, tcp://host:port (tcp4, tcp6 too)."""

from __future__ import annotations

from pycm.errors import InvalidInputError, shorten

DEFAULT = "/run/container-management/container-management.sock"
_TCP = ("tcp", "tcp4", "tcp6")


class Address:
    """kind: "unix", "tcp", "tcp4" or "tcp6"; `path` or `host` and `port` with it. `text`: as it was given."""

    __slots__ = ("host", "kind", "path", "port", "text")

    def __init__(self, text: str, kind: str, *, path: str = "", host: str = "", port: int = 0) -> None:
        self.text = text
        self.kind = kind
        self.path = path
        self.host = host
        self.port = port

    def __str__(self) -> str:
        return self.text


def parse_address(text: str) -> Address:
    """Errors: InvalidInputError."""
    scheme, colon, rest = text.partition(":")
    if scheme in _TCP and rest.startswith("//"):
        return _tcp(text, scheme, rest[2:])
    path = rest if colon and scheme == "unix" else text
    if path.startswith("//"):
        path = "/" + path.lstrip("/")  # unix:///run/x and, as some write it, unix:////run/x
    if not path or "://" in path or "\0" in path:
        raise InvalidInputError(f"--host: {shorten(text)} is no path, unix://path or tcp://host:port")
    return Address(text, "unix", path=path)


def _tcp(text: str, kind: str, rest: str) -> Address:
    host, _, port = rest.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidInputError(f"--host: {shorten(text)} is not {kind}://host:port")
    return Address(text, kind, host=host.strip("[]"), port=int(port))
