# SPDX-License-Identifier: Apache-2.0
"""A guest that boots systemd by scripts/qemu-run, its commands by ssh, its MQTT port, and a power switch.

The guest's clock counts instructions (--steady), so its time-outs and the times that it tells do not depend on the host's load.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from typing import TYPE_CHECKING, Any

from guest_machine import HERE

if TYPE_CHECKING:
    from pathlib import Path

QEMU_RUN = HERE.parent.parent / "scripts/qemu-run"
BOOT_LIMIT, COMMAND_LIMIT = 420, 300
"""Seconds of the host's time; ten times what is needed on two free cores."""


class BootedMachine:
    def __init__(self, directory: Path, image: Path) -> None:
        self.directory, self.image = directory, image
        self.disk = directory / "disk.ext4"
        self.ports: dict[str, int] = {}
        self.boots = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def console(self) -> Path:
        return self.directory / f"console-{self.boots}.log"

    def power_on(self, *, reboot: bool = False) -> None:
        """*reboot*: the machine may reset itself, and boots again."""
        self.boots += 1
        command = [QEMU_RUN, "--steady", "--disk", self.disk, "--mqtt", "0", "--ssh", "0", self.image]
        command += ["--reboot"] if reboot else []
        with self.console.open("wb") as console:
            self.process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=console, stderr=console
            )
        self.wait_for(self.read_ports, 60, "qemu-run did not print its ports")
        self.wait_for(self.answers, BOOT_LIMIT, "the guest's ssh server did not answer")

    def read_ports(self) -> bool:
        text = self.console.read_text(errors="replace")
        self.ports = {name.lower(): int(port) for name, port in re.findall(r"(?m)^(MQTT|ssh): .*? -p (\d+) ", text)}  # fmt: skip
        return len(self.ports) == 2

    def answers(self) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.ssh("true", 60).returncode == 0
        return False

    def wait_for(self, condition: Any, limit: float, failure: str) -> None:
        end = time.monotonic() + limit
        while not condition():
            assert self.process is not None
            assert self.process.poll() is None, (
                f"QEMU ended:\n{self.console.read_text(errors='replace')[-2000:]}"
            )
            assert time.monotonic() < end, f"{failure} within {limit} s:\n{self.console.read_text(errors='replace')[-2000:]}"  # fmt: skip
            time.sleep(0.5)

    def ssh(self, command: str, limit: float) -> subprocess.CompletedProcess[str]:
        """One connection for all commands of a boot: each new one is a key exchange of an emulated machine."""
        control = f"{self.directory}/ssh-{self.boots}"
        options = {
            "UserKnownHostsFile": "/dev/null", "StrictHostKeyChecking": "no", "BatchMode": "yes", "LogLevel": "ERROR",
            "ConnectTimeout": "30", "ControlMaster": "auto", "ControlPath": control, "ControlPersist": "yes",
        }  # fmt: skip
        words = ["ssh", "-F", "none", "-p", str(self.ports["ssh"])]
        words += [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        # The connection that stays in the background would hold a pipe open: output goes into a file.
        with (self.directory / "ssh-output").open("w+") as output:
            done = subprocess.run(
                [*words, "root@127.0.0.1", command], stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, timeout=limit, check=False,
            )  # fmt: skip
            output.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, output.read(), "")

    def run(self, command: str, limit: float = COMMAND_LIMIT) -> str:
        done = self.ssh(command, limit)
        assert done.returncode == 0, f"{command}: {done.returncode}: {done.stdout[-3000:]}"
        return done.stdout.strip()

    def power_cut(self) -> None:
        """No signal to the guest, no flush: what its kernel had not written is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)
            self.process = None
        self.disconnect()

    def disconnect(self) -> None:
        """End the connection that commands share: over a reset of the machine it would hang."""
        control = f"{self.directory}/ssh-{self.boots}"
        subprocess.run(
            ["ssh", "-o", f"ControlPath={control}", "-O", "exit", "guest"], capture_output=True, timeout=30, check=False
        )  # fmt: skip
