# SPDX-License-Identifier: Apache-2.0
"""What happens in the boot test, once; the tests look at what is noted down here.

First boot: the unit becomes ready, a first container runs, metrics come over the forwarded port, the agent is stopped by a signal that
it cannot see and systemd's watchdog brings it back. Then the power goes, right after a second container was started, one on the bridge.
Second boot: all by itself.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho

if TYPE_CHECKING:
    from booted_machine import BootedMachine

UNIT = "pycm.service"
DEVICE = "acme.test:guest"
TOPIC = f"command//{DEVICE}:edge:containers/req/1/request"
METRICS_LIMIT = 300
PROPERTIES = ("ActiveState", "MainPID", "NRestarts", "Result", "StatusText", "ActiveEnterTimestampMonotonic", "MemoryCurrent")  # fmt: skip


@dataclass
class Boot:
    """Notes of one boot. Times are the guest's, in seconds since its kernel started."""

    wall: float = 0.0
    unit: dict[str, str] = field(default_factory=dict)
    failed_units: str = ""
    containers: dict[str, str] = field(default_factory=dict)
    tasks: dict[int, str] = field(default_factory=dict)
    first_container: float = 0.0
    metrics: dict[str, Any] = field(default_factory=dict)
    metrics_at: float = 0.0
    log: str = ""


@dataclass
class Story:
    first: Boot = field(default_factory=Boot)
    after_watchdog: Boot = field(default_factory=Boot)
    second: Boot = field(default_factory=Boot)
    controllers: str = ""
    exposed: str = ""
    keepers: int = 0
    answer: str = ""
    answer_after: str = ""

    def report(self) -> str:
        """For people, and for CI's output: the times, and the log from the unit's start to the first metrics."""
        lines = [
            "                                 first boot   second boot   (the guest's clock: 4 ns an instruction)"
        ]
        for title, value in (
            ("unit ready after", lambda boot: int(boot.unit["ActiveEnterTimestampMonotonic"]) / 1e6),
            ("first container runs after", lambda boot: boot.first_container),
            ("first metrics here after", lambda boot: boot.metrics_at),
            ("all of it on this host, in", lambda boot: boot.wall),
        ):
            lines.append(f"{title:30} {value(self.first):10.1f} s {value(self.second):11.1f} s")
        name = next(iter(self.second.metrics), "-")
        lines += ["", "second boot, from the unit's start to metrics:", self.second.log]
        values = json.dumps(self.second.metrics.get(name))
        return "\n".join(
            [*lines, f"[{self.second.metrics_at:12.6f}] metrics of {name}, as they came: {values}"]
        )


class Cloud:
    """The backend's part at the forwarded port: asks for metrics, waits for them."""

    def __init__(self, port: int) -> None:
        version = {"callback_api_version": paho.CallbackAPIVersion.VERSION2} if hasattr(paho, "CallbackAPIVersion") else {}  # fmt: skip
        self.client = paho.Client(**version)
        self.client.on_message = self.received
        self.data: dict[str, Any] = {}
        self.wanted: set[str] = set()
        self.come = threading.Event()
        # The guest's clock may run ahead of the host's: a long keep-alive.
        self.client.connect("127.0.0.1", port, keepalive=3600)
        self.client.loop_start()
        self.client.subscribe("#", qos=1)

    def received(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        if b"/features/Metrics/outbox/messages/data" not in message.payload:
            return
        for entry in json.loads(message.payload)["value"]["snapshot"]:
            self.data[entry["originator"]] = {item["id"]: item["value"] for item in entry["measurements"]}
        if self.wanted <= self.data.keys():
            self.come.set()

    def metrics(self, containers: set[str]) -> dict[str, Any]:
        self.wanted = {f"Container:{name}" for name in containers}
        identity = json.dumps({"deviceId": DEVICE, "tenantId": "tenant-a"})
        namespace, name = DEVICE.split(":")
        request = {
            "topic": f"{namespace}/{name}:edge:containers/things/live/messages/request",
            "headers": {"response-required": True, "content-type": "application/json", "correlation-id": "1"},
            "path": "/features/Metrics/inbox/messages/request",
            "value": {"frequency": "1s"},
        }
        self.client.publish("edge/thing/response", identity, qos=1).wait_for_publish(60)
        end = time.monotonic() + METRICS_LIMIT
        while (
            not self.come.is_set()
        ):  # the twin subscribes once it knows the device: a request before that is lost
            assert time.monotonic() < end, (
                f"no metrics of {containers} within {METRICS_LIMIT} s; of {set(self.data)}"
            )
            self.client.publish(TOPIC, json.dumps(request), qos=1).wait_for_publish(60)
            self.come.wait(5)
        return dict(self.data)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def uptime(machine: BootedMachine) -> float:
    return float(machine.run("cat /proc/uptime").split()[0])


def until(machine: BootedMachine, condition: str, limit: int) -> None:
    """Wait in the guest, by its clock, until a shell condition holds."""
    machine.run(
        f"end=$(($(cut -d. -f1 /proc/uptime) + {limit})); until {condition}; do "
        f'[ $(cut -d. -f1 /proc/uptime) -lt $end ] || {{ echo "not within {limit} s: {condition}"; '
        f"systemctl status {UNIT} --no-pager; journalctl -u {UNIT} --no-pager | tail -30; exit 1; }}; sleep 0.5; done",
        limit=20 * 60,
    )


def look(machine: BootedMachine, boot: Boot) -> None:
    """Unit, containers and their first processes as they are now."""
    wanted = ",".join(PROPERTIES)
    boot.unit = dict(
        line.split("=", 1) for line in machine.run(f"systemctl show -p {wanted} {UNIT}").splitlines()
    )
    boot.failed_units = machine.run("systemctl list-units --failed --no-legend --plain")
    rows = [line.split("|") for line in machine.run("kanto-cm list").splitlines()[2:]]
    boot.containers = {row[0].strip(): row[3].strip() for row in rows if len(row) > 3}
    tasks = [line.split() for line in machine.run("ctr -n kanto-cm task ls").splitlines()[1:]]
    pids = [int(task[1]) for task in tasks]
    starts = machine.run("; ".join(f"cat /proc/{pid}/stat" for pid in pids) or "true").splitlines()
    boot.tasks = {pid: line.rpartition(")")[2].split()[19] for pid, line in zip(pids, starts, strict=True)}
    boot.first_container = min((int(ticks) / 100 for ticks in boot.tasks.values()), default=0.0)


def ask_for_metrics(machine: BootedMachine, boot: Boot) -> None:
    cloud = Cloud(machine.ports["mqtt"])
    try:
        boot.metrics = cloud.metrics(set(boot.containers))
    finally:
        cloud.close()
    boot.metrics_at = uptime(machine)
    boot.log = machine.run(f"journalctl -u {UNIT} -o short-monotonic --no-pager --no-hostname")


def ready(machine: BootedMachine) -> None:
    until(machine, f"systemctl is-active -q {UNIT}", 240)


def container(machine: BootedMachine, name: str) -> None:
    """From a descriptor, as Leda's containers are made."""
    descriptor = "/usr/share/pycm-demo/demo.json"
    machine.run(f"sed 's/\"demo\"/\"{name}\"/' {descriptor} > /run/{name}.json && kanto-cm create --file /run/{name}.json && kanto-cm start -n {name}")  # fmt: skip


def bridge_container(machine: BootedMachine, name: str) -> None:
    """On the bridge, published on loopback."""
    machine.run(
        f"kanto-cm create --file /usr/share/pycm-demo/{name}.json && kanto-cm start -n {name} ||"
        f" {{ journalctl -u {UNIT} --no-pager | tail -30; exit 1; }}"
    )


def ask(machine: BootedMachine) -> str:
    return machine.run(
        "for i in 1 2 3 4 5; do wget -q -O - http://127.0.0.1:30555/ && exit; sleep 1; done; exit 1"
    )


def stop_agent_by_signal(machine: BootedMachine, story: Story) -> None:
    pid = story.first.unit["MainPID"]
    machine.run(f"kill -STOP {pid}")
    until(
        machine, f'[ "$(systemctl show -P MainPID {UNIT})" != {pid} ] && systemctl is-active -q {UNIT}', 300
    )
    until(machine, "kanto-cm list | grep -q Running", 120)
    look(machine, story.after_watchdog)
    story.after_watchdog.log = machine.run(
        f"journalctl -u {UNIT} -o short-monotonic --no-pager --no-hostname"
    )
    story.keepers = int(machine.run(f"grep -c . /sys/fs/cgroup/system.slice/{UNIT}/cgroup.procs")) - 1


def tell(machine: BootedMachine) -> Story:
    story = Story()
    began = time.monotonic()
    machine.power_on()
    ready(machine)
    machine.run("ctr -n kanto-cm images import /usr/share/pycm-demo/image.tar")
    container(machine, "one")
    look(machine, story.first)
    ask_for_metrics(machine, story.first)
    story.first.wall = time.monotonic() - began
    machine.run("systemctl daemon-reload")
    story.controllers = machine.run("cat /sys/fs/cgroup/cgroup.subtree_control")
    story.exposed = machine.run(f"systemd-analyze security --no-pager {UNIT} | tail -n 1")
    stop_agent_by_signal(machine, story)
    bridge_container(machine, "web")
    story.answer = ask(machine)
    machine.power_cut()

    began = time.monotonic()
    machine.power_on()
    ready(machine)
    until(machine, "[ $(kanto-cm list | grep -c Running) = 2 ]", 240)
    look(machine, story.second)
    story.answer_after = ask(machine)
    ask_for_metrics(machine, story.second)
    story.second.wall = time.monotonic() - began
    return story
