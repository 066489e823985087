# SPDX-License-Identifier: Apache-2.0
"""Runs in the guest as root: containerd, mosquitto and the agent, four containers, the cloud's part, and a record of all that is seen.

It judges nothing: what it saw goes into /results/observed.json and the tests on the host compare. Each step prints one line with
the guest's uptime, so that a run that hangs shows where.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho

from pycm.model.measurements import EXTRA_IDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REFERENCE = "registry.test/demo/busybox:1"
NAMESPACE = "kanto-cm"
AGENT_SOCKET = "/run/container-management/container-management.sock"
DEVICE, TENANT = "acme.test:guest", "tenant-a"
THING = f"{DEVICE}:edge:containers"
SAMPLES = 14
"""Data messages to wait for, one a second: the mean is then over more than 12 s."""
CGROUP_FILES = (
    "cpu.stat",
    "cpu.max",
    "memory.current",
    "memory.max",
    "memory.stat",
    "memory.events",
    "io.stat",
    "pids.current",
)

# name, further options of `create`, program; the busy one comes last, since until it is capped it slows the others' start
CONTAINERS = (
    ("victim", ["--rp", "no", "-m", "16M"], "exec dd if=/dev/zero of=/dev/null bs=64M count=1"),
    # Its first process lives on when the kernel kills the greedy child: the count of OOM kills can be read.
    ("survivor", ["--rp", "no", "-m", "16M"], "dd if=/dev/zero of=/dev/null bs=64M count=1; sleep 3600"),
    ("holder", ["--rp", "no"], "dd if=/dev/zero of=/dev/shm/file bs=1M count=32; sleep 3600"),
    ("busy", ["--rp", "no"], "while :; do :; done"),
)
STANDARD = ("cpu.utilization", "memory.*", "io.*", "net.*", "pids")

observed: dict[str, Any] = {
    "cpus": os.cpu_count(),
    "messages": [],
    "samples": [],
    "containers": {},
    "restart": {},
}


def uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def say(text: str) -> None:
    print(f"{uptime():6.1f} {text}", flush=True)


def wait_for(what: str, condition: Callable[[], Any], limit: float = 60) -> Any:
    """Look again and again until *condition* is true; a bounded wait that names what did not come."""
    end = time.monotonic() + limit
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {limit:.0f} s")
        time.sleep(0.2)
    say(what)
    return value


def start(name: str, *command: str) -> subprocess.Popen[bytes]:
    with open(f"/results/{name}.log", "ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def run(*command: str) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:200]}: {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def entry(function: str) -> tuple[str, ...]:
    """A console script of the package, as the installer would write it."""
    return (sys.executable, "-c", f"import sys; from pycm.cli.main import {function}; sys.exit({function}())")


def kanto_cm(*arguments: str) -> str:
    return run(*entry("kanto_cm"), *arguments)


def start_agent() -> subprocess.Popen[bytes]:
    options = ("--log-level", "DEBUG", "--log-file", "", "--deployment-enable=false")
    return start("agent", *entry("container_management"), *options)


def answers(agent: subprocess.Popen[bytes]) -> bool:
    """Whether somebody listens on the agent's socket, which it opens when its containers are loaded."""
    if agent.poll() is not None:
        raise RuntimeError(f"the agent ended with {agent.returncode}")
    return listens(socket.AF_UNIX, AGENT_SOCKET)


def listens(family: int, address: Any) -> bool:
    with socket.socket(family) as client:
        return client.connect_ex(address) == 0


def state(container_id: str) -> dict[str, Any]:
    return json.loads(kanto_cm("get", container_id))["state"]


def started_at(pid: int) -> str:
    """Start time of a process in ticks: with the pid it names a process for good."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


class Cloud:
    """The connector's and the backend's part, and a record of all messages; reads the cgroups whenever a data message comes."""

    def __init__(self) -> None:
        version = (
            {"callback_api_version": paho.CallbackAPIVersion.VERSION2}
            if hasattr(paho, "CallbackAPIVersion")
            else {}
        )
        self.client = paho.Client(**version)
        self.client.on_message = self.received
        self.client.connect("127.0.0.1", 1883)
        self.client.subscribe("#", qos=1)
        self.client.loop_start()
        self.cgroups: dict[str, Path] = {}

    def received(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        at = time.monotonic()
        text = message.payload.decode()
        observed["messages"].append(
            {"at": at, "topic": message.topic, "payload": json.loads(text) if text else None}
        )
        if message.topic == "edge/thing/request":
            self.client.publish(
                "edge/thing/response", json.dumps({"deviceId": DEVICE, "tenantId": TENANT}), qos=1
            )
        if '"path":"/features/Metrics/outbox/messages/data"' in text:
            files = {name: read_cgroup(path) for name, path in self.cgroups.items()}
            observed["samples"].append({"at": at, "message": len(observed["messages"]) - 1, "files": files})

    def publish(self, topic: str, payload: object) -> None:
        self.client.publish(topic, json.dumps(payload), qos=1).wait_for_publish(30)

    def request_metrics(self, frequency: str, request_id: str) -> None:
        headers = {
            "content-type": "application/json",
            "correlation-id": request_id,
            "response-required": True,
        }
        value = {"frequency": frequency, "filter": [{"id": [*STANDARD, *EXTRA_IDS]}]}
        topic = f"{DEVICE.replace(':', '/', 1)}:edge:containers/things/live/messages/request"
        envelope = {
            "topic": topic,
            "headers": headers,
            "path": "/features/Metrics/inbox/messages/request",
            "value": value,
        }
        self.publish(f"command//{THING}/req/{request_id}/request", envelope)

    def count(self, *parts: str, since: int = 0) -> int:
        """Messages, from number *since* on, whose topic or payload has each of *parts*."""
        messages = observed["messages"][since:]
        texts = [f"{m['topic']} {json.dumps(m['payload'], separators=(',', ':'))}" for m in messages]
        return sum(all(part in text for part in parts) for text in texts)

    def pid(self, container_id: str, since: int = 0) -> int:
        """First process of a container as the twin last told it, from message number *since* on; 0 if it did not."""
        known = 0
        for message in observed["messages"][since:]:
            payload = message["payload"] or {}
            value = payload.get("value")
            feature, _, part = payload.get("path", "").removeprefix("/features/Container:").partition("/")
            if feature == container_id and value and part in {"", "properties/status/state"}:
                known = (value if part else value["properties"]["status"]["state"]).get("pid", 0)
        return max(known, 0)


def read_cgroup(path: Path) -> dict[str, Any]:
    files: dict[str, Any] = {"at": time.monotonic()}
    for name in CGROUP_FILES:
        try:
            files[name] = (path / name).read_text()
        except OSError as error:
            files[name] = f"{error.strerror}"
    return files


def launch(cloud: Cloud, item: tuple[str, Sequence[str], str]) -> None:
    """Create and start a container and find its first process and cgroup; the busy one gets its cap as soon as that is known."""
    name, options, program = item
    container_id = kanto_cm(
        "create", "-n", name, "--network", "host", *options, REFERENCE, "sh", "-c", program
    )
    container = observed["containers"][name] = {"id": container_id}
    kanto_cm("start", container_id)
    say(f"{name} started")
    if name == "victim":
        return
    container["pid"] = pid = wait_for(f"{name}'s pid is told", lambda: cloud.pid(container_id))
    container["cgroup"] = cgroup = Path(f"/proc/{pid}/cgroup").read_text().strip().rpartition(":")[2]
    container["started_at"] = started_at(pid)
    if name == "busy":
        # On the CPU with ticks: on the one without (nohz_full) this kernel sees too late that a cap is used up, and the mean wanders.
        Path(f"/sys/fs/cgroup{cgroup}/cpuset.cpus").write_text("0")
        Path(f"/sys/fs/cgroup{cgroup}/cpu.max").write_text("50000 100000")


def prepare() -> tuple[subprocess.Popen[bytes], Cloud]:
    Path("/run/containerd.toml").write_text(
        'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[debug]\nlevel = "warn"\n'
    )
    start("containerd", "containerd", "--config", "/run/containerd.toml")
    Path("/run/mosquitto.conf").write_text("user root\nlistener 1883 127.0.0.1\nallow_anonymous true\n")
    start("mosquitto", "mosquitto", "-c", "/run/mosquitto.conf")
    wait_for("containerd's socket is there", lambda: Path("/run/containerd/containerd.sock").exists())
    wait_for("mosquitto's port is open", lambda: listens(socket.AF_INET, ("127.0.0.1", 1883)))
    cloud = Cloud()
    agent = start_agent()
    run("ctr", "-n", NAMESPACE, "images", "import", "--no-unpack", "/app/image.tar")
    say("image imported")
    wait_for("the agent answers", lambda: answers(agent))
    return agent, cloud


def measure(cloud: Cloud) -> None:
    cloud.cgroups = {
        name: Path("/sys/fs/cgroup" + container["cgroup"])
        for name, container in observed["containers"].items()
        if "cgroup" in container
    }
    cloud.request_metrics("1s", "first")
    wait_for("the metrics request is answered", lambda: cloud.count(f"command//{THING}/res/first/204"))
    wait_for(f"{SAMPLES} data messages", lambda: len(observed["samples"]) >= SAMPLES)
    cloud.request_metrics("0s", "stop")
    wait_for("the stop request is answered", lambda: cloud.count(f"command//{THING}/res/stop/204"))


def kill_agent_and_return(agent: subprocess.Popen[bytes], cloud: Cloud) -> None:
    """The agent dies without warning and comes back; then the twin must work as before."""
    agent.send_signal(signal.SIGKILL)
    agent.wait(30)
    before = len(observed["messages"])
    new = start_agent()
    wait_for("the new agent answers", lambda: answers(new))
    wait_for("the new agent asks for the device", lambda: cloud.count("edge/thing/request", since=before))
    wait_for("the twin is there again", lambda: cloud.count('"path":"/features/Metrics"', since=before))
    cloud.request_metrics("1s", "second")
    samples = len(observed["samples"])
    wait_for("data messages of the new agent", lambda: len(observed["samples"]) > samples + 1)
    alive = {name: container for name, container in observed["containers"].items() if "pid" in container}
    observed["restart"] = {
        "first_message": before,
        "pids": {name: cloud.pid(container["id"], before) for name, container in alive.items()},
        "started_at": {name: started_at(container["pid"]) for name, container in alive.items()},
        "holder": state(alive["holder"]["id"]),
    }


def play() -> None:
    agent, cloud = prepare()
    wait_for("the twin is there", lambda: cloud.count('"path":"/features/Metrics"'))
    with ThreadPoolExecutor(2) as pool:  # two CPUs: the command line's start-up is what takes the time
        list(pool.map(lambda item: launch(cloud, item), CONTAINERS))
    victim = observed["containers"]["victim"]["id"]
    wait_for("the victim's end is told", lambda: cloud.count(f"Container:{victim}", '"status":"EXITED"'))
    observed["containers"]["victim"]["state"] = state(victim)
    measure(cloud)
    kill_agent_and_return(agent, cloud)


def main() -> int:
    try:
        play()
    finally:
        Path("/results/observed.json").write_text(json.dumps(observed))
    say("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
