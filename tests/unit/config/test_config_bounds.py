# SPDX-License-Identifier: Apache-2.0
"""What the configuration may hold at most. Of numbers, each key has bounds of its own."""

import logging

import pytest

from pycm.config.load import load


@pytest.mark.parametrize(
    ("write", "bound", "reason"),
    [
        (
            lambda n: f'[connection]\nclient_password = "{"x" * n}"',
            65_535,
            "*** is not usable: it is longer than 65535",
        ),
        (
            lambda n: f'[containers]\npreload_dir = "/{"x" * (n - 1)}"',
            4095,
            "is not usable: it is longer than 4095 bytes",
        ),
        (
            lambda n: f"[containers]\ninsecure_registries = {['r'] * n}",
            1024,
            "it has 1025 entries; at most 1024",
        ),
        (
            lambda n: "[containers.image_verifier_config]\n" + "".join(f'k{i} = "v"\n' for i in range(n)),
            1024,
            "it has 1025 entries; at most 1024",
        ),
        (
            lambda n: "".join(f'[containers.registry_configurations."r{i}".credentials]\n' for i in range(n)),
            1024,
            "it has 1025 entries; at most 1024",
        ),
    ],
    ids=["string", "path", "list", "table", "registries"],
)
def test_value_beyond_its_bound_is_an_error(tmp_path, write, bound, reason):
    file = tmp_path / "config.toml"
    line = ["--cfg-file", str(file), "--deployment-ctr-dir", str(tmp_path)]
    file.write_text(write(bound))
    assert errors(line) == []
    file.write_text(write(bound + 1))
    (text,) = errors(line)
    assert reason in text
    assert len(text) < 400


def errors(line):
    return [note.text for note in load(line).notes if note.level == logging.ERROR]
