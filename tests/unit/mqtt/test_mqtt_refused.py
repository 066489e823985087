# SPDX-License-Identifier: Apache-2.0
"""What the broker refuses by closing the connection, and connections that do not last."""

import asyncio
import logging

import pytest
from rude_broker import PUBLISH, SUBSCRIBE, Quick, RudeBroker

from pycm.config.types import Connection
from pycm.errors import RefusedError, UnavailableError
from pycm.mqtt import client as client_module
from pycm.mqtt import link
from pycm.mqtt.client import LOCAL_CAP, MAX_IN_FLIGHT, MAX_LINES, MqttClient
from pycm.waiting import Backoff
from support.mqtt_listener import Listener
from support.waiting import until


async def publish_all(client, messages):
    """What a front does: on each connection everything, until all is sent or refused. Returns the refused topics."""
    while True:
        refused = []
        await until(lambda: client.connected)
        try:
            for topic, payload in messages:
                try:
                    await client.publish(topic, payload)
                except RefusedError:
                    refused.append(topic)
        except UnavailableError:
            continue
        return refused


MESSAGES = [("t/small", b"x" * 10), ("t/big", b"x" * 1001), ("t/fits", b"x" * 1000), ("t/huge", b"x" * 5000)]


async def test_client_finds_the_messages_that_are_too_long_and_sends_the_others(connect, caplog):
    caplog.set_level(logging.INFO, "pycm.mqtt")
    async with RudeBroker() as broker:
        broker.hates = lambda kind, topic, size: kind == PUBLISH and size > 1000
        client, _ = await connect(broker)
        assert await publish_all(client, MESSAGES) == ["t/big", "t/huge"]
        assert ("t/fits", 1000) in broker.published
        assert broker.connections == 5, "two for each refused message, and the one that stays"
        lines = [r.message for r in caplog.records if "refuses PUBLISH" in r.message]
        assert len(lines) == 2
        assert "'t/big', 1001 bytes" in lines[0]


async def test_client_finds_a_topic_that_is_forbidden_and_sends_the_others(connect):
    async with RudeBroker() as broker:
        broker.hates = lambda kind, topic, size: topic.startswith("e/")
        client, _ = await connect(broker)
        messages = [
            ("e/t/thing", b"x" * 500),
            ("e/t/thing", b"x" * 900),
            ("e/t/thing", b"x" * 20),
            ("r", b""),
        ]
        assert await publish_all(client, messages) == ["e/t/thing"] * 3
        assert broker.published[-1] == ("r", 0)
        assert broker.connections == 4, "two for the first, one for the shorter one, none for the longer one"


async def test_client_finds_one_forbidden_message_among_many_in_flight(connect):
    async with RudeBroker() as broker:
        broker.hates = lambda kind, topic, size: topic == "bad/9"
        client, _ = await connect(broker)
        waiting = range(MAX_IN_FLIGHT)
        for _ in range(3):
            await until(lambda: client.connected)
            calls = [client.publish(f"{'bad' if n == 9 else 'good'}/{n}", b"") for n in waiting]
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert [n for n in waiting if results[n] is not None] == [9]
        assert isinstance(results[9], RefusedError)
        assert broker.connections == 3


async def test_client_finds_a_subscription_on_which_the_broker_hangs_up(connect, caplog):
    async with RudeBroker() as broker:
        broker.hates = lambda kind, topic, size: kind == SUBSCRIBE
        client, _ = await connect(broker)
        for _ in range(2):
            await until(lambda: client.connected)
            with pytest.raises(UnavailableError):
                await client.subscribe("command//thing/req/#")
        await until(lambda: client.connected)
        with pytest.raises(RefusedError):
            await client.subscribe("command//thing/req/#")
        await client.publish("a", b"")
        assert "refuses SUBSCRIBE 'command//thing/req/#'" in caplog.text


async def test_client_finds_a_message_that_is_never_acknowledged(connect):
    async with RudeBroker(acknowledges=False) as broker:
        client, _ = await connect(broker, acknowledge_timeout=0.05)
        assert await publish_all(client, MESSAGES[:1]) == ["t/small"]
        assert broker.connections == 3


async def test_client_tries_a_refused_message_again_in_time(connect, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "pycm.mqtt")
    monkeypatch.setattr(client_module, "FIRST_REFUSED", 0.01)
    monkeypatch.setattr(client_module, "REFUSED_CAP", 0.05)
    async with RudeBroker() as broker:
        broker.hates = lambda kind, topic, size: size > 1000
        client, _ = await connect(broker)
        assert await publish_all(client, MESSAGES[:2]) == ["t/big"]
        pauses = []
        while broker.hates:
            try:
                await client.publish(*MESSAGES[1])
            except RefusedError as error:
                pauses.append(error.retry_after)
                await asyncio.sleep(error.retry_after)
            except UnavailableError:
                if broker.connections > 8:
                    break
                await until(lambda: client.connected)
        assert max(pauses) <= 0.05
        assert all(pauses)
        lines = len(caplog.records)
        broker.hates = lambda kind, topic, size: False
        while broker.published[-1] != ("t/big", 1001):
            await publish_all(client, MESSAGES[1:2])
        accepted = next(r.message for r in caplog.records[lines:] if "again" in r.message)
        assert accepted.endswith("1001 bytes, again")
        assert [r.levelno for r in caplog.records].count(logging.WARNING) <= 2 * 5


async def test_client_blames_no_message_for_a_connection_that_it_ended_itself(connect):
    async with RudeBroker(acknowledges=False) as broker:
        client, listener = await connect(broker)
        for number in range(2):
            await until(lambda number=number: listener.events.count("up") == number + 1)
            waiting = asyncio.create_task(client.publish("a", b""))
            await until(lambda number=number: broker.count(PUBLISH) == number + 1)
            client._link.discard("user or password have changed")
            await asyncio.gather(waiting, return_exceptions=True)
        broker.acknowledges = True
        await until(lambda: listener.events.count("up") == 3)
        await client.publish("a", b"")


# ── connections that do not last ──


class Recorder(Quick):
    """`pauses`: what would have been waited."""

    def __init__(self):
        super().__init__(LOCAL_CAP, chance=lambda: 0.0)
        self.pauses = []

    def next(self):
        self.pauses.append(Backoff.next(self))
        return 0.0


async def test_pauses_grow_while_a_broker_accepts_and_hangs_up(caplog):
    caplog.set_level(logging.INFO, "pycm.mqtt")
    recorder = Recorder()
    async with RudeBroker() as broker:
        client = MqttClient(Connection(broker_url=broker.url), recorder)
        client.add_listener(listener := Listener())
        await client.start()
        for number in range(30):
            await until(lambda number=number: listener.events.count("up") > number)
            broker.hang_up()
        await until(lambda: listener.events.count("up") > 30)
        await client.stop()
    assert recorder.pauses == [1, 2, 4] + [8] * 27
    assert len(caplog.records) == MAX_LINES
    assert "further lines have level DEBUG" in caplog.records[-1].message


async def test_pauses_begin_again_after_a_connection_that_lasted(caplog, monkeypatch):
    caplog.set_level(logging.INFO, "pycm.mqtt")
    monkeypatch.setattr(client_module, "MAX_LINES", 2)
    recorder = Recorder()
    async with RudeBroker() as broker:
        client = MqttClient(Connection(broker_url=broker.url), recorder)
        client.add_listener(listener := Listener())
        await client.start()
        for number in range(3):
            await until(lambda number=number: listener.events.count("up") > number)
            if number == 2:
                monkeypatch.setattr(client_module, "LASTED", 0.05)
            broker.hang_up()
        await until(lambda: "the connection has lasted" in caplog.text.splitlines()[-1])
        broker.hang_up()
        await until(lambda: len(recorder.pauses) == 4)
        await client.stop()
    assert recorder.pauses == [1, 2, 4, 1]
    assert caplog.records[3].message.startswith(f"MQTT broker {broker.url}: connection lost")


async def test_a_remote_broker_has_longer_pauses_until_it_turns_out_to_be_on_this_machine(monkeypatch):
    monkeypatch.setattr("pycm.mqtt.settings.Address.is_local", False)
    async with RudeBroker() as broker:
        client = MqttClient(Connection(broker_url=broker.url))
        assert client._backoff.cap == client_module.REMOTE_CAP
        await client.start()
        await until(lambda: client.connected)
        assert client._backoff.cap == client_module.LOCAL_CAP
        await client.stop()
    assert MqttClient(Connection(broker_url="tcp://localhost"))._backoff.cap == client_module.REMOTE_CAP


async def test_an_unexpected_error_of_a_library_is_a_reason_to_try_again(connect, caplog, monkeypatch):
    bugs = [AttributeError("connect"), RuntimeError("attach"), SystemExit("thread"), KeyError("login")]
    monkeypatch.setattr(link.Link, "_log_in", lambda self: throw(bugs, AttributeError, SystemExit))
    monkeypatch.setattr(link.Link, "_schedule_ping", lambda self: throw(bugs, RuntimeError))
    monkeypatch.setattr("pycm.mqtt.settings.Login.renew", lambda self: renew())

    def throw(bugs, *kinds):
        if bugs and isinstance(bugs[0], kinds):
            raise bugs.pop(0)

    async def renew():
        throw(bugs, KeyError)
        return False

    async with RudeBroker() as broker:
        client, _ = await connect(broker)
        await until(lambda: client.connected)
        assert not bugs
        await client.publish("a", b"")
    for name in ("AttributeError", "RuntimeError", "SystemExit", "KeyError"):
        assert f"unexpected {name}" in caplog.text
