# SPDX-License-Identifier: Apache-2.0
"""A network namespace of its own for one agent: whatever it does to addresses, routes and packet filter is gone with it.

    with private_network() as machine, AgentProcess(directory, containerd, inside=machine.inside, ...) as agent:
        machine.run("curl", "http://127.0.0.1:30555")

Only the network is another one; processes and files are those of this machine.
"""

from __future__ import annotations

import contextlib
import secrets
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from containerd_server import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Machine:
    name: str

    @property
    def inside(self) -> tuple[str, ...]:
        """Words before a command that run it in this network. Not `ip netns exec`, which changes the view of /sys too."""
        return ("nsenter", f"--net=/run/netns/{self.name}")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.inside, *command], capture_output=True, text=True, check=False, timeout=120
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def fetch(self, url: str) -> str:
        """What a server answers, which may be starting just now."""
        tries = []

        def answers() -> bool:
            tries.append(self.run("curl", "-sS", "-m", "10", "--noproxy", "*", url, check=False))
            return tries[-1].returncode == 0

        wait_until(answers, 20, f"{url} answers")
        return tries[-1].stdout

    def rules(self) -> list[str]:
        """The rules of the packet filter that stand for single containers; empty chains of the plugins stay."""
        lines = [
            line
            for table in ("nat", "filter")
            for line in self.run("iptables", "-t", table, "-S").stdout.splitlines()
        ]
        return [line for line in lines if line.startswith("-A") and "CNI" in line and not _lasting(line)]

    def interfaces(self) -> list[str]:
        """Names, without loopback."""
        lines = self.run("ip", "-brief", "link").stdout.splitlines()
        return sorted(line.split()[0].partition("@")[0] for line in lines if not line.startswith("lo "))

    def renew(self) -> None:
        """As after a boot: nothing of what was set up is left."""
        subprocess.run(["ip", "netns", "del", self.name], check=True)
        self.make()

    def make(self) -> None:
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.run("ip", "link", "set", "lo", "up")


def _lasting(line: str) -> bool:
    """What the plugins make once for all containers."""
    return any(
        word in line
        for word in (
            "-j CNI-ADMIN",
            "-j CNI-FORWARD",
            '-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ',
            "-j CNI-HOSTPORT-DNAT",
            "-A CNI-HOSTPORT-MASQ",
            "-A CNI-HOSTPORT-SETMARK",
        )
    )


@contextlib.contextmanager
def private_network() -> Iterator[Machine]:
    machine = Machine(f"pycm-{secrets.token_hex(4)}")
    machine.make()
    try:
        yield machine
    finally:
        subprocess.run(["ip", "netns", "del", machine.name], check=True)
