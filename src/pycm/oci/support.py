# SPDX-License-Identifier: Apache-2.0
"""What this machine's kernel and its OCI runtime can do."""

from __future__ import annotations

import logging
import os
import subprocess
from functools import cache

from pycm.model.validation import CAPABILITIES

#: There if the kernel can filter system calls.
_SECCOMP_ACTIONS = "/proc/sys/kernel/seccomp/actions_avail"
_INIT = "/proc/1/status"
#: How the programs say in their version that they were built with it: runc, crun.
_BUILT_WITH = ("libseccomp", "+SECCOMP")
_SECONDS = 10
log = logging.getLogger("pycm.oci")


@cache
def seccomp(binary: str) -> bool:
    """Whether *binary* can start a container with a seccomp profile here. Asks it once, which takes some milliseconds.

    Some builds of runc for Yocto come without: they refuse a container that has a profile, and go without it instead.
    """
    if not os.path.exists(_SECCOMP_ACTIONS):
        log.warning("this kernel has no seccomp: containers run without a filter of system calls")
        return False
    try:
        asked = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return True  # containerd may find it where we do not
    if asked.returncode == 0 and not any(word in asked.stdout for word in _BUILT_WITH):
        log.warning("%s is built without seccomp: containers run without a filter of system calls", binary)
        return False
    return True


@cache
def capabilities() -> tuple[str, ...]:
    """Those that this machine's init may have, and so a privileged container. All that we know if it does not say."""
    try:
        with open(_INIT, encoding="ascii") as file:
            (mask,) = (int(line.split()[1], 16) for line in file if line.startswith("CapBnd:"))
    except (OSError, ValueError, IndexError):
        return CAPABILITIES
    return tuple(name for number, name in enumerate(CAPABILITIES) if mask & 1 << number)
