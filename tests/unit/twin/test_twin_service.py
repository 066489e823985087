# SPDX-License-Identifier: Apache-2.0
"""The shell around the core: order, bounds, the stored list, and what happens when sending fails."""

import asyncio
import json
import logging
import os

import pytest
from twin_world import C1, C2, COMMANDS, DEVICE, EVENTS, NAME, THING, FakeMqtt, container

from pycm.config.types import Things
from pycm.errors import InvalidInputError, OperationFailedError, UnavailableError
from pycm.twin import outbox, service
from pycm.twin.outbox import MAX_ANSWERS, MAX_PENDING, LateAnswers, Outbox, Publish, Remember, Subscribe
from pycm.twin.service import Ticker, TwinService
from pycm.twin.session import Thing
from pycm.twin.state import Memory, file_name
from pycm.waiting import Backoff
from support.fake_containers import FakeContainers
from support.fake_metrics import FakeMetrics
from support.waiting import until

FILE = "sup_back_acme.test_gw-01_edge_containers.json"


@pytest.fixture
async def world(tmp_path):
    class World:
        mqtt = FakeMqtt()
        containers = FakeContainers([container(status="RUNNING")])
        metrics = FakeMetrics({C1: [{"pids": 1}]})
        home = tmp_path / "things"
        file = home / FILE

        async def tell(self, topic, payload):
            self.twin.mqtt_message(topic, json.dumps(payload).encode())
            await self.twin.idle()

        async def register(self):
            self.twin.mqtt_connected()
            await self.tell("edge/thing/response", DEVICE)

    world = World()
    world.twin = TwinService(world.mqtt, world.containers, world.metrics, Things(home_dir=str(world.home)))
    await world.twin.start()
    yield world
    await world.twin.stop()


async def test_everything_is_sent_in_order_and_the_list_is_stored(world):
    await world.register()
    assert world.mqtt.paths() == [
        "subscribe edge/thing/response",
        "publish edge/thing/request",
        f"subscribe {COMMANDS}",
        "/features/SoftwareUpdatable",
        f"/features/Container:{C1}",
        "/features/ContainerFactory",
        "/features/Metrics",
    ]
    assert json.loads(world.file.read_text()) == {C1: f"Container:{C1}"}
    assert world.file.stat().st_mode & 0o777 == 0o600
    assert world.home.stat().st_mode & 0o777 == 0o711


async def test_the_stored_list_follows_and_names_what_to_delete_at_the_next_registration(world):
    await world.register()
    world.containers.create_now(container(C2))
    await world.twin.idle()
    assert set(json.loads(world.file.read_text())) == {C1, C2}
    world.twin.mqtt_disconnected()
    world.containers.remove_now(C2)
    world.mqtt.sent.clear()
    await world.register()
    sent = [json.loads(p) for k, t, p in world.mqtt.sent if t == EVENTS]
    assert [p["path"] for p in sent if p["topic"].endswith("delete")] == [f"/features/Container:{C2}"]
    assert set(json.loads(world.file.read_text())) == {C1}
    world.containers.remove_now(C1)
    await world.twin.idle()
    assert world.file.read_text() == "null"


async def test_an_unchanged_list_is_not_written_again(world):
    await world.register()
    before = world.file.stat().st_ino
    world.twin.mqtt_disconnected()
    await world.register()
    assert world.file.stat().st_ino == before


async def test_what_waits_at_a_loss_of_the_connection_is_dropped(world):
    await world.register()
    world.mqtt.sent.clear()
    world.mqtt.gate.clear()
    for name in ("on its way", "waits", "waits too"):
        world.containers.rename_now(C1, name)
    await asyncio.sleep(0)  # the worker has the first in its hands
    world.twin.mqtt_disconnected()
    world.mqtt.gate.set()
    await world.register()
    assert [path for path in world.mqtt.paths() if path.endswith("/name")] == [
        f"/features/Container:{C1}/properties/status/name"
    ]


async def test_what_waits_behind_a_refused_message_is_dropped_too(world):
    await world.register()
    world.mqtt.sent.clear()
    refusals = [UnavailableError("no")]
    world.mqtt.failing = lambda _: refusals.pop() if refusals else None
    for name in ("one", "two", "three"):
        world.containers.rename_now(C1, name)
    await world.twin.idle()
    assert world.mqtt.sent == []


async def test_a_loss_of_the_connection_makes_a_pending_retry_needless(world):
    await world.register()
    world.mqtt.failing = lambda _: UnavailableError("no")
    world.containers.rename_now(C1, "one")
    await world.twin.idle()
    assert world.twin._retry_timer is not None
    world.twin.mqtt_disconnected()
    assert world.twin._retry_timer is None


async def test_a_slow_broker_is_spared_superseded_values_and_gets_the_last_one(world):
    await world.register()
    world.mqtt.sent.clear()
    world.mqtt.gate.clear()
    for number in range(10_000):
        world.containers.rename_now(C1, f"name-{number}")
    assert len(world.twin._outbox) <= MAX_PENDING + 1
    world.mqtt.gate.set()
    await world.twin.idle()
    assert json.loads(world.mqtt.sent[-1][2])["value"] == "name-9999"
    assert len(world.mqtt.sent) <= MAX_PENDING + 2


async def test_twin_publishes_everything_again_after_a_failed_message(world, monkeypatch, caplog):
    monkeypatch.setattr(world.twin, "_backoff", Backoff(1.0, 0.01))
    await world.register()
    world.mqtt.sent.clear()
    refusals = [OperationFailedError("no"), UnavailableError("no")]
    world.mqtt.failing = lambda _: refusals.pop() if refusals else None
    world.containers.rename_now(C1, "x")
    await until(lambda: len(world.mqtt.sent) >= 7)
    await world.twin.idle()
    assert world.mqtt.paths()[-1] == "/features/Metrics"
    assert all("\n" not in record.message for record in caplog.records)


async def test_a_message_that_cannot_be_sent_at_all_is_left_out_alone(world, caplog):
    await world.register()
    world.mqtt.sent.clear()
    world.mqtt.failing = lambda _: (
        InvalidInputError("too odd") if len(world.mqtt.sent) == 0 and not caplog.records else None
    )
    caplog.set_level(logging.ERROR, "pycm.twin")
    world.containers.rename_now(C1, "x")
    world.containers.rename_now(C1, "y")
    await world.twin.idle()
    assert "too odd (left out)" in caplog.text
    assert len(world.mqtt.sent) == 1


async def test_the_timer_keeps_its_times_and_leaves_out_what_was_slept_through():
    loop = asyncio.get_running_loop()
    ticks = []
    ticker = Ticker(lambda: ticks.append(1))
    ticker.set(10.0)
    first = ticker._timer.when()
    ticker._timer.cancel()
    ticker._due()
    assert ticker._timer.when() == first + 10.0
    ticker._timer.cancel()
    ticker._timer = loop.call_at(loop.time() - 35.0, lambda: None)
    late = ticker._timer.when()
    ticker._timer.cancel()
    ticker._due()
    assert ticker._timer.when() == late + 40.0
    ticker.set(None)
    assert (ticker._timer, ticks) == (None, [1, 1])


@pytest.mark.parametrize(
    ("period", "resume", "first"), [(10.0, True, 5.0), (10.0, False, 10.0), (20.0, True, 20.0)]
)
async def test_ticker_resumes_an_interrupted_period_only_when_asked(monkeypatch, period, resume, first):
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)
    ticker = Ticker(lambda: None)
    ticker.set(10.0)
    ticker.set(None)
    now += 25.0
    ticker.set(period, resume=resume)
    assert ticker._timer.when() == now + first
    ticker.set(None)


async def test_metrics_keep_their_times_over_registrations_and_a_new_request_begins_anew(world):
    await world.register()
    envelope = {
        "topic": "acme.test/gw-01:edge:containers/things/live/messages/request",
        "headers": {"correlation-id": "c", "response-required": True, "content-type": "application/json"},
        "path": "/features/Metrics/inbox/messages/request",
        "value": {"frequency": "1h"},
    }
    await world.tell(f"command//{THING}/req/r/request", envelope)
    ticker = world.twin._tickers["containers"]
    due = ticker._timer.when()
    world.twin.mqtt_disconnected()
    assert ticker._timer is None
    await world.register()
    assert ticker._timer.when() == due
    world.twin._decided(world.twin._core.retry())
    await world.twin.idle()
    assert ticker._timer.when() == due
    await world.tell(f"command//{THING}/req/r2/request", envelope)
    assert ticker._timer.when() > due


async def test_a_request_for_metrics_gives_data_over_and_over(world):
    await world.register()
    envelope = {
        "topic": "acme.test/gw-01:edge:containers/things/live/messages/request",
        "headers": {"correlation-id": "c", "response-required": True, "content-type": "application/json"},
        "path": "/features/Metrics/inbox/messages/request",
        "value": {"frequency": "1s"},
    }
    world.mqtt.sent.clear()
    await world.tell(f"command//{THING}/req/r/request", envelope)
    assert [topic for _, topic, _ in world.mqtt.sent] == [f"command//{THING}/res/r/204"]
    await until(lambda: len(world.mqtt.sent) == 3)
    assert all(b"/outbox/messages/data" in payload for _, _, payload in world.mqtt.sent[1:])


async def test_stopping_sends_what_is_left_and_says_goodbye(world):
    await world.register()
    world.mqtt.sent.clear()
    world.containers.stop_now(C1)
    await world.twin.stop()
    paths = world.mqtt.paths()
    assert paths[0].endswith("/state")
    assert paths[1:] == ["unsubscribe edge/thing/response", f"unsubscribe {COMMANDS}"]
    assert world.mqtt.stopped == 1


async def test_stopping_with_a_broker_that_takes_nothing_ends_in_time(world, monkeypatch):
    monkeypatch.setattr(service, "DRAIN", 0.05)
    await world.register()
    world.mqtt.gate.clear()
    world.containers.stop_now(C1)
    await world.twin.stop()
    assert world.mqtt.stopped == 1


# ── operations ──


def command(operation, value=None, feature=f"Container:{C1}"):
    headers = {"correlation-id": "c", "response-required": True}
    envelope = {"topic": f"{NAME}/things/live/messages/x", "headers": headers}
    if value is not None:
        headers["content-type"] = "application/json"
        envelope["value"] = value
    return {**envelope, "path": f"/features/{feature}/inbox/messages/{operation}"}


class SlowContainers(FakeContainers):
    """A create that takes until `pulled`; the rest at once."""

    def __init__(self, given):
        super().__init__(given)
        self.pulled = asyncio.Event()
        self.calls = []

    async def create(self, one):
        await self.pulled.wait()
        raise OperationFailedError("no such image")

    async def stop(self, container_id, options=None):
        self.calls.append(("stop", container_id))
        self.stop_now(container_id)

    async def pause(self, container_id):
        raise RuntimeError("a bug")


async def test_a_pull_delays_neither_a_stop_nor_the_end(world, monkeypatch, caplog):
    slow = SlowContainers([container(status="RUNNING")])
    world.twin._lanes._containers = slow
    world.twin._core._list = slow.list
    slow.subscribe(world.twin._on_event)
    await world.register()
    world.mqtt.sent.clear()
    await world.tell(f"command//{THING}/req/r1/x", command("create", {"imageRef": "a:1"}, "ContainerFactory"))
    await world.tell(f"command//{THING}/req/r2/x", command("stop"))
    await until(lambda: any("/res/r2/204" in topic for _, topic, _ in world.mqtt.sent))
    assert not any("/res/r1/" in topic for _, topic, _ in world.mqtt.sent)
    await world.tell(f"command//{THING}/req/r3/x", command("pause"))
    await until(lambda: any("/res/r3/500" in topic for _, topic, _ in world.mqtt.sent))
    assert "bug in an operation" in caplog.text
    slow.pulled.set()
    await world.twin.quiet()
    assert any("/res/r1/500" in topic for _, topic, _ in world.mqtt.sent)
    slow.pulled.clear()
    await world.tell(f"command//{THING}/req/r4/x", command("create", {"imageRef": "a:1"}, "ContainerFactory"))
    await world.twin.stop()
    assert not world.twin._operations


async def test_an_answer_that_was_on_its_way_at_a_loss_of_the_connection_is_given_with_the_next(world):
    await world.register()
    world.mqtt.sent.clear()
    world.mqtt.gate.clear()
    for number in range(3):
        one = command("request", {"frequency": "0s"}, "Metrics")
        world.twin.mqtt_message(f"command//{THING}/req/r{number}/x", json.dumps(one).encode())
    await asyncio.sleep(0)  # the worker has the first in its hands
    world.twin.mqtt_disconnected()
    world.mqtt.failing = lambda _: UnavailableError("lost")
    world.mqtt.gate.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    world.mqtt.failing = lambda _: None
    await world.register()
    answers = [topic for _, topic, _ in world.mqtt.sent if "/res/" in topic]
    assert sorted(answers) == [f"command//{THING}/res/r{number}/204" for number in range(3)]
    await world.tell("edge/thing/response", {**DEVICE, "policyId": "other:policy"})
    assert [topic for _, topic, _ in world.mqtt.sent if "/res/" in topic] == answers


async def test_an_answer_that_ends_each_connection_is_not_given_for_ever(world):
    await world.register()
    tried = []
    world.mqtt.failing = lambda topic: (
        (tried.append(topic), UnavailableError("no"))[1] if "/res/" in topic else None
    )
    for _ in range(4):
        one = command("request", {"frequency": "0s"}, "Metrics")
        if not tried:
            await world.tell(f"command//{THING}/req/r/x", one)
        world.twin.mqtt_disconnected()
        await world.register()
    assert len(tried) == 2


async def test_a_bug_in_what_is_sent_does_not_end_the_sending(world, caplog):
    await world.register()
    world.mqtt.sent.clear()
    bugs = [RuntimeError("a bug")]
    world.mqtt.failing = lambda _: bugs.pop() if bugs else None
    for name in ("one", "two"):
        world.containers.rename_now(C1, name)
    await world.twin.idle()
    assert [json.loads(payload)["value"] for _, _, payload in world.mqtt.sent] == ["two"]
    assert "bug while sending" in caplog.text


async def test_the_request_goes_on_with_a_new_agent(world):
    await world.register()
    value = {"frequency": "1s"}
    await world.tell(f"command//{THING}/req/r1/x", command("request", value, "Metrics"))
    await world.twin.stop()
    state = json.loads((world.home / "twin_state.json").read_text())
    assert (state["thing"], state["request"]) == (THING, value)
    mqtt = FakeMqtt()
    twin = TwinService(mqtt, world.containers, world.metrics, Things(home_dir=str(world.home)))
    await twin.start()
    twin.mqtt_connected()
    twin.mqtt_message("edge/thing/response", json.dumps(DEVICE).encode())
    await until(lambda: any(b"/outbox/messages/data" in payload for _, _, payload in mqtt.sent))
    await twin.stop()


# ── the outbox ──


def test_a_newer_feature_supersedes_its_older_properties_but_no_answers_and_no_other_things():
    box = Outbox()
    answer = Publish("command//t/res/r/204", b"")
    other = Publish("e/other/t", b"", "/features/Container:a")
    box.add(answer)
    box.add(other)
    for number in range(MAX_PENDING - 1):
        box.add(Publish("e/t/t", b"%d" % number, "/features/Container:a/properties/status/state"))
    box.add(Publish("e/t/t", b"deleted", "/features/Container:a"))
    left = [box.take() for _ in range(len(box))]
    assert left == [answer, other, Publish("e/t/t", b"deleted", "/features/Container:a")]


def test_a_feature_supersedes_no_other_whose_name_begins_alike():
    box = Outbox()
    longer = Publish("e/t/t", b"", "/features/Container:ab")
    box.add(longer)
    for number in range(MAX_PENDING):
        box.add(Publish("e/t/t", b"%d" % number, "/features/Container:a"))
    assert box.take() == longer


def test_answers_are_bounded_and_counted_down_again():
    box = Outbox()
    answer = Publish("command//t/res/r/204", b"")
    assert all(box.add(answer) for _ in range(MAX_ANSWERS))
    assert not box.add(answer)
    box.take()
    assert box.add(answer)
    box.clear()
    assert len(box) == 0
    assert box.add(answer)


def test_answers_are_bounded_in_bytes_too():
    box = Outbox()
    answer = Publish("command//t/res/r/204", b"x" * 1_000_000)
    assert [box.add(answer) for _ in range(6)] == [True] * 4 + [False] * 2
    box.take()
    assert box.add(answer)
    late = LateAnswers()
    for number in range(6):
        late.add(Publish(f"command//t/res/{number}/204", b"x" * 400_000))
    assert [answer.topic for answer in late.take()] == ["command//t/res/4/204", "command//t/res/5/204"]
    assert late.take() == []


def test_subscriptions_are_never_dropped(monkeypatch):
    monkeypatch.setattr(outbox, "MAX_PENDING", 2)
    box = Outbox()
    for topic in "abc":
        box.add(Subscribe(topic))
    box.add(Remember(Thing("t", "x"), {}))
    box.add(Remember(Thing("t", "x"), {"a": "b"}))
    assert len(box) == 4


# ── the stored list ──


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        (None, []),
        (b"", []),
        (b"null", []),
        (b'{"a":"Container:a","b":"Container:b"}', ["a", "b"]),
        (b'{"a":5,"../x":"","":""}', ["a"]),
    ],
)
def test_a_stored_list_is_read(tmp_path, content, ids):
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    assert Memory(str(tmp_path)).read(THING) == ids


@pytest.mark.parametrize("content", [b"{", b"[]", b"5", b"[" * 100_000, b"\xff", b" " * ((1 << 20) + 1)])
def test_a_damaged_list_is_named_and_counts_as_empty(tmp_path, caplog, content):
    (tmp_path / FILE).write_bytes(content)
    memory = Memory(str(tmp_path))
    assert memory.read(THING) == []
    assert FILE in caplog.text
    memory.write(THING, {"a": "Container:a"})
    assert memory.read(THING) == ["a"]


def test_the_file_of_an_early_version_is_taken_over(tmp_path):
    (tmp_path / "sup_back_acme.test_gw-01:edge:containers.json").write_text('{"a":"Container:a"}')
    assert Memory(str(tmp_path)).read(THING) == ["a"]
    assert os.listdir(tmp_path) == [FILE]


def test_a_home_that_cannot_be_used_is_logged_and_harms_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    memory = Memory(str(tmp_path / "file" / "things"))
    memory.prepare()
    memory.write(THING, {"a": "b"})
    assert memory.read(THING) == []
    assert caplog.text.count("things") >= 2


def test_the_file_name_has_no_colon():
    assert file_name(THING) == FILE
