# SPDX-License-Identifier: Apache-2.0
"""The JSON API as tables, without I/O: paths, what they take, and problems. docs/api.yaml describes the same; a test
compares.

A problem is what RFC 9457 calls so: the body of every answer with a status from 400 on.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from pycm.errors import (
    BusyError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    OperationFailedError,
    PycmError,
    UnavailableError,
    shorten,
)
from pycm.model import gojson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Ids in one request, and parameters in one query.
MOST_IDS, MOST_PARAMETERS = 1000, 2000
#: Milliseconds between samples, and seconds that a client may wait.
INTERVALS = (500, 24 * 3600 * 1000)
LONGEST_WAIT = 10 * 365 * 24 * 3600
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_DECIMAL = re.compile(r"[0-9]{1,18}(\.[0-9]{1,9})?")
_INT32 = 2**31
_UINT16 = 2**16 - 1


# ── what a call takes ──


class Value(NamedTuple):
    """A parameter of a query or a member of a body.

    kind: "text" (of *low* characters or more), "texts" (list), "flag", "integer" (from low to high), "seconds" (a
    decimal number), "choice" (of *choices*), "object". default: REQUIRED if there must be one. argument: the name in
    the handler, if it is another.
    """

    name: str
    kind: str
    default: Any = None
    low: int = -_INT32
    high: int = _INT32 - 1
    choices: tuple[str, ...] = ()
    argument: str = ""


REQUIRED = object()

# fmt: off
SIZE = (
    Value("columns", "integer", 0, 0, _UINT16, argument="width"),
    Value("rows", "integer", 0, 0, _UINT16, argument="height"),
)
STOP = (
    Value("timeout", "integer", 0),
    Value("force", "flag", False),
    Value("signal", "text", ""),
)
UPDATE = (
    Value("restart_policy", "object"),
    Value("resources", "object"),
)
EXEC = (
    Value("command", "texts", REQUIRED, argument="args"),
    Value("tty", "flag", False, argument="terminal"),
    Value("stdin", "flag", False),
    Value("env", "texts", ()),
    Value("user", "text", ""),
    Value("working_dir", "text", "", argument="cwd"),
    *SIZE,
)
WAIT = (
    Value("for", "choice", "stopped", choices=("stopped", "next-exit", "removed", "running"), argument="condition"),
    Value("within", "seconds", argument="seconds"),
)
STATS = (
    Value("id", "texts", (), argument="container_ids"),
    Value("interval_ms", "integer", 1000, *INTERVALS),
    Value("samples", "integer", 0, 0),
)
EVENTS = (
    Value("id", "texts", (), argument="container_ids"),
    Value("action", "texts", (), argument="actions"),
)
STDIN = (Value("stdin", "flag", False),)
SIGNAL = (Value("number", "integer", REQUIRED, 1, 64),)
TAIL = (Value("tail", "integer", 100),)
NAME = (Value("name", "text", REQUIRED),)
REFERENCE = (Value("reference", "text", REQUIRED, low=1),)
# fmt: on


class Route(NamedTuple):
    """answer: "json" (one value, or none), "lines" (a feed), "frames" (an upgrade). body None: passed on unread."""

    method: str
    path: str
    handler: str
    answer: str = "json"
    query: tuple[Value, ...] = ()
    body: tuple[Value, ...] | None = ()
    status: int = 200


# fmt: off
ROUTES = (
    Route("GET",    "/v1/version",                 "get_version"),
    Route("GET",    "/v1/containers",              "list_containers"),
    Route("POST",   "/v1/containers",              "create_container", body=None, status=201),
    Route("GET",    "/v1/containers/{id}",         "get_container"),
    Route("DELETE", "/v1/containers/{id}",         "remove_container", query=STOP),
    Route("POST",   "/v1/containers/{id}/start",   "start_container"),
    Route("POST",   "/v1/containers/{id}/stop",    "stop_container", body=STOP),
    Route("POST",   "/v1/containers/{id}/restart", "restart_container"),
    Route("POST",   "/v1/containers/{id}/pause",   "pause_container"),
    Route("POST",   "/v1/containers/{id}/unpause", "unpause_container"),
    Route("POST",   "/v1/containers/{id}/rename",  "rename_container", body=NAME),
    Route("POST",   "/v1/containers/{id}/update",  "update_container", body=UPDATE),
    Route("POST",   "/v1/containers/{id}/resize",  "resize_container", body=SIZE),
    Route("GET",    "/v1/containers/{id}/wait",    "wait_for_container", query=WAIT),
    Route("GET",    "/v1/containers/{id}/logs",    "read_logs", "lines", query=TAIL),
    Route("POST",   "/v1/containers/{id}/attach",  "attach", "frames", query=STDIN),
    Route("POST",   "/v1/containers/{id}/exec",    "exec", "frames", body=EXEC),
    Route("GET",    "/v1/events",                  "watch_events", "lines", query=EVENTS),
    Route("GET",    "/v1/stats",                   "watch_stats", "lines", query=STATS),
    Route("GET",    "/v1/images",                  "list_images"),
    Route("DELETE", "/v1/images",                  "remove_image", query=REFERENCE),
    Route("POST",   "/v1/images/pull",             "pull_image", "lines", body=REFERENCE),
    Route("POST",   "/v1/images/prune",            "prune_images"),
)
# fmt: on


class Target(NamedTuple):
    """A request's route and what its target says: ids of the path, parameters of the query."""

    route: Route
    ids: tuple[str, ...]
    query: str


def find(method: str, target: str) -> Target:
    """Return the route of a request. ApiError: unknown-path, unknown-method."""
    path, _, query = target.partition("?")
    allowed = []
    for route in ROUTES:
        ids = _ids(route.path, path)
        if ids is not None and route.method == method:
            return Target(route, ids, query)
        if ids is not None:
            allowed.append(route.method)
    if not allowed:
        raise ApiError("unknown-path", f"the path {shorten(path)} does not exist")
    names = ", ".join(allowed)
    text = f"{method} is not possible with {shorten(path)}, only {names}"
    raise ApiError("unknown-method", text, headers=(("Allow", names),))


def _ids(pattern: str, path: str) -> tuple[str, ...] | None:
    """Return the segments in the places of {id} if *path* fits."""
    wanted, found = pattern.split("/"), path.split("/")
    if len(wanted) != len(found):
        return None
    ids = []
    for want, segment in zip(wanted, found, strict=True):
        if want.startswith("{"):
            ids.append(unquote(segment))
        elif want != segment:
            return None
    return tuple(ids)


def read_query(values: tuple[Value, ...], query: str) -> dict[str, Any]:
    """Return the parameters as arguments of the handler. InvalidInputError."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MOST_PARAMETERS)
    except ValueError:
        text = f"the query has more than {MOST_PARAMETERS} parameters"
        raise InvalidInputError(text) from None
    found: dict[str, list[str]] = {}
    for name, text in pairs:
        found.setdefault(name, []).append(text)
    _check_names(values, found)
    return {
        value.argument or value.name: _from_texts(value, found[value.name])
        if value.name in found
        else _default(value)
        for value in values
    }


def read_body(values: tuple[Value, ...], body: Any) -> dict[str, Any]:
    """Return the members of a parsed *body* as arguments of the handler. InvalidInputError."""
    if not isinstance(body, dict):
        raise InvalidInputError.of("body", shorten(body), "is not an object")
    _check_names(values, body)
    return {
        value.argument or value.name: _default(value)
        if body.get(value.name) is None
        else _checked(value, body[value.name])
        for value in values
    }


def _check_names(values: Iterable[Value], found: Iterable[str]) -> None:
    known = [value.name for value in values]
    for name in found:
        if name not in known:
            text = f"{shorten(name)} is not known here" + (f", only {', '.join(known)}" if known else "")
            raise InvalidInputError(text, field=shorten(name).strip("'"), reason="is not known here")


def _default(value: Value) -> Any:
    if value.default is REQUIRED:
        raise InvalidInputError(f"{value.name} is missing", field=value.name, reason="is missing")
    return value.default


def _from_texts(value: Value, texts: list[str]) -> Any:
    if value.kind == "texts":
        return tuple(texts)
    if len(texts) > 1:
        raise _wrong(value, texts[1], "is a second value, only one is allowed")
    text = texts[0]
    if value.kind == "flag":
        if text not in ("true", "false"):
            raise _wrong(value, text, "is not true or false")
        return text == "true"
    if value.kind == "integer":
        return _checked(value, int(text) if _INTEGER.fullmatch(text) else text)
    if value.kind == "seconds":
        return _checked(value, float(text) if _DECIMAL.fullmatch(text) else text)
    return _checked(value, text)


_KINDS: dict[str, tuple[Any, str]] = {
    "text": (str, "is not a string"),
    "choice": (str, "is not a string"),
    "flag": (bool, "is not true or false"),
    "integer": (int, "is not a whole number"),
    "seconds": ((int, float), "is not a number of seconds"),
    "object": (dict, "is not an object"),
    "texts": (list, "is not a list of strings"),
}


def _checked(value: Value, found: Any) -> Any:
    kind, reason = _KINDS[value.kind]
    if not isinstance(found, kind) or (isinstance(found, bool) and value.kind != "flag"):
        raise _wrong(value, found, reason)
    if value.kind == "texts":
        if not all(isinstance(item, str) for item in found):
            raise _wrong(value, found, reason)
        return tuple(found)
    if value.kind == "text" and len(found) < value.low:
        raise _wrong(value, found, "is too short")
    if value.kind == "integer" and not value.low <= found <= value.high:
        raise _wrong(value, found, f"is not between {value.low} and {value.high}")
    if value.kind == "seconds" and not 0 < found <= LONGEST_WAIT:
        raise _wrong(value, found, f"is not above 0 and up to {LONGEST_WAIT}")
    if value.kind == "choice" and found not in value.choices:
        raise _wrong(value, found, f"is not one of {', '.join(value.choices)}")
    return found


def _wrong(value: Value, found: Any, reason: str) -> InvalidInputError:
    """The environment of a command may hold secrets, so its value is not repeated."""
    shown = "***" if value.name == "env" else shorten(found)
    return InvalidInputError.of(value.name, shown, reason)


# ── problems ──

# fmt: off
#: Status and title by code.
PROBLEMS = {
    "invalid-input":    (400, "Invalid input"),
    "malformed":        (400, "Malformed request"),
    "unix-socket-only": (403, "Only on the unix socket"),
    "not-found":        (404, "Not found"),
    "unknown-path":     (404, "Unknown path"),
    "unknown-method":   (405, "Unknown method"),
    "late-request":     (408, "Late request"),
    "conflict":         (409, "Conflict"),
    "body-too-large":   (413, "Body too large"),
    "not-started":      (422, "Command not started"),
    "upgrade-required": (426, "Upgrade required"),
    "busy":             (429, "Busy"),
    "too-slow":         (429, "Client too slow"),
    "head-too-large":   (431, "Head too large"),
    "operation-failed": (500, "Operation failed"),
    "internal":         (500, "Internal error"),
    "unavailable":      (503, "Unavailable"),
    "timeout":          (504, "Time is up"),
}
#: The first class that fits an error names its code.
CODES: tuple[tuple[type[PycmError], str], ...] = (
    (InvalidInputError,    "invalid-input"),
    (NotFoundError,        "not-found"),
    (BusyError,            "busy"),
    (ConflictError,        "conflict"),
    (OperationFailedError, "operation-failed"),
    (UnavailableError,     "unavailable"),
    (PycmError,            "operation-failed"),
)
# fmt: on


class ApiError(PycmError):
    """A problem of the API itself. `code`: a key of PROBLEMS. `more`: further members. `headers`: of the answer."""

    def __init__(
        self,
        code: str,
        text: str,
        *,
        hint: str = "",
        more: Mapping[str, Any] | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(text, hint=hint)
        self.code = code
        self.more = more or {}
        self.headers = headers


def problem_of(error: PycmError) -> dict[str, Any]:
    """Return the body that describes *error*."""
    more: Mapping[str, Any] = {}
    if isinstance(error, ApiError):
        code, more = error.code, error.more
    else:
        code = next(code for kind, code in CODES if isinstance(error, kind))
    status, title = PROBLEMS[code]
    parts = {name: getattr(error, name, "") for name in ("field", "value", "reason", "hint")}
    return {
        "type": f"urn:pycm:problem:{code}",
        "title": title,
        "status": status,
        "detail": str(error),
        "code": code,
        **{name: text for name, text in parts.items() if text},
        **more,
    }


def json_bytes(value: Any) -> bytes:
    return gojson.dumps(value).encode()
