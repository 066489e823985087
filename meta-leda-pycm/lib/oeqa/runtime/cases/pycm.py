# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: INP001, PT009
"""What an image with pycm can do, for `bitbake -c testimage`: TEST_SUITES += "ping ssh pycm".

The image needs pycm-cli, mosquitto and a shell; no network and no container image: one is made from the target's own shell. QEMU ends at
the reset of test_power_cycle unless it is told to go on, since runqemu starts it with -no-reboot: TEST_QEMUPARAMS += "-action reboot=reset".
Limits are in seconds of the target's clock; what the host waits for an answer is longer, since an emulated target is slow.
"""

import json
import shlex
import time

from oeqa.core.decorator.depends import OETestDepends
from oeqa.runtime.case import OERuntimeTestCase
from oeqa.runtime.decorator.package import OEHasPackage

UNIT = "pycm.service"
NAME = "pycm-oeqa"
ENDS = "pycm-oeqa-ends"
IMAGE = "pycm.test/oeqa:1"
LOOP = "echo pycm-oeqa-output; while :; do sleep 1; done"
HOST_LIMIT, CONNECT_LIMIT = 1200, 180
READY_LIMIT, WATCHDOG_LIMIT, RUN_LIMIT = 300, 300, 120
MEASURED = ("memory.used", "pids")

# One layer with the target's sh and sleep, and the libraries that the loader names for them.
MAKE_IMAGE = r"""
import hashlib, io, json, os, re, shutil, subprocess, sys, tarfile

ARCHITECTURES = {"aarch64": "arm64", "x86_64": "amd64", "armv7l": "arm", "riscv64": "riscv64"}

def add(tar, name, data):
    member = tarfile.TarInfo(name.lstrip("/"))
    member.mode, member.size = 0o755, len(data)
    tar.addfile(member, io.BytesIO(data))

def read(path):
    with open(path, "rb") as file:
        return file.read()

def layer():
    files = {}
    for name in ("sh", "sleep"):
        program = os.path.realpath(shutil.which(name))
        files["/bin/" + name] = program
        traced = subprocess.run(
            [program], env={"LD_TRACE_LOADED_OBJECTS": "1"}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, universal_newlines=True)
        files.update((path, path) for path in re.findall(r"(/\S+) \(0x", traced.stdout))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, path in sorted(files.items()):
            add(tar, name, read(path))
    return packed.getvalue()

def image(tar, reference):
    def put(kind, data):
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        digest = hashlib.sha256(data).hexdigest()
        add(tar, "blobs/sha256/" + digest, data)
        return {"mediaType": "application/vnd.oci.image." + kind, "digest": "sha256:" + digest, "size": len(data)}

    content = put("layer.v1.tar", layer())
    platform = {"os": "linux", "architecture": ARCHITECTURES[os.uname().machine]}
    config = {"config": {"Env": ["PATH=/bin"]}, "rootfs": {"type": "layers", "diff_ids": [content["digest"]]}}
    config = put("config.v1+json", dict(config, **platform))
    manifest = put("manifest.v1+json", {"schemaVersion": 2, "config": config, "layers": [content]})
    manifest.update(platform=platform, annotations={"io.containerd.image.name": reference})
    add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode())

with tarfile.open(sys.argv[2], "w") as tar:
    image(tar, sys.argv[1])
"""

# The cloud's part, on the target: names a device, requests metrics if a message with them is wanted, prints the first message with the
# path that is wanted. Both are published repeatedly: the agent subscribes to commands once it knows the device.
CLOUD = r"""
import json, sys, time
import paho.mqtt.client as mqtt

name, path, container, limit = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
thing = "pycm.oeqa:" + name + ":edge:containers"
found, seen = [], set()

def received(_client, _data, message):
    payload = json.loads(message.payload or b"{}")
    seen.add(payload.get("path"))
    if payload.get("path") == path and container in message.payload.decode():
        found.append(payload)

version = [mqtt.CallbackAPIVersion.VERSION2] if hasattr(mqtt, "CallbackAPIVersion") else []
client = mqtt.Client(*version)
client.on_message = received
client.connect("127.0.0.1", 1883, 3600)
client.subscribe("e/oeqa/" + thing)
request = {
    "topic": "pycm.oeqa/" + name + ":edge:containers/things/live/messages/request",
    "headers": {"response-required": True, "content-type": "application/json", "correlation-id": "1"},
    "path": "/features/Metrics/inbox/messages/request",
    "value": {"frequency": "1s"},
}
end, again = time.monotonic() + limit, 0
while not found and time.monotonic() < end:
    if time.monotonic() > again:
        again = time.monotonic() + 5
        client.publish("edge/thing/response", json.dumps({"deviceId": "pycm.oeqa:" + name, "tenantId": "oeqa"}))
        if "/Metrics/" in path:
            client.publish("command//" + thing + "/req/1/request", json.dumps(request))
    client.loop(0.5)
print(json.dumps(found[0]) if found else sorted(map(str, seen)))
sys.exit(not found)
"""


class PycmTest(OERuntimeTestCase):
    @classmethod
    def tearDownClass(cls) -> None:
        for name in (NAME, ENDS):
            cls.tc.target.run(f"pycm remove -f -t 1s -n {name}")
        cls.tc.target.run(f"ctr -n kanto-cm images remove {IMAGE}")

    def run_on_target(self, command: str) -> str:
        status, output = self.target.run(command, timeout=HOST_LIMIT)
        self.assertEqual(status, 0, msg=f"{command}: exit status {status}: {output}")
        return output

    def run_python(self, program: str, *arguments: object) -> str:
        words = " ".join(shlex.quote(str(word)) for word in arguments)
        return self.run_on_target(f"python3 - {words} <<'PYTHON'{program}PYTHON")

    def wait_for(self, condition: str, limit: int) -> None:
        """Wait on the target until a shell condition holds."""
        self.run_on_target(
            f"now() {{ cut -d. -f1 /proc/uptime; }}; end=$(($(now) + {limit})); until {condition}; do "
            f"[ $(now) -lt $end ] || {{ systemctl status {UNIT} --no-pager; journalctl -u {UNIT} --no-pager -n 30; exit 1; }}; "
            "sleep 1; done"
        )

    def wait_for_boot(self) -> None:
        self.wait_for("systemctl is-system-running | grep -qE 'running|degraded'", READY_LIMIT)

    def unit(self, name: str) -> str:
        return self.run_on_target(f"systemctl show -p {name} {UNIT}").partition("=")[2]

    def container(self, name: str) -> dict:
        return json.loads(self.run_on_target(f"pycm get -n {name}"))

    def wait_until_running(self) -> dict:
        self.run_on_target(f"pycm wait --for running --within {RUN_LIMIT}s {NAME}")
        return self.container(NAME)["state"]

    def create(self, name: str, policy: str, script: str) -> None:
        words = f"--network host --rp {policy} -n {name} {IMAGE} /bin/sh -c {shlex.quote(script)}"
        self.run_on_target(f"pycm create {words}")
        self.run_on_target(f"pycm start -n {name}")

    @OETestDepends(["ssh.SSHTest.test_ssh"])
    @OEHasPackage(["pycm"])
    @OEHasPackage(["pycm-cli"])
    def test_agent_is_up(self) -> None:
        self.wait_for_boot()
        self.assertEqual(
            self.unit("ActiveState"), "active", msg=self.target.run(f"systemctl status {UNIT}")[1]
        )
        self.assertEqual(self.unit("Type"), "notify")
        self.run_on_target("pycm sysinfo")

    @OETestDepends(["pycm.PycmTest.test_agent_is_up"])
    def test_container_runs(self) -> None:
        self.run_python(MAKE_IMAGE, IMAGE, "/tmp/pycm-oeqa.tar")
        # What ctr writes may still be in memory only, and test_power_cycle needs it.
        self.run_on_target(
            "ctr -n kanto-cm images import /tmp/pycm-oeqa.tar && rm /tmp/pycm-oeqa.tar && sync"
        )
        self.create(NAME, "always", LOOP)
        pid = self.wait_until_running()["pid"]
        self.run_on_target(f"grep -q pycm-oeqa-output /proc/{pid}/cmdline")
        self.assertIn(NAME, self.run_on_target("pycm list --filter status=running"))
        self.wait_for(f"pycm logs -n {NAME} | grep -q pycm-oeqa-output", RUN_LIMIT)

    @OETestDepends(["pycm.PycmTest.test_container_runs"])
    def test_exit_code(self) -> None:
        self.create(ENDS, "no", "exit 7")
        self.run_on_target(f"pycm wait --within {RUN_LIMIT}s {ENDS}")
        self.assertEqual(self.container(ENDS)["state"]["exit_code"], 7)

    @OETestDepends(["pycm.PycmTest.test_container_runs"])
    @OEHasPackage(["mosquitto"])
    @OEHasPackage(["python3-paho-mqtt"])
    def test_metrics(self) -> None:
        originator = "Container:" + self.container(NAME)["container_id"]
        path = "/features/Metrics/outbox/messages/data"
        message = json.loads(self.run_python(CLOUD, "metrics", path, originator, RUN_LIMIT))
        (entry,) = [one for one in message["value"]["snapshot"] if one["originator"] == originator]
        values = {one["id"]: one["value"] for one in entry["measurements"]}
        for name in MEASURED:
            self.assertGreater(values.get(name, 0), 0, msg=values)

    @OETestDepends(["pycm.PycmTest.test_container_runs"])
    @OEHasPackage(["mosquitto"])
    @OEHasPackage(["python3-paho-mqtt"])
    def test_twin(self) -> None:
        one = self.container(NAME)["container_id"]
        message = json.loads(
            self.run_python(CLOUD, "twin", f"/features/Container:{one}", "RUNNING", RUN_LIMIT)
        )
        self.assertEqual(message["value"]["properties"]["status"]["name"], NAME, msg=message)

    @OETestDepends(["pycm.PycmTest.test_container_runs"])
    def test_watchdog(self) -> None:
        self.assertNotIn(self.unit("WatchdogUSec"), ("", "0", "infinity"))
        agent, restarts = int(self.unit("MainPID")), int(self.unit("NRestarts"))
        container = self.container(NAME)["state"]["pid"]
        self.run_on_target(f"kill -STOP {agent}")
        self.wait_for(f"! systemctl show -p MainPID {UNIT} | grep -q '={agent}$'", WATCHDOG_LIMIT)
        self.wait_for(f"systemctl is-active -q {UNIT}", READY_LIMIT)
        self.assertEqual(int(self.unit("NRestarts")), restarts + 1)
        self.assertEqual(self.wait_until_running()["pid"], container)

    @OETestDepends(["pycm.PycmTest.test_container_runs"])
    def test_power_cycle(self) -> None:
        """No sync, no stop of any unit: only what was written durably is there after the reset."""
        before = self.run_on_target("cat /proc/sys/kernel/random/boot_id").strip()
        self.run_on_target(
            "echo 1 >/proc/sys/kernel/sysrq; (sleep 2; echo b >/proc/sysrq-trigger) </dev/null >/dev/null 2>&1 &"
        )
        self.wait_for_other_boot(before)
        self.wait_for_boot()
        self.assertTrue(self.wait_until_running()["running"])
        self.assertIn("pycm-oeqa-output", self.run_on_target(f"pycm logs -n {NAME}"))

    def wait_for_other_boot(self, before: str) -> None:
        end = time.monotonic() + HOST_LIMIT
        while True:
            try:
                status, output = self.target.run("cat /proc/sys/kernel/random/boot_id", timeout=CONNECT_LIMIT)
            except AssertionError as error:  # newer releases raise it while there is no connection
                status, output = 255, str(error)
            if status == 0 and output.strip() != before:
                return
            self.assertLess(time.monotonic(), end, msg=f"the target did not come back: {output}")
            time.sleep(2)
