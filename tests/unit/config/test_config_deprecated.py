# SPDX-License-Identifier: Apache-2.0
"""`things.connection` and its flags, which Kanto up to v1.0.0 has: every key, what wins, and the warning."""

import json
import logging

import pytest

from pycm.config.types import Config
from pycm.model.frozen import replace

#: key -> its flag, a value of things.connection, and what [connection] has then.
OLD = {
    "broker_url": ("broker", "tcp://old:1", "tcp://old:1"),
    "keep_alive": ("keep-alive", 7001, 7.001),
    "disconnect_timeout": ("disconnect-timeout", 7002, 7.002),
    "client_username": ("client-username", "ada", "ada"),
    "client_password": ("client-password", "geheim", "geheim"),
    "connect_timeout": ("connect-timeout", 7003, 7.003),
    "acknowledge_timeout": ("ack-timeout", 7004, 7.004),
    "subscribe_timeout": ("sub-timeout", 7005, 7.005),
    "unsubscribe_timeout": ("unsub-timeout", 7006, 7.006),
}
EXPECTED = replace(Config().connection, **{key: expected for key, (_, _, expected) in OLD.items()})


def warnings(loaded):
    return [note.text for note in loaded.notes if note.level >= logging.WARNING]


def as_json():
    return json.dumps({"Things": {"connection": {key: value for key, (_, value, _) in OLD.items()}}})


def as_toml():
    return "\n".join(
        ["[things.connection]", *(f"{key} = {json.dumps(value)}" for key, (_, value, _) in OLD.items())]
    )


def as_flags():
    return [f"--things-conn-{flag}={value}" for flag, value, _ in OLD.values()]


@pytest.mark.parametrize(
    ("text", "argv"), [(as_json(), []), (as_toml(), []), ("[log]", as_flags())], ids=["json", "toml", "flags"]
)
def test_things_connection_sets_every_key_with_one_deprecation_warning(read, text, argv):
    loaded = read(text, *argv)
    assert loaded.config.connection == EXPECTED
    (warning,) = warnings(loaded)
    assert warning.startswith(f"things.connection is deprecated: {', '.join(OLD)} ")
    assert "geheim" not in warning


def test_things_connection_wins_over_connection_for_set_keys_only(read):
    text = """{"connection": {"broker_url": "tcp://new:1", "keep_alive": "3s", "client_username": "new"},
        "things": {"enable": true, "connection": {"keep_alive": 4000, "client_username": "", "client_password": null,
        "acknowledge_timeout": 0}}}"""
    loaded = read(text)
    connection = loaded.config.connection
    assert (connection.broker_url, connection.keep_alive, connection.client_username) == (
        "tcp://new:1",
        4.0,
        "new",
    )
    assert connection.acknowledge_timeout == 15.0
    assert [text.partition(" win")[0] for text in warnings(loaded)] == [
        "things.connection is deprecated: keep_alive"
    ]


def test_things_connection_flag_wins_over_file_and_file_over_connection_flag(read):
    text = "[things.connection]\nbroker_url = 'tcp://file:1'\nclient_username = 'file'"
    argv = [
        "--conn-broker-url=tcp://flag:1",
        "--things-conn-client-username=flag",
        "--conn-client-password=p",
    ]
    connection = read(text, *argv).config.connection
    assert (connection.broker_url, connection.client_username) == ("tcp://file:1", "flag")
    assert connection.client_password == "p"


@pytest.mark.parametrize("value", ["-1", "65535001", "'soon'", "'5'"])
def test_things_connection_time_out_of_range_leaves_the_value_of_connection(read, value):
    text = f"connection.keep_alive = '3s'\nthings.connection.keep_alive = {value}"
    loaded = read(text)
    assert loaded.config.connection.keep_alive == (0.005 if value == "'5'" else 3.0)
    if value != "'5'":
        assert "line 2: things.connection.keep_alive: " in warnings(loaded)[0]
        assert warnings(loaded)[0].endswith("; the value of [connection] is used")


def test_things_connection_time_at_the_bound_is_taken(read):
    assert read("things.connection.keep_alive = 65535000").config.connection.keep_alive == 65535.0


def test_things_connection_with_an_unknown_key_names_it(read):
    assert warnings(read("[things.connection]\nbroker = 'x'"))[0].endswith(
        "line 2: things.connection.broker: this key is not known; is things.connection.broker_url meant?"
    )
