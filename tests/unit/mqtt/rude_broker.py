# SPDX-License-Identifier: Apache-2.0
"""A broker in a few lines that misbehaves as told: what a real one cannot be made to do."""

from __future__ import annotations

import asyncio

from pycm.waiting import Backoff

CONNECT, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT = 1, 3, 8, 10, 12, 14


class RudeBroker:
    """`connack`: return code or None for silence; `acknowledges`: answer PUBLISH and SUBSCRIBE; `pings`: answer PINGREQ.

    `hates(kind, topic, size)`: True closes the connection on a PUBLISH (size of its payload) or SUBSCRIBE.
    """

    def __init__(
        self, *, connack: int | None = 0, acknowledges: bool = True, pings: bool = True, suback: int = 1
    ) -> None:
        self.connack, self.acknowledges, self.pings, self.suback = connack, acknowledges, pings, suback
        self.hates = lambda kind, topic, size: False
        self.received: list[tuple[int, bytes]] = []
        #: Topics and payload sizes of the acknowledged PUBLISHes.
        self.published: list[tuple[str, int]] = []
        self.connections = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self.hang_up()
        await asyncio.sleep(0)

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    def send(self, data: bytes) -> None:
        """Raw bytes to the newest client."""
        self._writers[-1].write(data)

    def count(self, kind: int) -> int:
        return sum(1 for number, _ in self.received if number == kind)

    async def _serve(self, reader, writer):
        self.connections += 1
        self._writers.append(writer)
        try:
            while True:
                kind = (await reader.readexactly(1))[0] >> 4
                body = await reader.readexactly(await _length(reader))
                self.received.append((kind, body))
                if kind in (PUBLISH, SUBSCRIBE) and self.hates(*_addressed(kind, body)):
                    break
                self._answer(kind, body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, kind, body, writer):
        if kind == CONNECT and self.connack is not None:
            writer.write(bytes([0x20, 2, 0, self.connack]))
        elif kind == PUBLISH and self.acknowledges:
            self.published.append(_addressed(kind, body)[1:])
            at = 2 + int.from_bytes(body[:2], "big")
            writer.write(bytes([0x40, 2]) + body[at : at + 2])
        elif kind == SUBSCRIBE and self.acknowledges:
            writer.write(bytes([0x90, 3]) + body[:2] + bytes([self.suback]))
        elif kind == UNSUBSCRIBE and self.acknowledges:
            writer.write(bytes([0xB0, 2]) + body[:2])
        elif kind == PINGREQ and self.pings:
            writer.write(bytes([0xD0, 0]))


def _addressed(kind: int, body: bytes) -> tuple[int, str, int]:
    if kind == SUBSCRIBE:
        return kind, body[4:-1].decode(), 0
    at = 2 + int.from_bytes(body[:2], "big")
    return kind, body[2:at].decode(), len(body) - at - 2


async def _length(reader) -> int:
    value = shift = 0
    while True:
        byte = (await reader.readexactly(1))[0]
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value


class Quick(Backoff):
    """No pauses, as far as a test is concerned."""

    def next(self):
        return min(super().next(), 0.01)


def publish_packet(topic: bytes, payload: bytes) -> bytes:
    body = len(topic).to_bytes(2, "big") + topic + b"\x00\x07" + payload
    length, rest = b"", len(body)
    while True:
        rest, digit = divmod(rest, 128)
        length += bytes([digit | (128 if rest else 0)])
        if not rest:
            return bytes([0x32]) + length + body
