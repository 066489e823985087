# SPDX-License-Identifier: Apache-2.0
"""Errors in the configuration of one function: they disable that function, and only what the agent cannot do without ends it."""

import json
import logging

import pytest

from pycm.agent import settle
from pycm.config.load import Source, load, parse_line, source_of
from pycm.config.types import DEPRECATED, Config, DefaultBridge, consequence, keys
from pycm.errors import ConfigError


def errors(notes):
    return [note.text for note in notes if note.level >= logging.ERROR]


def off(config):
    """What is disabled, by name."""
    functions = {
        "twin": not config.things.enable,
        "bridge": config.network.default_bridge == DefaultBridge(disable=True),
        "deployment": not config.deployment.enable,
        "expiry": config.containers.image_expiry_disable,
        "containers": config.containers.image_verifier_type not in ("", "none"),
    }
    return {name for name, disabled in functions.items() if disabled}


TWIN = "the digital twin is disabled"
MQTT = "MQTT is disabled: no digital twin, no update agent"
BRIDGE = "network mode bridge is disabled"
EXPIRY = "unused images are kept"
DEFAULT = "the default is used"


@pytest.mark.parametrize(
    ("text", "then", "disabled"),
    [
        ("things = 5", TWIN, {"twin"}),
        ("things.home_dir = 'rel'", TWIN, {"twin"}),
        ("things.features = 'x'", TWIN, {"twin"}),
        ("things.mask_env = 'maybe'", TWIN, {"twin"}),
        ("things.policy = 5", TWIN, {"twin"}),
        ("things.policy.create = 'never'", TWIN, {"twin"}),
        ("things.policy.priviledged = false", TWIN, {"twin"}),
        ("things.connection.keep_alive = 1.5", TWIN, {"twin"}),
        ("connection = []", MQTT, {"twin"}),
        ("connection.broker_url = 5", MQTT, {"twin"}),
        ("connection.keep_alive = 20", MQTT, {"twin"}),
        ("connection.transport.root_ca = []", MQTT, {"twin"}),
        ("update_agent.domain = 5", "the update agent is disabled", set()),
        ("deployment.ctr_dir = 'rel'", "deployment is disabled", {"deployment"}),
        ("network = 1", BRIDGE, {"bridge"}),
        ("network.default_bridge = 1", BRIDGE, {"bridge"}),
        ("network.default_bridge.mtu = -1", BRIDGE, {"bridge"}),
        ("network.default_bridge.mtu = 67", BRIDGE, {"bridge"}),
        ("network.default_bridge.name = 'a/b'", BRIDGE, {"bridge"}),
        ("network.default_bridge.ip4 = '10.1.1.1'", BRIDGE, {"bridge"}),
        ("network.default_bridge.gwip4 = '10.1.1.1'", BRIDGE, {"bridge"}),
        ("network.cni_bin_dirs = ['rel']", BRIDGE, {"bridge"}),
        ("network.exec_root_dir = 'rel'", BRIDGE, {"bridge"}),
        ("network.home_dir = 'rel'", DEFAULT, set()),
        ("grpc_server.protocol = 5", "the API listens at its default address", set()),
        ("containers.image_expiry = 30", EXPIRY, {"expiry"}),
        ("containers.image_expiry_disable = 'often'", EXPIRY, {"expiry"}),
        ("containers.image_verifier_type = true", "no container is created or started", {"containers"}),
        ("containers.image_dec_keys = 'k'", DEFAULT, set()),
        ("containers.preload_dir = 'rel'", DEFAULT, set()),
        ("containers.lease_id = 'a/b'", DEFAULT, set()),
        ("containers.seccomp_profile = false", DEFAULT, set()),
        ("containers.registry_configurations = 5", DEFAULT, set()),
        ("containers.registry_configurations.a = 5", "pulls from this registry are refused", set()),
        ("manager.default_ctrs_stop_timeout = []", DEFAULT, set()),
        ("manager.live_restore = 'perhaps'", DEFAULT, set()),
        ("log = 5", DEFAULT, set()),
        ("log.log_file_size = -1", DEFAULT, set()),
    ],
)
def test_error_in_one_function_disables_that_function_only(read, text, then, disabled):
    loaded = read(text)
    (found,) = errors(loaded.notes)
    assert f"{text.split(' =')[0]}" in found
    assert found.endswith(f" ({then})")
    assert off(loaded.config) == disabled
    assert loaded.config.manager == Config().manager


@pytest.mark.parametrize(
    "text",
    [
        "manager = 5",
        "manager.home_dir = 'rel'",
        "manager.exec_root_dir = 5",
        "containers = []",
        "containers.default_ns = 'a/b'",
        "containers.address_path = 'rel'",
        "containers.home_dir = ''",
        "containers.exec_root_dir = 'rel'",
    ],
)
def test_error_in_the_place_of_containers_ends_the_start(read, text):
    with pytest.raises(ConfigError, match=text.split(" =")[0]):
        read(text)


def test_only_the_places_of_containers_have_no_consequence_but_the_end():
    assert [key.name for key in keys() if consequence(key.path) is None] == [
        "manager.home_dir",
        "manager.exec_root_dir",
        "containers.default_ns",
        "containers.address_path",
        "containers.exec_root_dir",
        "containers.home_dir",
    ]


@pytest.mark.parametrize(
    "raw",
    [
        5,
        -1,
        True,
        "",
        "x",
        "a/b:c\u20ac",
        "\ud800",
        "9" * 5000,
        [],
        ["x"],
        ["\udc80"],
        [1],
        {},
        {"x": 1},
        1.5,
        2**70,
    ],
)
def test_no_value_of_any_other_key_ends_the_start(read, raw):
    for key in (*keys(), *DEPRECATED):
        tree = raw
        for part in reversed(key.path):
            tree = {part: tree}
        if consequence(key.path) is not None:
            loaded = read(json.dumps(tree), name="config.json")
            settle(loaded.config)
            assert len(errors(loaded.notes)) <= 1, key.name


def test_every_wrong_key_is_named_and_other_keys_of_the_section_stay(read):
    loaded = read("log.log_level = 5\nlog.log_file = 'x'\nconnection.alpn = 1\nthings.mask_env = 3")
    assert [text.partition(": ")[2].partition(":")[0] for text in errors(loaded.notes)] == [
        "log.log_level",
        "connection.alpn",
        "things.mask_env",
    ]
    assert loaded.config.log.log_file == "x"


@pytest.mark.parametrize(
    ("flag", "disabled"),
    [("--net-br-mtu=-1", {"bridge"}), ("--things-home-dir=rel", {"twin"}), ("--net-br-ip4=x", {"bridge"})],
)
def test_error_in_a_flag_disables_its_function_too(read, flag, disabled):
    loaded = read("[log]", flag)
    assert len(errors(loaded.notes)) == 1
    assert off(loaded.config) == disabled


def test_half_of_a_surrogate_pair_is_read_as_go_reads_it(read):
    loaded = read('{"connection": {"client_password": "a\\ud83d", "alpn": ["\\udc80"]}}', name="config.json")
    assert loaded.config.connection.client_password == "a\ufffd"
    assert loaded.config.connection.alpn == ("\ufffd",)


@pytest.mark.parametrize("flag", ["--conn-will-topic", "--conn-alpn", "--conn-client-password"])
def test_flag_that_is_not_utf8_disables_its_function(read, flag):
    loaded = read("[log]", f"{flag}=\udcff")
    (error,) = errors(loaded.notes)
    assert error.startswith(f"{flag}: ")
    assert error.endswith(f"is not usable: it is not UTF-8 text ({MQTT})")
    assert off(loaded.config) == {"twin"}


def test_bridge_that_is_switched_off_is_not_checked(read):
    assert errors(read("network.default_bridge = {disable = true, ip4 = 'x'}").notes) == []


def test_registry_with_an_error_leaves_the_others_usable(read):
    text = """[containers.registry_configurations]
    a = {transport = {root_ca = 5}, credentials = {user_id = "u"}}
    b = {credentials = {user_id = "u"}}
    c = 5"""
    registries = read(text).config.containers.registry_configurations
    assert {host: registry.usable for host, registry in registries.items()} == {
        "a": False,
        "b": True,
        "c": False,
    }


def test_number_of_errors_shown_has_a_bound(read):
    lines = "\n".join(f"h{i} = 5" for i in range(1000))
    found = errors(read(f"[containers.registry_configurations]\n{lines}").notes)
    assert len(found) == 21
    assert found[-1].endswith("980 more errors are not shown")


# ── what the rooms refuse ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--conn-broker-url=ws://x"], "connection.broker_url: "),
        (["--conn-broker-url=tcp://[::1"], "connection.broker_url: "),
        (["--conn-broker-url=mqtts://x"], "connection.transport.root_ca "),
        (["--conn-client-key=/x"], "connection.transport: "),
        (["--things-conn-broker=ws://x"], "connection.broker_url: "),
        (["--conn-will-topic=a/#"], "connection.will_topic: "),
    ],
)
def test_connection_that_cannot_work_disables_mqtt(etc, flags, reason):
    config, notes = settle(load(flags, etc=str(etc)).config)
    (found,) = errors(notes)
    assert found.startswith(reason)
    assert found.endswith(f" ({MQTT})")
    assert off(config) == {"twin"}


@pytest.mark.parametrize("flags", [["--grpc-serv-netp=udp"], ["--grpc-serv-netp=tcp", "--grpc-serv-ap=/x"]])
def test_api_address_that_cannot_be_is_replaced_by_the_default(etc, flags):
    config, notes = settle(load(flags, etc=str(etc)).config)
    assert errors(notes)[0].endswith(" (the API listens at its default address)")
    assert config.grpc_server == Config().grpc_server


def test_good_configuration_is_left_as_it_is(etc):
    config = load(["--conn-broker-url=localhost:1883"], etc=str(etc)).config
    assert settle(config) == (config, [])
    without = load(["--things-enable=false", "--conn-broker-url=ws://x"], etc=str(etc)).config
    assert settle(without) == (without, [])


def test_login_is_not_read_from_a_file_whose_connection_is_wrong(etc):
    (etc / "config.toml").write_text("connection.client_username = 'a'")
    parsed = parse_line([])
    source = source_of(load([], etc=str(etc)), parsed, etc=str(etc))
    assert isinstance(source, Source)
    assert source.read().connection.client_username == "a"
    (etc / "config.toml").write_text("log.log_file = 5\nconnection.client_username = 'b'")
    assert source.read().connection.client_username == "b"
    (etc / "config.toml").write_text("connection.client_username = 5")
    with pytest.raises(ConfigError, match=r"connection\.client_username"):
        source.read()
