# SPDX-License-Identifier: Apache-2.0
"""Which way leads into a registry: what is configured of its host, and what holds where nothing is. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pycm.errors import OperationFailedError
from pycm.http.addresses import is_loopback, parse_address

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


@dataclass(frozen=True)
class Access:
    """How to get into a registry: `insecure` means plain HTTP, or HTTPS without verification, whichever it speaks.

    `usable`: False if what is configured of the registry has an error.
    """

    insecure: bool = False
    user: str = ""
    password: str = field(default="", repr=False)
    root_ca: str = ""
    client_cert: str = ""
    client_key: str = ""
    usable: bool = True


def access_to(host: str, configured: Mapping[str, Access], insecure: Collection[str]) -> Access:
    """*host* as it stands in a reference, with its port. An insecure registry keeps its login; its TLS files have no use.

    Errors: OperationFailedError for one that is not usable.
    """
    found = configured.get(host)
    if found is not None and not found.usable:
        raise OperationFailedError(
            f'containers.registry_configurations."{host}" has an error, which the log names: pulls are refused'
        )
    if host in insecure:
        return (
            Access(insecure=True, user=found.user, password=found.password)
            if found
            else Access(insecure=True)
        )
    if found is not None:
        return replace(found, insecure=False)
    return Access(insecure=_plain_by_default(host))


def _plain_by_default(host: str) -> bool:
    """As the original does: a registry on this machine of which nothing is configured speaks plain HTTP."""
    try:
        return is_loopback(parse_address(f"https://{host}").host)
    except OperationFailedError:
        return False
