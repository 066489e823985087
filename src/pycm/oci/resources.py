# SPDX-License-Identifier: Apache-2.0
"""Memory limits as the OCI runtime specification wants them: bytes, -1 for unlimited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pycm.model.sizes import size_to_bytes

if TYPE_CHECKING:
    from pycm.model.container import Resources

UNLIMITED = -1
#: Field of Resources -> key of "linux.resources.memory". OCI's swap, like ours, counts memory and swap together.
_KEYS = {"memory": "limit", "memory_reservation": "reservation", "memory_swap": "swap"}


def _bytes(text: str) -> int:
    return UNLIMITED if text == "-1" else size_to_bytes(text)


def memory_limits(resources: Resources | None) -> dict[str, int]:
    """The "linux.resources.memory" of a new task: only the limits that are set."""
    values = {key: getattr(resources, field, "") for field, key in _KEYS.items()}
    return {key: _bytes(text) for key, text in values.items() if text and _bytes(text)}


def update_resources(old: Resources | None, new: Resources | None) -> dict[str, Any]:
    """The "linux.resources" for a live task: a limit that is no longer set becomes unlimited, one that never was is not named."""
    memory = memory_limits(new)
    for key in memory_limits(old):
        memory.setdefault(key, UNLIMITED)
    if memory.get("limit") == UNLIMITED:
        memory["swap"] = UNLIMITED  # the kernel refuses a swap limit below the memory limit
    return {"memory": memory}
