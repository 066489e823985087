# SPDX-License-Identifier: Apache-2.0
"""Limits as the OCI runtime specification wants them: memory in bytes, CPU time in microseconds, -1 for unlimited."""

from __future__ import annotations

from typing import Any

from pycm.errors import InvalidInputError, shorten
from pycm.model.container import Resources
from pycm.model.units import CPU_PERIOD, cpu_quota, cpus_of, size_to_bytes

UNLIMITED = -1
#: The kernel's weight of CPU time for a container that names none.
DEFAULT_SHARES = 1024
#: Field of Resources -> key of "linux.resources.memory". OCI's swap, like ours, counts memory and swap together.
_KEYS = {"memory": "limit", "memory_reservation": "reservation", "memory_swap": "swap"}


def _bytes(text: str) -> int:
    return UNLIMITED if text == "-1" else size_to_bytes(text)


def memory_limits(resources: Resources | None) -> dict[str, int]:
    """The "linux.resources.memory" of a new task: only the limits that are set."""
    values = {key: getattr(resources, field, "") for field, key in _KEYS.items()}
    return {key: _bytes(text) for key, text in values.items() if text and _bytes(text)}


def cpu_limits(resources: Resources | None) -> dict[str, int | str]:
    """The "linux.resources.cpu" of a new task: only what is set. runc turns shares into the weight of cgroup v2."""
    wanted = resources or Resources()
    limits: dict[str, int | str] = {}
    if wanted.cpus:
        limits |= {"quota": cpu_quota(wanted.cpus), "period": CPU_PERIOD}
    if wanted.cpu_shares:
        limits["shares"] = wanted.cpu_shares
    if wanted.cpuset_cpus:
        limits["cpus"] = wanted.cpuset_cpus
    return limits


def limits(resources: Resources | None) -> dict[str, Any]:
    """The "linux.resources" of a new task, without device rules: only the controllers for which something is set."""
    found: dict[str, Any] = {"memory": memory_limits(resources), "cpu": cpu_limits(resources)}
    if resources is not None and resources.pids_limit:
        found["pids"] = {"limit": resources.pids_limit}
    return {controller: values for controller, values in found.items() if values}


def check_cpus(resources: Resources | None, online: str) -> None:
    """InvalidInputError if a container shall run on CPUs that are not *online*, as the kernel lists them; "" if it does not say."""
    wanted = resources.cpuset_cpus if resources else ""
    if wanted and online and not cpus_of(wanted) <= cpus_of(online):
        raise InvalidInputError(
            f"cpuset_cpus {shorten(wanted)} names CPUs that this machine has not: it has {online}"
        )


def update_resources(old: Resources | None, new: Resources | None, all_cpus: str = "") -> dict[str, Any]:
    """The "linux.resources" for a live task: a limit that is no longer set becomes unlimited, one that never was is not named.

    *all_cpus*: the CPUs of this machine as the kernel lists them, for a container that was bound to some and no longer is.
    """
    before, after = limits(old), limits(new)
    memory = after.get("memory", {})
    for key in before.get("memory", {}):
        memory.setdefault(key, UNLIMITED)
    if memory.get("limit") == UNLIMITED:
        memory["swap"] = UNLIMITED  # the kernel refuses a swap limit below the memory limit
    cpu = after.get("cpu", {})
    undone = {"quota": UNLIMITED, "period": CPU_PERIOD, "shares": DEFAULT_SHARES, "cpus": all_cpus}
    for key in before.get("cpu", {}):
        if undone[key]:
            cpu.setdefault(key, undone[key])
    changed = {"memory": memory, "cpu": cpu, "pids": after.get("pids", {})}
    if "pids" in before:
        changed["pids"].setdefault("limit", UNLIMITED)
    return {controller: values for controller, values in changed.items() if values or controller == "memory"}
