# SPDX-License-Identifier: Apache-2.0
"""Fuzz target of the twin's core.

Contract: whatever bytes come in on whatever topic, the core returns decisions that can be carried out (topics that MQTT allows, JSON
payloads, log lines of one line), and the next valid command is answered.
"""

import json
import pathlib
import sys

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "unit" / "twin"))

from twin_world import C1, NAME, THING, World, container

from pycm.twin.outbox import Keep, Note, Publish, Run
from pycm.twin.state import kept_from

TOPIC = f"command//{THING}/req/r1/x"
URL = "http://artifacts.test/a.json"
OPERATIONS = ("start", "stop", "stopWithOptions", "pause", "resume", "rename", "update", "remove")
PATHS = [
    "/features/Metrics/inbox/messages/request",
    "/features/ContainerFactory/inbox/messages/create",
    "/features/ContainerFactory/inbox/messages/createWithConfig",
    "/features/SoftwareUpdatable/inbox/messages/install",
    "/features/SoftwareUpdatable/inbox/messages/remove",
    *(f"/features/Container:{C1}/inbox/messages/{operation}" for operation in OPERATIONS),
    "/features/Container:../../x/inbox/messages/start",
    "/inbox/messages/x",
    "",
]

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def or_anything(*likely):
    return st.sampled_from(likely) | anything


def some(**members):
    """An object with some of the members, each as it should be or anything."""
    return st.fixed_dictionaries({}, optional=members) | anything


def lists(items):
    return st.lists(items, max_size=3) | anything


texts = or_anything("64M", "-1", "ALWAYS", "no", "HOST", "a:1", "../x", "")
numbers = or_anything(0, 1, -1, 2**63, 1e300, 1.5)
config = some(
    env=lists(texts),
    cmd=lists(texts),
    mountPoints=lists(some(source=texts, destination=texts, propagationMode=texts)),
    portMappings=lists(some(hostPort=numbers, containerPort=numbers)),
    devices=lists(some(pathOnHost=texts)),
    networkMode=texts,
    privileged=or_anything(True, False),
    decryption=some(keys=lists(texts)),
    log=some(type=texts, maxFiles=numbers, mode=texts),
    healthCheck=some(exec=lists(texts), tcp=numbers, interval=texts, retries=numbers),
    ulimits=lists(some(name=texts, soft=numbers)),
)
artifacts = lists(
    some(
        download=some(HTTP=some(url=or_anything(URL, "http://nowhere/"))),
        checksums=some(MD5=or_anything("00", "0" * 40, "x"), SHA256=texts),
    )
)
arguments = some(
    imageRef=texts,
    name=texts,
    config=config,
    start=or_anything(True, False),
    timeout=numbers,
    signal=or_anything("SIGINT", "9", "x"),
    force=or_anything(True, False),
    restartPolicy=some(type=texts, maxRetryCount=numbers, retryTimeout=numbers),
    resources=some(memory=texts, memorySwap=texts, memoryReservation=texts, cpus=texts, cpuShares=numbers),
    correlationId=texts,
    forced=or_anything(True, False),
    software=lists(some(name=or_anything(C1, "gone"), group=texts)),
    softwareModules=lists(some(softwareModule=some(name=texts, version=texts), artifacts=artifacts)),
)

requests = st.fixed_dictionaries(
    {},
    optional={
        "topic": or_anything(f"{NAME}/things/live/messages/x", "a/b", "a/b/c"),
        "path": or_anything(*PATHS),
        "headers": st.fixed_dictionaries(
            {},
            optional={
                "correlation-id": or_anything("c", "%s%n"),
                "response-required": or_anything(True, False),
                "content-type": or_anything("application/json", "text/plain"),
            },
        )
        | anything,
        "value": st.fixed_dictionaries(
            {},
            optional={
                "frequency": or_anything("5s", "0s", 1e300, -1, "1ns", "9" * 400 + "h"),
                "filter": st.lists(
                    st.fixed_dictionaries({}, optional={"id": anything, "originator": anything}) | anything,
                    max_size=3,
                )
                | anything,
            },
        )
        | arguments,
        "status": anything,
    },
)


def dumped(value):
    return json.dumps(value).encode()


payloads = st.binary(max_size=200) | requests.map(dumped) | anything.map(dumped)
topics = st.sampled_from(
    ["edge/thing/response", TOPIC, f"command//{THING}/req//x", f"command//{THING}/req//modified"]
)
devices = st.fixed_dictionaries(
    {},
    optional={
        "deviceId": or_anything("a:b", "a", "../..:x"),
        "tenantId": or_anything("t", "#"),
        "policyId": anything,
    },
).map(dumped)


def check(decisions):
    for decision in decisions:
        if isinstance(decision, Note):
            assert "\n" not in decision.text
            assert len(decision.text) < 1000
        if isinstance(decision, Publish):
            assert not set("+#\0") & set(decision.topic)
            decision.topic.encode()
            json.loads(decision.payload)
        if isinstance(decision, Run):
            assert callable(decision.job)
        if isinstance(decision, Keep):
            kept_from(json.loads(json.dumps(decision.state)))


class Checked(World):
    def carry_out(self, decisions):
        decisions = list(decisions)
        check(decisions)
        super().carry_out(decisions)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.lists(st.tuples(topics, payloads | devices), min_size=1, max_size=5))
@example([(TOPIC, b"[" * 10_000)])
@example([("edge/thing/response", b'{"deviceId":"a:\\ud800","tenantId":"t"}')])
@example([(TOPIC, dumped({"topic": "a/b/c", "path": "/features/\ud800/inbox/messages/x"}))])
def test_whatever_comes_in_leads_to_decisions_that_can_be_carried_out_and_the_next_command_works(messages):
    http = {URL: {"body": '{"image":{"name":"a:1"}}'}}
    world = Checked([container(status="RUNNING")], stats={C1: [{"pids": 1}]}, http=http)
    for topic, payload in messages:
        world.carry_out(world.core.message(topic, payload))
        world.advance(world.now + 2)
    world.carry_out(world.core.disconnected())
    world.carry_out(world.core.connected())
    world.send({"topic": "edge/thing/response", "payload": world.given["edge_response"]})
    world.seen.clear()
    assert [status for status, _ in world.ask(PATHS[0], {"frequency": "0s"})] == [204]


def test_ten_thousand_bad_commands_leave_nothing_behind():
    world = World([container()])
    state = {name: value for name, value in vars(world.core).items() if name not in ("_session", "_features")}
    for number in range(1000):
        world.ask(f"/features/Container:{C1}/inbox/messages/stop", {}, request=f"s{number}")
        world.ask("/features/ContainerFactory/inbox/messages/create", {"imageRef": "-", "start": number})
    sizes = {name: len(value) for name, value in state.items() if hasattr(value, "__len__")}
    for number in range(10_000):
        world.core.message(TOPIC, b'{"topic":"a/b/c","path":"/features/F%d/inbox/messages/x"}' % number)
    assert {name: len(getattr(world.core, name)) for name in sizes} == sizes
    assert world.ask(PATHS[0], {})[0][0] == 204
