# SPDX-License-Identifier: Apache-2.0
"""The connection against a broker that does what no real one can be made to do."""

import asyncio
import logging
import threading

import pytest
from rude_broker import CONNECT, DISCONNECT, PINGREQ, PUBLISH, RudeBroker, publish_packet

from pycm.config.types import Connection
from pycm.errors import InvalidInputError, OperationFailedError, UnavailableError
from pycm.mqtt import link
from pycm.mqtt.client import MAX_WAITING, MqttClient
from support.mqtt_listener import Listener
from support.waiting import until


async def test_it_connects_publishes_and_says_goodbye(connect):
    async with RudeBroker() as broker:
        client, listener = await connect(broker)
        await until(lambda: client.connected)
        await client.publish("a/b", b"x")
        await client.subscribe("c/#")
        await client.unsubscribe("c/#")
        await client.stop()
        await until(lambda: broker.count(DISCONNECT))
        assert broker.count(PUBLISH) == 1
        assert listener.events == ["up"]


async def test_no_thread_is_left_while_it_is_connected(connect):
    async with RudeBroker() as broker:
        client, _ = await connect(broker)
        await until(lambda: client.connected)
        await until(lambda: not [t for t in threading.enumerate() if t.name == "apart"])


async def test_a_message_reaches_the_listeners_whole(connect):
    async with RudeBroker() as broker:
        client, listener = await connect(broker)
        await until(lambda: client.connected)
        packet = publish_packet(b"t", b"p" * 300_000)
        broker.send(packet[:5])
        broker.send(packet[5:])
        await until(lambda: len(listener.events) > 1)
        assert listener.events[1] == ("t", b"p" * 300_000)


async def test_a_packet_beyond_the_bound_ends_the_connection_and_the_next_one_works(connect, monkeypatch):
    monkeypatch.setattr(link, "MAX_PACKET", 1000)
    async with RudeBroker() as broker:
        client, listener = await connect(broker)
        await until(lambda: client.connected)
        broker.send(publish_packet(b"t", b"p" * 5000)[:100])
        await until(lambda: listener.events == ["up", "down", "up"])
        await client.publish("a", b"b")


async def test_client_says_which_messages_the_broker_had_kept(connect):
    async with RudeBroker() as broker:
        client, listener = await connect(broker)
        await until(lambda: client.connected)
        kept = bytearray(publish_packet(b"kept", b"1"))
        kept[0] |= 1
        broker.send(bytes(kept) + publish_packet(b"new", b"2"))
        await until(lambda: len(listener.events) == 3)
        assert listener.events[1:] == [("kept", b"1"), ("new", b"2")]
        assert listener.retained == ["kept"]


async def test_bytes_that_are_no_mqtt_end_the_connection_and_the_next_one_works(connect):
    async with RudeBroker() as broker:
        client, listener = await connect(broker)
        await until(lambda: client.connected)
        broker.send(b"\xf0\xff\xff\xff\xff\xff\xff")
        await until(lambda: listener.events == ["up", "down", "up"])
        await client.publish("a", b"b")


async def test_who_waits_for_an_acknowledgement_gets_an_error_when_the_connection_is_lost(connect):
    async with RudeBroker(acknowledges=False) as broker:
        client, _ = await connect(broker)
        await until(lambda: client.connected)
        waiting = asyncio.create_task(client.publish("a/b", b"x"))
        await until(lambda: broker.count(PUBLISH))
        broker.hang_up()
        with pytest.raises(UnavailableError, match="lost"):
            await waiting


async def test_listeners_know_of_a_loss_when_a_call_fails_through_it(connect):
    async with RudeBroker(acknowledges=False) as broker:
        client, listener = await connect(broker)
        await until(lambda: client.connected)

        async def publish():
            try:
                await client.publish("a/b", b"x")
            except UnavailableError:
                return list(listener.events)

        waiting = [asyncio.create_task(publish()) for _ in range(3)]
        await until(lambda: broker.count(PUBLISH) == 3)
        broker.hang_up()
        assert await asyncio.gather(*waiting) == [["up", "down"]] * 3


async def test_a_broker_that_does_not_acknowledge_in_time_is_left_for_a_new_connection(connect):
    async with RudeBroker(acknowledges=False) as broker:
        client, listener = await connect(broker, acknowledge_timeout=0.1)
        await until(lambda: client.connected)
        with pytest.raises(UnavailableError, match=r"not acknowledged within 0\.1 s"):
            await client.publish("a/b", b"x")
        await until(lambda: listener.events == ["up", "down", "up"])


async def test_nothing_of_an_old_connection_is_sent_on_the_next(connect):
    async with RudeBroker(acknowledges=False) as broker:
        client, listener = await connect(broker)
        await until(lambda: client.connected)
        waiting = asyncio.create_task(client.publish("a/b", b"x"))
        await until(lambda: broker.count(PUBLISH))
        broker.hang_up()
        await asyncio.gather(waiting, return_exceptions=True)
        broker.acknowledges = True
        await until(lambda: listener.events == ["up", "down", "up"])
        await client.publish("a/c", b"y")
        assert broker.count(PUBLISH) == 2


async def test_a_refused_subscription_is_an_error_and_the_connection_stays(connect):
    async with RudeBroker(suback=128) as broker:
        client, listener = await connect(broker)
        await until(lambda: client.connected)
        with pytest.raises(OperationFailedError, match="refuses the subscription"):
            await client.subscribe("secret/#")
        assert listener.events == ["up"]


async def test_a_topic_that_cannot_be_published_to_is_a_clear_error(connect):
    async with RudeBroker() as broker:
        client, _ = await connect(broker)
        await until(lambda: client.connected)
        with pytest.raises(InvalidInputError, match="PUBLISH 'a/#'"):
            await client.publish("a/#", b"x")


async def test_without_a_connection_a_call_fails_at_once():
    client = MqttClient(Connection(broker_url="tcp://localhost:1"))
    for call in (client.publish("a", b""), client.subscribe("a"), client.unsubscribe("a")):
        with pytest.raises(UnavailableError, match="not connected"):
            await call


async def test_one_caller_too_many_fails_at_once(connect, monkeypatch):
    async with RudeBroker(acknowledges=False) as broker:
        client, _ = await connect(broker)
        await until(lambda: client.connected)
        waiting = [asyncio.create_task(client.publish("a", b"%d" % n)) for n in range(MAX_WAITING)]
        await until(lambda: broker.count(PUBLISH) >= 20)
        with pytest.raises(UnavailableError, match="messages are pending"):
            await client.publish("a", b"more")
        assert broker.count(PUBLISH) == 20
        await client.stop()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, UnavailableError) for result in results)


async def test_the_same_refusal_is_logged_once_and_a_new_reason_again(connect, caplog):
    caplog.set_level(logging.WARNING, "pycm.mqtt")
    async with RudeBroker(connack=5) as broker:
        await connect(broker)
        await until(lambda: broker.connections >= 4)
        assert [r.message for r in caplog.records if "does not authorise" in r.message] == [
            caplog.records[0].message
        ]
        broker.connack = 3
        await until(lambda: any("unavailable" in r.message for r in caplog.records))
        assert len(caplog.records) == 2


async def test_a_broker_that_never_accepts_is_given_up_after_the_connect_time_out(connect, caplog):
    async with RudeBroker(connack=None) as broker:
        await connect(broker, connect_timeout=0.1)
        await until(lambda: broker.count(CONNECT) >= 2)
        assert "no answer in time" in caplog.text


async def test_pings_keep_the_connection_and_a_silent_broker_is_noticed(connect, monkeypatch):
    monkeypatch.setattr(link, "_PING_PAUSE", 0.05)
    async with RudeBroker() as broker:
        _, listener = await connect(broker, keep_alive=1)
        await until(lambda: broker.count(PINGREQ) >= 2)
        assert listener.events == ["up"]
        broker.pings = False
        await until(lambda: "down" in listener.events)


async def test_stopping_while_it_connects_ends_quietly():
    async with RudeBroker(connack=None) as broker:
        client = MqttClient(Connection(broker_url=broker.url))
        await client.start()
        await until(lambda: broker.connections)
        await client.stop()


async def test_a_bug_in_a_listener_harms_neither_the_connection_nor_the_other_listeners(connect, caplog):
    class Buggy(Listener):
        def mqtt_message(self, topic, payload, *, retained=False):
            raise KeyError(topic)

    async with RudeBroker() as broker:
        client, _ = await connect(broker)
        last = Listener()
        client.add_listener(Buggy())
        client.add_listener(last)
        await until(lambda: client.connected)
        broker.send(publish_packet(b"t", b"1") + publish_packet(b"t", b"2"))
        await until(lambda: last.events[-2:] == [("t", b"1"), ("t", b"2")])
        assert "MQTT: bug in the handling of" in caplog.text


async def test_a_bug_in_a_listener_does_not_end_the_connecting(connect, caplog):
    class Buggy(Listener):
        def mqtt_connected(self):
            raise KeyError("up")

        def mqtt_disconnected(self):
            raise KeyError("down")

    async with RudeBroker() as broker:
        client, _ = await connect(broker)
        client.add_listener(Buggy())
        last = Listener()
        client.add_listener(last)
        await until(lambda: len(last.events) == 1)
        broker.hang_up()
        await until(lambda: len(last.events) == 3)
    assert "bug in the handling of 'mqtt_connected'" in caplog.text
    assert "bug in the handling of 'mqtt_disconnected'" in caplog.text


async def test_payloads_are_only_logged_for_debugging_and_shortened(connect, caplog):
    caplog.set_level(logging.DEBUG, "pycm.mqtt")
    async with RudeBroker() as broker:
        client, listener = await connect(broker)
        await until(lambda: client.connected)
        await client.publish("a", b"secret" + b"x" * 1000)
        broker.send(publish_packet(b"t", b"secret" + b"x" * 1000))
        await until(lambda: len(listener.events) > 1)
    shown = [record for record in caplog.records if "secret" in record.message]
    assert len(shown) == 2
    assert all(record.levelno == logging.DEBUG and len(record.message) < 200 for record in shown)


@pytest.mark.parametrize(
    ("login", "settings", "sent"),
    [
        ("", {}, []),
        ("", {"client_username": "me", "client_password": "pw"}, [b"me", b"pw"]),
        ("", {"client_username": "me"}, [b"me"]),
        ("", {"client_password": "pw"}, []),
        ("you:p%40w@", {}, [b"you", b"p@w"]),
        ("you:other@", {"client_username": "me", "client_password": "pw"}, [b"me", b"pw"]),
    ],
)
async def test_credentials_are_sent_only_with_a_user_name(connect, login, settings, sent):
    async with RudeBroker() as broker:
        broker.url = broker.url.replace("tcp://", f"tcp://{login}")
        client, _ = await connect(broker, **settings)
        await until(lambda: client.connected)
        body = broker.received[0][1][10:]
        fields = []
        while body:
            size = 2 + int.from_bytes(body[:2], "big")
            fields.append(body[2:size])
            body = body[size:]
        assert fields[0] == client.client_id.encode()
        assert fields[1:] == sent
