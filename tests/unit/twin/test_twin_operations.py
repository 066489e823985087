# SPDX-License-Identifier: Apache-2.0
"""Operations of containers and their factory: as recorded, in lanes, with the texts of their failures, and over interruptions."""

import json
import re
import tracemalloc

import pytest
from twin_world import (
    C1,
    C2,
    DEVICE,
    EVENTS,
    VECTORS,
    Create,
    HeldWorld,
    Pause,
    Rename,
    Start,
    Stop,
    World,
    container,
)

from pycm.errors import OperationFailedError
from pycm.twin.lanes import MAX_CREATIONS, MAX_JOBS

FACTORY = "/features/ContainerFactory/inbox/messages"
ONE = f"/features/Container:{C1}/inbox/messages"
TWO = f"/features/Container:{C2}/inbox/messages"


# ── the recording ──

_VARIES = re.compile(r'"(pid|hostName|createdAt|startedAt|finishedAt|exitCode)":("[^"]*"|-?\d+),?')
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def shape(payload, identifier):
    """The bytes of a message without what differs from run to run."""
    text = json.dumps(payload, separators=(",", ":")).replace(identifier, "ID")
    return _VARIES.sub("", text).replace(",}", "}")


def recorded_exchanges():
    """(request, messages that follow it until the next request) of the recording, metrics left out."""
    exchanges = []
    for line in (VECTORS / "recorded" / "mqtt-operations.jsonl").read_text().splitlines():
        message = json.loads(line)
        if "/req/" in message["topic"]:
            exchanges.append((message, []))
        else:
            exchanges[-1][1].append(message)
    return [found for found in exchanges if "Metrics" not in found[0]["payload"]["path"]]


def is_dependencies(message):
    return message["payload"]["path"].endswith("installedDependencies")


def test_a_session_of_operations_gives_the_recorded_messages():
    world = World()
    theirs = ours = ""
    for request, expected in recorded_exchanges():
        if not theirs:
            theirs = next(m["payload"]["value"] for m in expected if m["payload"].get("status") == 200)
        world.seen.clear()
        text = json.dumps(request).replace(theirs, ours or theirs)
        world.send(json.loads(text))
        ours = ours or _UUID.search(world.seen[0].payload.decode())[0]
        if request["topic"].endswith("/start"):
            world.containers.exit_now(ours, 3)
        got = [{"topic": item.topic, "payload": json.loads(item.payload)} for item in world.seen]
        wanted = [shape(m["payload"], theirs) for m in expected if not is_dependencies(m)]
        found = [shape(m["payload"], ours) for m in got if not is_dependencies(m)]
        assert wanted == found
        assert [m["topic"].replace(theirs, ours) for m in expected if not is_dependencies(m)] == [
            m["topic"] for m in got if not is_dependencies(m)
        ]


# ── lanes ──


def test_operations_of_one_container_follow_each_other_and_those_of_others_run_beside_them():
    world = HeldWorld([container(status="RUNNING"), container(C2, status="RUNNING")])
    world.ask(f"{ONE}/pause", request="a")
    world.ask(f"{ONE}/rename", "x", request="b")
    world.ask(f"{TWO}/stop", request="c")
    assert world.operations() == [Pause(C1), Stop(C2)]
    world.end(world.runs[1])
    assert [status for status, _ in world.answers()] == [204]
    world.end(world.runs[0], OperationFailedError("no"))
    assert [status for status, _ in world.answers()] == [500]
    assert world.operations() == [Rename(C1, "x")]


def test_creations_run_beside_each_other_up_to_a_number_and_delay_no_container():
    world = HeldWorld([container(status="RUNNING")])
    for number in range(20):
        world.ask(f"{FACTORY}/create", {"imageRef": f"image:{number}"})
    assert len(world.runs) == MAX_CREATIONS
    world.ask(f"{ONE}/stop")
    assert world.operations()[-1] == Stop(C1)
    world.end(world.runs[3], OperationFailedError("no such image"))
    images = {run.operation.container.image.name for run in world.runs if isinstance(run.operation, Create)}
    assert images == {f"image:{n}" for n in (0, 1, 2, 4, 5, 6, 7, 8)}


def test_beyond_the_bound_an_operation_is_refused_and_later_ones_are_taken_again():
    world = HeldWorld([container(status="RUNNING")])
    for _ in range(MAX_JOBS):
        assert world.ask(f"{ONE}/rename", "x") == []
    [(status, payload)] = world.ask(f"{ONE}/rename", "x")
    assert status == 500
    assert "try again" in payload["value"]["message"]
    for _ in range(MAX_JOBS):
        world.end(world.runs[0])
    assert len(world.answers()) == MAX_JOBS
    assert world.core._load.jobs == 0
    assert world.ask(f"{ONE}/rename", "x") == []
    assert world.operations() == [Rename(C1, "x")]


def test_operations_that_wait_are_bounded_in_bytes_too():
    world = HeldWorld([container(status="RUNNING")])
    junk = {"name": "x", "imageRef": "a:1", "junk": ["x" * 500_000]}
    for number in range(4):
        assert world.ask(f"{FACTORY}/createWithConfig", junk, request=f"r{number}") == []
    [(status, payload)] = world.ask(f"{FACTORY}/createWithConfig", junk, request="last")
    assert status == 500
    assert re.search(r"pending operations have \d+ bytes", payload["value"]["message"])
    for _ in range(4):
        world.end(world.runs[0], OperationFailedError("no"))
    assert len(world.answers()) == 4
    assert world.ask(f"{FACTORY}/createWithConfig", junk, request="last") == []


def test_what_an_operation_does_not_need_is_not_kept_while_it_waits():
    world = HeldWorld([container(status="RUNNING")])
    tracemalloc.start()
    try:
        for number in range(3):
            junk = {"imageRef": f"a:{number}", "junk": [{} for _ in range(200_000)]}
            world.ask(f"{FACTORY}/create", junk, request=f"r{number}")
            world.ask("/features/Metrics/inbox/messages/request", {"frequency": "1h", **junk})
            junk.clear()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert world.core._load.jobs == 3
    assert kept < 4_000_000


# ── interruptions ──


def edge(world, device=DEVICE):
    world.send({"topic": "edge/thing/response", "payload": device})


def test_an_answer_to_an_operation_that_ends_without_a_connection_is_given_after_the_next_one():
    world = HeldWorld([container()])
    world.ask(f"{FACTORY}/create", {"imageRef": "image:1"})
    world.carry_out(world.core.disconnected())
    world.end(world.runs[0], OperationFailedError("no such image"))
    assert world.answers() == []
    world.carry_out(world.core.connected())
    edge(world)
    assert [status for status, _ in world.answers()] == [500]
    world.stimulate("mqtt-reconnect")
    edge(world)
    assert world.answers() == []


def test_an_answer_for_a_device_that_is_not_ours_any_more_is_not_given():
    world = HeldWorld([container()])
    world.ask(f"{FACTORY}/create", {"imageRef": "image:1"})
    edge(world, {"deviceId": "acme.test:gw-02", "tenantId": "tenant-b"})
    world.end(world.runs[0], OperationFailedError("no such image"))
    assert world.answers() == []


def test_a_failure_without_an_answer_is_logged():
    world = HeldWorld([container()])
    world.ask(f"{ONE}/start", headers={"response-required": False})
    world.end(world.runs[0], OperationFailedError("runtime says no"))
    assert world.answers() == []
    assert "runtime says no" in world.notes[-1].text


# ── arguments ──


@pytest.mark.parametrize(
    ("path", "argument", "operation"),
    [
        (f"{ONE}/rename", None, None),
        (f"{ONE}/rename", "", None),
        (f"{ONE}/start", ["whatever"], Start(C1)),
    ],
)
def test_arguments_that_do_not_matter(path, argument, operation):
    world = HeldWorld([container()])
    answers = world.ask(path, argument)
    assert world.operations() == ([operation] if operation else [])
    assert [status for status, _ in answers] == ([] if operation else [204])


@pytest.mark.parametrize(
    ("path", "argument"),
    [
        (f"{ONE}/rename", 5),
        (f"{ONE}/rename", {}),
        (f"{ONE}/remove", "yes"),
        (f"{ONE}/remove", 1),
        (f"{ONE}/stopWithOptions", "SIGTERM"),
        (f"{ONE}/stopWithOptions", {"timeout": "5"}),
        (f"{ONE}/stopWithOptions", {"timeout": 1.5}),
        (f"{ONE}/stopWithOptions", {"timeout": 10**30}),
        (f"{ONE}/stopWithOptions", {"force": "yes"}),
        (f"{ONE}/stopWithOptions", {"signal": 9}),
        (f"{ONE}/update", []),
        (f"{ONE}/update", {"resources": "64M"}),
        (f"{ONE}/update", {"resources": {"memory": 64}}),
        (f"{ONE}/update", {"restartPolicy": {"maxRetryCount": 1.5}}),
        (f"{ONE}/update", {"restartPolicy": {"retryTimeout": "5s"}}),
        (f"{ONE}/update", {"restartPolicy": {"retryTimeout": 1e300}}),
        (f"{FACTORY}/create", {"imageRef": 5}),
        (f"{FACTORY}/create", {"imageRef": "a:1", "start": "yes"}),
        (f"{FACTORY}/createWithConfig", {"imageRef": "a:1", "config": []}),
        (f"{FACTORY}/createWithConfig", {"imageRef": "a:1", "config": {"devices": [None]}}),
        (f"{FACTORY}/createWithConfig", {"imageRef": "a:1", "config": {"portMappings": [None]}}),
        (
            f"{FACTORY}/createWithConfig",
            {"imageRef": "a:1", "config": {"portMappings": [{"hostPort": 65536}]}},
        ),
        (f"{FACTORY}/createWithConfig", {"imageRef": "a:1", "config": {"env": [5]}}),
        (f"{FACTORY}/createWithConfig", {"imageRef": "a:1", "config": {"env": {"A": "1"}}}),
        (
            f"{FACTORY}/createWithConfig",
            {"imageRef": "a:1", "config": {"mountPoints": [{"propagationMode": "loud"}]}},
        ),
    ],
)
def test_arguments_that_cannot_be_read_are_answered_400_and_nothing_is_done(path, argument):
    world = HeldWorld([container()])
    [(status, payload)] = world.ask(path, argument)
    assert status == 400
    assert payload["value"]["error"] == "messages:parameter.invalid"
    assert len(payload["value"]["message"]) < 200
    assert world.runs == []


@pytest.mark.parametrize(
    ("status", "operation", "argument", "message"),
    [
        ("RUNNING", "start", {}, f"the container with id = {C1} is already running"),
        (
            "PAUSED",
            "start",
            {},
            f"the container with id = {C1} is paused - cannot start it - try unpausing it instead",
        ),
        ("CREATED", "pause", {}, f"container with id = {C1} is not running - current status is Created"),
        ("RUNNING", "resume", {}, f"container id = {C1} is not paused - cannot unpause it "),
        (
            "RUNNING",
            "remove",
            False,
            f"container with id = {C1} is not stopped - must set the force flag to true to remove it",
        ),
        ("RUNNING", "stopWithOptions", {"timeout": -1}, "the timeout = -1 shouldn't be negative"),
        ("RUNNING", "update", {"restartPolicy": {}}, "unsupported restart policy type "),
        ("RUNNING", "update", {"restartPolicy": {"type": "NEVER"}}, "unsupported restart policy type NEVER"),
        ("RUNNING", "update", {"resources": {"memory": "64B"}}, "invalid format of memory - 64B"),
    ],
)
def test_what_the_manager_refuses_is_answered_500_with_its_text(status, operation, argument, message):
    world = World([container(status=status)])
    [(code, payload)] = world.ask(f"{ONE}/{operation}", argument)
    assert (code, payload["value"]) == (
        500,
        {"error": "messages:execution.failed", "status": 500, "message": message},
    )


def test_a_whole_configuration_comes_back_in_the_twin_as_it_was_given():
    config = {
        "domainName": "d",
        "mountPoints": [{"source": "/a", "destination": "/b", "propagationMode": "RSLAVE", "readOnly": True}],
        "hostName": "h",
        "env": ["A=1", "B"],
        "cmd": ["run", "-v"],
        "devices": [{"pathOnHost": "/dev/x", "pathInContainer": "/dev/y", "cgroupPermissions": "r"}],
        "restartPolicy": {"maxRetryCount": 3, "retryTimeout": 5, "type": "ON_FAILURE"},
        "extraHosts": ["db:container_db-host"],
        "extraCapabilities": ["CAP_NET_ADMIN"],
        "portMappings": [
            {"proto": "udp", "hostPort": 5000, "hostPortEnd": 5005, "containerPort": 80, "hostIP": "1.2.3.4"}
        ],
        "networkMode": "BRIDGE",
        "openStdin": True,
        "tty": True,
        "log": {
            "type": "JSON_FILE",
            "maxFiles": 3,
            "maxSize": "1M",
            "mode": "NON_BLOCKING",
            "maxBufferSize": "2M",
        },
        "resources": {
            "memory": "200M",
            "memoryReservation": "100M",
            "memorySwap": "300M",
            "cpus": "1.5",
            "cpuShares": 512,
            "cpusetCpus": "0",
            "pidsLimit": 32,
        },
        "user": "app:app",
        "workingDir": "/srv",
        "healthCheck": {
            "exec": ["true"],
            "interval": "5s",
            "timeout": "1s",
            "retries": 2,
            "startPeriod": "9s",
        },
        "ulimits": [{"name": "nofile", "soft": 64, "hard": -1}],
        "seccompProfile": "unconfined",
    }
    world = World()
    world.send(
        {
            "topic": "command//acme.test:gw-01:edge:containers/req/r/x",
            "payload": {
                "topic": "acme.test/gw-01:edge:containers/things/live/messages/x",
                "headers": {
                    "correlation-id": "c",
                    "content-type": "application/json",
                    "response-required": True,
                },
                "path": f"{FACTORY}/createWithConfig",
                "value": {"imageRef": "a:1", "name": "n", "CONFIG": config},
            },
        }
    )
    shown = next(json.loads(item.payload) for item in world.seen if item.topic == EVENTS)
    status = shown["value"]["properties"]["status"]
    assert (status["name"], status["imageRef"], status["config"]) == ("n", "a:1", config)
    assert list(status["config"]) == list(config)


def test_of_a_privileged_container_capabilities_are_left_out_and_seconds_lose_their_fraction():
    world = HeldWorld()
    config = {
        "privileged": True,
        "extraCapabilities": ["CAP_X"],
        "restartPolicy": {"type": "on-failure", "retryTimeout": 5.9},
        "mountPoints": [{"source": "/a", "destination": "/b", "propagationMode": "rShared"}],
    }
    world.ask(f"{FACTORY}/createWithConfig", {"imageRef": "a:1", "config": config})
    [create] = world.operations()
    host = create.container.host_config
    assert (host.privileged, host.extra_capabilities) == (True, ())
    assert host.restart_policy.retry_timeout == 5 * 10**9
    assert create.container.mount_points[0].propagation_mode == "rshared"
