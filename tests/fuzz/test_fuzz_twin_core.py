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

from pycm.twin.actions import Note, Publish

TOPIC = f"command//{THING}/req/r1/x"
PATHS = [
    "/features/Metrics/inbox/messages/request",
    "/features/ContainerFactory/inbox/messages/create",
    f"/features/Container:{C1}/inbox/messages/start",
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
        | anything,
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
    world = Checked([container(status="RUNNING")], stats={C1: [{"pids": 1}]})
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
    sizes = {name: len(value) for name, value in state.items() if hasattr(value, "__len__")}
    for number in range(10_000):
        world.core.message(TOPIC, b'{"topic":"a/b/c","path":"/features/F%d/inbox/messages/x"}' % number)
    assert {name: len(getattr(world.core, name)) for name in sizes} == sizes
    assert world.ask(PATHS[0], {})[0][0] == 204
