# SPDX-License-Identifier: Apache-2.0
"""Reading and writing envelopes: Go's leniency, Go's strictness, and bounds of our own."""

import json

import pytest

from pycm.errors import InvalidInputError
from pycm.twin import envelope
from pycm.twin.session import Thing

THING = Thing("t", "ns:a:b")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"nonsense",
        b"[]",
        b'"text"',
        b"{} trailing",
        b'{"topic":1}',
        b'{"path":[]}',
        b'{"headers":"x"}',
        b'{"headers":[]}',
        b'{"status":1.5}',
        b'{"status":true}',
        b'{"revision":"1"}',
        b'{"timestamp":1}',
        b'{"value":NaN}',
        b'{"value":Infinity}',
        b'{"value":1e999}',
        b'{"value":-1e999}',
        b"\xff\xfe",
        b"[" * 10_000,
        b'{"value":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"value":' + b'{"a":' * 100 + b"1" + b"}" * 100 + b"}",
        b'{"value":' + b"9" * 5000 + b"}",
        b'{"a":"' + b"x" * (envelope.MAX_PAYLOAD) + b'"}',
    ],
)
def test_what_is_no_envelope_is_refused_in_one_line(payload):
    with pytest.raises(InvalidInputError) as raised:
        envelope.decode(payload)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 200


def test_member_names_count_in_any_case_header_names_do_not():
    decoded = envelope.decode(b'{"TOPIC":"t","Path":"p","Headers":{"Content-Type":"x"},"VALUE":1}')
    assert (decoded.topic, decoded.path, decoded.value) == ("t", "p", 1)
    assert decoded.text_header("content-type") == ""


def test_null_and_absent_are_the_same_and_the_last_of_two_members_counts():
    assert (
        envelope.decode(b"null")
        == envelope.decode(b'{"topic":null,"headers":null}')
        == envelope.decode(b"{}")
    )
    assert envelope.decode(b'{"topic":"a","topic":"b"}').topic == "b"


def test_invalid_utf8_and_halves_of_surrogates_become_the_replacement_character():
    assert envelope.decode(b'{"topic":"a\xff"}').topic == "a\ufffd"
    assert envelope.decode(b'{"value":["\\ud800", "\\ud83d\\ude00"]}').value == ["\ufffd", "😀"]


def test_numbers_of_any_length_that_a_float_can_hold_are_read():
    assert envelope.decode(b'{"value":' + b"9" * 30 + b"}").value == pytest.approx(1e30)
    assert envelope.decode(b'{"value":-12}').value == -12
    for whole in (2**63 - 1, -(2**63)):  # a revision may be as large
        assert envelope.decode(b'{"value":%d,"revision":%d}' % (whole, whole)).value == whole
    with pytest.raises(InvalidInputError, match="revision is not a whole number"):
        envelope.decode(b'{"revision":%d}' % 2**63)


def test_the_byte_form_is_compact_ordered_and_escaped_as_go_does():
    payload = envelope.encode("t", {"b": 1, "a": True}, "/p", {"z": 1.0, "a": "<&>"}, 200)
    assert (
        payload
        == b'{"topic":"t","headers":{"a":true,"b":1},"path":"/p","value":{"z":1,"a":"\\u003c\\u0026\\u003e"},"status":200}'
    )


def test_an_absent_value_is_left_out_and_null_is_sent():
    assert b"value" not in envelope.delete(THING, "/features/x")
    assert envelope.modify(THING, "/features/x", None).endswith(b'"value":null}')


def test_twin_and_live_messages_have_their_topics_and_headers():
    assert json.loads(envelope.modify(THING, "/features/x", 1)) == {
        "topic": "ns/a:b/things/twin/commands/modify",
        "headers": {"response-required": False},
        "path": "/features/x",
        "value": 1,
    }
    live = json.loads(envelope.live_message(THING, "Metrics", "data", {}))
    assert live["topic"] == "ns/a:b/things/live/messages/data"
    assert live["path"] == "/features/Metrics/outbox/messages/data"
    assert live["headers"] == {"content-type": "application/json", "response-required": False}
