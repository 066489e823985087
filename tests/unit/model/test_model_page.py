# SPDX-License-Identifier: Apache-2.0
"""docs/containers.md names every key of a description, and its example is one."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pycm.model.container import Container, read_descriptor
from pycm.model.defaults import HEALTH_INTERVAL, HEALTH_RETRIES, HEALTH_TIMEOUT, fill_defaults
from pycm.model.records import Record, unknown_keys
from pycm.model.validation import ULIMITS, validate

PAGE = (Path(__file__).parents[3] / "docs" / "containers.md").read_text()
WORDS = {word for words in re.findall(r"`([\w.]+)`", PAGE) for word in words.split(".")}


def keys(record: type[Record]) -> Iterator[str]:
    for _, form in record.FORMS:
        yield form.json
        if form.record is not None:
            yield from keys(form.record)


@pytest.mark.parametrize("key", sorted(set(keys(Container))))
def test_every_key_of_a_description_is_on_the_page(key: str) -> None:
    assert key in WORDS


def example() -> Container:
    (text,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    return read_descriptor(text)


def test_the_example_is_a_description_without_an_unknown_key() -> None:
    validate(fill_defaults(example()))
    assert list(unknown_keys(example())) == []


def test_the_defaults_on_the_page_are_those_of_the_program() -> None:
    for text in (f"| `interval` | `{HEALTH_INTERVAL}` |", f"| `timeout` | `{HEALTH_TIMEOUT}` |"):
        assert text in PAGE
    assert f"| `retries` | {HEALTH_RETRIES} |" in PAGE
    assert " ".join(sorted(ULIMITS)) in PAGE
