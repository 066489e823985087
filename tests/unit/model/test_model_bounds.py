# SPDX-License-Identifier: Apache-2.0
"""What a description may hold at most: every list, text and number has a bound, which docs/containers.md names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pycm.errors import InvalidInputError
from pycm.model.container import (
    LARGEST,
    MOST_UNKNOWN,
    Container,
    ContainerConfiguration,
    DecryptConfig,
    HostConfig,
    Image,
    Resources,
    RestartPolicy,
)
from pycm.model.defaults import fill_defaults
from pycm.model.durations import parse_duration
from pycm.model.frozen import replace
from pycm.model.records import Form, Record, decode, excess, stored
from pycm.model.units import cpus_of, size_to_bytes
from pycm.model.validation import (
    check_bounds,
    check_name,
    check_resources,
    check_restart_policy,
    validate,
)

PAGE = (Path(__file__).parents[3] / "docs" / "containers.md").read_text()
#: Filled by the agent, whatever a description says.
FOUND_OUT = {"state", "network_settings", "resolv_conf_path", "hosts_path", "hostname_path", "created"}
#: Numbers with rules of their own in model.validation, or none that could do harm.
RULED = {
    "host_port", "container_port", "host_port_end", "tcp", "retries", "max_files", "cpu_shares", "pids_limit", "soft", "hard",
    "restart_count",
}  # fmt: skip


def fields(record: type[Record], path: str = "") -> Iterator[tuple[str, Form]]:
    for _, form in record.FORMS:
        if not path and form.json in FOUND_OUT:
            continue
        where = f"{path}.{form.json}" if path else form.json
        yield where, form
        if form.record is not None:
            yield from fields(form.record, where)


BOUNDED = [(path, form) for path, form in fields(Container) if form.most or form.longest]


def holding(path: str, value: Any) -> Container:
    """A container with *value* at *path*, and in lists above it an entry before."""
    record: Any = Container
    chain: list[Form] = []
    for name in path.split("."):
        form = next(form for _, form in record.FORMS if form.json == name)
        chain.append(form)
        record = form.record
    for form, outer in zip(reversed(chain), [*reversed(chain[:-1]), None], strict=True):
        value = {form.json: value}
        if outer is not None and outer.kind == "many":
            value = [{}, value]
    return decode(Container, value)


def values(form: Form, beyond: int) -> Iterator[tuple[Any, str]]:
    if form.kind == "int":
        yield form.most + beyond, f"is {form.most + 1}; at most {form.most} is allowed"
    if form.kind in ("texts", "many"):
        entry: Any = "" if form.kind == "texts" else {}
        more = f"has {form.most + 1} entries; at most {form.most} are allowed"
        yield [entry] * (form.most + beyond), more
    if form.longest:
        longer = f"has {form.longest + 1} bytes; at most {form.longest} are allowed"
        for letter in ("x", "ü"):
            text = letter * ((form.longest + beyond) // len(letter.encode()))
            text += "x" * (form.longest + beyond - len(text.encode()))
            yield (["", text] if form.kind == "texts" else text), longer


@pytest.mark.parametrize(("path", "form"), BOUNDED, ids=[path for path, _ in BOUNDED])
def test_check_bounds_takes_a_field_at_its_bound_and_names_it_beyond(path: str, form: Form) -> None:
    for value, _ in values(form, 0):
        check_bounds(holding(path, value))
    for value, text in values(form, 1):
        with pytest.raises(InvalidInputError) as caught:
            check_bounds(holding(path, value))
        assert text in str(caught.value)
        assert caught.value.args[0].replace("[1]", "").startswith(path)
        assert len(str(caught.value)) < 300


def test_every_text_list_and_number_of_a_description_has_a_bound() -> None:
    for path, form in fields(Container):
        if form.kind in ("text", "texts"):
            assert form.longest, path
        if form.kind in ("texts", "many"):
            assert form.most, path
        if form.kind == "int" and path.rpartition(".")[2] not in {*RULED, "type"}:
            assert form.most, path


def test_every_bound_is_on_the_page() -> None:
    for path, form in BOUNDED:
        most, longest = form.most or "", form.longest or ""
        assert f"| `{path}` | {most} | {longest} |".replace("  ", " ") in PAGE
    assert f"{LARGEST} bytes" in PAGE


def test_a_secret_text_beyond_its_bound_is_not_shown() -> None:
    secret = "TOKEN=" + "s3cret" * 30_000
    for container in (
        Container(config=ContainerConfiguration(env=(secret,))),
        Container(image=Image(name="i", decrypt_config=DecryptConfig(keys=(secret,)))),
    ):
        (text,) = excess(container)
        assert "s3cret" not in text


def test_a_description_of_the_largest_size_is_taken_and_not_a_byte_more() -> None:
    empty = fill_defaults(Container(image=Image(name="i"), config=ContainerConfiguration(env=("A=",) * 16)))
    room = LARGEST - len(stored(empty))
    env = tuple(f"A={'x' * (room // 16 + (room % 16 if number == 0 else 0))}" for number in range(16))
    full = replace(empty, config=ContainerConfiguration(env=env))
    validate(full)
    more = replace(full, config=ContainerConfiguration(env=(env[0] + "x", *env[1:])))
    with pytest.raises(
        InvalidInputError, match=f"the description has {LARGEST + 1} bytes; at most {LARGEST}"
    ):
        validate(more)


def test_unknown_keys_of_a_description_have_one_bound_together() -> None:
    data = {"image": {"name": "i"}, "host_config": {"future": {"a": 1}}, "mount_points": [{"x": [[], []]}]}
    known = sum(len(part) for part in ('{"future":{"a":1}}', '{"x":[[],[]]}', '{"y":""}'))
    for more in (0, 1):
        full = decode(Container, {**data, "y": "y" * (MOST_UNKNOWN - known + more)})
        if more:
            with pytest.raises(
                InvalidInputError, match=f"unknown keys have {MOST_UNKNOWN + 1} bytes; at most {MOST_UNKNOWN}"
            ):
                check_bounds(full)
        else:
            check_bounds(full)


def test_a_rich_description_of_a_real_application_is_taken() -> None:
    host = {
        "port_mappings": [
            {"host_port": 10_000 + n, "container_port": 10_000 + n, "proto": "udp"} for n in range(201)
        ],
        "devices": [{"path_on_host": f"/dev/video{n}"} for n in range(64)],
        "extra_hosts": [f"service-{n}.vehicle.internal:container_service-{n}-host" for n in range(200)],
        "extra_capabilities": ["CAP_NET_ADMIN", "CAP_SYS_TIME"],
    }
    certificate = "-----BEGIN CERTIFICATE-----" + "M" * 60_000
    config = {
        "env": [f"SERVICE_{n}_ADDRESS=tcp://10.0.0.{n % 250}:{n}" for n in range(1500)]
        + [f"CA={certificate}"],
        "cmd": ["/bin/sh", "-c", "set -e\n" + "echo step\n" * 5000],
    }
    mounts = [{"source": f"/data/{n}" + "/deep" * 100, "destination": f"/data/{n}"} for n in range(100)]
    text = {
        "image": {"name": "r.test/" + "team/" * 40 + "app@sha256:" + "0" * 64},
        "container_name": "app-" * 12 + "x",
    }
    validate(
        fill_defaults(
            decode(Container, {**text, "host_config": host, "config": config, "mount_points": mounts})
        )
    )


def test_an_update_has_the_same_bounds() -> None:
    check_resources(Resources(cpuset_cpus="0," * 511 + "10"))
    with pytest.raises(InvalidInputError, match=r"^cpuset_cpus '0,0.* has 1025 bytes"):
        check_resources(Resources(cpuset_cpus="0," * 512 + "1"))
    check_restart_policy(RestartPolicy(type="on-failure", maximum_retry_count=2**31 - 1))
    with pytest.raises(InvalidInputError, match=r"^maximum_retry_count is 2147483648; at most"):
        check_restart_policy(RestartPolicy(type="on-failure", maximum_retry_count=2**31))


def test_a_new_name_has_the_same_bound() -> None:
    check_name("n" * 256)
    with pytest.raises(InvalidInputError, match=r"^container_name .* has 257 bytes; at most 256"):
        check_name("n" * 257)


def test_a_duration_or_size_beyond_its_length_is_invalid() -> None:
    assert parse_duration("0s" * 511 + "1s") == 1_000_000_000
    with pytest.raises(InvalidInputError, match="invalid duration"):
        parse_duration("0s" * 512 + "1s")
    assert size_to_bytes("0" * 62 + "1k") == 1024
    with pytest.raises(InvalidInputError, match="invalid size"):
        size_to_bytes("0" * 63 + "1k")


def test_a_list_of_wide_ranges_of_cpus_is_read_as_one() -> None:
    assert cpus_of(",".join(["0-9999"] * 200)) == frozenset(range(10_000))
    assert cpus_of("5,0-2,1-3,9999") == {0, 1, 2, 3, 5, 9999}


def test_a_host_name_keeps_its_bound() -> None:
    host = HostConfig()
    named = fill_defaults(Container(image=Image(name="i"), host_name="h" * 64, host_config=host))
    validate(named)
    with pytest.raises(InvalidInputError, match=r"^host_name 'h+' has 65 bytes; at most 64 are allowed"):
        validate(replace(named, host_name="h" * 65))


def test_rows_of_the_page_are_bounds_of_the_model() -> None:
    paths = {path for path, _ in BOUNDED}
    section = PAGE.partition("## Bounds")[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip(" `") for line in section.splitlines() if line.startswith("| `")]
    assert set(rows) == paths
