# SPDX-License-Identifier: Apache-2.0
"""The agent with an error in the configuration of one function: containers are managed all the same."""

import subprocess
import threading
from pathlib import Path

import pytest
from agent_process import AgentProcess
from containerd_server import ContainerdServer, wait_until
from images import IMAGE
from mosquitto_server import find_mosquitto

pytestmark = pytest.mark.integration

#: What the agent's configuration file has, and an error in its place.
WRONG = (
    ('[things]\nenable = false\nhome_dir = "', '[things]\nhome_dir = "relative'),
    ('broker_url = "tcp://localhost:1"', 'broker_url = "ws://localhost"\nkeep_alive = 20\n[update_agent]\ndomain = 5'),
    ("[deployment]", '[network.default_bridge]\nname = "much-too-long-for-a-bridge"\n[deployment]'),
    ("[network]", 'registry_configurations."registry.test" = {transport = {root_ca = 5}}\nimage_expiry = 30\n[network]'),
)  # fmt: skip


def test_agent_with_errors_in_every_function_manages_containers(
    containerd: ContainerdServer, tmp_path: Path
) -> None:
    agent = AgentProcess(tmp_path, containerd)
    text = agent.config.read_text()
    for right, wrong in WRONG:
        assert right in text
        text = text.replace(right, wrong)
    agent.config.write_text(text)
    with agent:
        container_id = agent.run_container(IMAGE, "/bin/sleep", "1000")
        assert agent.state(container_id)["running"] is True
        bridged = agent.call("create", "--network", "bridge", IMAGE)
        assert "an error in section network" in bridged.stderr
        refused = agent.call("create", "--network", "host", "registry.test/a:1")
        assert 'containers.registry_configurations."registry.test" has an error' in refused.stderr
    log = agent.text()
    for name in ("home_dir", "keep_alive", "default_bridge.name", "domain", "image_expiry", "root_ca"):
        (line,) = [line for line in log.splitlines() if "level=error" in line and name in line]
        assert line.count("Traceback") == 0


def test_api_whose_address_is_taken_comes_when_it_is_free(
    containerd: ContainerdServer, tmp_path: Path
) -> None:
    agent = AgentProcess(tmp_path, containerd)
    agent.run.mkdir()
    agent.socket.write_text("")
    starting = threading.Thread(target=agent.start)
    starting.start()
    wait_until(lambda: "API unavailable: grpc_server.address_path: " in agent.text(), 30, "the agent says so")
    assert agent.process
    assert agent.process.poll() is None
    agent.socket.unlink()
    starting.join()
    assert agent.ids() == []
    assert agent.text().count("API unavailable") == 1
    assert agent.end() == 0


#: Where something in the agent's configuration file stands, and values that only the machine refuses.
UNUSABLE = (
    ('log_file = ""', 'log_file = "/proc/none/agent.log"'),
    ('[things]\nenable = false\nhome_dir = "', '[things]\nhome_dir = "/proc/none'),
    ('broker_url = "tcp://localhost:1"', 'broker_url = "mqtts://localhost:1"\ntransport.root_ca = "/none/ca.pem"'),
    ("[network]\n", '[network]\nexec_root_dir = "/proc/none"\ncni_bin_dirs = ["/none"]\n'),
    ("[network]\n", 'preload_dir = "/none"\nrunc_binary = ""\nlog_total_max_size = "1k"\n[network]\n'),
)  # fmt: skip


@pytest.mark.parametrize("place", ["/proc/none", "/etc/hostname/none", "/" + "n" * 300])
def test_agent_with_places_that_cannot_be_used_manages_containers(
    containerd: ContainerdServer, tmp_path: Path, place: str
) -> None:
    agent = AgentProcess(tmp_path, containerd)
    text = agent.config.read_text().replace(
        f'[network]\nhome_dir = "{agent.home}"\nexec_root_dir = "{agent.run}"', "[network]"
    )
    for right, wrong in UNUSABLE:
        assert right in text
        text = text.replace(right, wrong)
    agent.config.write_text(text.replace("/proc/none", place))
    with agent:
        container_id = agent.run_container(IMAGE, "/bin/sleep", "1000")
        assert agent.state(container_id)["running"] is True
        created = agent.call("create", "--network", "bridge", "-n", "b", IMAGE)
        assert created.returncode == 1 or agent.call("start", "-n", "b").returncode == 1


#: In a network of its own, without IPv6 but with an IPv6 address for localhost: where the broker listens.
LISTENING = """
ip link set lo up
mount --bind "$2" /etc/hosts
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
"$0" -c "$1" & broker=$!
until ss -ltnH | grep .; do kill -0 $broker || exit 1; sleep 0.05; done
kill $broker
"""


def test_shipped_broker_configuration_listens_on_loopback_only_and_without_ipv6(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n::1 localhost\n")
    conf = Path(__file__).parents[2] / "conf" / "mosquitto.conf"
    command = ["unshare", "--net", "--mount", "sh", "-c", LISTENING, find_mosquitto(), str(conf), str(hosts)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[3] for line in done.stdout.splitlines()] == ["127.0.0.1:1883"]
