# SPDX-License-Identifier: Apache-2.0
"""The calls of the JSON API that have one answer: what reaches the manager, and what comes back."""

import json
from typing import Any

import pytest

from pycm import __version__
from pycm.api.server.handlers import json_of
from pycm.errors import (
    BusyError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    OperationFailedError,
    PycmError,
    UnavailableError,
)
from pycm.model.container import (
    NANOSECONDS,
    Container,
    HostConfig,
    Image,
    Resources,
    RestartPolicy,
    StopOptions,
    UpdateOptions,
)
from pycm.model.records import decode, encode
from pycm.ports import ImageInfo
from support.api_world import World, running
from support.json_peer import JsonPeer

DIGEST = "sha256:" + "1" * 64


async def test_version_says_what_project_info_says(peer: JsonPeer) -> None:
    answer = await peer.call("GET", "/v1/version")
    assert answer.headers["server"] == f"pycm/{__version__}"
    assert answer.value == {
        "project_version": __version__,
        "build_time": "unknown",
        "api_version": "1.0.0",
        "git_commit": "unknown",
    }


async def test_list_and_get_have_containers_in_kantos_form(world: World, peer: JsonPeer) -> None:
    world.containers.present = {"a": running("a"), "b": running("b")}
    listed = await peer.call("GET", "/v1/containers")
    assert listed.body == b"[" + json_of(running("a")) + b"," + json_of(running("b")) + b"]"
    assert decode(Container, listed.value[0]) == running("a")
    assert (await peer.call("GET", "/v1/containers/b")).body == json_of(running("b"))
    assert (await peer.call("GET", "/v1/containers/%62")).body == json_of(running("b"))


async def test_list_without_containers_is_an_empty_list(peer: JsonPeer) -> None:
    assert (await peer.call("GET", "/v1/containers")).value == []


@pytest.mark.parametrize("identifier", ["nope", "..%2Fx", "%00", "%ff"])
async def test_get_of_an_id_that_is_not_there_is_not_found(peer: JsonPeer, identifier: str) -> None:
    assert (await peer.call("GET", f"/v1/containers/{identifier}")).code == "not-found"


async def test_create_reads_a_descriptor_and_answers_with_the_container(world: World, peer: JsonPeer) -> None:
    body = {"container_name": "n", "image": {"name": "x:1"}, "host_config": {"restart_policy": {"type": "on-failure", "retry_timeout": 30}}}  # fmt: skip
    answer = await peer.call("POST", "/v1/containers", {**body, "state": {"pid": 7}, "later": 1})
    policy = RestartPolicy(type="on-failure", retry_timeout=30 * NANOSECONDS)
    wanted = Container(name="n", image=Image(name="x:1"), host_config=HostConfig(restart_policy=policy))
    assert world.containers.asked == [("create", wanted)]
    assert not world.containers.asked[0][1].extra
    assert (answer.status, answer.value["container_id"]) == (201, "made")


async def test_create_takes_what_the_command_line_sends(world: World, peer: JsonPeer) -> None:
    wanted = running("a")
    await peer.call("POST", "/v1/containers", encode(wanted))
    ((_, created),) = world.containers.asked
    assert (created.id, created.host_config, created.state) == ("a", wanted.host_config, Container().state)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", "document: [] is not an object"),
        (b'{"image":{"name":1}}', "image.name: 1 is not a string"),
        (b"[" * 100_000, "nested"),
        (b'{"restart_count":' + b"9" * 5000 + b"}", "too many digits"),
        (b'{"hooks":[{"timeout":1099511627776}]}', "cannot be sent"),
    ],
)
async def test_create_refuses_what_is_not_a_descriptor(
    world: World, peer: JsonPeer, body: bytes, text: str
) -> None:
    answer = await peer.call("POST", "/v1/containers", body)
    assert answer.code == "invalid-input"
    assert text in answer.value["detail"]
    assert world.containers.asked == []


@pytest.mark.parametrize(
    ("method", "path", "body", "asked"),
    [
        ("POST", "start", None, [("start", "a")]),
        ("POST", "restart", None, [("stop", "a", StopOptions(force=True)), ("start", "a")]),
        ("POST", "pause", None, [("pause", "a")]),
        ("POST", "unpause", {}, [("unpause", "a")]),
        ("POST", "rename", {"name": "n"}, [("rename", "a", "n")]),
        ("POST", "stop", None, [("stop", "a", StopOptions())]),
        ("POST", "stop", {"timeout": 3, "force": True, "signal": "INT"}, [("stop", "a", StopOptions(timeout=3, force=True, signal="INT"))]),
        ("DELETE", "", None, [("remove", "a", False, None)]),
        ("DELETE", "?force=true", None, [("remove", "a", True, StopOptions(force=True))]),
        ("DELETE", "?timeout=4", None, [("remove", "a", False, StopOptions(timeout=4))]),
    ],
)  # fmt: skip
async def test_change_reaches_the_manager_and_has_no_body(
    world: World, peer: JsonPeer, method: str, path: str, body: Any, asked: list[Any]
) -> None:
    world.containers.present["a"] = running("a")
    target = "/v1/containers/a" + (path if path.startswith("?") or not path else f"/{path}")
    answer = await peer.call(method, target, body)
    assert (answer.status, answer.body) == (204, b"")
    assert world.containers.asked == asked


async def test_update_leaves_alone_what_is_not_given(world: World, peer: JsonPeer) -> None:
    policy = RestartPolicy(type="on-failure", maximum_retry_count=2, retry_timeout=3 * NANOSECONDS)
    limits = Resources(memory="64M")
    for options in (
        UpdateOptions(restart_policy=policy),
        UpdateOptions(resources=limits),
        UpdateOptions(restart_policy=policy, resources=limits),
    ):
        assert (await peer.call("POST", "/v1/containers/a/update", encode(options))).status == 204
        assert world.containers.asked.pop() == ("update", "a", options)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInputError("why"), "invalid-input"),
        (NotFoundError("why"), "not-found"),
        (ConflictError("why"), "conflict"),
        (BusyError("why"), "busy"),
        (OperationFailedError("why"), "operation-failed"),
        (UnavailableError("why", hint="Do this."), "unavailable"),
    ],
)
async def test_failure_is_a_problem_and_the_connection_goes_on(
    world: World, peer: JsonPeer, error: PycmError, code: str
) -> None:
    world.containers.error = error
    answer = await peer.call("POST", "/v1/containers/a/start")
    assert (answer.code, answer.value["detail"]) == (code, "why")
    assert answer.value.get("hint", "") == error.hint
    assert (await peer.call("GET", "/v1/version")).status == 200


async def test_bug_is_logged_with_its_traceback_and_answered_without(
    world: World, peer: JsonPeer, caplog: pytest.LogCaptureFixture
) -> None:
    world.containers.error = ZeroDivisionError("secret")
    answer = await peer.call("POST", "/v1/containers/a/start")
    assert (answer.status, answer.code) == (500, "internal")
    assert b"secret" not in answer.body
    assert "Traceback" in caplog.text
    assert (await peer.call("GET", "/v1/version")).status == 200


@pytest.mark.parametrize("path", ["start", "stop", "restart", "pause", "unpause", "rename", "update"])
async def test_id_that_could_leave_a_directory_never_reaches_the_manager(
    world: World, peer: JsonPeer, path: str
) -> None:
    answer = await peer.call(
        "POST", f"/v1/containers/..%2Fx/{path}", {"name": "n"} if path == "rename" else None
    )
    assert answer.code == "invalid-input"
    assert (await peer.call("DELETE", "/v1/containers/..%2Fx")).code == "invalid-input"
    assert world.containers.asked == []


async def test_resize_reaches_the_terminal(world: World, peer: JsonPeer) -> None:
    assert (await peer.call("POST", "/v1/containers/a/resize", {"columns": 80, "rows": 24})).status == 204
    assert world.sessions.asked == [("resize", "a", 80, 24)]


# ── images ──


async def test_images_are_listed_with_the_containers_that_use_them(world: World, peer: JsonPeer) -> None:
    world.images.images["x:1"] = ImageInfo("x:1", DIGEST, 42, "2026-01-02T03:04:05Z", ("c1", "c2"))
    assert (await peer.call("GET", "/v1/images")).value == [
        {
            "reference": "x:1",
            "digest": DIGEST,
            "size_bytes": 42,
            "created": "2026-01-02T03:04:05Z",
            "container_ids": ["c1", "c2"],
        }
    ]


async def test_images_are_removed_unless_they_are_in_use(world: World, peer: JsonPeer) -> None:
    world.images.images = {
        "a": ImageInfo("a", DIGEST, 1, "", ("c1",)),
        "h/b:1": ImageInfo("h/b:1", DIGEST, 1, ""),
        "c": ImageInfo("c", DIGEST, 1, ""),
    }
    assert (await peer.call("DELETE", "/v1/images?reference=h/b:1")).status == 204
    assert (await peer.call("DELETE", "/v1/images?reference=h%2Fb%3A1")).code == "not-found"
    assert (await peer.call("DELETE", "/v1/images?reference=a")).code == "conflict"
    assert (await peer.call("POST", "/v1/images/prune")).value == {"references": ["c"]}
    assert list(world.images.images) == ["a"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("DELETE", "/v1/images", None), ("DELETE", "/v1/images?reference=", None), ("POST", "/v1/images/pull", {}),
     ("POST", "/v1/images/pull", {"reference": ""})],
)  # fmt: skip
async def test_image_call_needs_a_reference(peer: JsonPeer, method: str, path: str, body: Any) -> None:
    answer = await peer.call(method, path, body)
    assert (answer.code, answer.value["field"]) == ("invalid-input", "reference")


async def test_answers_are_one_line_of_compact_json(world: World, peer: JsonPeer) -> None:
    world.containers.present["a"] = running("a")
    body = (await peer.call("GET", "/v1/containers/a")).body
    assert b"\n" not in body
    assert body == json.dumps(json.loads(body), separators=(",", ":")).encode()
