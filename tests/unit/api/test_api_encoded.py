# SPDX-License-Identifier: Apache-2.0
"""Containers as encoded messages: made once for each object, forgotten with it."""

from dataclasses import replace

import pytest

from pycm.api.encoded import EncodedContainers
from pycm.api.proto.api.services.containers import containers_pb2 as m
from pycm.model.container import (
    Hook,
)
from support.api_world import running


def test_the_bytes_of_a_container_are_made_once_for_each_of_its_objects() -> None:
    encoded = EncodedContainers()
    first = running("a")
    assert encoded.one(first) is encoded.one(first)
    assert encoded.all([first]) == encoded.one(first)
    assert m.GetContainerResponse.FromString(encoded.one(replace(first, name="n"))).container.name == "n"


def test_bytes_of_removed_containers_are_forgotten() -> None:
    encoded = EncodedContainers()
    encoded.all([running(str(i)) for i in range(100)])
    encoded.all([running("1")])
    assert len(encoded._kept) == 1


def test_a_container_that_the_wire_cannot_carry_is_listed_without_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    odd = running("a", hooks=(Hook(timeout=2**40),))
    answer = m.ListContainersResponse.FromString(EncodedContainers().all([odd, running("b")]))
    assert [(c.id, c.state.status) for c in answer.containers] == [("a", "Running"), ("b", "Running")]
    assert "container 'a': sent without its details" in caplog.text
