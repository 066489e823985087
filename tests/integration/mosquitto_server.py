# SPDX-License-Identifier: Apache-2.0
"""A private mosquitto on a free loopback port, for tests and for the vector runner.

    with MosquittoServer(tmp_path) as broker:
        broker.url, broker.port, broker.log_lines()
        broker.stop(); broker.start()       # an outage

The port stays the same over an outage. `broker.publish` and `broker.subscribe` run mosquitto's own clients.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import shutil
import socket
import subprocess
import time

#: Seconds for a program to start or to end, on a machine with much else to do.
PATIENCE = 60.0


def free_port() -> int:
    """A port that stays free while its server is away: Linux gives outgoing connections ports from 32768 on."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def find_mosquitto() -> str:
    """Debian puts the broker where a user's PATH does not look."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if not found:
        raise RuntimeError("mosquitto is not installed: apt-get install mosquitto mosquitto-clients")
    return found


class MosquittoServer:
    """`options`: further lines of mosquitto.conf; `tls`: lines of the listener instead of a plain one."""

    def __init__(
        self, directory: pathlib.Path, options: str = "allow_anonymous true\n", scheme: str = "tcp"
    ) -> None:
        self.directory = pathlib.Path(directory)
        self.port = free_port()
        self.url = f"{scheme}://localhost:{self.port}"
        self._options = options
        self._log = self.directory / f"mosquitto-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        conf = self.directory / f"mosquitto-{self.port}.conf"
        conf.write_text(
            f"user root\nlistener {self.port} 127.0.0.1\nset_tcp_nodelay true\nlog_dest stderr\nlog_type all\n"
            f"connection_messages true\n{self._options}"
        )
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [find_mosquitto(), "-c", str(conf)], stderr=log, stdin=subprocess.DEVNULL
            )
        self._wait_until_it_listens()

    def _wait_until_it_listens(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"mosquitto ended: {self._log.read_text()[-500:]}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"mosquitto does not listen on {self.port}: {self._log.read_text()[-500:]}")

    def stop(self, *, kill: bool = False) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            process.kill()
        else:
            process.terminate()
        process.wait(PATIENCE)

    def log_lines(self) -> list[str]:
        return self._log.read_text(errors="replace").splitlines()

    def publish(self, topic: str, message: str | bytes, *more: str) -> None:
        """`mosquitto_pub`, as a user types it; returns when the broker has the message."""
        data = message.encode() if isinstance(message, str) else message
        command = [
            "mosquitto_pub",
            "-h",
            "localhost",
            "-p",
            str(self.port),
            "-q",
            "1",
            "-t",
            topic,
            "-s",
            *more,
        ]
        subprocess.run(command, input=data, check=True, timeout=PATIENCE)

    def subscribe(self, topic: str, *more: str) -> subprocess.Popen[str]:
        """`mosquitto_sub -v` that is subscribed when this returns; end it with terminate() and wait()."""
        command = ["mosquitto_sub", "-h", "localhost", "-p", str(self.port), "-v", "-t", topic, *more]
        before = len(self.log_lines())
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "LC_ALL": "C"}
        )
        deadline = time.monotonic() + PATIENCE
        while not any("Sending SUBACK" in line for line in self.log_lines()[before:]):
            if time.monotonic() > deadline or process.poll() is not None:
                process.kill()
                process.wait()
                raise RuntimeError("mosquitto_sub did not subscribe")
            time.sleep(0.02)
        return process
