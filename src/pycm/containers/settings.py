# SPDX-License-Identifier: Apache-2.0
"""What the core needs to know of the configuration."""

from __future__ import annotations

from dataclasses import dataclass

from pycm.model.defaults import DEFAULT_RUNTIME


@dataclass(frozen=True)
class Settings:
    """stop_timeout: seconds between SIGTERM and SIGKILL where a request names none.

    runc_binary: program of the runc runtimes, "" for runc itself. seccomp: whether containers get the default profile.

    sockets, state: places of the agent's own that a mount into a container is told of (see launch.describe_mounts).

    live_restore: containers outlive the agent. image_verifier, image_decryption: set where the configuration asks for what this
    version cannot do; create and start are refused then, since unverified content must never run.
    """

    namespace: str = "kanto-cm"
    stop_timeout: float = 30.0
    runc_runtime: str = DEFAULT_RUNTIME
    runc_binary: str = ""
    seccomp: bool = True
    live_restore: bool = True
    image_verifier: str = "none"
    image_decryption: bool = False
    sockets: tuple[str, ...] = ()
    state: tuple[str, ...] = ()


#: At most this many containers are started at once, by whomever, and looked at when containerd is back: each start runs programs.
PARALLEL = 8
#: Seconds that operations may take to end at the end of an agent whose containers run on.
OPERATIONS_LIMIT = 10.0
