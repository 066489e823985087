# SPDX-License-Identifier: Apache-2.0
"""Runs in the guest as root: containerd, mosquitto and the agent, four containers, the cloud's part, and a record of all that is seen.

It judges nothing: what it saw goes into /results/observed.json and the tests on the host compare. Each step prints one line with
the guest's uptime, so that a run that hangs shows where.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REFERENCE = "registry.test/demo/busybox:1"
NAMESPACE = "kanto-cm"
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

# name, further options of `create`, program
CONTAINERS = (
    ("busy", ["--rp", "no"], "while :; do :; done"),
    ("holder", ["--rp", "no"], "dd if=/dev/zero of=/dev/shm/file bs=1M count=32; sleep 3600"),
    # Its first process lives on when the kernel kills the greedy child: the count of OOM kills can be read.
    ("survivor", ["--rp", "no", "-m", "16M"], "dd if=/dev/zero of=/dev/null bs=64M count=1; sleep 3600"),
    ("victim", ["--rp", "no", "-m", "16M"], "exec dd if=/dev/zero of=/dev/null bs=64M count=1"),
)
STANDARD = ("cpu.utilization", "memory.*", "io.*", "net.*", "pids")
BEYOND_KANTO = ("cpu.throttled", "cpu.pressure", "memory.pressure", "io.pressure", "memory.oomKills")

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
    if agent.poll() is not None:
        raise RuntimeError(f"the agent ended with {agent.returncode}")
    try:
        return "Engine" in kanto_cm("--timeout", "5", "sysinfo")
    except RuntimeError:
        return False


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
        if '"path":"/features/Metrics/outbox/messages/data"' in text:
            files = {name: read_cgroup(path) for name, path in self.cgroups.items()}
            observed["samples"].append({"at": at, "message": len(observed["messages"]) - 1, "files": files})

    def publish(self, topic: str, payload: object) -> None:
        self.client.publish(topic, json.dumps(payload), qos=1).wait_for_publish(30)

    def introduce(self) -> None:
        self.publish("edge/thing/response", {"deviceId": DEVICE, "tenantId": TENANT})

    def request_metrics(self, frequency: str, request_id: str) -> None:
        headers = {
            "content-type": "application/json",
            "correlation-id": request_id,
            "response-required": True,
        }
        value = {"frequency": frequency, "filter": [{"id": [*STANDARD, *BEYOND_KANTO]}]}
        topic = f"{DEVICE.replace(':', '/', 1)}:edge:containers/things/live/messages/request"
        envelope = {
            "topic": topic,
            "headers": headers,
            "path": "/features/Metrics/inbox/messages/request",
            "value": value,
        }
        self.publish(f"command//{THING}/req/{request_id}/request", envelope)

    def count(self, *parts: str) -> int:
        """Messages so far whose topic or payload has each of *parts*."""
        texts = [
            f"{m['topic']} {json.dumps(m['payload'], separators=(',', ':'))}"
            for m in tuple(observed["messages"])
        ]
        return sum(all(part in text for part in parts) for text in texts)


def read_cgroup(path: Path) -> dict[str, Any]:
    files: dict[str, Any] = {"at": time.monotonic()}
    for name in CGROUP_FILES:
        try:
            files[name] = (path / name).read_text()
        except OSError as error:
            files[name] = f"{error.strerror}"
    return files


def create(item: tuple[str, Sequence[str], str]) -> None:
    name, options, program = item
    container_id = kanto_cm(
        "create", "-n", name, "--network", "host", *options, REFERENCE, "sh", "-c", program
    )
    observed["containers"][name] = {"id": container_id}


def launch(name: str) -> None:
    """Start a container and find its first process and cgroup; the busy one gets its cap as soon as that is known."""
    container = observed["containers"][name]
    kanto_cm("start", container["id"])
    if name == "victim":
        return
    container["pid"] = pid = state(container["id"])["pid"]
    container["cgroup"] = cgroup = Path(f"/proc/{pid}/cgroup").read_text().strip().rpartition(":")[2]
    container["started_at"] = started_at(pid)
    if name == "busy":
        Path(f"/sys/fs/cgroup{cgroup}/cpu.max").write_text("50000 100000")


def prepare() -> subprocess.Popen[bytes]:
    Path("/run/containerd.toml").write_text(
        'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[debug]\nlevel = "warn"\n'
    )
    start("containerd", "containerd", "--config", "/run/containerd.toml")
    Path("/run/mosquitto.conf").write_text("user root\nlistener 1883 127.0.0.1\nallow_anonymous true\n")
    start("mosquitto", "mosquitto", "-c", "/run/mosquitto.conf")
    wait_for("containerd's socket is there", lambda: Path("/run/containerd/containerd.sock").exists())
    agent = start_agent()
    run("ctr", "-n", NAMESPACE, "images", "import", "--no-unpack", "/app/image.tar")
    say("image imported")
    wait_for("the agent answers", lambda: answers(agent))
    return agent


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
    wait_for("the new agent asks for the device", lambda: cloud.count("edge/thing/request") > 1)
    cloud.introduce()
    wait_for("the twin is there again", lambda: cloud.count('"path":"/features/Metrics"') > 1)
    cloud.request_metrics("1s", "second")
    samples = len(observed["samples"])
    wait_for("data messages of the new agent", lambda: len(observed["samples"]) > samples + 1)
    alive = [name for name, container in observed["containers"].items() if "pid" in container]
    observed["restart"] = {
        "first_message": before,
        "states": {name: state(observed["containers"][name]["id"]) for name in alive},
        "started_at": {name: started_at(observed["containers"][name]["pid"]) for name in alive},
    }


def play() -> None:
    agent = prepare()
    cloud = Cloud()
    with ThreadPoolExecutor(2) as pool:  # two CPUs: the command line's start-up is what takes the time
        list(pool.map(create, CONTAINERS))
        say("containers created")
        cloud.introduce()
        list(pool.map(launch, [name for name, _options, _program in CONTAINERS]))
    say("containers started")
    wait_for("the twin is there", lambda: cloud.count('"path":"/features/Metrics"'))
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
