# SPDX-License-Identifier: Apache-2.0
"""Loading: which file, what wins, what is a warning, what ends the start and how it says where."""

import logging
import os
import re

import pytest

from pycm.config.load import MAX_FILE, load
from pycm.config.types import Config, Registry
from pycm.errors import ConfigError, InvalidInputError
from pycm.model.frozen import replace

LEDA = """{
  "manager": { "default_ctrs_stop_timeout": 5 },
  "log": { "log_file": "/var/log/container-management/container-management.log" },
  "things": { "enable": true },
  "update_agent": { "enable": true, "system_containers": ["sua"], "verbose_inventory_report": false }
}
"""


def warnings(loaded):
    return [note.text for note in loaded.notes if note.level >= logging.WARNING]


def error(read, text, *argv, name="config.toml"):
    """The text of the ConfigError, or of the only error note without what follows from it; without the directory."""
    try:
        loaded = read(text, *argv, name=name)
    except ConfigError as caught:
        return re.sub(r"\S*/etc/", "", str(caught))
    (found,) = [note.text for note in loaded.notes if note.level >= logging.ERROR]
    return re.sub(r"\S*/etc/", "", found.rpartition(" (")[0])


# ── which file ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_file_and_flags_there_are_the_defaults_and_no_warning(etc):
    loaded = load([], etc=str(etc))
    assert loaded.config == Config()
    assert loaded.path == ""
    assert warnings(loaded) == []
    assert loaded.check is False


def test_usual_places_are_searched_toml_first(etc, read):
    (etc / "config.json").write_text('{"log": {"log_file": "json"}}')
    alone = load([], etc=str(etc))
    assert (alone.config.log.log_file, alone.path, warnings(alone)) == ("json", f"{etc}/config.json", [])
    both = read('[log]\nlog_file = "toml"\n')
    assert both.config.log.log_file == "toml"
    assert warnings(both) == [f"{etc}/config.toml is read, {etc}/config.json is not: remove one of the two"]


@pytest.mark.parametrize(
    "argv",
    [
        ["--cfg-file", "FILE", "--log-level", "DEBUG", "--things-enable=false"],
        ["--log-level", "DEBUG", "--cfg-file=FILE", "--things-enable=false"],
        ["--things-enable=false", "--log-level=DEBUG", "--cfg-file", "FILE"],
    ],
)
def test_named_file_is_read_wherever_the_flag_stands(etc, tmp_path, argv):
    (etc / "config.json").write_text("this is not read")
    named = tmp_path / "named.conf"
    named.write_text('{"log": {"log_file_count": 7, "log_level": "ERROR"}}')
    loaded = load([word.replace("FILE", str(named)) for word in argv], etc=str(etc))
    assert loaded.config.log.log_file_count == 7
    assert loaded.config.log.log_level == "DEBUG"
    assert loaded.config.things.enable is False
    assert loaded.path == str(named)


def test_named_file_that_is_missing_ends_the_start(tmp_path):
    with pytest.raises(ConfigError, match=r"absent.json: No such file or directory$") as caught:
        load(["--cfg-file", str(tmp_path / "absent.json")])
    assert caught.value.hint == "Check --cfg-file."


def test_directory_or_pipe_as_file_ends_the_start(tmp_path):
    with pytest.raises(ConfigError, match=r"not a regular file$"):
        load(["--cfg-file", str(tmp_path)])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=r"not a regular file$"):
        load(["--cfg-file", str(tmp_path / "pipe")])
    with pytest.raises(ConfigError, match="the name has a NUL character"):
        load(["--cfg-file", "a\0b"])


def test_a_link_to_nowhere_in_the_usual_place_ends_the_start(etc):
    (etc / "config.toml").symlink_to("gone")
    with pytest.raises(ConfigError, match=r"config\.toml: No such file or directory"):
        load([], etc=str(etc))


def test_file_in_the_usual_place_that_is_a_directory_ends_the_start(etc):
    (etc / "config.toml").mkdir()
    with pytest.raises(ConfigError, match=r"not a regular file$"):
        load([], etc=str(etc))


@pytest.mark.parametrize("text", ["", "\n \t\r\n", "\ufeff"])
def test_empty_file_is_a_warning(read, text):
    loaded = read(text)
    assert replace(loaded.config, deployment=Config().deployment) == Config()
    assert len(warnings(loaded)) == 1
    assert "is empty" in warnings(loaded)[0]


def test_words_that_are_no_flags_are_refused():
    with pytest.raises(InvalidInputError, match=r'^unknown command "x" for "container-management"$'):
        load(["x"])
    with pytest.raises(InvalidInputError, match=r"^unknown flag: --things-conn-broker-url$"):
        load(["--things-conn-broker-url", "x"])


# ── what wins, and what forms values may have ───────────────────────────────────────────────────────────────────────


def test_leda_file_is_read_as_it_is(read):
    loaded = read(LEDA, name="config.json")
    assert loaded.config.manager.default_ctrs_stop_timeout == 5.0
    assert loaded.config.update_agent.system_containers == ("sua",)
    assert loaded.config.log.log_file == "/var/log/container-management/container-management.log"
    assert len(warnings(loaded)) == 1
    assert warnings(loaded)[0].startswith("update_agent.enable")


@pytest.mark.parametrize("name", ["config.toml", "config.json"])
@pytest.mark.parametrize(
    "text",
    ['{"log": {"log_file": "x"}}', '[log]\nlog_file = "x"', 'log.log_file = "x"', 'log = {log_file = "x"}'],
)
def test_form_is_known_by_content_not_by_suffix(read, name, text):
    assert read(text, name=name).config.log.log_file == "x"


def test_lists_of_the_file_replace_defaults_and_the_first_flag_replaces_both(read):
    text = "[things]\nfeatures = ['Metrics']"
    assert read(text).config.things.features == ("Metrics",)
    flags = ["--things-features", "Metrics,ContainerFactory", "--things-features=SoftwareUpdatable"]
    assert read(text, *flags).config.things.features == ("Metrics", "ContainerFactory", "SoftwareUpdatable")


def test_sections_of_a_section_keep_the_defaults_that_are_not_named(read):
    network = read("[network.default_bridge]\nmtu = 1400").config.network
    assert (network.default_bridge.mtu, network.default_bridge.name, network.type) == (
        1400,
        "kanto-cm0",
        "bridge",
    )


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ('{"THINGS": {"Enable": false}}', "things.enable", False),
        ('{"things": {"enabled": "false"}}', "things.enable", False),
        ("[things]\nEnabled = false", "things.enable", False),
        ('{"things": {"enable": "False"}}', "things.enable", False),
        ('{"things": {"enable": null}}', "things.enable", True),
        ('{"things": null}', "things.enable", True),
        ('{"log": {"log_file_size": "5"}}', "log.log_file_size", 5),
        ('{"manager": {"default_ctrs_stop_timeout": 5}}', "manager.default_ctrs_stop_timeout", 5.0),
        ('{"manager": {"default_ctrs_stop_timeout": "05"}}', "manager.default_ctrs_stop_timeout", 5.0),
        ('{"manager": {"default_ctrs_stop_timeout": "1m1.9s"}}', "manager.default_ctrs_stop_timeout", 61.0),
        ('{"manager": {"live_restore": false}}', "manager.live_restore", False),
        ("[connection]\ndisconnect_timeout = '1.5s'", "connection.disconnect_timeout", 1.5),
        ("[log]\nlog_level = 'debug'", "log.log_level", "DEBUG"),
        ("[connection.transport]\nroot_ca = '/x'", "connection.transport.root_ca", "/x"),
        (
            "containers.image_verifier_config = {configDir = '/c'}",
            "containers.image_verifier_config",
            {"configDir": "/c"},
        ),
    ],
)
def test_value_in_any_form_that_is_in_use_is_understood(read, text, path, value):
    loaded = read(text)
    found = loaded.config
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value) or isinstance(value, dict)
    assert warnings(loaded) == []


def test_registries_have_credentials_and_files_each_optional(read):
    text = """{"containers": {"registry_configurations": {
        "a:5000": {"credentials": {"user_id": "u", "password": "p"}},
        "b.c": {"transport": {"root_ca": "/ca"}, "credentials": null}, "d": {}, "e": null, "": {}}}}"""
    loaded = read(text)
    registries = loaded.config.containers.registry_configurations
    assert set(registries) == {"a:5000", "b.c", "d"}
    assert registries["a:5000"].credentials.password == "p"
    assert registries["b.c"].transport.root_ca == "/ca"
    assert registries["d"] == Registry()
    assert "an entry without a host name is ignored" in warnings(loaded)[0]
    assert "'p'" not in repr(loaded.config)


# ── warnings ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            "[things]\nfeaturs = []",
            "line 2: things.featurs: this key is not known; is things.features meant?",
        ),
        ("[thing]", "line 1: thing: this key is not known; is things meant?"),
        ("log_level = 'DEBUG'", "line 1: log_level: this key is not known; is log.log_level meant?"),
        ('{"xyzzy": {}}', "line 1: xyzzy: this key is not known"),
        (
            "\n[update_agent]\nverbose_inventory = true",
            "line 3: update_agent.verbose_inventory: this key is not known; is update_agent.verbose_inventory_report meant?",
        ),
        (
            '[connection]\nkeep_alive = "20 seconds"',
            'line 2: connection.keep_alive: time: unknown unit " seconds" in duration "20 seconds"; the default \'20s\' is used',
        ),
        (
            '{\n"Connection": {"x": {"keep_alive": 1},\n"Keep_Alive": "70000s"}}',
            "line 3: connection.Keep_Alive: '70000s' is not between 0s and 65535s; the default '20s' is used",
        ),
        (
            '{"manager": {"default_ctrs_stop_timeout": -5}}',
            "line 1: manager.default_ctrs_stop_timeout: -5 is not between 0s and 2147483647s; the default '30s' is used",
        ),
        (
            "[deployment]\nmode = 'once'",
            "line 2: deployment.mode: 'once' is not known (init, update); the default 'update' is used",
        ),
        (
            "[things]\nfeatures = ['metrics', 'Metrics', 'Foo']",
            "line 2: things.features: 'metrics' is not known (ContainerFactory, SoftwareUpdatable, Metrics); it is ignored",
        ),
        (
            "[log]\nlog_level = 'LOUD'",
            "line 2: log.log_level: 'LOUD' is not known (ERROR, WARN, INFO, DEBUG, TRACE); the default 'INFO' is used",
        ),
        (
            '{"log": {"syslog": true,\n"Syslog": false}}',
            "line 2: log.Syslog: occurs twice in other letters; the last one counts",
        ),
        (
            '{"log": {"syslog": true, "syslog": false}}',
            "syslog: occurs twice in one object; the last one counts",
        ),
    ],
)
def test_what_is_odd_is_a_warning_and_the_start_goes_on(read, text, warning):
    found = warnings(read(text))
    assert any(text.endswith(warning) for text in found), found


def test_features_that_are_not_known_do_not_take_the_others_along(read):
    assert read("[things]\nfeatures = ['metrics', 'Metrics', 'Foo']").config.things.features == ("Metrics",)
    assert read("[things]\nfeatures = ['Foo']").config.things.features == ()


@pytest.mark.parametrize("value", ["", "../x", "a/b", "a..b", ".a", "a-", "a b", "n" * 77, "nä"])
@pytest.mark.parametrize("name", ["default_ns", "lease_id"])
def test_names_that_containerd_would_refuse_for_ever_are_errors(read, name, value):
    found = error(read, f"[containers]\n{name} = '{value}'")
    assert found.startswith(f"config.toml, line 2: containers.{name}: ")
    assert "is not a name that containerd takes" in found


@pytest.mark.parametrize("value", ["", "rel", "./x", "~/x"])
@pytest.mark.parametrize(
    "name",
    ["manager.home_dir", "manager.exec_root_dir", "containers.home_dir", "containers.exec_root_dir",
     "containers.address_path", "network.home_dir", "network.exec_root_dir", "things.home_dir",
     "deployment.home_dir", "deployment.ctr_dir"],
)  # fmt: skip
def test_places_that_depend_on_where_the_agent_was_started_are_errors(read, name, value):
    found = error(read, f"{name} = '{value}'")
    assert found == f"config.toml, line 1: {name}: '{value}' is not an absolute path"


def test_bad_duration_and_mode_in_a_flag_are_a_warning_too(etc):
    loaded = load(["--conn-keep-alive", "5", "--deployment-mode=x"], etc=str(etc))
    assert loaded.config == Config()
    assert warnings(loaded) == [
        "--conn-keep-alive: time: missing unit in duration \"5\"; the default '20s' is used",
        "--deployment-mode: 'x' is not known (init, update); the default 'update' is used",
    ]


@pytest.mark.parametrize("again", ["log", "LOG"])
def test_section_given_twice_counts_as_one(read, again):
    log = read(
        f'{{"log": {{"log_file": "x", "log_file_count": 3}}, "{again}": {{"log_file_count": 9}}}}'
    ).config.log
    assert (log.log_file, log.log_file_count) == ("x", 9)


def test_number_of_warnings_has_a_bound(read):
    found = warnings(read("\n".join(f"key{i} = 1" for i in range(1000))))
    assert len(found) == 21
    assert found[-1].endswith("980 more warnings are not shown")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[update_agent]\nenable = true", ["update_agent.enable"]),
        ("[deployment]\nenable = true", []),
        ("[network.default_bridge]\nenable_ip6 = true", ["network.default_bridge.enable_ip6"]),
        ("[network.default_bridge]\nname = 'x'\nmtu = 1400", []),
        ("[update_agent]\nenable = false", []),
    ],
)
def test_feature_to_come_is_one_line_and_only_if_asked_for(read, text, words):
    found = [text for text in warnings(read(text, "--net-type", "bridge")) if "has no effect" in text]
    assert [line.split()[0] for line in found] == words


@pytest.mark.parametrize(
    ("line", "lack"),
    [
        ("image_verifier_type = 'notation'", "check signatures"),
        ("image_dec_keys = ['/key:geheim']", "decrypt images"),
        ("image_dec_recipients = ['x']", "decrypt images"),
    ],
)
def test_what_will_refuse_every_container_is_told_at_the_start(read, line, lack):
    told = f"containers.{line.split()[0]} is set and this version cannot {lack}: no container is created or started"
    assert warnings(read(f"[containers]\n{line}")) == [told]
    assert warnings(read("[containers]\nimage_verifier_type = 'none'")) == []


# ── errors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[log]\n\nlog_file_size = true",
            "line 3: log.log_file_size: true is not a whole number from 0 to 2147483647",
        ),
        (
            "[log]\nlog_file_size = -1",
            "line 2: log.log_file_size: -1 is not a whole number from 0 to 2147483647",
        ),
        (
            "[log]\nlog_file_size = nan",
            "line 2: log.log_file_size: nan is not a whole number from 0 to 2147483647",
        ),
        (
            "[log]\nlog_file_size = 1.0",
            "line 2: log.log_file_size: 1.0 is not a whole number from 0 to 2147483647",
        ),
        ("[log]\nlog_file = 5", "line 2: log.log_file: 5 is not a string; put it in double quotes"),
        ("[log]\nsyslog = 1", "line 2: log.syslog: 1 is not true or false"),
        ('{\n"log": {\n"syslog": "yes"}}', "line 3: log.syslog: 'yes' is not true or false"),
        ("log = 5", "line 1: log: 5 is not a table"),
        ("\n[[log]]", "line 2: log: a list is not a table"),
        ('{"log":\n[]}', "line 1: log: a list is not an object"),
        (
            "[log]\nlog_file = {a = 1}",
            "line 2: log.log_file: a table is not a string; put it in double quotes",
        ),
        (
            "[things]\nfeatures = 'x'",
            'line 2: things.features: \'x\' is not a list of strings, such as ["a", "b"]',
        ),
        ("[things]\nfeatures = [1]", "line 2: things.features: 1 is not a string; put it in double quotes"),
        (
            "[connection]\nkeep_alive = 20",
            'line 2: connection.keep_alive: 20 is not a duration, a string such as "30s" or "1h15m"',
        ),
        (
            "[manager]\ndefault_ctrs_stop_timeout = []",
            'line 2: manager.default_ctrs_stop_timeout: a list is not a duration, a string such as "30s" or "1h15m"',
        ),
        (
            '{"containers": {"registry_configurations": {"a":\n{"credentials": {"user_id":\n5}}}}}',
            "line 2: containers.registry_configurations.a.credentials.user_id: 5 is not a string; put it in double quotes",
        ),
        (
            "containers.registry_configurations = 5",
            "line 1: containers.registry_configurations: 5 is not a table",
        ),
        (
            "containers.image_verifier_config = 'a=b'",
            "line 1: containers.image_verifier_config: 'a=b' is not a table of strings",
        ),
        (
            "[connection]\nbroker_url = 'a\\u0000b'\n".replace("'", '"'),
            "line 2: connection.broker_url: *** is not usable: it has a NUL character in it",
        ),
    ],
)
def test_wrong_type_names_line_key_value_and_reason(read, text, expected):
    assert error(read, text) == f"config.toml, {expected}"


def test_wrong_secret_is_not_shown(read):
    assert error(read, "[connection]\nclient_password = 12345") == (
        "config.toml, line 2: connection.client_password: *** is not a string; put it in double quotes"
    )


def test_number_in_a_flag_that_is_out_of_range_is_an_error(read):
    assert error(read, "", "--net-br-mtu=-1") == "--net-br-mtu: -1 is not a whole number from 0 to 65535"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[log]\nlog_file = \n", "line 2: not valid TOML: "),
        ("[log]\nx = 1\nx = 2\n", "line 3: not valid TOML: Cannot overwrite a value"),
        ("[log", "line 1: not valid TOML: "),
        ("[log]\nlog_file = '''\n\n", "line 2: not valid TOML: "),
        ('{"log":\n {"log_file" "x"}}', "line 2: not valid JSON: Expecting ':' delimiter (column 14)"),
        ('{"log": {}}\n}', "line 2: not valid JSON: Extra data (column 1)"),
        ('{"log": {"log_file_size": NaN}}', "config.toml: not valid JSON: NaN is not a JSON value"),
        (
            '{"log": {"log_file_size": -Infinity}}',
            "config.toml: not valid JSON: -Infinity is not a JSON value",
        ),
        ("[]", "line 1: neither TOML nor a JSON object"),
        ("5", "line 1: neither TOML nor a JSON object"),
        (b"[log]\nlog_file = '\xff'", "line 2: not UTF-8 text: byte 0xff"),
        (b"\xff\xfe[\0l\0o\0g\0]\0", "line 1: not UTF-8 text: byte 0xff"),
        ("\0", "line 1: not valid TOML: "),
        ('{"a":' * 100_000, "config.toml: not valid JSON: nested 100000 levels deep; 500 are allowed"),
        ("a = " + "[" * 100_000, "config.toml: not valid TOML: nested too deep"),
        (
            "#" * (MAX_FILE + 1),
            f"the configuration file config.toml is larger than {MAX_FILE} bytes",
        ),
    ],
)
def test_broken_file_ends_the_start_in_one_line(read, text, expected):
    found = error(read, text)
    assert expected in found
    assert "\n" not in found


@pytest.mark.parametrize(
    "text",
    [
        '{"log": {"log_file_size": 1e999}}',
        '{"log": {"log_file_size": ' + "9" * 4000 + "}}",
        '{"log": {"log_file_size": ' + "9" * 5000 + "}}",
        "log.log_file_size = 0x" + "f" * 5000,
        "log.log_file_size = " + "9" * 5000,
        "log.log_file_size = '" + "x" * 5000 + "'",
        "log = 2024-13-13",
        "a." * 500_000 + "a = 1",
        '{"\\ud800": 1, "log": 5}',
        "a" * 100_000,
        "x = {" + "a . 'a' ." * 20_000 + "a = 1}",
        '{"log": 5' + ', "a": {"b": 1}' * 20_000 + "}",
        '{"log": 5' + "".join(f', "a": {{"b{i}": 1}}' for i in range(20_000)) + "}",
        '{"x": [' + '{"a": 1}, ' * 10_000 + '{}], "log": 5}',
    ],
)
def test_hostile_text_ends_in_one_short_line(read, text):
    found = error(read, text)
    assert len(found) < 400
    assert found.isprintable()


def test_deep_key_of_an_unknown_section_is_a_warning(read):
    assert "this key is not known" in warnings(read('{"x": ' + '{"a": ' * 200 + "1" + "}" * 201))[0]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('"things": { "enabled": true }\n', 1),
        ('[log]\nlog_file = ""\n"connection": {"client_password": "geheim",\n "keep_alive": "5s"}\n', 3),
        ('"things": {', 1),
        ('"things": ' + "[" * 20_000, 1),
        ('"things":', 1),
        ('"section": ' + '{"section": ' * 900 + "1" + "}" * 900, 1),
    ],
)
def test_piece_of_json_in_a_toml_file_is_answered_with_the_form_to_write(read, text, line):
    with pytest.raises(
        ConfigError, match=f"config.toml, line {line}: this is a piece of JSON in a TOML file$"
    ) as caught:
        read(text)
    assert caught.value.hint.endswith("is [things] and, on the next line, enable = true.")
