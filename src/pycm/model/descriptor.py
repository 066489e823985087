# SPDX-License-Identifier: Apache-2.0
"""Descriptors: containers described by people, in files and artifacts, in the form of the store or with the names of the gRPC API."""

from __future__ import annotations

from dataclasses import replace

from pycm.model.container import NANOSECONDS, Container
from pycm.model.json_form import decode, parse

#: Keys that say how a container was, not what it should be. Leda's manifests carry them in a form of their own (a status as text).
FOUND_OUT = frozenset({"state", "network_settings"})
#: Values of `retry_timeout` below this are seconds, not nanoseconds.
_SECONDS_BELOW = 1_000_000


def read_descriptor(data: str | bytes) -> Container:
    """Return the container that *data* describes, without defaults. Errors: InvalidInputError."""
    wanted = parse(data)
    if isinstance(wanted, dict):
        wanted = {key: value for key, value in wanted.items() if key.lower() not in FOUND_OUT}
    return descriptor_policy(decode(Container, wanted, aliases=True))


def descriptor_policy(container: Container) -> Container:
    """People write a retry_timeout in seconds, as Kanto's documentation says; Kanto's loader takes nanoseconds."""
    host = container.host_config
    policy = host.restart_policy if host else None
    if host is None or policy is None or not 0 < policy.retry_timeout < _SECONDS_BELOW:
        return container
    policy = replace(policy, retry_timeout=policy.retry_timeout * NANOSECONDS)
    return replace(container, host_config=replace(host, restart_policy=policy))
