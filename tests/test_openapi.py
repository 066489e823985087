# SPDX-License-Identifier: Apache-2.0
"""docs/api.yaml against the server: the same paths, parameters, members and codes, and real answers that fit its schemas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml
from openapi_spec_validator import validate

from pycm.api.protocol import API_VERSION
from pycm.api.server.feeds import STATS
from pycm.api.server.routes import LONGEST_WAIT, PROBLEMS, REQUIRED, ROUTES, Route, Value
from pycm.model.container import (
    Container,
    ContainerConfiguration,
    DeviceMapping,
    Hook,
    HostConfig,
    IOConfig,
    MountPoint,
    PortMapping,
    Resources,
    RestartPolicy,
)
from pycm.ports import Action, ImageInfo, Measurement, PullProgress, PullStep
from support.api_world import JSON_FILE, World, eventually, running
from support.json_peer import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pycm.model.records import Record

PAGE = Path(__file__).parents[1] / "docs/api.yaml"
SPEC = yaml.safe_load(PAGE.read_text(encoding="utf-8"))
SCHEMAS = SPEC["components"]["schemas"]
by_handler = pytest.mark.parametrize("route", ROUTES, ids=[route.handler for route in ROUTES])


def operation(route: Route) -> dict[str, Any]:
    found: dict[str, Any] = SPEC["paths"][route.path][route.method.lower()]
    return found


def test_page_is_valid_openapi_of_this_version_of_the_api() -> None:
    validate(SPEC)
    assert SPEC["info"]["version"] == API_VERSION


def test_page_has_the_paths_and_methods_of_the_server() -> None:
    written = {(method.upper(), path) for path, methods in SPEC["paths"].items() for method in methods}
    assert written == {(route.method, route.path) for route in ROUTES}


@by_handler
def test_page_names_the_handler_and_each_parameter_of_a_path(route: Route) -> None:
    found = operation(route)
    assert found["operationId"] == route.handler
    needs_id = {"$ref": "#/components/parameters/id"} in found.get("parameters", [])
    assert needs_id == ("{id}" in route.path)


def schema_of(value: Value) -> dict[str, Any]:
    """What the page has to say about a value besides its description."""
    kinds: dict[str, dict[str, Any]] = {
        "text": {"type": "string", **({"minLength": value.low} if value.low > 0 else {})},
        "flag": {"type": "boolean"},
        "integer": {"type": "integer", "minimum": value.low, "maximum": value.high},
        "seconds": {"type": "number", "exclusiveMinimum": 0, "maximum": LONGEST_WAIT},
        "choice": {"type": "string", "enum": list(value.choices)},
        "texts": {"type": "array", "items": {"type": "string"}},
        "object": {"$ref": "#/components/schemas/" + value.name.title().replace("_", "")},
    }
    has_default = value.default is not REQUIRED and value.default not in (None, ())
    return {**kinds[value.kind], **({"default": value.default} if has_default else {})}


@by_handler
def test_page_describes_the_query_as_the_server_reads_it(route: Route) -> None:
    written = [one for one in operation(route).get("parameters", []) if one.get("in") == "query"]
    assert [(one["name"], one["schema"], one.get("required", False)) for one in written] == [
        (value.name, schema_of(value), value.default is REQUIRED) for value in route.query
    ]
    assert all(one["description"] for one in written)


@by_handler
def test_page_describes_the_body_as_the_server_reads_it(route: Route) -> None:
    content = operation(route).get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    if route.body is None:
        assert schema == {"$ref": "#/components/schemas/Descriptor"}
        return
    members = {
        name: {key: part for key, part in one.items() if key != "description"}
        for name, one in schema.get("properties", {}).items()
    }
    assert members == {value.name: schema_of(value) for value in route.body}
    assert schema.get("required", []) == [value.name for value in route.body if value.default is REQUIRED]


@by_handler
def test_page_describes_the_kind_of_answer(route: Route) -> None:
    answers = operation(route)["responses"]
    kinds = {"json": {"200", "201", "204"}, "lines": {"200"}, "frames": {"101"}}
    (status,) = set(answers) - {"default"}
    assert status in kinds[route.answer]
    assert ("application/jsonl" in answers[status].get("content", {})) == (route.answer == "lines")
    assert answers["default"] == {"$ref": "#/components/responses/Problem"}


def test_page_lists_the_codes_of_problems_and_the_members_of_stats() -> None:
    assert SCHEMAS["Problem"]["properties"]["code"]["enum"] == sorted(PROBLEMS)
    members = set(SCHEMAS["ContainerStats"]["properties"]) - {"container_id", "container_name"}
    assert members == {name for name, _ in STATS.values()}
    assert all(action.value in SCHEMAS["Event"]["properties"]["action"]["description"] for action in Action)


def records(record: type[Record], found: dict[str, type[Record]]) -> dict[str, type[Record]]:
    if record.__name__ not in found:
        found[record.__name__] = record
        for _, form in record.FORMS:
            if form.record is not None:
                records(form.record, found)
    return found


@pytest.mark.parametrize("record", records(Container, {}).values(), ids=lambda record: record.__name__)
def test_page_has_the_members_of_each_record(record: type[Record]) -> None:
    schema = SCHEMAS[record.__name__]
    assert list(schema["properties"]) == [form.json for _, form in record.FORMS]
    assert schema.get("required", []) == [form.json for _, form in record.FORMS if not form.omit]


# ── real answers ──

FULL = running(
    "a",
    config=ContainerConfiguration(env=("A=1",), cmd=("x",)),
    hooks=(Hook(path="/h", args=("a",)),),
    mount_points=(MountPoint(source="/a", destination="/b"),),
    io_config=IOConfig(open_stdin=True),
    host_config=HostConfig(
        log_config=JSON_FILE,
        devices=(DeviceMapping(path_on_host="/dev/x", path_in_container="/dev/y"),),
        port_mappings=(PortMapping(container_port=80, host_port=8080),),
        restart_policy=RestartPolicy(type="always"),
        resources=Resources(memory="64M"),
        extra_hosts=("a:1.2.3.4",),
    ),
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(str(tmp_path / "s"))
    await made.server.start()
    made.containers.present = {"a": FULL, "b": running("b")}
    made.images.images["x:1"] = ImageInfo("x:1", "sha256:1", 1, "2026-01-02T03:04:05Z", ("a",))
    made.images.steps = [PullProgress("x:1", PullStep.DOWNLOADING, 1, 2)]
    made.logs.texts = ["one"]
    figures = [Measurement(one, 1.5) for one in STATS]
    made.metrics.figures = {"a": figures, "b": []}
    yield made
    made.channel.close()
    await made.server.close()


def fits(schema: dict[str, Any], value: Any) -> None:
    jsonschema.Draft202012Validator({**schema, "components": SPEC["components"]}).validate(value)


BODIES: dict[str, Any] = {
    "create_container": {"image": {"name": "x:1"}},
    "rename_container": {"name": "n"},
    "update_container": {"resources": {"memory": "64M"}},
    "pull_image": {"reference": "y:1"},
}
TARGETS = {
    "watch_stats": "/v1/stats?samples=1&interval_ms=500",
    "remove_image": "/v1/images?reference=x:1",
    "wait_for_container": "/v1/containers/a/wait?for=running",
}


@pytest.mark.parametrize(
    "route",
    [route for route in ROUTES if route.answer != "frames" and route.handler != "watch_events"],
    ids=lambda route: route.handler,
)
async def test_real_answer_fits_the_page(world: World, route: Route) -> None:
    if route.handler == "remove_image":
        world.images.images["x:1"] = ImageInfo("x:1", "sha256:1", 1, "")
    target = TARGETS.get(route.handler, route.path.replace("{id}", "a"))
    async with connected(world.path) as peer:
        answer = await peer.call(route.method, target, BODIES.get(route.handler))
    written = operation(route)["responses"][str(answer.status)]
    if answer.status == 204:
        assert "content" not in written
        return
    ((kind, content),) = written["content"].items()
    assert answer.headers["content-type"] == kind
    for value in answer.lines if route.answer == "lines" else [answer.value]:
        fits(content["schema"], value)
    assert answer.body


async def test_real_events_fit_the_page(world: World) -> None:
    async with connected(world.path) as peer:
        await peer.ask("GET", "/v1/events")
        await peer.head()
        await eventually(lambda: len(world.watchers) == 1)
        world.containers.tell(Action.RUNNING, FULL)
        fits({"$ref": "#/components/schemas/Event"}, await peer.line())


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", "/nope", None), ("PUT", "/v1/version", None), ("GET", "/v1/containers/nope", None),
        ("GET", "/v1/events?action=x", None), ("POST", "/v1/containers/a/exec", {"command": ["x"]}),
        ("POST", "/v1/containers/a/stop", b"{"), ("GET", "/v1/containers/a/wait?within=0.01", None),
    ],
)  # fmt: skip
async def test_real_problem_fits_the_page(world: World, method: str, target: str, body: Any) -> None:
    async with connected(world.path) as peer:
        answer = await peer.call(method, target, body)
        assert answer.code
        fits({"$ref": "#/components/schemas/Problem"}, answer.value)
