# SPDX-License-Identifier: Apache-2.0
"""The connection to a real mosquitto: outages, credentials, TLS."""

import asyncio
import logging
import pathlib
import shutil
import ssl
import subprocess

import pytest
from mosquitto_server import MosquittoServer

from pycm.mqtt import link
from pycm.mqtt.client import MqttClient
from pycm.mqtt.settings import MqttSettings
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
        client = MqttClient(MqttSettings(broker_url=url, **settings))
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


async def test_a_broker_with_a_certificate_of_another_ca_is_refused_and_named(
    tls_broker, certificates, connect, caplog
):
    caplog.set_level(logging.WARNING, "pycm.mqtt")
    client, _ = await connect(tls_broker.url, root_ca=f"{certificates}/other.pem")
    await until(lambda: "does not fit connection.transport.root_ca" in caplog.text)
    assert not client.connected


@pytest.mark.parametrize(
    ("content", "words"), [(None, "failed to load CA"), ("no certificate", "failed to parse CA")]
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
    await until(lambda: "cannot be used; the connection stays" in caplog.text)
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
