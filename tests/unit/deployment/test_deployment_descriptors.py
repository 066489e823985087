# SPDX-License-Identifier: Apache-2.0
"""Reading a directory of descriptors, whatever lies in it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from pycm.deployment import service
from pycm.deployment.service import Found, read_directory
from pycm.model.container import LARGEST

if TYPE_CHECKING:
    from pathlib import Path

IMAGE = "registry.test/demo/app:1.0"
#: With the traits of Leda's manifests: names of the gRPC API, a status as text, an empty list of devices, `localhost`.
LEDA = {
    "id": "databroker",
    "name": "databroker",
    "image": {"name": IMAGE},
    "mounts": [{"source": "/data", "destination": "/data"}],
    "hooks": [],
    "host_config": {
        "devices": [],
        "network_mode": "bridge",
        "privileged": False,
        "restart_policy": {"maximum_retry_count": 0, "retry_timeout": 5, "type": "unless-stopped"},
        "runtime": "io.containerd.runc.v2",
        "extra_hosts": ["mosquitto:host_ip", "databroker:container_databroker-host"],
        "port_mappings": [
            {"protocol": "udp", "container_port": 55555, "host_ip": "localhost", "host_port": 30555}
        ],
        "log_config": {
            "driver_config": {"type": "json-file", "max_files": 2, "max_size": "1M", "root_dir": ""}
        },
        "resources": None,
    },
    "config": {"env": ["log_level=info"], "cmd": []},
    "network_settings": None,
    "state": {"pid": -1, "status": "Stopped", "running": False},
}


def write(path: Path, **keys: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"image": {"name": IMAGE}, **keys}))
    return path


def names(found: Found) -> list[str]:
    return [descriptor.container.name for descriptor in found.descriptors]


def test_descriptors_are_read_below_the_directory_in_lexical_order(tmp_path: Path) -> None:
    for name in ("b/x.json", "a.json", "b.json", "b/a/z.json", "c.json.disabled", "readme.txt"):
        write(tmp_path / name)
    found = read_directory(str(tmp_path))
    paths = [os.path.relpath(descriptor.path, tmp_path) for descriptor in found.descriptors]
    assert paths == ["a.json", "b/a/z.json", "b/x.json", "b.json"]
    assert found.problems == []


def test_descriptors_of_a_missing_directory_are_none_and_no_problem(tmp_path: Path) -> None:
    found = read_directory(str(tmp_path / "none"))
    assert found.descriptors == found.problems == []


def test_descriptors_may_use_both_spellings_of_keys(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(LEDA))
    kanto = {**LEDA, "container_id": "b", "container_name": "b", "mount_points": LEDA["mounts"]}
    for key in ("id", "name", "mounts"):
        del kanto[key]
    text = json.dumps(kanto).replace('"protocol"', '"proto"')
    (tmp_path / "y.json").write_text(text)
    found = read_directory(str(tmp_path))
    assert found.problems == []
    first, second = (descriptor.container for descriptor in found.descriptors)
    assert (first.id, first.name, second.id, second.name) == ("databroker", "databroker", "b", "b")
    for container in (first, second):
        assert container.mount_points[0].source == "/data"
        assert container.host_config is not None
        assert container.host_config.restart_policy is not None
        assert container.host_config.restart_policy.retry_timeout == 5_000_000_000
        (port,) = container.host_config.port_mappings
        assert (port.proto, port.host_ip, port.host_port_end) == ("udp", "localhost", 30555)


@pytest.mark.parametrize(
    ("keys", "name", "container_id"),
    [
        ({}, "seat", ""),
        ({"container_id": "fixed"}, "fixed", "fixed"),
        ({"container_name": "named"}, "named", ""),
        ({"container_id": "fixed", "container_name": "named"}, "named", "fixed"),
    ],
)
def test_descriptor_has_a_name_that_lasts(
    tmp_path: Path, keys: dict[str, Any], name: str, container_id: str
) -> None:
    write(tmp_path / "seat.json", **keys)
    (descriptor,) = read_directory(str(tmp_path)).descriptors
    container = descriptor.container
    assert (container.name, container.id, container.host_name) == (name, container_id, f"{name}-host")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not valid JSON: Expecting value"),
        (b"null", "document: None is not an object"),
        (b"[]", "document: [] is not an object"),
        (b"{", "not valid JSON"),
        (b'{"image": {"name": "x"}} {}', "not valid JSON: Extra data"),
        (b"[" * 100_000, "nested 100000 levels deep; 64 are allowed"),
        (b'{"image": {"name": "\xff"}}', "not UTF-8 at byte 20"),
        (b"{}", "the containers image configuration is invalid"),
        (b'{"image": {"name": 5}}', "image.name: 5 is not a string"),
        (b'{"image": {"name": "x"}, "container_id": "../x"}', "invalid container id format : ../x"),
        (b'{"image": {"name": "x"}, "container_name": "a b"}', "invalid container name format : a b"),
        (
            b'{"image": {"name": "x"}, "host_config": {"port_mappings": [{"host_port": 70000}]}}',
            "host_port: 70000 is not",
        ),
        (
            b'{"image": {"name": "x"}, "config": {"env": [{"SECRET": "geheim"}]}}',
            "config.env[0]: *** is not a string",
        ),
        (b" " * (LARGEST + 1), f"larger than {LARGEST} bytes"),
    ],
)
def test_bad_descriptor_is_named_and_the_others_are_read(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "bad.json").write_bytes(data)
    write(tmp_path / "good.json")
    found = read_directory(str(tmp_path))
    assert names(found) == ["good"]
    (problem,) = found.problems
    assert problem.startswith(f"'{tmp_path}/bad.json': ")
    assert reason in problem
    assert problem.endswith("(skipped)")
    assert "geheim" not in problem


def test_descriptor_of_the_largest_size_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json")
    path.write_bytes(path.read_bytes().ljust(LARGEST))
    assert names(read_directory(str(tmp_path))) == ["a"]


def test_what_is_not_a_file_is_named_and_waits_for_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    (tmp_path / "b.json").symlink_to(tmp_path / "none")
    (tmp_path / "c.json").symlink_to("/dev/zero")
    (tmp_path / "d.json").symlink_to(tmp_path)  # a circle
    target = write(tmp_path / "elsewhere/target.txt", container_name="linked")
    (tmp_path / "e.json").symlink_to(target)
    (tmp_path / "f.json").mkdir()
    write(tmp_path / "f.json/inside.json")
    found = read_directory(str(tmp_path))
    assert names(found) == ["linked", "inside"]
    assert [problem.partition(": ")[2] for problem in found.problems] == [
        "not a regular file (skipped)",
        "No such file or directory (skipped)",
        "not a regular file (skipped)",
        "not a regular file (skipped)",
    ]


def test_directory_that_is_a_file_is_a_problem_and_a_link_to_one_is_followed(tmp_path: Path) -> None:
    write(tmp_path / "real/a.json")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert names(read_directory(str(tmp_path / "link"))) == ["a"]
    file = str(tmp_path / "real/a.json")
    assert read_directory(file).problems == [f"'{file}': not a directory (nothing is deployed)"]
    assert read_directory(file).descriptors == []


def test_name_or_id_that_an_earlier_file_uses_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.json", container_id="x")
    write(tmp_path / "b/a.json", container_name="x")
    write(tmp_path / "c.json", container_id="x", container_name="other")
    found = read_directory(str(tmp_path))
    assert [descriptor.path for descriptor in found.descriptors] == [f"{tmp_path}/a.json"]
    assert found.problems == [
        f"'{tmp_path}/b/a.json': container_name x is already used by '{tmp_path}/a.json' (skipped)",
        f"'{tmp_path}/c.json': container_id x is already used by '{tmp_path}/a.json' (skipped)",
    ]


def test_skipped_file_takes_neither_its_name_nor_its_id_from_a_later_one(tmp_path: Path) -> None:
    write(tmp_path / "a.json", container_id="x")
    write(tmp_path / "b.json", container_id="x", container_name="seat")
    write(tmp_path / "c.json", container_id="y", container_name="a")
    write(tmp_path / "d.json", container_id="y", container_name="a")
    write(tmp_path / "e.json", container_id="z", container_name="seat")
    found = read_directory(str(tmp_path))
    assert [(d.container.id, d.container.name) for d in found.descriptors] == [
        ("x", "x"),
        ("y", "a"),
        ("z", "seat"),
    ]
    assert [problem.partition(" is already")[0] for problem in found.problems] == [
        f"'{tmp_path}/b.json': container_id x",
        f"'{tmp_path}/d.json': container_name a",
    ]


def test_file_name_that_cannot_be_a_container_name_is_refused(tmp_path: Path) -> None:
    for name in ("a b.json", ".json", os.fsdecode(b"\xff.json")):
        write(tmp_path / name)
    write(tmp_path / "c d.json", container_name="fine")
    found = read_directory(str(tmp_path))
    assert names(found) == ["fine"]
    assert [problem.partition("': ")[2] for problem in found.problems] == [
        "has no container_name, and its file has no name either (skipped)",
        "has no container_name, and its file name 'a b' is not a valid one (skipped)",
        r"has no container_name, and its file name '\udcff' is not a valid one (skipped)",
    ]


def test_unknown_keys_are_named_up_to_a_bound(tmp_path: Path) -> None:
    write(
        tmp_path / "a.json",
        **{f"x{i:02}": i for i in range(service.MOST_KEYS)},
        host_config={"privilegd": True},
    )
    found = read_directory(str(tmp_path))
    assert names(found) == ["a"]
    assert len(found.problems) == service.MOST_KEYS + 1
    assert found.problems[-1].endswith("further unknown keys (ignored)")
    write(tmp_path / "a.json", host_config={"privilegd": True})
    assert read_directory(str(tmp_path)).problems == [
        f"'{tmp_path}/a.json': unknown key 'host_config.privilegd' (ignored; did you mean privileged?)"
    ]


def test_numbers_of_files_entries_and_bytes_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [write(tmp_path / f"{name}.json").stat().st_size for name in "abc"]
    for bound, most in (("MOST_FILES", 3), ("MOST_ENTRIES", 3), ("MOST_BYTES", sum(sizes))):
        with monkeypatch.context() as patched:
            patched.setattr(service, bound, most)
            assert read_directory(str(tmp_path)).problems == []
            patched.setattr(service, bound, most - 1)
            found = read_directory(str(tmp_path))
            assert len(found.problems) == 1
            assert names(found) == ([] if bound == "MOST_ENTRIES" else ["a", "b"])


def test_depth_is_bounded_and_what_is_less_deep_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MOST_DEPTH", 2)
    write(tmp_path / "one/a.json")
    write(tmp_path / "one/two/b.json")
    found = read_directory(str(tmp_path))
    assert names(found) == ["a"]
    assert found.problems == [f"'{tmp_path}/one/two': deeper than 2 directories (skipped)"]


def test_number_of_problems_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MOST_PROBLEMS", 2)
    for name in "abc":
        (tmp_path / f"{name}.json").touch()
    assert len(read_directory(str(tmp_path)).problems) == 2
