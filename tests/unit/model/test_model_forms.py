# SPDX-License-Identifier: Apache-2.0
import json
import re
from pathlib import Path

import pytest

from pycm.errors import InvalidInputError
from pycm.model import gojson
from pycm.model.container import Container, HostConfig, RestartPolicy, State
from pycm.model.gojson import read
from pycm.model.records import decode, encode, stored
from pycm.model.states import Status

RECORDED = Path(__file__).parents[2] / "vectors" / "recorded"


@pytest.mark.parametrize("name", ["store-databroker-config.json", "store-seat-config.json"])
def test_a_file_of_the_original_is_written_back_byte_for_byte(name: str) -> None:
    data = (RECORDED / name).read_bytes()
    assert stored(decode(Container, read(data))) == data


def test_unknown_keys_survive_at_every_level() -> None:
    data = {"container_id": "a", "host_config": {"cpu": {"quota": 1}}, "health": [1]}
    out = encode(decode(Container, data))
    assert out["health"] == [1]
    assert out["host_config"]["cpu"] == {"quota": 1}


def test_keys_match_in_any_case_but_the_exact_one_wins() -> None:
    container = decode(Container, {"CONTAINER_ID": "loud", "Container_Name": "x", "container_id": "exact"})
    assert (container.id, container.name) == ("exact", "x")


def test_null_is_absent() -> None:
    assert decode(Container, {"image": None, "hooks": None, "state": None}).state == State()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"container_id": 5}, "container_id: 5 is not a string"),
        ({"host_config": []}, "host_config: [] is not an object"),
        ({"config": {"env": ["A=1", None]}}, "config.env[1]: None is not a string"),
        (
            {"host_config": {"port_mappings": [{"host_port": 70000}]}},
            "host_config.port_mappings[0].host_port: 70000",
        ),
        ({"host_config": {"privileged": "yes"}}, "host_config.privileged: 'yes' is not true or false"),
        ({"restart_count": True}, "restart_count: True is not a whole number"),
        ({"mount_points": [None]}, "mount_points[0]: None is not an object"),
        ([], "document: [] is not an object"),
    ],
)
def test_a_wrong_type_names_path_value_and_what_was_wanted(data: object, said: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(said)):
        decode(Container, data)


def test_deep_nesting_is_refused_not_crashed_on() -> None:
    with pytest.raises(InvalidInputError, match="nested 10000 levels"):
        read("[" * 10_000 + "]" * 10_000)


def test_string_without_its_end_costs_linear_time() -> None:
    """Minutes, if its end were looked for from each quotation mark in it."""
    endless = '"' + '\\"' * 100_000
    with pytest.raises(InvalidInputError, match="nested 100 levels deep"):
        read("[" * 100 + endless)
    with pytest.raises(InvalidInputError, match="Unterminated string"):
        read("[" + "[]," * 100 + endless)
    assert read('["' + "[" * 1000 + '\\""]') == ["[" * 1000 + '"']


def test_halves_of_surrogates_become_the_replacement_character() -> None:
    text = '{"config": {"env": ["A=\\ud800"]}, "\\udfff": ["\\ud83d\\ude00", 1, null]}'
    assert read(text) == {"config": {"env": ["A=\ufffd"]}, "\ufffd": ["😀", 1, None]}


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_could_not_be_stored_again_is_refused(word: str) -> None:
    with pytest.raises(InvalidInputError, match=word):
        read(f'{{"container_id": "a", "odd": {word}}}')


def test_brackets_in_strings_do_not_count_as_nesting() -> None:
    text = json.dumps({"a": "[{" * 1000 + '\\"'})
    assert read(text) == json.loads(text)


def test_an_unknown_status_number_is_unknown() -> None:
    assert decode(State, {"status": 42}).status is Status.UNKNOWN


def test_manifest_spellings_are_taken_when_asked_for() -> None:
    data = {"id": "a", "host_config": {"port_mappings": [{"protocol": "udp"}]}, "mounts": [{"source": "/s"}]}
    container = decode(Container, data, aliases=True)
    assert container.id == "a"
    assert container.host_config is not None
    assert container.host_config.port_mappings[0].proto == "udp"
    assert container.mount_points[0].source == "/s"


def test_html_characters_and_line_separators_are_escaped_as_go_does() -> None:
    assert gojson.dumps({"a": "<b>&\u2028é"}) == '{"a":"\\u003cb\\u003e\\u0026\\u2028é"}'


def test_whole_floats_lose_their_point_and_nan_is_refused() -> None:
    large = [1.2345678901234567e20, -1e16, 9007199254740994.0, 1.8446744073709552e19]
    assert (
        gojson.dumps(large)
        == "[123456789012345670000,-10000000000000000,9007199254740994,18446744073709552000]"
    )
    assert gojson.dumps([1073741824.0, 0.5, 1e21]) == "[1073741824,0.5,1e+21]"
    with pytest.raises(ValueError, match="not JSON compliant"):
        gojson.dumps(float("nan"))


def test_exponents_begin_below_a_millionth() -> None:
    """An idle container's cpu.utilization is as small."""
    numbers = [0.0001, 0.00005, -1.25e-05, 1e-06, 9.9e-07, 1.5e-7, 2e-10, 1e-300]
    assert gojson.dumps(numbers) == "[0.0001,0.00005,-0.0000125,0.000001,9.9e-7,1.5e-7,2e-10,1e-300]"
    assert gojson.dumps(5e-05) == "0.00005"
    assert (
        gojson.dumps({"a": "1e-05", 'b\\"': ",1e-05", "c": 2e-05})
        == '{"a":"1e-05","b\\\\\\"":",1e-05","c":0.00002}'
    )
    assert gojson.dumps([1e-05], indent=3) == "[\n   0.00001\n]"


def test_retry_timeout_is_nanoseconds_in_json() -> None:
    host = HostConfig(restart_policy=RestartPolicy(type="always", retry_timeout=30 * 10**9))
    assert encode(host)["restart_policy"] == {
        "maximum_retry_count": 0,
        "retry_timeout": 30_000_000_000,
        "type": "always",
    }
