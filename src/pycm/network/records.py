# SPDX-License-Identifier: Apache-2.0
"""What the agent has made for each container on the bridge, written before it is made, so that it can be unmade after any crash.

Records lie below exec_root_dir, with the addresses that host-local gave away: both mean nothing after a reboot, and /run forgets.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from typing import Any

from pycm.errors import OperationFailedError
from pycm.network.conf import Published
from pycm.storage.files import (
    TEMPORARY,
    discard,
    make_directory,
    read_regular,
    sync_directory,
    write_atomic,
)

#: A record has a few KiB, with all extra hosts that a description may have 4 MiB at most; a larger file is none.
_LONGEST = 4 * 1024 * 1024
log = logging.getLogger("pycm.network")


@dataclass(frozen=True)
class Sandbox:
    """chain: the plugins as they were called. result: what they have answered so far. connected: all of them have."""

    id: str
    namespace: str
    chain: tuple[dict[str, Any], ...]
    published: tuple[Published, ...] = ()
    result: dict[str, Any] | None = None
    connected: bool = False
    address: str = ""
    host_name: str = ""
    domain_name: str = ""
    extra_hosts: tuple[str, ...] = ()
    hosts_path: str = ""


class Records:
    """One file a container; `sandboxes` is their content."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self.sandboxes: dict[str, Sandbox] = {}

    def load(self) -> list[str]:
        """Read all. Returns the ids whose record is damaged: what was made for them can only be guessed."""
        damaged = []
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        except OSError as error:  # only bridge containers need it
            log.error("network.exec_root_dir cannot be used: %s: %s", self._directory, error.strerror)
            return []
        for name in names:
            container_id, suffix = os.path.splitext(name)
            if suffix == TEMPORARY:
                discard(os.path.join(self._directory, name))
            elif suffix == ".json":
                try:
                    data = read_regular(os.path.join(self._directory, name), _LONGEST)
                    self.sandboxes[container_id] = _parse(container_id, data)
                except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
                    log.error(
                        "the record of the network of container %s cannot be read: %r", container_id, error
                    )
                    damaged.append(container_id)
        return damaged

    def save(self, sandbox: Sandbox) -> None:
        """OperationFailedError if it cannot be written."""
        try:
            make_directory(self._directory, 0o700)
            write_atomic(self._path(sandbox.id), json.dumps(asdict(sandbox)).encode(), 0o600)
        except OSError as error:
            raise OperationFailedError(
                f"cannot record the network of container {sandbox.id}: {error.filename or self._directory}:"
                f" {error.strerror}"
            ) from error
        self.sandboxes[sandbox.id] = sandbox

    def delete(self, container_id: str) -> None:
        """What is not there is no error."""
        self.sandboxes.pop(container_id, None)
        try:
            os.unlink(self._path(container_id))
            sync_directory(self._directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise OperationFailedError(
                f"cannot remove {self._path(container_id)}: {error.strerror}"
            ) from error

    def _path(self, container_id: str) -> str:
        return os.path.join(self._directory, f"{container_id}.json")


def find_address(directory: str, container_id: str) -> str:
    """The address that host-local has given to a container: the name of a file that begins with its id; "" if there is none."""
    try:
        names = os.listdir(directory)
    except OSError:
        return ""
    for name in names:
        try:
            IPv4Address(name)
            data = read_regular(os.path.join(directory, name), 1024)
            if data.decode(errors="replace").split()[:1] == [container_id]:
                return name
        except (ValueError, OSError):
            continue
    return ""


def _parse(container_id: str, data: bytes) -> Sandbox:
    values = json.loads(data)
    if values["id"] != container_id:
        raise ValueError("it is that of another container")
    values["chain"] = tuple(values["chain"])
    values["published"] = tuple(Published(**port) for port in values["published"])
    values["extra_hosts"] = tuple(values["extra_hosts"])
    return Sandbox(**values)
