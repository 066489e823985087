# SPDX-License-Identifier: Apache-2.0
"""The user of a container's process: the image's USER entry, resolved by the image's own passwd and group files."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pycm.errors import InvalidInputError, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The places in a container. The runtime reads them too, before it runs anything in the container.
PASSWD, GROUP = "/etc/passwd", "/etc/group"
_MAX_ID = 2**32 - 2


class ProcessUser(NamedTuple):
    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()


def _entries(content: bytes, fields: int) -> Iterator[list[str]]:
    """Lines of a colon-separated file that have enough fields; others are skipped, as libc does."""
    for line in content.decode("utf-8", "replace").splitlines():
        parts = line.split(":")
        if len(parts) >= fields and not line.startswith("#"):
            yield parts


def _number(text: str) -> int | None:
    if text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_ID)) and int(text) <= _MAX_ID:
        return int(text)
    return None


def resolve_user(user: str, passwd: bytes, group: bytes) -> ProcessUser:
    """*user*: "", "name", "uid", "name:group", "uid:gid" of the image's configuration. InvalidInputError for unknown
    names.

    Without USER the process is root. The supplementary groups are those that list the login in /etc/group, also beside
    an explicit group, as containerd resolves them.
    """
    name, separator, group_name = user.partition(":")
    found = _find_user(name or "0", passwd)
    if found is None:
        raise InvalidInputError(f"the image's user {shorten(user)} is not in its /etc/passwd")
    login, uid, gid = found
    if separator and group_name:
        gid = _find_group(group_name, group, user)
    return ProcessUser(uid, gid, tuple(_supplementary(login, group)))


def _find_user(name: str, passwd: bytes) -> tuple[str, int, int] | None:
    """(login name, uid, gid); a number without an entry is used as it is, with group 0."""
    wanted = _number(name)
    for entry in _entries(passwd, 4):
        uid, gid = _number(entry[2]), _number(entry[3])
        if uid is not None and gid is not None and (entry[0] == name or uid == wanted):
            return entry[0], uid, gid
    return None if wanted is None else ("", wanted, 0)


def _find_group(name: str, group: bytes, user: str) -> int:
    for entry in _entries(group, 3):
        gid = _number(entry[2])
        if entry[0] == name and gid is not None:
            return gid
    number = _number(name)
    if number is None:
        raise InvalidInputError(f"the group of the image's user {shorten(user)} is not in its /etc/group")
    return number


def _supplementary(login: str, group: bytes) -> list[int]:
    found = {_number(entry[2]) for entry in _entries(group, 4) if login and login in entry[3].split(",")}
    return sorted(gid for gid in found if gid is not None)
