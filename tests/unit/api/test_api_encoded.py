# SPDX-License-Identifier: Apache-2.0
"""Containers as encoded messages: made once for each object, forgotten with it."""

from dataclasses import replace
from typing import Any, cast

import pytest

from pycm.api.proto.api.services.containers import containers_pb2 as m
from pycm.api.server.grpc import EncodedContainers, Rooms, Service
from pycm.model.container import Hook
from pycm.ports import Action
from support.api_world import FakeContainers, running


def test_the_bytes_of_a_container_are_made_once_for_each_of_its_objects() -> None:
    encoded = EncodedContainers(FakeContainers())
    first = running("a")
    assert encoded.one(first) is encoded.one(first)
    assert encoded.all([first]) == encoded.one(first)
    assert m.GetContainerResponse.FromString(encoded.one(replace(first, name="n"))).container.name == "n"


def test_encoded_containers_forget_a_removed_container_and_keep_the_others() -> None:
    containers = FakeContainers()
    encoded = EncodedContainers(containers)
    first, second = running("a"), running("b")
    kept = encoded.one(first), encoded.one(second)
    for action in set(Action) - {Action.REMOVED}:
        containers.tell(action, first)
    assert encoded.one(first) is kept[0]
    containers.tell(Action.REMOVED, first)
    assert list(encoded._kept) == ["b"]
    assert encoded.one(second) is kept[1]


async def test_service_keeps_nothing_of_a_container_that_it_created() -> None:
    containers = FakeContainers()
    rooms = Rooms(containers, *cast("Any", [None] * 4))
    service = Service(rooms)
    request = m.CreateContainerRequest()
    request.container.id = "a"
    assert m.CreateContainerResponse.FromString(await service.create(request)).container.id == "a"
    assert service._encoded._kept == {}


def test_a_container_that_the_wire_cannot_carry_is_listed_without_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    odd = running("a", hooks=(Hook(timeout=2**40),))
    answer = m.ListContainersResponse.FromString(EncodedContainers(FakeContainers()).all([odd, running("b")]))
    assert [(c.id, c.state.status) for c in answer.containers] == [("a", "Running"), ("b", "Running")]
    assert "container 'a': sent without its details" in caplog.text
