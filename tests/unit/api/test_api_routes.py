# SPDX-License-Identifier: Apache-2.0
"""The tables of the JSON API: which request means which call, what it takes, and what an error becomes."""

import functools
import inspect
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycm import ports
from pycm.api.server import operations, routes
from pycm.api.server.handlers import Handlers
from pycm.api.server.routes import (
    CODES,
    EVENTS,
    EXEC,
    LONGEST_WAIT,
    PROBLEMS,
    REFERENCE,
    ROUTES,
    SIZE,
    STATS,
    STDIN,
    STOP,
    TAIL,
    WAIT,
    ApiError,
    find,
    problem_of,
    read_body,
    read_query,
)
from pycm.errors import (
    BusyError,
    ConfigError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    OperationFailedError,
    PycmError,
    RefusedError,
    UnavailableError,
)


def test_no_two_routes_share_method_and_path_or_handler() -> None:
    assert (
        len({(one.method, one.path) for one in ROUTES}) == len({one.handler for one in ROUTES}) == len(ROUTES)
    )


def test_find_takes_the_id_from_the_path_and_leaves_the_query() -> None:
    found = find("GET", "/v1/containers/a%2Fb%C3%A4/logs?tail=3")
    assert (found.route.handler, found.ids, found.query) == ("read_logs", ("a/bä",), "tail=3")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "*",
        "/v1",
        "/v1/",
        "/v1/version/",
        "/v2/version",
        "/v1/containers/a/b/c",
        "http://x/v1/version",
    ],
)
def test_find_refuses_a_path_that_does_not_exist(path: str) -> None:
    with pytest.raises(ApiError) as caught:
        find("GET", path)
    assert caught.value.code == "unknown-path"


def test_find_names_the_methods_that_a_path_has() -> None:
    with pytest.raises(ApiError) as caught:
        find("PUT", "/v1/containers/a")
    assert caught.value.code == "unknown-method"
    assert caught.value.headers == (("Allow", "GET, DELETE"),)


@given(st.text(), st.text())
def test_find_answers_anything_with_a_route_or_a_problem(method: str, target: str) -> None:
    with pytest.raises(ApiError):
        find("X" + method, target)


# ── values ──


def test_query_without_parameters_has_the_defaults() -> None:
    assert read_query(WAIT, "") == {"condition": "stopped", "seconds": None}
    assert read_query(STATS, "") == {"container_ids": (), "interval_ms": 1000, "samples": 0}
    assert read_query(TAIL, "") == {"tail": 100}


def test_query_parameters_are_read_by_their_types() -> None:
    assert read_query(EVENTS, "id=a&id=b%20c&action=running") == {
        "container_ids": ("a", "b c"),
        "actions": ("running",),
    }
    assert read_query(STOP, "timeout=-1&force=true&signal=KILL") == {
        "timeout": -1,
        "force": True,
        "signal": "KILL",
    }
    assert read_query(WAIT, "for=running&within=0.25") == {"condition": "running", "seconds": 0.25}


BAD_QUERIES: list[tuple[Any, str, str]] = [
    (TAIL, "tail=", "tail: '' is not a whole number"),
    (TAIL, "tail=1.0", "tail: '1.0' is not a whole number"),
    (TAIL, "tail=" + "1" * 5000, "is not a whole number"),
    (TAIL, "tail=2147483648", "tail: 2147483648 is not between -2147483648 and 2147483647"),
    (TAIL, "tail=1&tail=2", "tail: '2' is a second value, only one is allowed"),
    (TAIL, "tails=1", "'tails' is not known here, only tail"),
    ((), "x=1", "'x' is not known here"),
    (STDIN, "stdin=yes", "stdin: 'yes' is not true or false"),
    (WAIT, "for=ever", "for: 'ever' is not one of stopped, next-exit, removed, running"),
    (WAIT, "within=0", "within: 0.0 is not above 0"),
    (WAIT, f"within={LONGEST_WAIT + 1}", "is not above 0 and up to"),
    (WAIT, "within=nan", "within: 'nan' is not a number of seconds"),
    (WAIT, "within=-1", "within: '-1' is not a number of seconds"),
    (STATS, "interval_ms=499", "interval_ms: 499 is not between 500 and 86400000"),
    (STATS, "interval_ms=86400001", "is not between 500 and 86400000"),
    (STATS, "samples=-1", "samples: -1 is not between 0"),
    (REFERENCE, "", "reference is missing"),
    (REFERENCE, "reference=", "reference: '' is too short"),
    (EVENTS, "&".join(["id=a"] * 2001), "the query has more than 2000 parameters"),
]


@pytest.mark.parametrize(("values", "query", "text"), BAD_QUERIES)
def test_query_that_cannot_be_read_names_parameter_value_and_reason(
    values: Any, query: str, text: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read_query(values, query)
    assert text in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("query", ["interval_ms=500", "interval_ms=86400000", "samples=0"])
def test_query_takes_both_ends_of_a_range(query: str) -> None:
    name, _, number = query.partition("=")
    assert read_query(STATS, query)[name] == int(number)


def test_body_members_are_read_by_their_types() -> None:
    found = read_body(EXEC, {"command": ["a", "b"], "tty": True, "columns": 65535, "user": None})
    assert found == {
        "args": ("a", "b"), "terminal": True, "stdin": False, "env": (), "user": "", "cwd": "", "width": 65535, "height": 0,
    }  # fmt: skip


BAD_BODIES: list[tuple[Any, Any, str]] = [
    (SIZE, [], "body: [] is not an object"),
    (SIZE, {"columns": 65536}, "columns: 65536 is not between 0 and 65535"),
    (SIZE, {"columns": True}, "columns: True is not a whole number"),
    (SIZE, {"rows": 1.5}, "rows: 1.5 is not a whole number"),
    (SIZE, {"height": 1}, "'height' is not known here, only columns, rows"),
    (STOP, {"force": 1}, "force: 1 is not true or false"),
    (STOP, {"signal": 9}, "signal: 9 is not a string"),
    (EXEC, {}, "command is missing"),
    (EXEC, {"command": "ls"}, "command: 'ls' is not a list of strings"),
    (EXEC, {"command": ["ls", 1]}, "is not a list of strings"),
    (EXEC, {"command": ["ls"], "env": ["SECRET=x", 1]}, "env: *** is not a list of strings"),
    (routes.UPDATE, {"resources": []}, "resources: [] is not an object"),
    (routes.SIGNAL, {"number": 0}, "number: 0 is not between 1 and 64"),
    (routes.SIGNAL, {"number": 65}, "number: 65 is not between 1 and 64"),
]


@pytest.mark.parametrize(("values", "body", "text"), BAD_BODIES)
def test_body_that_cannot_be_read_names_member_value_and_reason(values: Any, body: Any, text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        read_body(values, body)
    assert text in str(caught.value)


def test_problem_carries_the_parts_of_an_invalid_value() -> None:
    with pytest.raises(InvalidInputError) as caught:
        read_query(TAIL, "tail=x")
    problem = problem_of(caught.value)
    assert {name: problem[name] for name in ("field", "value", "reason")} == {
        "field": "tail",
        "value": "'x'",
        "reason": "is not a whole number",
    }


# ── problems ──


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidInputError("why"), 400, "invalid-input"),
        (NotFoundError("why"), 404, "not-found"),
        (ConflictError("why"), 409, "conflict"),
        (BusyError("why"), 429, "busy"),
        (OperationFailedError("why"), 500, "operation-failed"),
        (RefusedError("why", 1.0), 500, "operation-failed"),
        (UnavailableError("why"), 503, "unavailable"),
        (ConfigError("why"), 500, "operation-failed"),
    ],
)
def test_problem_has_status_and_code_by_the_class_of_the_error(
    error: PycmError, status: int, code: str
) -> None:
    assert problem_of(error) == {
        "type": f"urn:pycm:problem:{code}",
        "title": PROBLEMS[code][1],
        "status": status,
        "detail": "why",
        "code": code,
    }


def test_problem_carries_the_hint_and_further_members() -> None:
    problem = problem_of(ApiError("not-started", "why", hint="Do this.", more={"exit_code": 127}))
    assert (problem["hint"], problem["exit_code"], problem["status"]) == ("Do this.", 127, 422)


def test_every_code_has_a_status_of_an_error_and_a_title() -> None:
    assert {code for _, code in CODES} <= set(PROBLEMS)
    assert all(400 <= status < 600 and title for status, title in PROBLEMS.values())


def test_every_route_has_a_handler_that_takes_its_values() -> None:
    class Operations:
        def __init__(self, name: str = "") -> None:
            self.name = name

        def __getattr__(self, name: str) -> Any:
            return Operations(name)

        def __call__(self, *_: object) -> Any:
            return None

    handlers = Handlers(cast("Any", Operations()))
    for route in ROUTES:
        handler = getattr(handlers, route.handler)
        names = [value.argument or value.name for value in (*route.query, *(route.body or ()))]
        if route.body is None:
            names.append("body")
        if isinstance(handler, Operations):
            places = (operations.Operations, ports.Containers, ports.Sessions, ports.Images)
            resize = route.handler == "resize_container"
            place = ports.Sessions if resize else ports.Images if "image" in route.handler else None
            handler = getattr(
                place or next(one for one in places if hasattr(one, handler.name)), handler.name
            )
            handler = functools.partial(handler, None)
        ids = ["id"] * (route.path.count("{") + (route.answer == "frames"))
        inspect.signature(handler).bind(*ids, **dict.fromkeys(names))
