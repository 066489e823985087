# SPDX-License-Identifier: Apache-2.0
"""What happens in the boot test, once; the tests look at what is noted down here.

First boot: the unit becomes ready, a first container runs, metrics come over the forwarded port, the agent is stopped by a signal that
it cannot see and systemd's watchdog brings it back. Then the power goes, right after a second container was started, one on the bridge.
Second boot: all by itself, and measured. Then the layer's runtime cases, which reset the machine, and the same without the agent.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
from guest_machine import HERE

if TYPE_CHECKING:
    from booted_machine import BootedMachine

UNIT = "pycm.service"
DEVICE = "acme.test:guest"
TOPIC = f"command//{DEVICE}:edge:containers/req/1/request"
METRICS_LIMIT = 300
CASES_LIMIT = 30 * 60
TENANT = "tenant-a"
PYTHON_PASS = (
    "import statistics, subprocess, time\n"
    "def once():\n"
    "    began = time.monotonic()\n"
    "    subprocess.run(['python3', '-c', 'pass'], check=True)\n"
    "    return time.monotonic() - began\n"
    "print(statistics.median(once() for _ in range(5)))\n"
)
"""How long the guest takes for the smallest Python program: what the table of times is related to."""
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
class Times:
    """The guest's clock at the steps of a boot, in seconds since its kernel started, and what they are related to."""

    python_pass: float = 0.0
    userspace: float = 0.0
    finished: float = 0.0
    agent: float = 0.0
    log: float = 0.0
    api: float = 0.0
    container: float = 0.0
    twin: float = 0.0

    def rows(self) -> dict[str, float]:
        """Seconds of each step."""
        return {
            "kernel": self.userspace,
            "userspace, to the end of all start jobs": self.finished - self.userspace,
            "agent's start to its first log line": self.log - self.agent,
            "agent's start to its API": self.api - self.agent,
            "agent's start to first container running": self.container - self.agent,
            "agent's start to first twin message": self.twin - self.agent,
        }

    def table(self) -> list[str]:
        lines = ["second boot                                        s   times python3 -c pass"]
        lines += [
            f"{title:42} {value:9.1f} {value / self.python_pass:23.1f}"
            for title, value in self.rows().items()
        ]
        return [*lines, f"{'python3 -c pass':42} {self.python_pass:9.2f} {1:23.1f}"]


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
    times: Times = field(default_factory=Times)
    cases: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    cases_without_agent: dict[str, list[str]] = field(default_factory=dict)

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
        lines += [
            "",
            *self.times.table(),
            "",
            "second boot, from the unit's start to metrics:",
            self.second.log,
        ]
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
        self.client.on_connect = self.introduce
        self.data: dict[str, Any] = {}
        self.wanted: set[str] = set()
        self.come = threading.Event()
        # The guest's clock may run ahead of the host's: a long keep-alive.
        self.client.connect("127.0.0.1", port, keepalive=3600)
        self.client.loop_start()

    def introduce(self, *_: object) -> None:
        """Listen, and name the device for an agent that connects before or after this."""
        self.client.subscribe("#", qos=1)
        identity = json.dumps({"deviceId": DEVICE, "tenantId": TENANT})
        self.client.publish("edge/thing/response", identity, qos=1, retain=True)

    def received(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        if b"/features/Metrics/outbox/messages/data" not in message.payload:
            return
        for entry in json.loads(message.payload)["value"]["snapshot"]:
            self.data[entry["originator"]] = {item["id"]: item["value"] for item in entry["measurements"]}
        if self.wanted <= self.data.keys():
            self.come.set()

    def metrics(self, containers: set[str]) -> dict[str, Any]:
        self.wanted = {f"Container:{name}" for name in containers}
        namespace, name = DEVICE.split(":")
        request = {
            "topic": f"{namespace}/{name}:edge:containers/things/live/messages/request",
            "headers": {"response-required": True, "content-type": "application/json", "correlation-id": "1"},
            "path": "/features/Metrics/inbox/messages/request",
            "value": {"frequency": "1s"},
        }
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


def ask_for_metrics(machine: BootedMachine, boot: Boot, cloud: Cloud) -> None:
    boot.metrics = cloud.metrics(set(boot.containers))
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


def moment(machine: BootedMachine, properties: str) -> float:
    """A time of systemd's, in seconds since the kernel started."""
    return int(machine.run(f"systemctl show {properties}").partition("=")[2]) / 1e6


def first_line(log: str, pattern: str) -> float:
    """When the first line of a log that matches was written."""
    found = re.search(rf"(?m)^\[\s*([\d.]+)\] .*{pattern}", log)
    assert found is not None, f"no line matches {pattern}:\n{log}"
    return float(found[1])


def measure(machine: BootedMachine, boot: Boot) -> Times:
    broker = machine.run("journalctl -u mosquitto.service -o short-monotonic --no-pager --no-hostname")
    return Times(
        python_pass=float(machine.run(f'python3 -c "{PYTHON_PASS}"')),
        userspace=moment(machine, "-p UserspaceTimestampMonotonic"),
        finished=moment(machine, "-p FinishTimestampMonotonic"),
        agent=moment(machine, f"-p ExecMainStartTimestampMonotonic {UNIT}"),
        log=first_line(boot.log, r"pycmd\[\d+\]: "),
        api=first_line(boot.log, "API at unix"),
        container=first_line(boot.log, r"started: pid \d+"),
        twin=first_line(broker, rf"Received PUBLISH from \S+ \(.*'e/{TENANT}/"),
    )


def run_cases(machine: BootedMachine, *options: str) -> dict[str, list[str]]:
    """Outcome and text of each runtime case of the layer; they come with a boot of their own."""
    machine.disconnect()
    runner = [sys.executable, str(HERE / "oeqa_runner.py"), str(machine.ports["ssh"]), *options]
    done = subprocess.run(
        runner, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CASES_LIMIT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{runner}: {done.returncode}: {done.stderr[-3000:]}"
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def trees() -> dict[str, Path]:
    """The releases whose own oeqa is at hand."""
    place = os.environ.get("PYCM_OE_TREES")
    found = sorted(Path(place).glob("*/openembedded-core/meta/lib/oeqa")) if place else []
    return {path.parents[3].name: path.parents[3] for path in found}


def tell(machine: BootedMachine) -> Story:
    story = Story()
    first_boot(machine, story)
    machine.power_cut()
    second_boot(machine, story)
    story.cases["played"] = run_cases(machine)
    for release, tree in trees().items():
        story.cases[release] = run_cases(machine, "--tree", str(tree))
    machine.run(f"systemctl stop {UNIT}")
    story.cases_without_agent = run_cases(machine)
    return story


def first_boot(machine: BootedMachine, story: Story) -> None:
    began = time.monotonic()
    machine.power_on()
    ready(machine)
    machine.run("ctr -n kanto-cm images import /usr/share/pycm-demo/image.tar")
    container(machine, "one")
    look(machine, story.first)
    cloud = Cloud(machine.ports["mqtt"])
    try:
        ask_for_metrics(machine, story.first, cloud)
    finally:
        cloud.close()
    story.first.wall = time.monotonic() - began
    machine.run("systemctl daemon-reload")
    story.controllers = machine.run("cat /sys/fs/cgroup/cgroup.subtree_control")
    story.exposed = machine.run(f"systemd-analyze security --no-pager {UNIT} | tail -n 1")
    stop_agent_by_signal(machine, story)
    bridge_container(machine, "web")
    story.answer = ask(machine)


def second_boot(machine: BootedMachine, story: Story) -> None:
    began = time.monotonic()
    machine.power_on(reboot=True)
    # The ssh server answers seconds before the agent is connected: the device is there when it asks.
    cloud = Cloud(machine.ports["mqtt"])
    try:
        ready(machine)
        until(machine, "[ $(kanto-cm list | grep -c Running) = 2 ]", 240)
        look(machine, story.second)
        story.answer_after = ask(machine)
        ask_for_metrics(machine, story.second, cloud)
    finally:
        cloud.close()
    story.second.wall = time.monotonic() - began
    story.times = measure(machine, story.second)
