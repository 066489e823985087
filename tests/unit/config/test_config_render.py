# SPDX-License-Identifier: Apache-2.0
"""The effective configuration, the keys and the page about them; the files that are shipped."""

import re
import sys
from pathlib import Path

import pytest

from pycm.config.load import FLAGS, load
from pycm.config.render import render_effective, toml_value
from pycm.config.types import BY_FLAG, Config, keys

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).parents[3]
#: Flags that the original does not have.
OURS = {
    "cm-live-restore",
    "net-cni-bin-dirs",
    "ccl-runc-binary",
    "ccl-seccomp-profile",
    "ccl-log-total-max-size",
    "ccl-preload-dir",
    "things-mask-env",
    "things-system-metrics",
    "things-private-downloads",
    "things-policy-create",
    "things-policy-privileged",
    "things-policy-capabilities",
    "things-policy-hooks",
    "things-policy-mounts",
    "things-policy-devices",
    "conn-alpn",
    "conn-will-topic",
    "conn-will-message",
}
#: What the original has, from its reference.
ORIGINAL = re.findall(
    r"\S+",
    """
log-level log-file log-file-size log-file-count log-file-max-age log-syslog deployment-enable deployment-mode deployment-home-dir
deployment-ctr-dir cm-home-dir cm-exec-root-dir cm-cc-sid cm-net-sid cm-deflt-ctrs-stop-timeout ccl-default-ns ccl-ap
ccl-insecure-registries ccl-exec-root-dir ccl-home-dir ccl-image-dec-keys ccl-image-dec-recipients ccl-runc-runtime ccl-image-expiry
ccl-image-expiry-disable ccl-lease-id ccl-image-verifier-type ccl-image-verifier-config net-type net-home-dir net-exec-root-dir
net-tbr-disable net-br-name net-br-ip4 net-br-fcidr4 net-br-gwip4 net-br-enable-ip6 net-br-mtu net-br-icc net-br-ipt net-br-ipfw
net-br-ipmasq net-br-ulp grpc-serv-netp grpc-serv-ap things-enable things-home-dir things-features ua-enable ua-domain
ua-system-containers ua-verbose-inventory-report conn-broker-url conn-keep-alive conn-disconnect-timeout conn-client-username
conn-client-password conn-connect-timeout conn-ack-timeout conn-sub-timeout conn-unsub-timeout conn-root-ca conn-client-cert
conn-client-key
things-conn-broker things-conn-keep-alive things-conn-disconnect-timeout things-conn-client-username things-conn-client-password
things-conn-connect-timeout things-conn-ack-timeout things-conn-sub-timeout things-conn-unsub-timeout
""",
)
FULL = """
[connection]
broker_url = "ssl://user:geheim@host:8883"
client_username = "ü"
client_password = "geheim"
[containers]
image_dec_keys = ["/k1:geheim", "/k2"]
image_expiry = "1h30m"
[containers.image_verifier_config]
"config dir" = "a\\"b\\u007f"
[containers.registry_configurations."g.io:5000".credentials]
user_id = "me"
password = "geheim"
[manager]
default_ctrs_stop_timeout = 90
"""


@pytest.fixture
def full(tmp_path):
    (tmp_path / "config.toml").write_text(FULL, encoding="utf-8")
    return load([], etc=str(tmp_path)).config


def test_flags_are_those_of_the_original_and_ours():
    assert set(BY_FLAG) == {*ORIGINAL, *OURS}
    assert len({flag.name for flag in FLAGS}) == len(FLAGS)


def test_every_key_but_those_of_registries_has_a_flag():
    assert [key.name for key in keys() if not key.flag] == ["containers.registry_configurations"]


def test_every_flag_reaches_its_key(tmp_path, monkeypatch):
    monkeypatch.setattr("pycm.config.load.check_network", lambda network: None)  # "x" is not an address
    values = {
        "int": "7",
        "size": "7k",
        "strings": "x,y",
        "map": "k=v",
        "duration": "7s",
        "stop_timeout": "7s",
    }
    for name, key in BY_FLAG.items():
        if key.path[:2] == ("things", "connection"):  # these set the keys of another section
            continue
        value = "/x" if key.rule.startswith("path") else values.get(key.kind, "x")
        if key.kind == "bool":
            value = str(not key.default).lower()
        if key.choices:
            value = next((word for word in key.choices if word != key.default), key.default)
        found = load([f"--{name}={value}"], etc=str(tmp_path)).config
        for part in key.path:
            found = getattr(found, part)
        assert found != key.default or len(key.choices) == 1, name


def test_defaults_are_read_back_as_they_are(tmp_path):
    (tmp_path / "config.toml").write_text(render_effective(Config()), encoding="utf-8")
    assert load([], etc=str(tmp_path)).config == Config()


def test_every_key_is_shown():
    tree = tomllib.loads(render_effective(Config()))
    for key in keys():
        found = tree
        for part in key.path[:-1]:
            found = found[part]
        assert key.path[-1] in found or key.kind in ("registries", "map"), key.name


def test_full_configuration_is_read_back_with_masked_secrets(full, tmp_path):
    text = render_effective(full)
    assert "geheim" not in text
    tree = tomllib.loads(text)
    assert tree["connection"]["broker_url"] == "ssl://***@host:8883"
    assert tree["containers"]["image_dec_keys"] == ["/k1:***", "/k2"]
    assert tree["containers"]["image_verifier_config"] == {"config dir": 'a"b\x7f'}
    assert tree["containers"]["registry_configurations"]["g.io:5000"]["credentials"] == {
        "user_id": "me",
        "password": "***",
    }
    assert tree["manager"]["default_ctrs_stop_timeout"] == "1m30s"
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    assert render_effective(load([], etc=str(tmp_path)).config) == text


def test_effective_configuration_shows_values_of_things_connection(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"things": {"connection": {"broker_url": "tcp://old:1", "keep_alive": 7500, "client_password": "geheim"}}}'
    )
    shown = tomllib.loads(render_effective(load([], etc=str(tmp_path)).config))
    connection = shown["connection"]
    assert (connection["broker_url"], connection["keep_alive"]) == ("tcp://old:1", "7.5s")
    assert connection["client_password"] == "***"
    assert "connection" not in shown["things"]


def test_secrets_are_not_in_the_text_of_the_object_either(full):
    assert "geheim" not in repr(full)


@pytest.mark.parametrize("text", ["", 'a"b\\', "\n\t\x00\x1f\x7f", "é\U0001f600", "\u2028"])
def test_any_string_is_read_back(text):
    assert tomllib.loads(f"x = {toml_value(text)}")["x"] == text


def test_bytes_that_are_no_utf8_do_not_break_the_output():
    assert tomllib.loads(f"x = {toml_value('a' + chr(0xDCFF))}")["x"] == "a?"


def test_shipped_configuration_is_without_warnings_and_logs_to_the_journal(tmp_path):
    text = (REPOSITORY / "conf" / "config.toml").read_text(encoding="utf-8")
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    loaded = load(["--deployment-ctr-dir", str(tmp_path / "none")], etc=str(tmp_path))
    assert [note for note in loaded.notes if note.level > 20] == []
    assert loaded.config.log.log_file == ""
    assert loaded.config.connection == Config().connection


def test_shipped_containerd_file_is_toml_without_the_kubernetes_part():
    tree = tomllib.loads((REPOSITORY / "conf" / "containerd.toml").read_text(encoding="utf-8"))
    assert tree["disabled_plugins"] == ["io.containerd.grpc.v1.cri"]
    assert tree["grpc"]["address"] == Config().containers.address_path


def test_shipped_broker_listens_where_the_default_looks():
    text = (REPOSITORY / "conf" / "mosquitto.conf").read_text(encoding="utf-8")
    assert re.search(r"^listener 1883 127\.0\.0\.1$", text, re.MULTILINE)
    assert len(re.findall(r"^listener", text, re.MULTILINE)) == 1
    assert Config().connection.broker_url == "tcp://localhost:1883"
