# SPDX-License-Identifier: Apache-2.0
"""The real agent on a broker with TLS: figures of the machine go on after a kill, certificates are exchanged, and the device changes
while an operation runs."""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
from typing import TYPE_CHECKING

import pytest
from agent_process import AgentProcess
from certificates import Authority
from connector import THING, Connector, Message
from containerd_server import private_containerd
from images import IMAGE, Image, write_archive
from mosquitto_server import MosquittoServer, free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.integration

DEAF = ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"]
OTHER = {"deviceId": "acme.test:gw-02", "tenantId": "tenant-b"}
NEW_THING = "acme.test:gw-02:edge:containers"
REQUEST = {"frequency": "1s", "filter": [{"originator": "SYSTEM", "id": ["cpu.load5", "memory.total"]}]}


def data_from(topic: str, originator: str) -> Callable[[Message], bool]:
    def is_it(message: Message) -> bool:
        if message.topic != topic or not message.payload["path"].endswith("/outbox/messages/data"):
            return False
        return any(one["originator"] == originator for one in message.payload["value"]["snapshot"])

    return is_it


def connections(broker: MosquittoServer) -> int:
    return sum("New client connected" in line and "as connector" not in line for line in broker.log_lines())


def test_a_device_that_changes_and_an_agent_that_is_killed_behind_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    port = free_port()
    server, key = authority.issue("server")
    client, client_key = authority.issue("client")
    listener = (
        f"allow_anonymous true\nlistener {port} 127.0.0.1\ncafile {authority.ca}\ncertfile {server}\n"
        f"keyfile {key}\nrequire_certificate true\nset_tcp_nodelay true\n"
    )
    with private_containerd() as containerd, MosquittoServer(tmp_path, listener) as broker:
        containerd.ctr("images", "import", write_archive(tmp_path / "app.tar", Image(IMAGE)))
        agent = AgentProcess(tmp_path, containerd, broker)
        text = agent.config.read_text().replace(broker.url, f"mqtts://localhost:{port}")
        text = text.replace("[things]\n", "[things]\nsystem_metrics = true\n")
        agent.config.write_text(
            f'{text}keep_alive = "1s"\nalpn = ["mqtt"]\n[connection.transport]\nroot_ca = "{authority.ca}"\n'
            f'client_cert = "{client}"\nclient_key = "{client_key}"\n'
        )
        with agent, Connector(broker.port, follows=False) as cloud:
            figures = _figures_outlive_a_kill(agent, cloud)
            _exchanged_certificates_are_used(authority, broker, client, client_key, cloud)
            cloud.wait(figures, "the figures go on with the new certificate")
            _the_device_changes(agent, cloud)


def _figures_outlive_a_kill(agent: AgentProcess, cloud: Connector) -> Callable[[Message], bool]:
    def shown(m: Message) -> bool:
        return m.payload.get("path") == "/features/Metrics" and m.topic != "e"

    cloud.wait(shown, "the features")
    assert cloud.ask("Metrics", "request", REQUEST) == (204, None)
    own = {
        "topic": "acme.test/gw-01/things/live/messages/request",
        "headers": {"correlation-id": "own", "content-type": "application/json"},
        "path": "/features/Metrics/inbox/messages/request",
        "value": {"frequency": "1s"},
    }
    cloud.raw("command///req//request", json.dumps(own))
    mine = data_from(f"e/tenant-a/{THING}", "SYSTEM")
    cloud.wait(mine, "the machine's figures")
    cloud.wait(data_from("e", "SYSTEM"), "the figures of the device's own thing")
    agent.kill()
    agent.start()
    cloud.wait(shown, "the features of the new agent")
    found = cloud.wait(mine, "the request goes on in the new agent").payload["value"]["snapshot"]
    assert [[one["id"] for one in entry["measurements"]] for entry in found] == [
        ["cpu.load5", "memory.total"]
    ]
    assert cloud.wait(data_from("e", "SYSTEM"), "and the other").payload["headers"]["correlation-id"] == "own"
    return mine


def _exchanged_certificates_are_used(
    authority: Authority, broker: MosquittoServer, client: Path, client_key: Path, cloud: Connector
) -> None:
    before = connections(broker)
    newer, newer_key = authority.issue("newer")
    shutil.copy(newer_key, client_key)  # for a moment they do not fit each other
    shutil.copy(newer, client)
    cloud.until(lambda: connections(broker) > before, "the connection is made anew")


def _the_device_changes(agent: AgentProcess, cloud: Connector) -> None:
    config = {"networkMode": "HOST", "cmd": DEAF, "restartPolicy": {"type": "NO"}}
    argument = {"imageRef": IMAGE, "name": "deaf", "config": config, "start": True}
    status, one = cloud.ask("ContainerFactory", "createWithConfig", argument)
    assert status == 200
    agent.wait_for(one, running=True)
    cloud.send(f"Container:{one}", "stopWithOptions", {"timeout": 3, "force": True})
    cloud.until(lambda: _deletes_nothing(cloud), "nothing is deleted before")
    began = len(cloud.seen)
    cloud.answers = False
    cloud.tell_device(OTHER)
    gone = {f"/features/{name}" for name in (f"Container:{one}", "ContainerFactory", "SoftwareUpdatable")}
    gone.add("/features/Metrics")
    cloud.until(lambda: _deleted(cloud, f"e/tenant-a/{THING}") == gone, "the old twin is emptied")
    cloud.until(
        lambda: _deleted(cloud, "e", began) == {"/features/Metrics"}, "and that of the old device's own thing"
    )
    topic = f"e/tenant-b/{NEW_THING}"
    path = f"/features/Container:{one}/properties/status/state"
    end = cloud.wait(lambda m: m.topic == topic and m.payload["path"] == path, "the end, in the new twin")
    assert end.payload["value"]["status"] == "STOPPED"
    shown = [m.payload["path"] for m in cloud.seen if m.topic == topic]
    assert f"/features/Container:{one}" in shown
    with contextlib.suppress(queue.Empty):
        for _ in range(20):
            cloud.take(2.5)  # figures were sent each second
    last = max(n for n, m in enumerate(cloud.seen) if m.topic == f"e/tenant-a/{THING}")
    first = min(n for n, m in enumerate(cloud.seen) if m.topic == topic)
    assert last < first
    assert not any(data_from(topic, "SYSTEM")(m) for m in cloud.seen)


def _deletes_nothing(cloud: Connector) -> bool:
    return not any(m.payload.get("topic", "").endswith("/delete") for m in cloud.seen)


def _deleted(cloud: Connector, topic: str, since: int = 0) -> set[str]:
    return {
        m.payload["path"]
        for m in cloud.seen[since:]
        if m.topic == topic and m.payload["topic"].endswith("/delete")
    }
