# SPDX-License-Identifier: Apache-2.0
"""The server with a client of another make (grpclib's): what each call does, logs too."""

import asyncio

import pytest
from google.protobuf.empty_pb2 import Empty
from grpclib.client import UnaryStreamMethod
from grpclib.const import Status

from pycm import __version__
from pycm.api.proto.api.services.containers import containers_pb2 as m
from pycm.api.proto.api.services.sysinfo.system_info_pb2 import ProjectInfoResponse
from pycm.api.proto.api.types.containers import types_pb2 as types
from pycm.api.server.grpc import CONTAINERS, PROJECT_INFO
from pycm.errors import ConflictError, NotFoundError
from pycm.model.container import (
    Container,
    HostConfig,
    Image,
    LogConfiguration,
    LogDriverConfiguration,
    Resources,
    RestartPolicy,
    State,
    StopOptions,
    UpdateOptions,
)
from pycm.model.frozen import replace
from pycm.model.states import Status as ContainerStatus
from support.api_world import WAIT, World, running


async def test_list_and_get_show_the_containers_of_now(world: World) -> None:
    world.containers.present = {"a": running("a"), "b": running("b")}
    answer = await world.call("List", m.ListContainersRequest(), m.ListContainersResponse)
    assert [(c.id, c.state.status, c.state.pid) for c in answer.containers] == [
        ("a", "Running", 7),
        ("b", "Running", 7),
    ]
    world.containers.present["b"] = replace(running("b"), name="new")
    del world.containers.present["a"]
    answer = await world.call("List", m.ListContainersRequest(), m.ListContainersResponse)
    assert [(c.id, c.name) for c in answer.containers] == [("b", "new")]
    answer = await world.call("Get", m.GetContainerRequest(id="b"), m.GetContainerResponse)
    assert answer.container.name == "new"
    streamed = await world.stream("ListStream", m.ListContainersRequest(), m.ListContainerMessage)
    assert [message.container.id for message in streamed] == ["b"]


@pytest.mark.parametrize("identifier", ["nope", "", "../../x"])
async def test_get_of_an_unknown_id_is_an_answer_without_container(world: World, identifier: str) -> None:
    answer = await world.call("Get", m.GetContainerRequest(id=identifier), m.GetContainerResponse)
    assert not answer.HasField("container")


async def test_create_hands_on_what_was_sent_and_answers_with_what_was_made(world: World) -> None:
    request = m.CreateContainerRequest()
    request.container.image.name = "x:1"
    request.container.host_config.restart_policy.retry_timeout = 30
    request.container.host_config.restart_policy.type = "on-failure"
    answer = await world.call("Create", request, m.CreateContainerResponse)
    assert answer.container.id == "made"
    [(_, container)] = world.containers.asked
    assert container.image == Image(name="x:1")
    assert container.host_config.restart_policy == RestartPolicy(
        type="on-failure", retry_timeout=30_000_000_000
    )


async def test_create_without_a_container_reaches_the_validation_of_the_manager(world: World) -> None:
    await world.call("Create", m.CreateContainerRequest(), m.CreateContainerResponse)
    assert world.containers.asked == [("create", Container())]


async def test_create_with_a_number_out_of_range_is_refused(world: World) -> None:
    request = m.CreateContainerRequest()
    request.container.host_config.port_mappings.add(host_port=70000)
    status, text = await world.failure("Create", request, m.CreateContainerResponse)
    assert (status, text) == (
        Status.UNKNOWN,
        "host_config.port_mappings[0].host_port: 70000 is not between 0 and 65535",
    )


async def test_changes_are_handed_on_with_their_options(world: World) -> None:
    options = types.StopOptions(timeout=5, force=True, signal="SIGINT")
    update = types.UpdateOptions(resources=types.Resources(memory="64M"))
    await world.call("Start", m.StartContainerRequest(id="a"))
    await world.call("Stop", m.StopContainerRequest(id="a"))
    await world.call("Stop", m.StopContainerRequest(id="a", stopOptions=options))
    await world.call("Pause", m.PauseContainerRequest(id="a"))
    await world.call("Unpause", m.UnpauseContainerRequest(id="a"))
    await world.call("Rename", m.RenameContainerRequest(id="a", name="x"))
    await world.call("Update", m.UpdateContainerRequest(id="a", updateOptions=update))
    await world.call(
        "Update", m.UpdateContainerRequest(id="a", updateOptions=types.UpdateOptions(resources={}))
    )
    await world.call("Remove", m.RemoveContainerRequest(id="a"))
    await world.call("Remove", m.RemoveContainerRequest(id="a", force=True, stopOptions=options))
    stop = StopOptions(timeout=5, force=True, signal="SIGINT")
    assert world.containers.asked == [
        ("start", "a"),
        ("stop", "a", None),
        ("stop", "a", stop),
        ("pause", "a"),
        ("unpause", "a"),
        ("rename", "a", "x"),
        ("update", "a", UpdateOptions(resources=Resources(memory="64M"))),
        ("update", "a", UpdateOptions(resources=Resources())),
        ("remove", "a", False, None),
        ("remove", "a", True, stop),
    ]


async def test_restart_stops_what_runs_and_starts_what_does_not(world: World) -> None:
    world.containers.present["a"] = running("a")
    world.containers.present["b"] = replace(running("b"), state=State(status=ContainerStatus.STOPPED))
    await world.call("Restart", m.RestartContainerRequest(id="a"))
    await world.call("Restart", m.RestartContainerRequest(id="b"))
    assert world.containers.asked == [("stop", "a", StopOptions(force=True)), ("start", "a"), ("start", "b")]


async def test_restart_is_content_if_the_restart_policy_was_faster(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.containers.present["a"] = running("a")

    async def refuse(_id: str) -> None:
        raise ConflictError("already running")

    monkeypatch.setattr(world.containers, "start", refuse)
    await world.call("Restart", m.RestartContainerRequest(id="a"))
    world.containers.present["a"] = replace(running("a"), state=State(status=ContainerStatus.DEAD))
    assert await world.failure("Restart", m.RestartContainerRequest(id="a")) == (
        Status.UNKNOWN,
        "already running",
    )


async def test_project_info_has_no_blanks_in_its_values(world: World) -> None:
    answer = await world.call(PROJECT_INFO, Empty(), ProjectInfoResponse)
    info = answer.project_info
    assert (info.project_version, info.api_version) == (__version__, "1.0.0")
    assert " " not in info.project_version + info.api_version + info.git_commit + info.build_time


async def test_logs_sends_one_record_a_message(world: World) -> None:
    world.containers.present["a"] = running("a")
    world.logs.texts = ["one", "zwei ä", "three"]
    answer = await world.stream("Logs", m.GetLogsRequest(id="a", tail=2), m.GetLogsResponse)
    assert [message.log for message in answer] == ["zwei ä", "three"]
    assert world.logs.closed.is_set()


@pytest.mark.parametrize(
    ("container", "text"),
    [
        (None, "no such container with id = a exists"),
        (running("a", state=State(status=ContainerStatus.CREATED)), 'there are no logs for container with status "Created"'),
        (running("a", host_config=None), "no host config for container a"),
        (running("a", host_config=HostConfig()), "no log config for container a"),
        (running("a", host_config=HostConfig(log_config=LogConfiguration())), "log driver config is not set for container a"),
        (
            running("a", host_config=HostConfig(log_config=LogConfiguration(driver_config=LogDriverConfiguration(type="none")))),
            "there are not any logs for container a with log type none",
        ),
        (
            running("a", host_config=HostConfig(log_config=LogConfiguration(driver_config=LogDriverConfiguration(type="x")))),
            "unknown log type x",
        ),
    ],
)  # fmt: skip
async def test_logs_that_do_not_exist_say_why(world: World, container: Container | None, text: str) -> None:
    if container is not None:
        world.containers.present["a"] = container
    assert await world.failure("Logs", m.GetLogsRequest(id="a"), m.GetLogsResponse) == (Status.UNKNOWN, text)


async def test_a_log_file_that_is_missing_is_an_error_of_the_call(world: World) -> None:
    world.containers.present["a"] = running("a")
    world.logs.error = NotFoundError("log file not found /x/json.log")
    failure = await world.failure("Logs", m.GetLogsRequest(id="a"), m.GetLogsResponse)
    assert failure == (Status.UNKNOWN, "log file not found /x/json.log")


async def test_a_slow_reader_of_logs_holds_up_the_reading_and_nothing_else(world: World) -> None:
    world.containers.present["a"] = running("a")
    world.logs.texts = ["x" * 100_000] * 1000
    method = UnaryStreamMethod(world.channel, CONTAINERS + "Logs", m.GetLogsRequest, m.GetLogsResponse)
    other = World(world.path)  # on one connection the unread log would leave no window for other answers
    async with method.open() as stream:
        await stream.send_message(m.GetLogsRequest(id="a", tail=-1), end=True)
        await stream.recv_message()
        before = -1
        while world.logs.taken != before:  # until the server has filled all there is to fill
            before = world.logs.taken
            for _ in range(10):
                await other.is_well()
        assert world.logs.taken < 200
        await stream.cancel()
    other.channel.close()
    await asyncio.wait_for(world.logs.closed.wait(), WAIT)
