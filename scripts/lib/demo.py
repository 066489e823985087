# SPDX-License-Identifier: Apache-2.0
"""Show pycm at work: scripts/demo [--seconds N]

Starts a private containerd, a private mosquitto and the agent in a temporary directory, two containers over kanto-cm, and shows what a
cloud sees of them over MQTT, each second, until Ctrl-C or for N seconds. Then removes everything, however it ends; what a killed demo
left is removed by the next one. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import leftovers
from busybox_image import write_image
from demo_table import Device

if TYPE_CHECKING:
    from collections.abc import Callable

REFERENCE = (
    "demo.invalid/busybox:1"  # a name that no registry can have: the image comes from this machine's busybox
)
DEVICE, TENANT = "demo:device", "demo"
THING = f"{DEVICE}:edge:containers"
EVENTS = f"e/{TENANT}/{THING}"
CONTAINERS = {"busy": "while :; do :; done", "quiet": "while :; do sleep 1; done"}
READY = "demo/ready"
START_LIMIT = 60.0
"""Seconds for each program to be ready."""
SILENCE_LIMIT = 30.0
"""Seconds without figures after which the demo says that something is wrong."""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "riscv64": "riscv64"}


class Stop(Exception):  # noqa: N818 - the end that was asked for, no error
    """Ctrl-C or another signal that asks to end."""


class DemoError(Exception):
    """A step did not succeed; the text is for the user."""


class Demo:
    """The programs of one demo, all in one directory."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.name = place.name
        self.host = str(place / "pycm.sock")
        self.port = 0
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    # ── starting ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        step("containerd", self.start_containerd)
        step("mosquitto", self.start_mosquitto)
        step("image", self.import_image)
        self.listen()
        step("agent", self.start_agent)
        step("containers", self.create_containers)

    def start_containerd(self) -> None:
        config = self.place / "containerd.toml"
        config.write_text(
            f'version = 2\nroot = "{self.place}/containerd/root"\nstate = "{self.place}/containerd/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{self.place}/containerd.sock"\n'
        )
        process = self.spawn("containerd", "containerd", "--config", str(config))
        self.wait("containerd", process, lambda: self.ctr("version") is not None)

    def start_mosquitto(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        config = self.place / "mosquitto.conf"
        config.write_text(f"user root\nlistener {self.port} 127.0.0.1\nallow_anonymous true\n")
        process = self.spawn("mosquitto", "mosquitto", "-c", str(config))
        self.wait("mosquitto", process, lambda: self.publish(READY, "{}", "--retain"))

    def import_image(self) -> None:
        archive = self.place / "image.tar"
        busybox = shutil.which("busybox", path="/bin:/usr/bin") or "/bin/busybox"
        machine = os.uname().machine
        write_image(Path(busybox), ARCHITECTURES.get(machine, machine), REFERENCE, archive)
        if self.ctr("--namespace", self.name, "images", "import", str(archive)) is None:
            raise DemoError(f"containerd does not take the demo's image:\n{self.tail('containerd')}")

    def start_agent(self) -> None:
        config = self.place / "config.json"
        config.write_text(json.dumps(self.agent_config(), indent=2))
        process = self.spawn("agent", program("container-management"), "--cfg-file", str(config))
        self.wait("agent", process, lambda: os.path.exists(self.host))

    def agent_config(self) -> dict[str, object]:
        home = {"home_dir": f"{self.place}/home", "exec_root_dir": f"{self.place}/exec"}
        return {
            "log": {"log_file": ""},
            "manager": home,
            "containers": {**home, "default_ns": self.name, "address_path": f"{self.place}/containerd.sock"},
            "network": home,
            "deployment": {"enable": False},
            "grpc_server": {"address_path": self.host},
            "things": {"enable": True, "home_dir": f"{self.place}/home"},
            "connection": {"broker_url": f"tcp://127.0.0.1:{self.port}"},
        }

    def create_containers(self) -> None:
        for name, script in CONTAINERS.items():
            container_id = self.kanto_cm(
                "create", "-n", name, "--network", "host", REFERENCE, "sh", "-c", script
            )
            self.kanto_cm("start", container_id)

    # ── programs ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def spawn(self, log: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own: Ctrl-C is for the demo, which then ends it in the right order."""
        with (self.place / f"{log}.log").open("ab") as file:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )

    def wait(self, log: str, process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
        limit = time.monotonic() + START_LIMIT
        while not ready():
            if process.poll() is not None:
                raise DemoError(f"{log} ended with {process.returncode}:\n{self.tail(log)}")
            if time.monotonic() > limit:
                raise DemoError(f"{log} was not ready within {START_LIMIT:.0f} s:\n{self.tail(log)}")
            time.sleep(0.1)

    def tail(self, log: str) -> str:
        path = self.place / f"{log}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-15:]) if path.exists() else ""

    def ctr(self, *arguments: str) -> str | None:
        """Output of containerd's own client, None if it failed."""
        done = subprocess.run(
            ["ctr", "--address", f"{self.place}/containerd.sock", *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True, check=False,
        )  # fmt: skip
        return None if done.returncode else done.stdout

    def kanto_cm(self, *arguments: str) -> str:
        done = subprocess.run(
            [program("kanto-cm"), "--host", self.host, *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise DemoError(f"kanto-cm {arguments[0]}: {done.stderr.strip()}\n{self.tail('agent')}")
        return done.stdout.strip()

    # ── the cloud's part ─────────────────────────────────────────────────────────────────────────────────────────────

    def publish(self, topic: str, payload: str, *options: str) -> bool:
        command = ["mosquitto_pub", "-p", str(self.port), "-q", "1", "-t", topic, "-m", payload, *options]
        return (
            subprocess.run(command, capture_output=True, start_new_session=True, check=False).returncode == 0
        )

    def listen(self) -> None:
        """Subscribe, and return when that is in force: the retained message has come."""
        topics = ("edge/thing/request", f"{EVENTS}/#", f"command//{THING}/res/#", READY)
        command = ["mosquitto_sub", "-p", str(self.port), "-q", "1", "-i", self.name, "-F", "%t %p"]
        for topic in topics:
            command += ["-t", topic]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        threading.Thread(target=self.read, args=(process,), daemon=True).start()
        if not self.receive(START_LIMIT).startswith(READY):
            raise DemoError("the subscription did not begin with the retained message")

    def read(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            self.lines.put(line)
        self.lines.put("")

    def receive(self, seconds: float) -> str:
        try:
            line = self.lines.get(timeout=max(seconds, 0))
        except queue.Empty:
            raise DemoError(
                f"no message from the agent within {seconds:.0f} s:\n{self.tail('agent')}"
            ) from None
        if not line:
            raise DemoError(f"the connection to mosquitto was lost:\n{self.tail('mosquitto')}")
        return line

    def introduce(self) -> None:
        self.publish("edge/thing/response", json.dumps({"deviceId": DEVICE, "tenantId": TENANT}))

    def request_metrics(self) -> None:
        headers = {"content-type": "application/json", "correlation-id": self.name, "response-required": True}
        envelope = {
            "topic": f"{DEVICE.replace(':', '/', 1)}:edge:containers/things/live/messages/request",
            "headers": headers,
            "path": "/features/Metrics/inbox/messages/request",
            "value": {"frequency": "1s"},
        }
        self.publish(f"command//{THING}/req/{self.name}/request", json.dumps(envelope))

    def show(self, seconds: float | None) -> None:
        """Answer the agent as a connector does, and show what it sends."""
        device, screen = Device(), Screen()
        end = float("inf")
        heard = time.monotonic()
        self.introduce()
        while (now := time.monotonic()) < end:
            line = self.receive(heard + SILENCE_LIMIT - now)
            topic, _, payload = line.partition(" ")
            if topic == "edge/thing/request":
                self.introduce()
            elif topic == EVENTS:
                known = device.metrics_features
                if device.feed(payload):
                    heard = time.monotonic()
                    end = min(end, heard + (seconds or end))
                    screen.show(device)
                if device.metrics_features > known:
                    self.request_metrics()


class Screen:
    """A table that is drawn over itself on a terminal; elsewhere a line for each container and second."""

    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.drawn = 0

    def show(self, device: Device) -> None:
        if not self.terminal:
            say("\n".join(device.plain()))
            return
        lines = device.table()
        up = f"\x1b[{self.drawn}A" if self.drawn else "\n"
        say(up + "\x1b[J" + "\n".join(lines))
        self.drawn = len(lines)


def say(text: str) -> None:
    print(text, flush=True)


def step(what: str, action: Callable[[], None]) -> None:
    began = time.monotonic()
    action()
    say(f"  {what:<11}{time.monotonic() - began:5.1f} s")


def program(name: str) -> str:
    """A console script of the environment that runs this."""
    return str(Path(sys.executable).with_name(name))


def hints(demo: Demo) -> str:
    """How to look from elsewhere; a wrapper in the demo's directory knows the socket."""
    wrapper = demo.place / "kanto-cm"
    wrapper.write_text(f'#!/bin/sh\nexec {program("kanto-cm")} --host {demo.host} "$@"\n')
    wrapper.chmod(0o755)
    return (
        f"\nCPU is percent of all CPUs. The same from another terminal:\n"
        f"  {wrapper} list\n  mosquitto_sub -p {demo.port} -v -t 'e/#'"
    )


def positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def stop(_number: int, _frame: object) -> NoReturn:
    ignore_endings()
    raise Stop


def ignore_endings() -> None:
    """Nothing shall break the cleaning."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)


def run(place: Path, seconds: float | None) -> None:
    demo = Demo(place)
    say(f"pycm demo in {place}; Ctrl-C ends it and removes everything")
    demo.start()
    say(hints(demo))
    demo.show(seconds)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=argparse.SUPPRESS,
    )
    parser.add_argument("--seconds", type=positive, metavar="N", help="show figures for N seconds, then end")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    for name in leftovers.clean_dead():
        say(f"removed what a killed demo left: {name}")
    for number in ENDINGS:
        signal.signal(number, stop)
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)  # no end between making the directory and knowing it
    place, _lock = leftovers.make()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
        run(place, options.seconds)
    except Stop:
        with contextlib.suppress(BrokenPipeError):  # Ctrl-C ends the reader of a pipe too
            say("\nending")
        return 0
    except (
        BrokenPipeError
    ):  # the reader of the output has gone: that is an end too, and Python's own last flush must not complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        ignore_endings()
        leftovers.clean(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
