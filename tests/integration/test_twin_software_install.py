# SPDX-License-Identifier: Apache-2.0
"""Software is installed over MQTT from a Web server and removed again, by agents that come and go."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from agent_process import AgentProcess
from connector import EVENTS, Connector, Message
from images import IMAGE

if TYPE_CHECKING:
    from pathlib import Path

    from containerd_server import ContainerdServer
    from mosquitto_server import MosquittoServer

pytestmark = pytest.mark.integration

WORK = ["/bin/sh", "-c", "trap 'exit 143' TERM; while :; do sleep 0.05; done"]


class Artifacts:
    """A Web server with files; each of `cuts` breaks one answer off after so many bytes."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.cuts: list[int] = []
        self.asked: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        part = handler.headers.get("Range")
        self.asked.append(part)
        body = self.files.get(handler.path)
        if body is None:
            handler.send_error(404)
            return
        begin = int(part[len("bytes=") : -1]) if part else 0
        handler.send_response(206 if begin else 200)
        handler.send_header("ETag", '"1"')
        handler.send_header("Content-Length", str(len(body) - begin))
        if begin:
            handler.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        handler.end_headers()
        handler.wfile.write(body[begin:][: self.cuts.pop(0) if self.cuts else None])
        handler.close_connection = True

    def __enter__(self) -> Artifacts:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def operation(message: Message) -> str:
    """The status that a message tells, after ! where it is of lastFailedOperation."""
    name = message.payload["path"].rpartition("/")[2]
    mark = {"lastOperation": "", "lastFailedOperation": "!"}.get(name)
    return "" if mark is None else mark + message.payload["value"]["status"]


def statuses(cloud: Connector, correlation: str) -> list[str]:
    told = [message for message in cloud.seen if message.topic == EVENTS and operation(message)]
    return [operation(m) for m in told if m.payload["value"]["correlationId"] == correlation]


def module(artifact: str, body: bytes) -> dict[str, object]:
    return {
        "softwareModule": {"name": "web", "version": "1"},
        "artifacts": [
            {
                "download": {"HTTP": {"url": artifact}},
                "checksums": {
                    "SHA256": hashlib.sha256(body).hexdigest(),
                    "MD5": hashlib.md5(body).hexdigest(),
                },
            }
        ],
    }


def test_software_is_installed_from_a_server_that_cuts_connections_and_removed_again(
    broker: MosquittoServer, containerd: ContainerdServer, tmp_path: Path
) -> None:
    description = {
        "container_id": "web-1",
        "container_name": "web",
        "image": {"name": IMAGE},
        "host_config": {"network_mode": "host", "restart_policy": {"type": "no"}},
        "config": {"cmd": WORK, "env": ["PADDING=" + "x" * 5000]},
    }
    body = json.dumps(description).encode()
    with (
        AgentProcess(tmp_path, containerd, broker) as agent,
        Connector(broker.port) as cloud,
        Artifacts({"/web.json": body}) as server,
    ):
        cloud.wait_for_twin()
        server.cuts = [1000, 2000]
        job = {"correlationId": "j1", "softwareModules": [module(f"{server.url}/web.json", body)]}
        assert cloud.ask("SoftwareUpdatable", "install", job) == (204, None)
        cloud.until(lambda: "FINISHED_SUCCESS" in statuses(cloud, "j1"), "the installation has ended")
        steps = ["STARTED", "DOWNLOADING", "DOWNLOADED", "INSTALLING", "INSTALLED", "FINISHED_SUCCESS"]
        assert statuses(cloud, "j1") == steps
        assert server.asked == [None, "bytes=1000-", "bytes=3000-"]
        assert agent.ids() == ["web-1"]
        assert cloud.status("web-1")["state"]["status"] == "RUNNING"
        job = {"correlationId": "j2", "softwareModules": [module(f"{server.url}/gone.json", b"")]}
        assert cloud.ask("SoftwareUpdatable", "install", job) == (204, None)
        cloud.until(lambda: "FINISHED_ERROR" in statuses(cloud, "j2"), "the installation has failed")
        assert statuses(cloud, "j2") == ["STARTED", "DOWNLOADING", "!FINISHED_ERROR", "FINISHED_ERROR"]
        cloud.answers = False
        agent.end()
        agent.start()  # what was told last is told again, by an agent that was not there
        software = {"correlationId": "j3", "software": [{"name": "web-1", "version": "1"}]}
        _remembered(cloud, "j2")
        assert cloud.ask("SoftwareUpdatable", "remove", software) == (204, None)
        cloud.until(lambda: "FINISHED_SUCCESS" in statuses(cloud, "j3"), "the removal has ended")
        assert statuses(cloud, "j3") == ["REMOVING", "REMOVED", "FINISHED_SUCCESS"]
        assert (agent.ids(), [name for name in cloud.features if ":" in name]) == ([], [])


def _remembered(cloud: Connector, correlation: str) -> None:
    cloud.features.clear()

    def registered() -> bool:
        """Said until it is heard; the same again changes nothing."""
        cloud.tell_device()
        return "Metrics" in cloud.features

    cloud.until(registered, "the features are published anew")
    status = cloud.features["SoftwareUpdatable"]["properties"]["status"]
    assert status["lastFailedOperation"] == status["lastOperation"]
    assert (status["lastOperation"]["correlationId"], status["lastOperation"]["status"]) == (
        correlation,
        "FINISHED_ERROR",
    )


def test_configured_policy_and_download_switch_reach_the_twin(
    broker: MosquittoServer, containerd: ContainerdServer, tmp_path: Path
) -> None:
    agent = AgentProcess(tmp_path, containerd, broker)
    agent.config.write_text(
        agent.config.read_text().replace(
            "[things]\n", "[things]\nprivate_downloads = false\npolicy.privileged = false\n"
        )
    )
    with agent, Connector(broker.port) as cloud, Artifacts({"/web.json": b"{}"}) as server:
        cloud.wait_for_twin()
        config = {"privileged": True, "networkMode": "HOST"}
        status, answer = cloud.ask(
            "ContainerFactory", "createWithConfig", {"imageRef": IMAGE, "config": config}
        )
        assert (status, answer["message"]) == (500, "config.privileged: denied by things.policy.privileged")
        job = {"correlationId": "j1", "softwareModules": [module(f"{server.url}/web.json", b"{}")]}
        assert cloud.ask("SoftwareUpdatable", "install", job) == (204, None)
        cloud.until(lambda: "FINISHED_ERROR" in statuses(cloud, "j1"), "the installation has failed")
        assert server.asked == []
        assert agent.ids() == []
