# SPDX-License-Identifier: Apache-2.0
"""The connection to a real mosquitto: outages, credentials, TLS."""

import asyncio
import glob
import json
import logging
import pathlib
import re
import shutil
import ssl
import subprocess

import pytest
from agent_process import AgentProcess
from connector import DEVICE, THING, Connector
from images import IMAGE
from mosquitto_server import MosquittoServer

from pycm.config.types import Connection, Transport
from pycm.mqtt import link
from pycm.mqtt.client import MqttClient
from support.mqtt_listener import Listener

pytestmark = pytest.mark.integration


async def until(condition, limit=60.0):
    deadline = asyncio.get_running_loop().time() + limit
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {limit} s"
        await asyncio.sleep(0.01)


def _run(*command):
    subprocess.run(list(map(str, command)), check=True, capture_output=True)


@pytest.fixture
async def connect():
    clients = []

    async def make(url, **settings):
        files = {
            name: settings.pop(name) for name in ("root_ca", "client_cert", "client_key") if name in settings
        }
        client = MqttClient(Connection(broker_url=url, transport=Transport(**files), **settings))
        listener = Listener()
        client.add_listener(listener)
        await client.start()
        clients.append(client)
        return client, listener

    yield make
    for client in clients:
        await client.stop()


async def test_messages_go_both_ways_in_order(tmp_path, connect):
    with MosquittoServer(tmp_path) as broker:
        client, listener = await connect(broker.url)
        await until(lambda: client.connected)
        await client.subscribe("t/#")
        for number in range(50):
            await client.publish("t/x", b"%d" % number)
        await until(lambda: len(listener.events) == 51)
        assert [payload for _, payload in listener.events[1:]] == [b"%d" % n for n in range(50)]
        assert any("p2, c1, k20" in line for line in broker.log_lines()), "clean session, keep-alive 20 s"


async def test_a_broker_that_comes_late_and_one_that_comes_back_are_found(tmp_path, connect):
    broker = MosquittoServer(tmp_path)
    client, listener = await connect(broker.url)
    with broker:
        await until(lambda: client.connected)
        broker.stop(kill=True)
        await until(lambda: listener.events == ["up", "down"])
        broker.start()
        await until(lambda: listener.events == ["up", "down", "up"])
        await client.publish("a", b"b")


async def test_wrong_credentials_are_named_without_the_password_and_right_ones_work(
    tmp_path, connect, caplog
):
    caplog.set_level(logging.WARNING, "pycm.mqtt")
    passwords = tmp_path / "passwords"
    _run("mosquitto_passwd", "-b", "-c", passwords, "agent", "right")
    passwords.chmod(0o644)
    with MosquittoServer(tmp_path, f"allow_anonymous false\npassword_file {passwords}\n") as broker:
        await connect(broker.url, client_username="agent", client_password="wrong-one")
        await until(lambda: "client_username" in caplog.text)
        assert "wrong-one" not in caplog.text
        client, _ = await connect(broker.url, client_username="agent", client_password="right")
        await until(lambda: client.connected)


def _openssl(*arguments):
    _run("openssl", *arguments)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Two CAs; a server and a client certificate of the first."""
    place = tmp_path_factory.mktemp("certificates")
    for ca in ("ca", "other"):
        _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={ca}",
                 "-keyout", place / f"{ca}.key", "-out", place / f"{ca}.pem")  # fmt: skip
    (place / "extensions").write_text("subjectAltName=DNS:localhost\n")
    for name in ("server", "client"):
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
                 "-keyout", place / f"{name}.key", "-out", place / f"{name}.csr")  # fmt: skip
        _openssl("x509", "-req", "-days", "1", "-in", place / f"{name}.csr", "-CA", place / "ca.pem",
                 "-CAkey", place / "ca.key", "-CAcreateserial", "-extfile", place / "extensions",
                 "-out", place / f"{name}.pem")  # fmt: skip
    return place


@pytest.fixture
def tls_broker(tmp_path, certificates):
    options = (
        f"allow_anonymous true\ncafile {certificates}/ca.pem\ncertfile {certificates}/server.pem\n"
        f"keyfile {certificates}/server.key\nrequire_certificate true\n"
    )
    with MosquittoServer(tmp_path, options, scheme="mqtts") as broker:
        yield broker


async def test_tls_with_a_client_certificate_carries_large_messages(tls_broker, certificates, connect):
    pair = {"client_cert": f"{certificates}/client.pem", "client_key": f"{certificates}/client.key"}
    client, listener = await connect(tls_broker.url, root_ca=f"{certificates}/ca.pem", **pair)
    await until(lambda: client.connected)
    await client.subscribe("t")
    await client.publish("t", b"x" * 200_000)
    await until(lambda: len(listener.events) == 2)
    assert listener.events[1] == ("t", b"x" * 200_000)


@pytest.mark.parametrize("tls", [False, True])
async def test_messages_beyond_the_bound_are_not_read_and_the_longest_allowed_one_is(
    tmp_path, tls_broker, certificates, connect, tls
):
    files = {"client_cert": f"{certificates}/client.pem", "client_key": f"{certificates}/client.key"}
    files["root_ca"] = f"{certificates}/ca.pem"
    with MosquittoServer(tmp_path) as plain:
        broker, files = (tls_broker, files) if tls else (plain, {})
        client, listener = await connect(broker.url, **files)
        sender, _ = await connect(broker.url, **files)
        for size, taken in ((20 << 20, False), (link.MAX_PACKET - 4, False), (link.MAX_PACKET - 5, True)):
            await until(lambda: client.connected and sender.connected)
            await client.subscribe("t")
            wanted = ("t", b"x" * size) if taken else "up"
            count = listener.events.count(wanted)
            await sender.publish("t", b"x" * size)
            await until(lambda wanted=wanted, count=count: listener.events.count(wanted) > count)


async def test_a_broker_with_a_certificate_of_another_ca_is_refused_and_named(
    tls_broker, certificates, connect, caplog
):
    caplog.set_level(logging.WARNING, "pycm.mqtt")
    client, _ = await connect(tls_broker.url, root_ca=f"{certificates}/other.pem")
    await until(lambda: "does not fit connection.transport.root_ca" in caplog.text)
    assert not client.connected


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), ("no certificate", "given-ca.pem' cannot be used")]
)
async def test_a_ca_file_that_cannot_be_used_is_named_and_used_once_it_is_right(
    tmp_path, tls_broker, certificates, connect, caplog, content, words
):
    caplog.set_level(logging.WARNING, "pycm.mqtt")
    ca = tmp_path / "given-ca.pem"
    if content is not None:
        ca.write_text(content)
    pair = {"client_cert": f"{certificates}/client.pem", "client_key": f"{certificates}/client.key"}
    client, _ = await connect(tls_broker.url, root_ca=str(ca), **pair)
    await until(lambda: words in caplog.text)
    ca.write_text((certificates / "ca.pem").read_text())
    await until(lambda: client.connected)


async def test_exchanged_files_are_used_at_the_next_ping_and_unusable_ones_harm_nothing(
    tmp_path, tls_broker, certificates, connect, caplog, monkeypatch
):
    monkeypatch.setattr(link, "_PING_PAUSE", 0.05)
    caplog.set_level(logging.WARNING, "pycm.mqtt")
    mine = {}
    for option, name in (("root_ca", "ca.pem"), ("client_cert", "client.pem"), ("client_key", "client.key")):
        mine[option] = str(tmp_path / name)
        shutil.copy(certificates / name, mine[option])
    client, listener = await connect(tls_broker.url, keep_alive=1.0, **mine)
    await until(lambda: client.connected)
    pathlib.Path(mine["client_cert"]).write_text("half-written")
    await until(lambda: "(the connection stays)" in caplog.text)
    assert listener.events == ["up"]
    shutil.copy(certificates / "server.pem", mine["client_cert"])
    shutil.copy(certificates / "server.key", mine["client_key"])
    await until(lambda: listener.events == ["up", "down", "up"])
    assert "its TLS files have changed" in caplog.text


async def test_the_protocol_that_is_offered_with_tls_is_the_configured_one(certificates, connect):
    """mosquitto tells nobody: a bare TLS server says what it was offered."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.set_alpn_protocols(["x-amzn-mqtt-ca"])
    chosen = []

    async def talk(_, writer):
        chosen.append(writer.get_extra_info("ssl_object").selected_alpn_protocol())
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        await connect(
            f"mqtts://localhost:{port}", root_ca=f"{certificates}/ca.pem", alpn=("x-amzn-mqtt-ca", "mqtt")
        )
        await until(lambda: bool(chosen))
    assert chosen[0] == "x-amzn-mqtt-ca"


async def test_the_last_will_is_published_only_where_one_is_set_and_only_if_the_agent_vanishes(
    tmp_path, connect
):
    with MosquittoServer(tmp_path) as broker:
        watcher, heard = await connect(broker.url)
        await until(lambda: watcher.connected)
        await watcher.subscribe("#")
        will = {"will_topic": "agent/gone", "will_message": "gone"}
        for settings, vanishes in (({}, True), (will, False), (will, True)):
            client, _ = await connect(broker.url, **settings)
            await until(lambda client=client: client.connected)
            if vanishes:
                client._link.discard("vanished")
            await client.stop()
        await watcher.publish("end", b"")
        await until(lambda: ("end", b"") in heard.events)
        assert [event for event in heard.events if event[0] == "agent/gone"] == [("agent/gone", b"gone")]


# ── what the broker refuses, with the whole agent ──


def lines_about_mqtt(agent):
    lines = agent.text().splitlines()
    return [line for line in lines if "room=mqtt" in line and "level=debug" not in line]


def test_agent_leaves_out_what_exceeds_the_brokers_packet_size_and_publishes_it_once_it_may(
    tmp_path, containerd
):
    limit = 3000
    broker = MosquittoServer(tmp_path, f"allow_anonymous true\nmax_packet_size {limit}\n")
    with broker, AgentProcess(tmp_path, containerd, broker) as agent, Connector(broker.port) as cloud:
        cloud.wait_for_twin()
        small = cloud.create(IMAGE)
        variables = [f"--e=V{number}={'x' * 100}" for number in range(40)]
        big = agent.cm("create", "--network=host", "--name=big", *variables, IMAGE).strip()
        cloud.until(lambda: "left out" in agent.text(), "the refused message is named")
        (line,) = [line for line in lines_about_mqtt(agent) if "refuses PUBLISH" in line]
        size = int(line.split(" bytes")[0].rsplit(" ", 1)[1])
        assert size > limit - 100
        agent.cm("rename", small, "still-here")
        cloud.until(lambda: cloud.status(small)["name"] == "still-here", "the others are kept up to date")
        assert f"Container:{big}" not in cloud.features
        broker.stop()
        broker._options = "allow_anonymous true\n"
        broker.start()
        cloud.until(lambda: f"Container:{big}" in cloud.features, "the long message is accepted")
        agent.end()
    assert len(lines_about_mqtt(agent)) <= 20


def test_agent_ignores_a_retained_command_at_each_start_and_takes_a_retained_device(
    tmp_path, containerd, broker
):
    envelope = {
        "topic": f"{THING.replace(':', '/', 1)}/things/live/messages/create",
        "headers": {"correlation-id": "c", "response-required": True, "content-type": "application/json"},
        "path": "/features/ContainerFactory/inbox/messages/create",
        "value": {"imageRef": IMAGE},
    }
    broker.publish(f"command//{THING}/req/kept/create", json.dumps(envelope), "-r")
    broker.publish("edge/thing/response", json.dumps(DEVICE), "-r")
    with AgentProcess(tmp_path, containerd, broker) as agent, Connector(broker.port, answers=False) as cloud:
        for _ in range(2):
            agent.end()
            cloud.catch_up()
            agent.start()
            cloud.wait_for_twin()  # it listens to commands before
            status, _ = cloud.ask("Metrics", "request", {"frequency": "0s"})
            assert status == 204, "what came after the retained command was handled"
        assert agent.ids() == []
        warnings = [line for line in agent.text().splitlines() if "a retained command" in line]
        assert len(warnings) <= 3, "one for each start"
        assert all("level=warn" in line for line in warnings)


def test_agent_shows_its_twin_though_the_broker_refuses_the_commands(tmp_path, containerd):
    plugins = glob.glob("/usr/lib/*/mosquitto_dynamic_security.so")
    assert plugins, "Debian's mosquitto has it"
    security = tmp_path / "security.json"
    rules = [
        {"acltype": "subscribePattern", "topic": "#", "priority": -1, "allow": True},
        {"acltype": "subscribePattern", "topic": "command//+/req/#", "priority": 1, "allow": False},
    ]
    everything = dict.fromkeys(("publishClientSend", "publishClientReceive", "unsubscribe"), True)
    content = {
        "defaultACLAccess": {**everything, "subscribe": False},
        "roles": [{"rolename": "guest", "acls": rules}],
        "groups": [{"groupname": "guests", "roles": [{"rolename": "guest"}]}],
        "anonymousGroup": "guests",
        "clients": [],
    }
    security.write_text(json.dumps(content))
    options = f"allow_anonymous true\nplugin {plugins[0]}\nplugin_opt_config_file {security}\n"
    with (
        MosquittoServer(tmp_path, options) as broker,
        AgentProcess(tmp_path, containerd, broker) as agent,
        Connector(broker.port) as cloud,
    ):
        cloud.wait_for_twin()
        (line,) = [line for line in lines_about_mqtt(agent) if "refuses" in line]
        assert f"SUBSCRIBE 'command//{THING}/req/#'" in line
        name = agent.run_container(IMAGE, "sleep", "60")
        cloud.until(lambda: f"Container:{name}" in cloud.features, "changes are published, too")
        assert len(agent_connects(broker)) == 1


def agent_connects(broker):
    """Connections with a client id as the agent's, which is a UUID."""
    return [
        line for line in broker.log_lines() if re.search(r"New client connected .* as \w{8}-\w{4}-", line)
    ]
