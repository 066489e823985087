# SPDX-License-Identifier: Apache-2.0
"""What a description may hold beyond Kanto's: it is left out when empty, travels in JSON and on the wire, and is checked."""

from typing import Any

import pytest

from pycm.api.proto.api.types.containers import types_pb2
from pycm.errors import InvalidInputError
from pycm.model import records
from pycm.model.container import (
    Container,
    ContainerConfiguration,
    DeviceMapping,
    HealthCheck,
    HostConfig,
    Image,
    MountPoint,
    PortMapping,
    Resources,
    State,
    Ulimit,
    UpdateOptions,
)
from pycm.model.defaults import fill_defaults
from pycm.model.frozen import replace
from pycm.model.records import decode, encode
from pycm.model.states import Status
from pycm.model.validation import check_resources, validate

FULL = Container(
    id="c1",
    image=Image(name="registry.test/demo/app:1.0"),
    mount_points=(MountPoint(source="/a", destination="/b", propagation_mode="rprivate", read_only=True),),
    config=ContainerConfiguration(
        user="app:100",
        working_dir="/srv",
        health_check=HealthCheck(
            exec=("/bin/check", "-q"), interval="10s", timeout="2s", retries=4, start_period="1m"
        ),
    ),
    host_config=HostConfig(
        resources=Resources(cpus="1.5", cpu_shares=512, cpuset_cpus="0-1", pids_limit=64),
        ulimits=(Ulimit(name="nofile", soft=64, hard=-1),),
        seccomp_profile="unconfined",
    ),
    state=State(status=Status.RUNNING, health="unhealthy", health_error="exit code 1"),
)
ADDED = (
    "read_only",
    "user",
    "working_dir",
    "health_check",
    "cpus",
    "cpu_shares",
    "cpuset_cpus",
    "pids_limit",
)
ADDED_OUTSIDE = ("ulimits", "seccomp_profile", "health", "health_error")


def test_additions_survive_json_and_wire() -> None:
    assert decode(Container, encode(FULL)) == FULL
    data = records.to_message(FULL, types_pb2.Container()).SerializeToString()
    assert records.from_message(Container, types_pb2.Container.FromString(data)) == FULL


def keys(tree: Any) -> set[str]:
    if isinstance(tree, dict):
        return set(tree).union(*map(keys, tree.values()))
    return set().union(*map(keys, tree)) if isinstance(tree, list) else set()


def test_a_description_without_additions_is_written_as_kanto_writes_it() -> None:
    assert {*ADDED, *ADDED_OUTSIDE} <= keys(encode(FULL))
    plain = fill_defaults(
        Container(
            id="c1",
            mount_points=(MountPoint(source="/a", destination="/b"),),
            config=ContainerConfiguration(cmd=("x",)),
            host_config=HostConfig(resources=Resources(memory="8M")),
        )
    )
    assert not keys(encode(plain)) & {*ADDED, *ADDED_OUTSIDE}


def test_additions_have_field_numbers_that_no_client_of_kanto_uses() -> None:
    """100 and up in the messages that Kanto has; our own messages number as they like."""
    for name in ("MountPoint", "Resources", "HostConfig", "ContainerConfiguration", "State"):
        fields = types_pb2.DESCRIPTOR.message_types_by_name[name].fields_by_name
        for field in fields.values():
            assert (field.number >= 100) == (field.name in ADDED + ADDED_OUTSIDE), field.name


def test_a_health_check_that_leaves_times_open_gets_them() -> None:
    filled = fill_defaults(Container(config=ContainerConfiguration(health_check=HealthCheck(tcp=80))))
    assert filled.config is not None
    assert filled.config.health_check == HealthCheck(tcp=80, interval="30s", timeout="5s", retries=3)
    assert fill_defaults(filled) is filled


def described(**parts: Any) -> Container:
    return fill_defaults(replace(FULL, state=State(), **parts))


def test_the_full_description_is_valid() -> None:
    validate(described())


def with_check(**fields: Any) -> Container:
    return described(config=ContainerConfiguration(health_check=HealthCheck(**fields)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "neither exec nor tcp: exactly one of them is needed"),
        ({"exec": ("x",), "tcp": 80}, "both exec and tcp: exactly one of them is needed"),
        ({"exec": ("",)}, "the first word, the program, is empty"),
        ({"tcp": 80, "interval": "0s"}, "health_check.interval 0s is not between 1s and 24h0m0s"),
        ({"tcp": 80, "interval": "30"}, 'health_check.interval: time: missing unit in duration "30"'),
        ({"tcp": 80, "timeout": "-1s"}, "health_check.timeout -1s is not between 100ms and 24h0m0s"),
        ({"tcp": 80, "start_period": "25h"}, "health_check.start_period 25h is not between 0s and 24h0m0s"),
        ({"tcp": 80, "retries": -1}, "health_check.retries -1 is not between 1 and 1000"),
        ({"exec": ("a\0b",)}, "health_check: 'a\\x00b' contains a NUL character"),
    ],
)
def test_a_health_check_that_makes_no_sense_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        validate(with_check(**fields))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"config": ContainerConfiguration(user="a b")}, "user 'a b' is not of the form user or user:group"),
        ({"config": ContainerConfiguration(user="a:b:c")}, "user 'a:b:c'"),
        ({"config": ContainerConfiguration(working_dir="srv")}, "working_dir 'srv' is not an absolute path"),
        ({"host_config": HostConfig(seccomp_profile="mine")}, "unsupported seccomp profile mine"),
        (
            {"host_config": HostConfig(ulimits=(Ulimit(name="files"),))},
            "ulimit 'files' is not one of as, core",
        ),
        ({"host_config": HostConfig(ulimits=(Ulimit(name="core"),) * 2)}, "ulimit core is given twice"),
        (
            {"host_config": HostConfig(ulimits=(Ulimit(name="core", soft=2, hard=1),))},
            "soft limit 2 is higher than the hard limit 1",
        ),
        (
            {"host_config": HostConfig(ulimits=(Ulimit(name="core", soft=-1, hard=1),))},
            "soft limit -1 is higher",
        ),
        ({"host_config": HostConfig(ulimits=(Ulimit(name="core", soft=-2, hard=1),))}, "cannot be negative"),
        (
            {"host_config": HostConfig(port_mappings=(PortMapping(container_port=0, host_port=1),))},
            "container port must be 1 to 65535",
        ),
        (
            {"host_config": HostConfig(port_mappings=(PortMapping(container_port=1, host_port=0),))},
            "host port must be 1 to 65535",
        ),
        (
            {
                "host_config": HostConfig(
                    port_mappings=(PortMapping(container_port=1, host_port=1, proto="icmp"),)
                )
            },
            "protocol 'icmp' is not tcp, udp or sctp",
        ),
        ({"host_name": "a\n6.6.6.6 b"}, "host_name 'a\\n6.6.6.6 b' is not a name"),
        ({"host_name": "a b"}, "host_name 'a b' is not a name"),
        ({"domain_name": "a\t6.6.6.6"}, "domain_name 'a\\t6.6.6.6' is not a name"),
        ({"domain_name": "a#"}, "domain_name 'a#' is not a name"),
        (
            {"mount_points": (MountPoint(source="/srv", destination="/", propagation_mode="rprivate"),)},
            "mount destination '/' would hide the container's own files",
        ),
        (
            {"mount_points": (MountPoint(source="/srv", destination="/a/../..", propagation_mode="shared"),)},
            "mount destination '/a/../..' would hide",
        ),
        *(
            (
                {
                    "mount_points": (
                        MountPoint(source="/srv", destination="/a", propagation_mode="rprivate"),
                        MountPoint(source=source, destination="/b", propagation_mode="rprivate"),
                    )
                },
                f"mount_points[1].source must be an absolute path, got {source!r}; relative paths and named volumes",
            )
            for source in ("./rel", "../rel", "myvol", "~/data", "C:\\data")
        ),
        (
            {
                "host_config": HostConfig(
                    devices=(
                        DeviceMapping(path_on_host="ttyS0", path_in_container="/x", cgroup_permissions="r"),
                    )
                )
            },
            "device path_on_host must be an absolute path, got 'ttyS0'",
        ),
    ],
)
def test_what_the_kernel_would_refuse_is_refused_before(parts: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        validate(described(**parts))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        (Resources(memory="8589934592G"), "invalid format of memory - 8589934592G"),
        (Resources(cpus="0"), "cpus '0' is not a number of CPUs from 0.01 on"),
        (Resources(cpus="0.001"), "cpus '0.001'"),
        (Resources(cpus="1,5"), "cpus '1,5'"),
        (Resources(cpus="-1"), "cpus '-1'"),
        (Resources(cpu_shares=1), "cpu_shares 1 is not between 2 and 262144"),
        (Resources(cpuset_cpus="2-1"), "'2-1' is not a range"),
        (Resources(cpuset_cpus="0,"), "'' is not a range"),
        (Resources(pids_limit=-5), "pids_limit -5 is not between 1 and 4194304"),
    ],
)
def test_limits_that_cannot_be_are_refused(resources: Resources, said: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_resources(resources)
    assert said in str(caught.value)


def test_an_update_carries_the_new_limits_on_the_wire() -> None:
    options = UpdateOptions(resources=Resources(cpus="0.5", pids_limit=9))
    data = records.to_message(options, types_pb2.UpdateOptions()).SerializeToString()
    assert records.from_message(UpdateOptions, types_pb2.UpdateOptions.FromString(data)) == options
