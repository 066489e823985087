# SPDX-License-Identifier: Apache-2.0
"""The agent as a process of its own, on a private containerd and, if wanted, a private mosquitto.

    with AgentProcess(directory, containerd, broker) as agent:
        agent.cm("create", "--network", "host", "-n", "a", IMAGE)

`kill()`, `end()` and `start()` play what happens to an agent; its directories, and the containers, stay.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from containerd_server import wait_until

from support.keepers import end_keepers

if TYPE_CHECKING:
    from containerd_server import ContainerdServer
    from mosquitto_server import MosquittoServer

READY = 60.0
UNIT = Path(__file__).resolve().parents[2] / "conf/pycm.service"
HANGS = 300.0  # seconds; no command takes as long, on whatever machine
CONFIG = """\
[log]
log_level = "DEBUG"
log_file = ""
[manager]
home_dir = "{home}"
exec_root_dir = "{run}"
default_ctrs_stop_timeout = "5s"
{manager}
[containers]
address_path = "{containerd}"
default_ns = "{namespace}"
{containers}
home_dir = "{home}"
exec_root_dir = "{run}"
[network]
home_dir = "{home}"
exec_root_dir = "{run}"
{network}
[deployment]
home_dir = "{home}"
{deployment}
[grpc_server]
address_path = "{socket}"
[things]
enable = {things}
home_dir = "{home}"
[connection]
broker_url = "{broker}"
"""


def unit_environment() -> dict[str, str]:
    """What the systemd unit sets for the agent."""
    lines = UNIT.read_text().splitlines()
    words = [
        word for line in lines if line.startswith("Environment=") for word in line.partition("=")[2].split()
    ]
    return dict(word.split("=", 1) for word in words)


class AgentProcess:
    def __init__(
        self,
        directory: Path,
        containerd: ContainerdServer,
        broker: MosquittoServer | None = None,
        *,
        manager: str = "",
        containers: str = "",
        network: str = "",
        deployment: str = "enable = false",
        inside: tuple[str, ...] = (),
    ) -> None:
        """*manager*, *network*, *deployment*: further lines of these sections. *inside*: words before the agent's command line."""
        self.directory = directory
        self.containerd = containerd
        self.inside = inside
        self.home, self.run = directory / "home", directory / "run"
        self.socket = self.run / "agent.sock"
        self.log = directory / "agent.log"
        self.config = directory / "config.toml"
        self.config.write_text(
            CONFIG.format(
                home=self.home,
                run=self.run,
                manager=manager,
                containers=containers,
                network=network,
                deployment=deployment,
                containerd=containerd.address,
                namespace=containerd.namespace,
                socket=self.socket,
                things=str(broker is not None).lower(),
                broker=broker.url if broker else "tcp://localhost:1",
            )
        )
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> AgentProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the containers and end the agent; a failing test leaves the agent's log in its message."""
        try:
            if self.process and self.process.poll() is None:
                for container_id in self.ids():
                    self.call("remove", "-f", "-t", "1s", container_id)
                self.end()
        finally:
            if self.process and self.process.poll() is None:
                self.kill()
            end_keepers(str(self.run / "fifo"))

    def start(self, *, program: str = "", **environment: str) -> None:
        """*program*: Python code that plays the agent, in place of its own."""
        python = (sys.executable, "-c", program) if program else (sys.executable, "-m", "pycm")
        command = [*self.inside, *python, "daemon", "--cfg-file", str(self.config)]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **unit_environment(), **environment}
            )
        wait_until(self._answers, READY, f"agent answers; its log is\n{self.text()}")

    def _answers(self) -> bool:
        assert self.process
        assert self.process.poll() is None, f"agent ended: {self.text()}"
        return self.socket.exists() and self.call("list", "-q").returncode == 0

    def mounted_files(self) -> list[str]:
        """What the agent has mounted for the network files of containers."""
        with open("/proc/self/mountinfo") as file:
            points = [line.split()[4] for line in file]
        return [point for point in points if point.startswith((f"{self.home}/", f"{self.run}/network/"))]

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(HANGS)

    def kill(self) -> None:
        self.end(signal.SIGKILL)

    def command(self, *arguments: str | Path, program: str = "kanto_cm") -> list[str]:
        """The command line of a command for this agent; *program*: "kanto_cm" or "pycm"."""
        code = f"import sys; from pycm.cli.main import {program}; sys.exit({program}())"
        return [sys.executable, "-c", code, "--host", str(self.socket), *map(str, arguments)]

    def call(
        self, *arguments: str | Path, program: str = "kanto_cm", stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments, program=program),
            capture_output=True,
            text=True,
            check=False,
            input=stdin,
            timeout=HANGS,
        )

    def popen(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """A command that is not waited for."""
        return subprocess.Popen(self.command(*arguments), stdout=subprocess.PIPE, text=True)

    def pycm(self, *arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.call(*arguments, program="pycm", stdin=stdin)

    def cm(self, *arguments: str | Path) -> str:
        """A command that must succeed; its output without the last newline."""
        done = self.call(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stderr}\n{self.text()}"
        if arguments[0] == "start":
            wait_until(self._traps_are_set, 30, "the scripts of the containers have set their traps")
        return done.stdout.rstrip("\n")

    def _traps_are_set(self) -> bool:
        """A first process that has no trap yet ignores the signal to stop."""
        tasks = self.containerd.ctr("tasks", "ls").splitlines()[1:]
        return not any(sets_a_trap_yet(Path("/proc", task.split()[1])) for task in tasks)

    def ids(self) -> list[str]:
        return self.cm("list", "-q").split()

    def get(self, container_id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.cm("get", container_id))
        return found

    def state(self, container_id: str) -> dict[str, Any]:
        state: dict[str, Any] = self.get(container_id)["state"]
        return state

    def wait_for(self, container_id: str, **wanted: Any) -> dict[str, Any]:
        """The state once it has all *wanted* values. After the end of a run, its output has been read to the last line."""

        def reached() -> bool:
            state = self.state(container_id)
            return all(state[key] == value for key, value in wanted.items())

        wait_until(reached, 30, f"container {container_id} reaches {wanted}")
        fifos = self.run / "fifo" / container_id
        wait_until(
            lambda: not fifos.exists() or self.state(container_id)["running"],
            30,
            f"{container_id} is read out",
        )
        return self.state(container_id)

    def run_container(self, image: str, *command: str, name: str = "", flags: tuple[str, ...] = ()) -> str:
        named = ("-n", name) if name else ()
        container_id = self.cm("create", "--network", "host", "--rp", "no", *named, *flags, image, *command)
        self.cm("start", container_id)
        return container_id

    def logged(self, container_id: str) -> list[str]:
        """What the container wrote, line by line, rotated files included; without a record that is being written just now."""
        directory = self.home / "containers" / container_id
        while True:
            with contextlib.suppress(FileNotFoundError):  # a rotation renames them just now
                files = log_files(directory)
                texts = [file.read_text() for _, file in reversed(files)]
                if log_files(directory) == files:
                    break
        records = [json.loads(line) for text in texts for line in text.split("\n")[:-1]]
        return [record["log"].rstrip("\n") for record in records]


def sets_a_trap_yet(process: Path) -> bool:
    """Tell whether its script has a trap for TERM that it has not come to, and nothing to wait for on the way there."""
    try:
        before, trap, _ = (process / "cmdline").read_bytes().partition(b"trap '")
        if not trap or b"; do " in before:
            return False
        masks = re.findall(r"Sig(?:Ign|Cgt):\s*(\w+)", (process / "status").read_text())
    except OSError:  # it has ended
        return False
    return not any(int(mask, 16) & 1 << signal.SIGTERM - 1 for mask in masks)


def log_files(directory: Path) -> list[tuple[int, Path]]:
    """The files of a container's log with their inodes, the youngest first."""

    def age(file: Path) -> int:
        return int(file.suffix[1:]) if file.suffix[1:].isdigit() else 0

    return [(file.stat().st_ino, file) for file in sorted(directory.glob("json.log*"), key=age)]
