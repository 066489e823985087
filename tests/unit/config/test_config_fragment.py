# SPDX-License-Identifier: Apache-2.0
"""JSON in a file that should be TOML: the answer shows the lines to write."""

import re

import pytest

from pycm.config.load import load
from pycm.errors import ConfigError


@pytest.fixture
def read(tmp_path):
    """Load a file of this text, found in the usual place."""

    def do(text):
        (tmp_path / "config.toml").write_text(text, encoding="utf-8")
        return load(["--deployment-ctr-dir", str(tmp_path / "none")], etc=str(tmp_path))

    return do


def error(read, text):
    """The text of the ConfigError, without the directory."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    return re.sub(r"\S*/(?=config)", "", str(caught.value))


def test_fragment_of_json_is_answered_with_the_lines_to_write(read):
    found = error(read, '"things": { "enabled": true }\n')
    assert found.startswith("config.toml, line 1: this is a piece of JSON")
    assert found.endswith("\n\n[things]\nenable = true")


def test_fragment_behind_good_lines_is_found_and_secrets_in_it_are_masked(read):
    text = """[log]
log_file = ""
"connection": { "client_password": "geheim", "keep_alive": "5s",
    "transport": {"root_ca": "/a b"} },
"things": {"features": ["a", "b"], "enable": false}
"""
    found = error(read, text)
    assert found.startswith("config.toml, line 3: ")
    assert found.endswith(
        '[connection]\nclient_password = "***"\nkeep_alive = "5s"\n\n[connection.transport]\nroot_ca = "/a b"\n\n'
        '[things]\nfeatures = ["a", "b"]\nenable = false'
    )
    assert "geheim" not in found


def test_lines_that_are_shown_can_be_read(read):
    lines = error(
        read, '"things": {"enabled": "false"}, "containers": {"registry_configurations": {"g.io": {}}}'
    ).partition("\n\n")
    assert read(lines[2]).config.things.enable is False


@pytest.mark.parametrize(
    "text",
    [
        '"things": {',
        '"things": ' + "[" * 20_000,
        '"things":',
        '"section": ' + '{"section": ' * 900 + "1" + "}" * 900,
    ],
)
def test_broken_fragment_is_just_an_error_of_toml(read, text):
    assert "not valid TOML" in error(read, text)
