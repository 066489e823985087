# SPDX-License-Identifier: Apache-2.0
"""The parts of the connection that are pure: addresses, pauses, reasons, and the shim over paho's versions."""

import os
import socket
import ssl
from types import SimpleNamespace

import pytest

from pycm.errors import ConfigError, UnavailableError
from pycm.mqtt import paho, reasons, tls
from pycm.mqtt.backoff import CAP, Backoff
from pycm.mqtt.settings import MqttSettings, check, parse_address


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("tcp://localhost:1883", "localhost", 1883, False),
        ("mqtt://broker", "broker", 1883, False),
        ("SSL://broker", "broker", 8883, True),
        ("mqtt+ssl://broker:99", "broker", 99, True),
        ("tcps://[::1]:8884", "::1", 8884, True),
        ("localhost", "localhost", 1883, False),
        ("localhost:1884", "localhost", 1884, False),
        ("10.0.0.1:1883", "10.0.0.1", 1883, False),
        ("[::1]:1884", "::1", 1884, False),
        ("user:secret@broker:1884", "broker", 1884, False),
    ],
)
def test_an_address_is_taken_apart(url, host, port, tls):
    address = parse_address(url)
    assert (address.host, address.port, address.tls) == (host, port, tls)


@pytest.mark.parametrize(
    "url",
    [
        "",
        ":1883",
        "mqtt:h",
        "tcp://[::1",
        "tcp://a\u2100b",
        "localhost:x",
        "ws://h:1",
        "wss://h:1",
        "tcp://",
        "tcp://h:99999",
        "tcp://h:x",
    ],
)
def test_an_address_that_cannot_be_used_is_named_with_the_reason(url):
    with pytest.raises(ConfigError, match=r"connection\.broker_url: .* cannot be used: "):
        parse_address(url)


def test_a_password_in_the_address_stays_out_of_texts():
    assert "secret" not in parse_address("tcp://user:secret@host:1").shown
    with pytest.raises(ConfigError) as raised:
        parse_address("http://user:secret@host:1")
    assert "secret" not in str(raised.value)


def test_the_password_is_not_shown_with_the_settings():
    assert "hunter2" not in repr(MqttSettings(client_username="u", client_password="hunter2"))


def test_tls_without_a_ca_is_refused():
    with pytest.raises(ConfigError, match="root_ca"):
        check(MqttSettings(broker_url="ssl://host"))


def test_half_a_client_pair_is_refused():
    with pytest.raises(ConfigError, match="belong together"):
        check(MqttSettings(broker_url="ssl://host", root_ca="ca.pem", client_key="key.pem"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"will_topic": "a/#"}, "will_topic"),
        ({"will_topic": "x" * 2000}, "will_topic"),
        ({"will_topic": "a", "will_message": "x" * 70_000}, "will_message"),
        ({"alpn": ("",)}, "alpn"),
        ({"alpn": ("x" * 256,)}, "alpn"),
    ],
)
def test_a_will_or_protocol_that_cannot_be_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        check(MqttSettings(**settings))


def test_a_written_file_changes_the_fingerprint_and_a_missing_one_is_none(tmp_path):
    ca = tmp_path / "ca.pem"
    settings = MqttSettings(root_ca=str(ca))
    missing = tls.fingerprint(settings)
    ca.write_text("a")
    present = tls.fingerprint(settings)
    assert len({missing, present}) == 2
    assert tls.fingerprint(settings) == present
    ca.write_text("ab")
    assert tls.fingerprint(settings) != present


def test_pauses_double_up_to_the_cap_and_begin_anew_after_a_success():
    backoff = Backoff(chance=lambda: 0.0)
    assert [backoff.next() for _ in range(6)] == [1, 2, 4, 8, 8, 8]
    backoff.reset()
    assert backoff.next() == 1


def test_chance_only_shortens_a_pause_so_that_the_promise_of_ten_seconds_holds():
    luckiest = Backoff(chance=lambda: 1.0)
    pauses = [luckiest.next() for _ in range(8)]
    assert max(pauses) <= CAP < 10
    assert min(pauses) >= 0.5
    assert pauses[0] < Backoff(chance=lambda: 0.0).next()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(111, "refused"), "nothing listens there"),
        (socket.gaierror(-2, "Name or service not known"), "cannot be resolved"),
        (TimeoutError(), "no answer in time"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "TLS failed"),
        (OSError(113, "No route to host"), "No route to host"),
        (UnavailableError("failed to load CA: x"), "failed to load CA: x"),
    ],
)
def test_a_failure_is_told_in_one_line(error, words):
    text = reasons.of_failure(error)
    assert words in text
    assert "\n" not in text


@pytest.mark.parametrize("code", [5, 135])
def test_refused_credentials_are_told_in_the_same_words_with_any_paho(code):
    assert "client_username" in reasons.of_refusal(code)


def test_an_unknown_refusal_names_its_code():
    assert "99" in reasons.of_refusal(99)


@pytest.mark.parametrize(
    ("codes", "refused"),
    [([1], False), ([128], True), ((0, 128), True), ([SimpleNamespace(value=135)], True), (1, False)],
)
def test_a_refused_subscription_is_known_in_either_form(codes, refused):
    assert paho.refused(codes) is refused


def test_the_client_never_reconnects_by_itself():
    client = paho.make_client("id")
    assert client._reconnect_on_failure is False
    assert client._max_inflight_messages == 0


def test_make_context_refuses_a_fifo_in_place_of_a_tls_file(tmp_path):
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "fifo")
    file, fifo = str(tmp_path / "file"), str(tmp_path / "fifo")
    with pytest.raises(UnavailableError, match=r"CA: .*/fifo: not a regular file"):
        tls.make_context(MqttSettings(root_ca=fifo))
    for pair in ((file, fifo), (fifo, file)):
        with pytest.raises(UnavailableError, match=r"key pair: .*: not a regular file"):
            tls._load_pair(tls.Context(ssl.PROTOCOL_TLS_CLIENT), *pair)
