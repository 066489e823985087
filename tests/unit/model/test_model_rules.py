# SPDX-License-Identifier: Apache-2.0
"""The pure conformance cases of the areas defaults, size, validation and parse, as tables, and the rules beside them."""

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pycm.errors import ConflictError, InvalidInputError
from pycm.model import restart, states, units
from pycm.model.container import (
    Container,
    Hook,
    HostConfig,
    Image,
    Resources,
    RestartPolicy,
    State,
    descriptor_policy,
)
from pycm.model.defaults import fill_defaults, fill_swap, follow_memory, swap_of
from pycm.model.frozen import replace
from pycm.model.parse import parse_device, parse_mount, parse_port
from pycm.model.records import decode, encode
from pycm.model.states import FLAGS, Operation, Status, check_allowed
from pycm.model.units import parse_signal, size_to_bytes
from pycm.model.validation import check_id, check_name, validate

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "runtime.json").read_text())
#: Keys that the cases write at the top and that belong deeper.
HOST_KEYS = {
    "port_mappings",
    "devices",
    "restart_policy",
    "resources",
    "log_config",
    "network_mode",
    "extra_hosts",
}


def cases(area: str, action: str) -> list[Any]:
    return [
        pytest.param(v, id=v["name"]) for v in VECTORS if v["area"] == area and v["action"].startswith(action)
    ]


def container_of(given: dict[str, Any]) -> Container:
    data = dict(given.get("container", given.get("stored", given)))
    host = {key: data.pop(key) for key in list(data) if key in HOST_KEYS or key == "privileged"}
    config = {key: data.pop(key) for key in list(data) if key in ("env", "cmd")}
    data.setdefault("image", {"name": "registry.test/demo/app:1.0"})
    if host:
        data["host_config"] = host
    if config:
        data["config"] = config
    return decode(Container, data)


def found(tree: dict[str, Any], path: str) -> Any:
    """A dotted path from the top or from where the cases leave it out."""
    for start in (tree, tree["host_config"], tree["host_config"]["log_config"]):
        node: Any = start
        for part in path.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if node is not None:
            return node
    return None


def agrees(actual: Any, expected: Any) -> bool:
    if expected == "<uuid4>":
        return uuid.UUID(actual).version == 4
    if isinstance(expected, dict):
        return all(agrees((actual or {}).get(k), v) for k, v in expected.items())
    if isinstance(expected, list):
        return len(actual) == len(expected) and all(map(agrees, actual, expected))
    return actual == expected or (not actual and not expected)


@pytest.mark.parametrize("vector", cases("defaults", "fill_defaults"))
def test_defaults_are_filled_as_the_original_fills_them(vector: dict[str, Any]) -> None:
    before = container_of(vector["given"])
    after = fill_defaults(before)
    for path, expected in vector["expect"].items():
        if path == "changed":
            assert (after is not before) == expected
        else:
            assert agrees(found(encode(after), path), expected), path


@pytest.mark.parametrize("vector", [*cases("defaults", "create"), *cases("defaults", "load")])
def test_swap_is_filled_at_creation_only(vector: dict[str, Any]) -> None:
    container = fill_defaults(container_of(vector["given"]))
    if vector["action"] == "create":
        container = fill_swap(container)
    for path, expected in vector["expect"].items():
        assert agrees(found(encode(container), path), expected)


@pytest.mark.parametrize(
    ("memory", "swap"), [("200M", "400M"), ("1.5g", "3g"), ("0.33333k", "0.6667k"), ("7 M", "14M")]
)
def test_swap_is_twice_the_memory_in_the_same_unit(memory: str, swap: str) -> None:
    container = Container(host_config=HostConfig(resources=Resources(memory=memory)))
    filled = fill_swap(container)
    assert filled.host_config is not None
    assert filled.host_config.resources == Resources(memory=memory, memory_swap=swap)


FILLED = Resources(memory="200M", memory_swap="400M", swap_filled=True)
OLDER = Resources(memory="200M", memory_swap="400M")
ASKED = Resources(memory="200M", memory_swap="300M")
UNLIMITED = Resources(memory="200M")


@pytest.mark.parametrize(
    ("stored", "wanted", "swap", "filled"),
    [
        (FILLED, Resources(memory_swap="400M"), "", False),
        (OLDER, Resources(memory_swap="400M"), "", False),
        (FILLED, Resources(memory_swap="400M", memory_reservation="100M"), "", False),
        (FILLED, Resources(memory="0M", memory_swap="400M"), "", False),
        (FILLED, Resources(memory="100M", memory_swap="400M"), "400M", True),
        (FILLED, Resources(memory="400M", memory_swap="400M"), "400M", True),
        (FILLED, Resources(memory="401M", memory_swap="400M"), "802M", True),
        (OLDER, Resources(memory="0.5G", memory_swap="400M"), "1G", True),
        (FILLED, Resources(memory="200M", memory_swap="250M"), "250M", False),
        (FILLED, Resources(memory="200M"), "", False),
        (FILLED, Resources(memory="200M", memory_swap="-1"), "-1", False),
        (FILLED, Resources(), "", False),
        (FILLED, Resources(memory="junk", memory_swap="400M"), "400M", False),
        (ASKED, Resources(memory_swap="300M"), "300M", False),
        (ASKED, Resources(memory="301M", memory_swap="300M"), "300M", False),
        (UNLIMITED, Resources(memory="300M"), "", False),
        (UNLIMITED, Resources(memory_swap="400M"), "400M", False),
        (None, Resources(memory="64M"), "", False),
        (None, Resources(memory_swap="64M"), "64M", False),
        (Resources(memory="junk", memory_swap="400M"), Resources(memory_swap="400M"), "400M", False),
    ],
)
def test_swap_limit_that_was_filled_in_follows_the_memory_limit(
    stored: Resources | None, wanted: Resources, swap: str, *, filled: bool
) -> None:
    found = follow_memory(stored, wanted)
    assert found is not None
    assert found == replace(wanted, memory_swap=swap)
    assert found.swap_filled is filled


def test_filled_swap_is_still_known_after_updates_that_kept_it() -> None:
    once = follow_memory(FILLED, Resources(memory="300M", memory_swap="400M"))
    assert once is not None
    assert (once.memory_swap, once.swap_filled) == ("400M", True)
    assert follow_memory(once, Resources(memory_swap="400M")) == Resources()
    assert follow_memory(once, None) is None


def test_filling_of_swap_is_stored_but_no_part_of_the_description() -> None:
    filled = swap_of(Resources(memory="64M"))
    assert encode(filled) == {"memory": "64M", "memory_swap": "128M", "memory_swap_filled": True}
    assert decode(Resources, encode(filled)).swap_filled
    assert filled == Resources(memory="64M", memory_swap="128M")
    lying = Resources(memory="64M", memory_swap="100M", swap_filled=True)
    assert not swap_of(lying).swap_filled, "a descriptor has no say in it"


@pytest.mark.parametrize("vector", cases("size", "size_to_bytes"))
def test_sizes(vector: dict[str, Any]) -> None:
    text, expect = vector["given"]["text"], vector["expect"]
    if expect.get("error"):
        with pytest.raises(InvalidInputError):
            size_to_bytes(text)
    else:
        assert size_to_bytes(text) == expect["bytes"]


@pytest.mark.parametrize("vector", cases("validation", "validate"))
def test_validation(vector: dict[str, Any]) -> None:
    container = fill_defaults(container_of(vector["given"]))
    if vector["expect"]["ok"]:
        validate(container)
    else:
        with pytest.raises(InvalidInputError):
            validate(container)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("NET_ADMIN", "unknown capability NET_ADMIN, use CAP_NET_ADMIN"),
        ("cap_net_admin", "unknown capability cap_net_admin, use CAP_NET_ADMIN"),
        ("CAP_FLY", "unknown capability CAP_FLY"),
        ("", "unknown capability "),
    ],
)
def test_a_capability_that_the_runtime_would_leave_out_is_refused(name: str, text: str) -> None:
    host = HostConfig(extra_capabilities=("CAP_SYS_TIME", name))
    with pytest.raises(InvalidInputError) as caught:
        validate(fill_defaults(Container(image=Image(name="registry.test/demo/app:1.0"), host_config=host)))
    assert str(caught.value) == text


PARSERS: dict[str, Callable[[str], Any]] = {
    "parse_port": parse_port,
    "parse_device": parse_device,
    "parse_mount": parse_mount,
}


@pytest.mark.parametrize("vector", cases("parse", "parse_"))
def test_one_line_forms(vector: dict[str, Any]) -> None:
    parse, text, expect = PARSERS[vector["action"]], vector["given"]["text"], vector["expect"]
    if expect.get("error"):
        with pytest.raises(InvalidInputError):
            parse(text)
    else:
        found = parse(text)
        assert {key: getattr(found, key) for key in expect} == expect


def test_every_vector_of_the_pure_areas_is_played() -> None:
    actions = {
        "defaults": ("fill_defaults", "create", "load"),
        "size": ("size_to_bytes",),
        "validation": ("validate",),
        "parse": ("parse_",),
    }
    played = [case for area, starts in actions.items() for start in starts for case in cases(area, start)]
    assert len(played) == sum(v["area"] in actions for v in VECTORS)


@pytest.mark.parametrize("bad", ["", "../../x", "a/b", "-a", "a..b", "a_", "x" * 77, "a\n", "a\0b", "é"])
def test_an_id_that_could_leave_a_directory_is_refused(bad: str) -> None:
    with pytest.raises(InvalidInputError, match="invalid container id format : "):
        check_id(bad)


def test_ids_that_containerd_takes_are_taken() -> None:
    for good in ("databroker", "a.b_c-d", str(uuid.uuid4()), "x" * 76):
        check_id(good)


@pytest.mark.parametrize("bad", ["my svc", "-bad", ".a", "a/b", "a\n"])
def test_a_bad_name_is_refused(bad: str) -> None:
    with pytest.raises(InvalidInputError, match="invalid container name format : "):
        check_name(bad)


def test_a_nul_in_a_command_is_refused() -> None:
    container = fill_defaults(decode(Container, {"image": {"name": "i"}, "config": {"cmd": ["a\0b"]}}))
    with pytest.raises(InvalidInputError, match="NUL"):
        validate(container)


def test_a_descriptor_counts_a_small_retry_timeout_in_seconds() -> None:
    def with_timeout(value: int) -> int:
        policy = RestartPolicy(type="on-failure", retry_timeout=value)
        host = descriptor_policy(Container(host_config=HostConfig(restart_policy=policy))).host_config
        assert host is not None
        assert host.restart_policy is not None
        return host.restart_policy.retry_timeout

    assert with_timeout(30) == 30 * 10**9
    assert with_timeout(30 * 10**9) == 30 * 10**9


@pytest.mark.parametrize(
    ("text", "number"), [("", 15), ("SIGTERM", 15), ("9", 9), ("255", 255), ("SIGUSR1", 10)]
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("bad", ["TERM", "0", "256", "-1", "sigterm", "SIGRTMIN", "SIG", "١"])
def test_a_signal_of_another_form_is_invalid(bad: str) -> None:
    with pytest.raises(InvalidInputError, match=f"invalid signal = {bad}"):
        parse_signal(bad)


def in_status(status: Status) -> Container:
    return Container(id="c", image=Image(name="i"), state=states.enter(State(pid=7), status))


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("operation", Operation)
def test_the_table_of_operations_decides_and_a_refusal_names_the_container(
    operation: Operation, status: Status
) -> None:
    container = in_status(status)
    if status in states.ALLOWED[operation]:
        check_allowed(operation, container)
    else:
        with pytest.raises(ConflictError, match="c"):
            check_allowed(operation, container)


@pytest.mark.parametrize("status", Status)
def test_each_status_sets_exactly_its_flags(status: Status) -> None:
    state = in_status(status).state
    flags = FLAGS[status]
    assert (state.running, state.paused, state.exited, state.dead) == (
        flags.running,
        flags.paused,
        flags.exited,
        flags.dead,
    )
    assert state.pid == (7 if flags.keeps_pid else -1)


def test_an_oom_exit_carries_flag_and_text() -> None:
    state = states.exited(State(), exit_code=137, finished_at="t", oom=True)
    assert (state.oom_killed, state.error) == (True, "OOM Killed")
    again = states.running(state, pid=3, started_at="u")
    assert (again.oom_killed, again.error, again.exit_code, again.finished_at) == (False, "", 0, "t")


NO_RESTART = [
    ("no", 1, False, 0),
    ("unless-stopped", 1, True, 0),
    ("on-failure", 0, False, 0),
    ("on-failure", 143, True, 0),
    ("on-failure", 1, False, 3),
]
RESTART = [("always", 0, True, 9), ("unless-stopped", 0, False, 9), ("on-failure", 1, False, 2)]


@pytest.mark.parametrize(("policy", "code", "manual", "count"), NO_RESTART)
def test_no_restart(policy: str, code: int, manual: bool, count: int) -> None:
    limit = 3 if policy == "on-failure" else 0
    wanted = RestartPolicy(type=policy, maximum_retry_count=limit)
    assert not restart.wants_restart(wanted, restart.Ended(code, manual, count))


@pytest.mark.parametrize(("policy", "code", "manual", "count"), RESTART)
def test_restart(policy: str, code: int, manual: bool, count: int) -> None:
    limit = 3 if policy == "on-failure" else 0
    wanted = RestartPolicy(type=policy, maximum_retry_count=limit)
    assert restart.wants_restart(wanted, restart.Ended(code, manual, count))


def test_the_delay_doubles_to_its_cap_and_starts_over_after_a_long_run() -> None:
    policy = RestartPolicy(type="always")
    delays = [0.0]
    for _ in range(12):
        delays.append(restart.next_delay(policy, delays[-1], ran_for=1))
    assert delays[1:4] == [0.1, 0.2, 0.4]
    assert delays[-1] == 60
    assert restart.next_delay(policy, 60, ran_for=10) == 0.1
    assert restart.next_delay(replace(policy, retry_timeout=10**9), 60, ran_for=1) == 1
    assert restart.next_delay(replace(policy, retry_timeout=-1), 60, ran_for=1) == 60  # of an old record


@pytest.mark.parametrize("policy", ["no", "always", "unless-stopped", "on-failure"])
def test_a_negative_cap_of_the_back_off_is_refused_whatever_the_policy(policy: str) -> None:
    with pytest.raises(InvalidInputError, match="retry timeout cannot be negative"):
        validate(fill_defaults(container_of({"restart_policy": {"type": policy, "retry_timeout": -1}})))


@pytest.mark.parametrize("name", ["../../x", "/bin/sh", "x", "io.containerd.runc.v2\n", "a/b.v1", "runc v1"])
def test_a_runtime_that_is_no_name_is_refused(name: str) -> None:
    """containerd runs what a path names."""
    with pytest.raises(InvalidInputError, match=r"runtime .* is not the name of a runtime of containerd"):
        validate(fill_defaults(_with_host(runtime=name)))


@pytest.mark.parametrize("name", ["io.containerd.runsc.v1", "io.containerd.kata.v2", "io.containerd.own.v1"])
def test_other_runtimes_are_left_to_containerd(name: str) -> None:
    validate(fill_defaults(_with_host(runtime=name)))


def _with_host(**host: Any) -> Container:
    return Container(id="c1", image=Image(name="registry.test/a:1"), host_config=HostConfig(**host))


def test_a_negative_time_of_a_hook_is_refused() -> None:
    container = fill_defaults(replace(_with_host(), hooks=(Hook(path="/bin/x", timeout=-5),)))
    with pytest.raises(InvalidInputError, match="timeout -5 is negative"):
        validate(container)


def test_times_are_written_without_trailing_zeros_and_sort_by_time() -> None:
    assert units.format_ns(1_700_000_000_120_000_000) == "2023-11-14T22:13:20.12Z"
    assert units.format_ns(1_700_000_000_000_000_000) == "2023-11-14T22:13:20Z"
    assert units.sort_key("2023-11-14T22:13:20.1Z") < units.sort_key("2023-11-14T22:13:20.12Z")
