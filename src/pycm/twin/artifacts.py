# SPDX-License-Identifier: Apache-2.0
"""Artifacts of software modules: where they lie, their checksums, and the container that one describes (mqtt-twin 4.3). Pure.

Every checksum that is given is verified. An artifact is a container in the form of the store and of descriptors.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pycm.errors import InvalidInputError
from pycm.model.defaults import fill_defaults
from pycm.model.descriptor import read_descriptor
from pycm.model.validation import check_id, validate
from pycm.twin.operations import INTERNAL, Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pycm.model.container import Container
    from pycm.twin.features.arguments import Arguments

#: Longest artifact; a container's description is a few kB.
MAX_ARTIFACT = 1 << 20
#: In the order in which they are verified. MD5 and SHA-1 guard against damage only; backends send them.
ALGORITHMS: tuple[tuple[str, int, Callable[[bytes], bytes]], ...] = (
    ("MD5", 16, lambda data: hashlib.md5(data, usedforsecurity=False).digest()),
    ("SHA1", 20, lambda data: hashlib.sha1(data, usedforsecurity=False).digest()),
    ("SHA256", 32, lambda data: hashlib.sha256(data).digest()),
)


class Rejected(Failed):
    """The artifact itself is at fault: it does not match its checksum, or describes no valid container."""


@dataclass(frozen=True)
class Artifact:
    """`url` "" if there is no link that can be followed."""

    url: str
    checksums: Mapping[str, str]
    where: str = ""


def artifact_of(given: Arguments) -> Artifact:
    """Errors: InvalidInputError. Of an HTTP and an HTTPS link the first counts, as in the original."""
    download, sums = given.child("download"), given.child("checksums")
    links = [download.child(name) for name in ("HTTP", "HTTPS")] if download else []
    url = next((link.text("url") for link in links if link), "")
    checksums = {name: sums.text(name) for name, _, _ in ALGORITHMS} if sums else {}
    return Artifact(url, {name: text for name, text in checksums.items() if text}, given.where)


def verify(artifact: Artifact, data: bytes) -> None:
    """Errors: Rejected if a checksum is no hexadecimal number or another's; Failed if it is longer than such a one can be."""
    for name, length, digest in ALGORITHMS:
        if name in artifact.checksums:
            expected = _bytes_of(artifact.checksums[name].strip(), length)
            if not hmac.compare_digest(expected, digest(data)):
                raise Rejected(f"{name.lower()} checksum does not match")


def _bytes_of(text: str, length: int) -> bytes:
    try:
        if not text.isalnum():  # fromhex would skip blanks
            raise ValueError
        found = bytes.fromhex(text)
    except ValueError:
        raise Rejected(
            f"the provided input hash is either invalid, not a hex string or the length exceeds {length} bytes"
        ) from None
    if len(found) > length:
        raise Failed(INTERNAL)
    return found


def container_in(data: bytes) -> Container:
    """The container that an artifact describes. Errors: Failed for what is no description, Rejected for an invalid one."""
    try:
        container = read_descriptor(data)
    except InvalidInputError as error:
        raise Failed(str(error), error.masked) from None
    try:
        filled = fill_defaults(container)
        check_id(filled.id)
        validate(filled)
    except InvalidInputError as error:
        raise Rejected(str(error), error.masked) from None
    return container
