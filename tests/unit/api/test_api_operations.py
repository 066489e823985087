# SPDX-License-Identifier: Apache-2.0
"""Containers as clients see them, the same in both languages: encoded once for each object, forgotten with it."""

import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from pycm.api.proto.api.services.containers import containers_pb2 as m
from pycm.api.server.grpc import Service, answer_of
from pycm.api.server.handlers import json_of
from pycm.api.server.operations import EncodedContainers, Rooms
from pycm.model.container import Container, Hook, HostConfig, RestartPolicy
from pycm.model.frozen import replace
from pycm.ports import Action
from support.api_world import running
from support.fake_containers import RecordingContainers

LANGUAGES = pytest.mark.parametrize("encode", [answer_of, json_of], ids=["gRPC", "JSON"])
Encode = Callable[[Container], bytes]


@LANGUAGES
def test_encoded_containers_encode_each_object_once(encode: Encode) -> None:
    encoded = EncodedContainers(RecordingContainers(), encode)
    first = running("a")
    assert encoded.one(first) is encoded.one(first)
    assert encoded.one(first) == encode(first)
    assert encoded.one(replace(first, name="n")) == encode(replace(first, name="n")) != encode(first)


def test_encoded_containers_forget_a_removed_container_and_keep_the_others() -> None:
    containers = RecordingContainers()
    encoded = EncodedContainers(containers, answer_of)
    first, second = running("a"), running("b")
    kept = encoded.one(first), encoded.one(second)
    for action in set(Action) - {Action.REMOVED}:
        containers.tell(action, first)
    assert encoded.one(first) is kept[0]
    containers.tell(Action.REMOVED, first)
    assert list(encoded._kept) == ["b"]
    assert encoded.one(second) is kept[1]


async def test_service_keeps_nothing_of_a_container_that_it_created() -> None:
    rooms = Rooms(RecordingContainers(), *cast("Any", [None] * 4))
    service = Service(rooms)
    request = m.CreateContainerRequest()
    request.container.id = "a"
    assert m.CreateContainerResponse.FromString(await service.create(request)).container.id == "a"
    assert service._encoded._kept == {}


async def test_service_lists_a_container_that_the_wire_cannot_carry_without_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    containers = RecordingContainers()
    for one in (running("a", hooks=(Hook(timeout=2**40),)), running("b")):
        containers.present[one.id] = one
    service = Service(Rooms(containers, *cast("Any", [None] * 4)))
    answer = m.ListContainersResponse.FromString(await service.list(None))
    assert [(c.id, c.state.status) for c in answer.containers] == [("a", "Running"), ("b", "Running")]
    assert "container 'a': not sent in full" in caplog.text


def test_json_of_a_container_that_the_wire_cannot_carry_lacks_its_details() -> None:
    found = json.loads(json_of(running("a", hooks=(Hook(timeout=2**40),))))
    assert (found["container_id"], found["hooks"], found["state"]["status"]) == ("a", None, 2)


def test_json_of_a_container_says_what_grpc_says() -> None:
    """`get` printed what came over gRPC before there was JSON: whole seconds, no inner notes, no unknown keys."""
    policy = RestartPolicy(type="on-failure", retry_timeout=1_500_000_000)
    container = running(
        "a",
        host_config=HostConfig(restart_policy=policy),
        started_successfully_before=True,
        extra={"later": 1},
    )
    found = json.loads(json_of(container))
    assert found["host_config"]["restart_policy"]["retry_timeout"] == 1_000_000_000
    assert found["started_successfully_before"] is False
    assert "later" not in found
