# SPDX-License-Identifier: Apache-2.0
"""The client's HTTP/2 against h2 as the server, back to back, and against frames that no server should send."""

import struct

import h2.events
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st

from pycm.api import http2
from pycm.api.call import UNAVAILABLE, Call, CallError
from pycm.api.http2 import Connection, Http2Error

REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/" + "x" * 300),
    (":authority", "localhost"),
    ("te", "trailers"),
]


class Pair:
    """Our client and h2's server; `pump` carries bytes until both are silent."""

    def __init__(self, **settings: int) -> None:
        self.client = Connection()
        self.server = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.server.initiate_connection()
        if settings:
            self.server.update_settings({SettingCodes[name]: value for name, value in settings.items()})
        self.events: list[h2.events.Event] = []

    def pump(self) -> None:
        while True:
            to_server, to_client = self.client.take(), self.server.data_to_send()
            if not to_server and not to_client:
                return
            self.events += self.server.receive_data(to_server) if to_server else []
            self.client.feed(to_client)

    def seen(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]

    def call(self, body: bytes = b"request") -> tuple[Call, memoryview]:
        self.pump()
        call = Call()
        self.client.open(call, REQUEST)
        rest = self.client.send(memoryview(body))
        self.pump()
        return call, rest


def test_the_server_reads_our_request_and_we_its_answer() -> None:
    pair = Pair()
    assert not pair.client.greeted
    call, rest = pair.call()
    assert pair.client.greeted
    assert not rest
    [request] = pair.seen(h2.events.RequestReceived)
    assert [tuple(header) for header in request.headers] == REQUEST
    assert b"".join(event.data for event in pair.seen(h2.events.DataReceived)) == b"request"
    assert pair.seen(h2.events.StreamEnded)
    pair.server.send_headers(1, [(":status", "200")])
    pair.server.send_data(1, b"\0\0\0\0\2hi", pad_length=9)
    pair.server.send_headers(1, [("grpc-status", "0"), ("x-long", "y" * 3000)], end_stream=True)
    pair.pump()
    assert list(call.messages()) == [b"hi"]
    assert call.done
    call.check()


def test_calls_follow_each_other_on_one_connection() -> None:
    pair = Pair()
    for stream in (1, 3, 5):
        call, _ = pair.call()
        pair.server.send_headers(stream, [(":status", "200"), ("grpc-status", "0")], end_stream=True)
        pair.pump()
        assert call.done


def test_a_long_request_waits_for_the_window_of_the_server() -> None:
    body = bytes(range(256)) * 1000
    pair = Pair(INITIAL_WINDOW_SIZE=1000, MAX_FRAME_SIZE=20000)
    _, rest = pair.call(body)
    assert len(rest) == len(body) - 1000
    while rest:
        for event in pair.seen(h2.events.DataReceived):
            pair.server.acknowledge_received_data(event.flow_controlled_length, 1)
        got = b"".join(event.data for event in pair.seen(h2.events.DataReceived))
        assert body.startswith(got)
        pair.events = [event for event in pair.events if not isinstance(event, h2.events.DataReceived)]
        body = body[len(got) :]
        pair.pump()
        rest = pair.client.send(rest)
        pair.pump()


def test_the_window_of_open_calls_follows_the_settings() -> None:
    pair = Pair(INITIAL_WINDOW_SIZE=10)
    _, rest = pair.call(b"x" * 100)
    assert len(rest) == 90
    pair.server.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 50})
    pair.pump()
    assert len(pair.client.send(rest)) == 50


def test_a_long_answer_flows_on() -> None:
    pair = Pair()
    call, _ = pair.call()
    pair.server.send_headers(1, [(":status", "200")])
    size = 3 * http2.WINDOW
    left = size + 5
    data = b"\0" + size.to_bytes(4, "big")
    while left:
        pair.pump()
        room = min(pair.server.local_flow_control_window(1), 16384, left)
        assert room > 0, "the client does not give back what it has read"
        pair.server.send_data(1, (data + bytes(room))[:room])
        data = b""
        left -= room
    pair.pump()
    [message] = call.messages()
    assert len(message) == size


def test_a_ping_is_answered() -> None:
    pair = Pair()
    pair.server.ping(b"12345678")
    pair.pump()
    assert pair.seen(h2.events.PingAckReceived)[0].ping_data == b"12345678"


def test_cancelling_tells_the_server_and_the_next_call_hears_nothing_of_it() -> None:
    pair = Pair()
    cancelled, _ = pair.call()
    pair.server.send_headers(1, [(":status", "200"), ("x", "remembered")])
    pair.server.send_data(1, b"late")
    late = pair.server.data_to_send()
    pair.client.cancel()
    pair.pump()
    assert pair.seen(h2.events.StreamReset)[0].error_code == http2.CANCEL
    call, _ = pair.call()
    pair.client.feed(late)
    pair.server.send_headers(
        3, [(":status", "200"), ("x", "remembered"), ("grpc-status", "0")], end_stream=True
    )
    pair.pump()
    assert not cancelled.done
    assert call.done
    call.check()


def test_a_connection_that_is_being_ended_finishes_the_call_it_has_begun() -> None:
    pair = Pair()
    call, _ = pair.call()
    pair.client.feed(raw(http2.GOAWAY, 0, 0, struct.pack(">II", 1, 0)))
    assert pair.client.closing
    pair.server.send_headers(1, [(":status", "200"), ("grpc-status", "0")], end_stream=True)
    pair.client.feed(pair.server.data_to_send())
    call.check()
    assert call.done


def test_a_connection_that_is_being_ended_fails_the_call_it_has_not_begun() -> None:
    pair = Pair()
    call, _ = pair.call()
    pair.client.feed(raw(http2.GOAWAY, 0, 0, struct.pack(">II", 0, 0)))
    with pytest.raises(CallError) as caught:
        call.check()
    assert caught.value.code == UNAVAILABLE


def raw(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


SETTINGS = raw(http2.SETTINGS, 0, 0)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak HTTP/2"),
        (raw(http2.PING, 0, 0, bytes(8)), "does not speak HTTP/2"),
        (SETTINGS + b"\xff\xff\xff\0\0\0\0\0\0", "does not speak HTTP/2"),
        (SETTINGS + raw(http2.RST_STREAM, 0, 1, b"\0"), "is not possible"),
        (SETTINGS + raw(http2.SETTINGS, 0, 0, b"\0" * 5), "is not possible"),
        (SETTINGS + raw(http2.GOAWAY, 0, 0, b"\0" * 7), "is not possible"),
        (SETTINGS + raw(http2.DATA, http2.PADDED, 1), "is not possible"),
        (SETTINGS + raw(http2.DATA, http2.PADDED, 1, b"\5abc"), "all padding"),
        (SETTINGS + raw(http2.HEADERS, 0, 1) + raw(http2.PING, 0, 0, bytes(8)), "cut off"),
        (SETTINGS + raw(http2.HEADERS, 0, 1) + raw(http2.CONTINUATION, 4, 3), "cut off"),
        (SETTINGS + raw(http2.CONTINUATION, 4, 1), "never began"),
        (SETTINGS + raw(http2.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"), "cannot be read"),
        (SETTINGS + raw(http2.HEADERS, 0, 1) + raw(http2.CONTINUATION, 0, 1, bytes(16384)) * 5, "more than"),
        (SETTINGS + raw(http2.PUSH_PROMISE, 4, 1, bytes(4)), "push"),
    ],
)
def test_a_peer_that_breaks_the_rules_is_an_error(data: bytes, text: str) -> None:
    connection = Connection()
    connection.open(Call(), REQUEST)
    with pytest.raises(Http2Error, match=text):
        connection.feed(data)


def test_frames_of_unknown_types_are_ignored() -> None:
    connection = Connection()
    connection.feed(SETTINGS + raw(0xFA, 7, 9, b"grease"))
    assert connection.greeted


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_taken_or_refused(data: bytes, greeted: bool) -> None:
    connection = Connection()
    connection.open(Call(), REQUEST)
    try:
        connection.feed(SETTINGS * greeted + data)
    except Http2Error as error:
        assert "\n" not in str(error)  # noqa: PT017 - both ends are right, but no other
