# SPDX-License-Identifier: Apache-2.0
"""Image references as registries understand them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pycm.containerd.image_format import is_digest
from pycm.errors import InvalidInputError, NotFoundError, shorten

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
