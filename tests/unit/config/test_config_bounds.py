# SPDX-License-Identifier: Apache-2.0
"""What the configuration may hold at most. Of numbers, each key has bounds of its own."""

import logging
from pathlib import Path

import pytest

from pycm.config.load import load
from pycm.config.types import LONGEST, LONGEST_PATH, MOST_ENTRIES, keys


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


@pytest.mark.parametrize("bound", [str(LONGEST), str(LONGEST_PATH), str(MOST_ENTRIES), "2147483647"])
def test_bounds_are_on_the_page(bound):
    page = Path(__file__).parents[3] / "docs" / "configuration.md"
    assert bound in page.read_text()


def test_numbers_and_durations_have_the_bounds_of_the_page():
    bounds = {
        key.path[-1]: (key.low, key.high) for key in keys() if key.kind in ("int", "duration", "stop_timeout")
    }
    others = {name: bound for name, bound in bounds.items() if bound != (0, 2**31 - 1)}
    assert others == {"mtu": (0, 65535), "keep_alive": (0, 65535)}
