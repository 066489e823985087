# SPDX-License-Identifier: Apache-2.0
"""What a broker may send: packets at both sides of the bound, in any pieces, and bytes that are not MQTT."""

import asyncio
import logging
import random

import pytest
from rude_broker import PUBLISH, RudeBroker, publish_packet

from pycm.mqtt import link, paho
from support.waiting import until

HEAD = 5  # topic "t" with its length, and the packet id
BOUND = 100_000


@pytest.fixture(autouse=True)
def bound(monkeypatch):
    monkeypatch.setattr(link, "MAX_PACKET", BOUND)


async def connected(connect, broker):
    client, listener = await connect(broker)
    await until(lambda: client.connected)
    return client, listener


@pytest.mark.parametrize("at_once", [True, False])
async def test_link_reads_a_packet_of_exactly_the_bound(connect, at_once):
    payload = b"p" * (BOUND - HEAD)
    async with RudeBroker() as broker:
        _, listener = await connected(connect, broker)
        packet = publish_packet(b"t", payload)
        for piece in [packet] if at_once else [packet[:3], packet[3:4], packet[4:50_000], packet[50_000:]]:
            broker.send(piece)
            await asyncio.sleep(0)
        await until(lambda: len(listener.events) == 2)
        assert listener.events == ["up", ("t", payload)]


@pytest.mark.parametrize("before", [0, 1, 7])
async def test_link_reads_nothing_of_a_packet_beyond_the_bound_that_comes_in_one_piece(
    connect, caplog, before
):
    async with RudeBroker() as broker:
        _, listener = await connected(connect, broker)
        small = publish_packet(b"t", b"1")
        broker.send(small * before + publish_packet(b"t", b"p" * (BOUND - HEAD + 1)) + small)
        await until(lambda: listener.events[-2:] == ["down", "up"])
        assert listener.events == ["up", *[("t", b"1")] * before, "down", "up"]
        assert f"a packet of {BOUND + 1} bytes; at most {BOUND} are read" in caplog.text


@pytest.mark.parametrize("split", range(1, 7))
async def test_link_reads_nothing_of_a_packet_beyond_the_bound_wherever_it_is_split(connect, split):
    async with RudeBroker() as broker:
        _, listener = await connected(connect, broker)
        packet = publish_packet(b"t", b"p" * BOUND)
        broker.send(packet[:split])
        await asyncio.sleep(0.01)
        broker.send(packet[split:])
        await until(lambda: listener.events == ["up", "down", "up"])


async def test_link_takes_no_memory_for_a_packet_beyond_the_bound(connect, monkeypatch):
    asked = []
    receive = paho.library.Client._sock_recv
    monkeypatch.setattr(
        paho.library.Client, "_sock_recv", lambda self, size: (asked.append(size), receive(self, size))[1]
    )
    async with RudeBroker() as broker:
        _, listener = await connected(connect, broker)
        broker.send(b"\x32\xff\xff\xff\x7f" + b"x" * 1000)
        await until(lambda: listener.events == ["up", "down", "up"])
    assert max(asked) <= BOUND


async def test_link_ends_a_connection_with_messages_of_qos_2(connect, caplog):
    """paho would keep each of them until its release."""
    async with RudeBroker() as broker:
        _, listener = await connected(connect, broker)
        packet = bytearray(publish_packet(b"t", b"p"))
        packet[0] = 0x34
        broker.send(bytes(packet))
        await until(lambda: listener.events == ["up", "down", "up"])
        assert "QoS 2" in caplog.text


@pytest.mark.parametrize(("unread", "read"), [(20, True), (21, False)])
async def test_link_ends_a_connection_whose_broker_does_not_read_the_acknowledgements(
    connect, monkeypatch, caplog, unread, read
):
    monkeypatch.setattr(paho, "MAX_UNSENT", 20)
    async with RudeBroker() as broker:
        client, listener = await connected(connect, broker)
        library = client._link._client
        library._out_packet.extend([None] * unread)
        library.loop_write = lambda: None
        broker.send(publish_packet(b"t", b"1"))
        await until(lambda: len(listener.events) >= 2)
        assert listener.events[1] == (("t", b"1") if read else "down")
        assert ("acknowledgements" in caplog.text) is not read
        library._out_packet.clear()


@pytest.mark.parametrize(
    "packet",
    [
        b"\x30\x02\xff\xff",  # topic longer than the packet
        b"\x30\x00",  # PUBLISH without a topic
        b"\x32\x03\x00\x01t",  # QoS 1 without a packet id
        b"\x36\x05\x00\x01t\x00\x01",  # QoS 3
        b"\x40\x01\x00",  # PUBACK of one byte
        b"\x40\x00",
        b"\x90\x01\x00",  # SUBACK of one byte
        b"\x90\x00",
        b"\xb0\x00",  # UNSUBACK without an id
        b"\x20\x00",  # a second CONNACK, empty
        b"\x20\x02\x00\x05",
        b"\x00\x00",  # type 0
        b"\xf0\xff\xff\xff\xff\xff",  # length of five bytes
        b"\xd0\x01\x00",  # PINGRESP with a body
    ],
)
async def test_link_survives_a_malformed_packet(connect, caplog, packet):
    """Either it is ignored, or the connection ends: once, and with one line in the log."""
    caplog.set_level(logging.WARNING)
    async with RudeBroker() as broker:
        client, listener = await connected(connect, broker)
        broker.send(packet)
        broker.send(publish_packet(b"t", b"next"))
        await until(lambda: listener.events[-1] in (("t", b"next"), "up") and len(listener.events) > 1)
        await client.publish("a", b"b")
        assert broker.count(PUBLISH) == 1
    assert len(caplog.records) <= 1
    assert "Traceback" not in caplog.text


async def test_link_gives_others_a_turn_while_tls_holds_packets(connect, monkeypatch):
    monkeypatch.setattr(link, "_PACKETS", 2)
    async with RudeBroker() as broker:
        client, listener = await connected(connect, broker)
        one = client._link
        held = [publish_packet(b"t", b"%d" % number) for number in range(5)]

        class Tls:
            def pending(self):
                return len(held)

        def read():
            listener.mqtt_message("t", held.pop())

        monkeypatch.setattr(one._client, "socket", Tls)
        monkeypatch.setattr(one._client, "loop_read", read)
        one._readable()
        assert len(held) == 3
        await until(lambda: not held)
        monkeypatch.undo()


async def test_link_survives_any_bytes(connect, caplog):
    """Seeded: whatever comes after the CONNACK, the next connection works and asyncio has nothing to report."""
    caplog.set_level(logging.WARNING, "asyncio")
    chance = random.Random(7)
    async with RudeBroker() as broker:
        client, listener = await connected(connect, broker)
        for _ in range(60):
            kind = chance.choice(
                [0x20, 0x30, 0x32, 0x33, 0x40, 0x50, 0x62, 0x70, 0x90, 0xB0, 0xC0, 0xD0, 0xE0]
            )
            body = chance.randbytes(chance.randrange(12))
            broker.send(bytes([kind, len(body)]) + body)
            await asyncio.sleep(0.002)
            await until(lambda: client.connected and bool(broker._writers))
        ups = listener.events.count("up")
        broker.hang_up()
        await until(lambda: listener.events.count("up") > ups)
        await client.publish("a", b"b")
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []
