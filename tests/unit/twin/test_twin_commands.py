# SPDX-License-Identifier: Apache-2.0
"""The acceptance of commands step by step, and the form of the answers."""

import pytest
from twin_world import C1, NAME, THING, World, container

REQUEST = "/features/Metrics/inbox/messages/request"
TOPIC = f"{NAME}/things/live/messages/x"


@pytest.fixture
def world():
    return World([container()])


def test_an_operation_without_a_value_is_answered_204_without_value_and_content_type(world):
    [(status, payload)] = world.ask(REQUEST)
    assert status == 204
    assert payload == {
        "topic": TOPIC,
        "headers": {"correlation-id": "c1"},
        "path": "/features/Metrics/outbox/messages/request",
        "status": 204,
    }


def test_the_answer_goes_out_under_the_thing_that_the_request_is_for(world):
    payload = {"topic": TOPIC, "headers": {"correlation-id": "c", "response-required": True}, "path": REQUEST}
    world.send({"topic": "command//another:thing/req/r1/x", "payload": payload})
    assert [item.topic for item in world.seen] == [f"command//{THING}/res/r1/204"]


@pytest.mark.parametrize(
    "payload", [b"not json", b"[]", b'{"topic":5}', b"[" * 20_000, b"\xff", b'{"value":NaN}']
)
def test_a_payload_that_is_no_envelope_is_answered_without_name(world, payload):
    [(status, answer)] = world.raw(payload)
    assert status == 400
    assert answer == {
        "topic": "unknown/unknown/things/twin/errors",
        "headers": {"content-type": "application/json"},
        "path": "/",
        "value": {
            "error": "messages:parameter.invalid",
            "status": 400,
            "message": f"error parsing Ditto message received for device id [{THING}]",
        },
        "status": 400,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topic": ""}, f"invalid Ditto message received for device id [{THING}]"),
        ({"topic": None}, f"invalid Ditto message received for device id [{THING}]"),
        ({"path": ""}, f"invalid Ditto message received for device id [{THING}]"),
        ({"topic": "a/b"}, f"invalid Ditto message topic received for device id [{THING}]"),
    ],
)
def test_without_a_usable_topic_and_path_the_answer_has_none_either(world, changes, message):
    [(status, answer)] = world.ask(REQUEST, **changes)
    assert (status, answer["path"], answer["value"]["message"]) == (400, "/", message)
    assert answer["headers"] == {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("value", "headers", "detail"),
    [
        ({}, {"correlation-id": ""}, "correlation id header is missing"),
        ({}, {"correlation-id": 5}, "correlation id header is missing"),
        ({}, {"content-type": None}, "missing content type header"),
        ({}, {"content-type": 7}, "missing content type header"),
        ({}, {"content-type": "text/plain; 100%"}, "unsupported content type header text/plain; 100%"),
        (
            {},
            {"content-type": "application/json; charset=utf-8"},
            "unsupported content type header application/json; charset=utf-8",
        ),
        (None, {"content-type": "application/json"}, "unexpected content type header application/json"),
    ],
)
def test_headers_are_checked_in_order(world, value, headers, detail):
    [(status, answer)] = world.ask(REQUEST, value, headers=headers)
    assert status == 400
    assert answer["path"] == REQUEST
    assert answer["value"]["message"] == f"invalid Ditto message received for device id [{THING}]: {detail}"
    assert answer["headers"].get("correlation-id", "") in ("c1", "")


@pytest.mark.parametrize(
    ("path", "topic", "status", "message"),
    [
        (REQUEST, "other/thing/things/live/messages/x", 404, f"thing with ID = {THING} is not found"),
        ("/features/Nope/inbox/messages/x", TOPIC, 400, "feature [Nope] not found "),
        ("/features/Container:../inbox/messages/x", TOPIC, 400, "feature [Container:..] not found "),
        (
            "/features/Container:../../x/inbox/messages/x",
            TOPIC,
            400,
            f"missing operation name for device id [{THING}]",
        ),
        ("/features/Metrics", TOPIC, 400, f"missing operation name for device id [{THING}]"),
        ("/features/Metrics/inbox/messages/", TOPIC, 400, f"missing operation name for device id [{THING}]"),
        (
            "/inbox/messages/x",
            TOPIC,
            404,
            f"the target thing ID = {THING} does not have e registered operations handler - thus, the command will not be processed",
        ),
    ],
)
def test_thing_and_feature_are_looked_up(world, path, topic, status, message):
    [(found, answer)] = world.ask(path, {}, topic=topic)
    assert (found, answer["path"], answer["value"]["message"]) == (status, path, message)


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ("Metrics", "unsupported operation %s{operation}"),
        ("ContainerFactory", "unsupported operation %s{operation}"),
        (f"Container:{C1}", "unsupported operation %s{operation}"),
        ("SoftwareUpdatable", "unsupported operation called [operationId = %s{operation}]"),
    ],
)
def test_an_unknown_operation_is_named_as_it_came(world, feature, message):
    [(status, answer)] = world.ask(f"/features/{feature}/inbox/messages/%s{{operation}}", {})
    assert status == 404
    assert answer["value"] == {"error": "messages:subject.notfound", "status": 404, "message": message}
    assert answer["path"] == f"/features/{feature}/outbox/messages/%s{{operation}}"


@pytest.mark.parametrize("required", [False, None, "true", 1, []])
def test_an_answer_is_only_given_if_the_header_is_true(world, required):
    assert world.ask(REQUEST, {}, headers={"response-required": required}) == []
    assert world.ask("/features/Nope/inbox/messages/x", {}, headers={"response-required": required}) == []


def test_a_one_way_command_is_run_and_not_answered(world):
    assert world.ask(REQUEST, {"frequency": "1s"}, request="") == []
    assert world.core.due().containers == {}  # nothing runs, but the request is there
    assert world._due is not None


@pytest.mark.parametrize("name", ["created", "modified", "deleted", "errors-response"])
def test_events_of_the_backend_change_nothing_and_are_not_answered(world, name):
    assert world.ask(REQUEST, {"frequency": "1s"}, request="", name=name) == []
    assert world._due is None


@pytest.mark.parametrize("name", ["created", "modified"])
def test_with_a_request_id_such_a_name_is_a_request_like_any_other(world, name):
    assert world.ask(REQUEST, {"frequency": "1s"}, name=name)[0][0] == 204


@pytest.mark.parametrize(
    "topic",
    [
        "command//",
        f"command//{THING}/req/r1",
        f"command//{THING}/req/r1/",
        f"command//{THING}/req/r1/x/y",
        f"command//{THING}/res/r1/x",
        "command////r1/x",
        f"command//{THING}/req/{'r' * 5000}/x",
    ],
)
def test_a_topic_of_another_form_is_logged_in_one_line(world, topic):
    assert world.raw(b"{}", topic) == []
    assert len(world.notes) == 1
    assert len(world.notes[0].text) < 600
