# SPDX-License-Identifier: Apache-2.0
"""Show pycm at work: scripts/demo [--seconds N]

Starts a private containerd, a private mosquitto, the agent and two containers in a temporary directory. Shows each
second what a cloud receives of them over MQTT, until Ctrl-C or for N seconds, and removes everything, however it ends.
The next demo removes what a killed one left. Needs root.
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
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import leftovers
import paho.mqtt.client as paho
from busybox_image import write_image
from programs import ProgramError, Programs, call, program

REFERENCE = "demo.invalid/busybox:1"  # no registry can have this name: the image is this machine's busybox
DEVICE, TENANT = "demo:device", "demo"
THING = f"{DEVICE}:edge:containers"
EVENTS = f"e/{TENANT}/{THING}"
TOPICS = [("edge/thing/request", 1), (f"{EVENTS}/#", 1)]
IDENTITY = ("edge/thing/response", json.dumps({"deviceId": DEVICE, "tenantId": TENANT}))
CONTAINERS = {"busy": "while :; do :; done", "quiet": "while :; do sleep 1; done"}
CONTAINER = "/features/Container:"
SILENCE_LIMIT = 30.0
"""Seconds without figures until the demo ends with an error."""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Device:
    """The twin, as far as the demo shows it."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.status: dict[str, str] = {}
        self.figures: dict[str, dict[str, float]] = {}
        self.metrics_features = 0

    def feed(self, payload: str | bytes) -> bool:
        """Apply one message of the device's event topic; return True if it has figures."""
        envelope = json.loads(payload)
        path, value = envelope.get("path", ""), envelope.get("value")
        container_id, _, part = path.removeprefix(CONTAINER).partition("/")
        if path == "/features/Metrics":
            self.metrics_features += 1
        elif path == "/features/Metrics/outbox/messages/data":
            for entry in value["snapshot"]:
                name = entry["originator"].removeprefix("Container:")
                self.figures[name] = {item["id"]: item["value"] for item in entry["measurements"]}
            return True
        elif path.startswith(CONTAINER) and envelope["topic"].endswith("/delete"):
            self.names.pop(container_id, None)
        elif path.startswith(CONTAINER) and not part:
            status = value["properties"]["status"]
            self.names[container_id] = status.get("name", container_id)
            self.status[container_id] = status["state"]["status"]
        elif part == "properties/status/state":
            self.status[container_id] = value["status"]
        return False

    def lines(self) -> list[str]:
        """Return one self-contained line for each container, in the order of their names."""
        return [self.line(name, key) for name, key in sorted((name, key) for key, name in self.names.items())]

    def line(self, name: str, key: str) -> str:
        got = self.figures.get(key, {})
        cpu = f"{got['cpu.utilization']:.1f}" if "cpu.utilization" in got else "-"
        sizes = {"memory": "memory.used", "net in": "net.readBytes", "net out": "net.writeBytes"}
        text = ", ".join(f"{title} {size(got.get(item))}" for title, item in sizes.items())
        return f"container {name}, status {self.status[key].capitalize()}, cpu % {cpu}, {text}, pids {got.get('pids', 0):.0f}"


def size(value: Any) -> str:
    if value is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


class Demo(Programs):
    """The programs of one demo, all in one directory."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.name, self.host = place.name, str(place / "pycm.sock")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.ctr = ("ctr", "--address", f"{place}/containerd.sock")
        self.messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        version = {"callback_api_version": paho.CallbackAPIVersion.VERSION2} if hasattr(paho, "CallbackAPIVersion") else {}  # fmt: skip
        self.client: Any = paho.Client(client_id=self.name, **version)

    def start(self) -> None:
        for what in ("containerd", "mosquitto", "image", "agent", "containers"):
            began = time.monotonic()
            getattr(self, f"start_{what}")()
            print(f"  {what:<11}{time.monotonic() - began:5.1f} s")

    def start_containerd(self) -> None:
        config = self.place / "containerd.toml"
        config.write_text(
            f'version = 2\nroot = "{self.place}/containerd/root"\nstate = "{self.place}/containerd/state"\n'
            f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{self.place}/containerd.sock"\n'
        )
        command = ("containerd", "--config", str(config))
        self.spawn("containerd", lambda: not call(*self.ctr, "version").returncode, *command)

    def start_mosquitto(self) -> None:
        config = self.place / "mosquitto.conf"
        config.write_text(f"user root\nlistener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self.client.on_message = lambda _client, _data, message: self.messages.put(message)
        self.client.on_connect = lambda client, *_: client.subscribe(TOPICS)
        self.spawn("mosquitto", self.connect, "mosquitto", "-c", str(config))

    def connect(self) -> bool:
        with contextlib.suppress(OSError):
            return not (self.client.connect("127.0.0.1", self.port) or self.client.loop_start())
        return False

    def start_image(self) -> None:
        archive, machine = self.place / "image.tar", os.uname().machine
        busybox = shutil.which("busybox", path="/bin:/usr/bin") or "/bin/busybox"
        write_image(Path(busybox), ARCHITECTURES.get(machine, machine), REFERENCE, archive)
        if call(*self.ctr, "--namespace", self.name, "images", "import", str(archive)).returncode:
            raise ProgramError(f"containerd rejected the demo's image:\n{self.tail('containerd')}")

    def start_agent(self) -> None:
        home = {"home_dir": f"{self.place}/home", "exec_root_dir": f"{self.place}/exec"}
        settings = {
            "log": {"log_file": ""}, "manager": home, "network": home, "deployment": {"enable": False},
            "containers": {**home, "default_ns": self.name, "address_path": f"{self.place}/containerd.sock"},
            "grpc_server": {"address_path": self.host}, "things": {"enable": True, "home_dir": f"{self.place}/home"},
            "connection": {"broker_url": f"tcp://127.0.0.1:{self.port}"},
        }  # fmt: skip
        config = self.place / "config.json"
        config.write_text(json.dumps(settings))
        command = (program("container-management"), "--cfg-file", str(config))
        self.spawn("agent", lambda: os.path.exists(self.host), *command)

    def start_containers(self) -> None:
        for name, script in CONTAINERS.items():
            created = self.kanto_cm("create", "-n", name, "--network", "host", REFERENCE, "sh", "-c", script)
            self.kanto_cm("start", created)

    def kanto_cm(self, *arguments: str) -> str:
        done = call(program("kanto-cm"), "--host", self.host, *arguments)
        if done.returncode:
            raise ProgramError(f"kanto-cm {arguments[0]}: {done.stderr.strip()}\n{self.tail('agent')}")
        return done.stdout.strip()

    def introduce(self) -> None:
        self.client.publish(
            "edge/thing/response", json.dumps({"deviceId": DEVICE, "tenantId": TENANT}), qos=1
        )

    def request_metrics(self) -> None:
        headers = {"content-type": "application/json", "correlation-id": self.name, "response-required": True}
        topic = f"{DEVICE.replace(':', '/', 1)}:edge:containers/things/live/messages/request"
        path = "/features/Metrics/inbox/messages/request"
        envelope = {"topic": topic, "headers": headers, "path": path, "value": {"frequency": "1s"}}
        self.client.publish(f"command//{THING}/req/{self.name}/request", json.dumps(envelope), qos=1)

    def show(self, seconds: float | None) -> None:
        """Answer the agent as a cloud connector does, and show what it sends."""
        device, end, last = Device(), float("inf"), time.monotonic()
        self.client.publish(*IDENTITY, qos=1)
        while (now := time.monotonic()) < end:
            try:
                message = self.messages.get(timeout=max(last + SILENCE_LIMIT - now, 0))
            except queue.Empty:
                raise ProgramError(
                    f"no figures within {SILENCE_LIMIT:.0f} s:\n{self.tail('agent')}"
                ) from None
            known = device.metrics_features
            if message.topic == "edge/thing/request":
                self.client.publish(*IDENTITY, qos=1)
            elif message.topic == EVENTS and device.feed(message.payload):
                last = time.monotonic()
                end = min(end, last + (seconds or end))
                print("\n".join(device.lines()))
            if device.metrics_features > known:
                self.request_metrics()


def stop(_number: int, _frame: object) -> NoReturn:
    ignore_endings()
    raise KeyboardInterrupt


def ignore_endings() -> None:
    """Let nothing interrupt the removal."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)


def main() -> int:
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(
        prog="scripts/demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, metavar="N", help="show figures for N seconds, then end")
    options = parser.parse_args()
    for name in leftovers.clean_dead():
        print(f"removed what a killed demo left: {name}")
    for number in ENDINGS:
        signal.signal(number, stop)
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)  # no end between making the directory and knowing it
    place, _lock = leftovers.make()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDINGS)
        print(f"pycm demo in {place}; Ctrl-C ends it and removes everything")
        demo = Demo(place)
        demo.start()
        print("\nFrom another terminal:", f"{program('kanto-cm')} --host {demo.host} list", sep="\n  ")
        print(f"  mosquitto_sub -p {demo.port} -v -t 'e/#'")
        demo.show(options.seconds)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # the reader of the output has ended; Python's last flush would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ProgramError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        ignore_endings()
        leftovers.clean(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
