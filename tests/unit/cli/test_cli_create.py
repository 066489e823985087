# SPDX-License-Identifier: Apache-2.0
"""create and create --file against a served agent: what they send, and what they refuse before anything is sent."""

import difflib
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from pycm.model.container import (
    ContainerConfiguration,
    DeviceMapping,
    HealthCheck,
    IOConfig,
    LogConfiguration,
    LogDriverConfiguration,
    LogModeConfiguration,
    MountPoint,
    PortMapping,
    Resources,
    RestartPolicy,
    Ulimit,
)
from pycm.model.states import Status
from support.command_line import Cli, Result, container
from support.fakes import IMAGE
from support.served_agent import ServedAgent


def test_create_sends_every_flag(agent: ServedAgent, cli: Cli) -> None:
    words = shlex.split(
        "-n=x --t --i --rp on-failure --rp-cnt 5 --rp-to 7 --devices /dev/a:/dev/b:rw,/dev/c:/dev/c"
        " --ports 1.2.3.4:80-82:8080/udp --ports 90:91 --mp /a:/b:shared --e A=1,2 --e B"
        " --log-max-files 3 --log-max-size 5M --log-path /var/log/x --log-mode non-blocking --log-max-buffer-size 2M"
        " -m 64M --memory-reservation 32M --memory-swap -1 --cap-add CAP_NET_ADMIN,CAP_SYS_TIME --cap-add CAP_SYS_NICE"
    )
    result = cli("create", *words, "--hosts", "a:container_a-host, b:1.2.3.4", IMAGE, "run", "-n", "--x")
    assert result.code == 0, result.err
    made = container(agent, result.out.strip())
    host = made.host_config
    assert host is not None
    assert (made.name, made.image.name) == ("x", IMAGE)
    assert host.extra_capabilities == ("CAP_NET_ADMIN", "CAP_SYS_TIME", "CAP_SYS_NICE")
    assert made.io_config == IOConfig(tty=True, open_stdin=True)
    assert made.config == ContainerConfiguration(env=("A=1,2", "B"), cmd=("run", "-n", "--x"))
    assert made.mount_points == (MountPoint(source="/a", destination="/b", propagation_mode="shared"),)
    assert host.restart_policy == RestartPolicy(
        type="on-failure", maximum_retry_count=5, retry_timeout=7_000_000_000
    )
    assert host.devices == (
        DeviceMapping(path_on_host="/dev/a", path_in_container="/dev/b", cgroup_permissions="rw"),
        DeviceMapping(path_on_host="/dev/c", path_in_container="/dev/c", cgroup_permissions="rwm"),
    )
    assert host.port_mappings == (
        PortMapping(proto="udp", container_port=8080, host_ip="1.2.3.4", host_port=80, host_port_end=82),
        PortMapping(proto="tcp", container_port=91, host_ip="0.0.0.0", host_port=90, host_port_end=90),
    )
    assert host.extra_hosts == ("a:container_a-host", "b:1.2.3.4")
    assert host.log_config == LogConfiguration(
        driver_config=LogDriverConfiguration(
            type="json-file", max_files=3, max_size="5M", root_dir="/var/log/x"
        ),
        mode_config=LogModeConfiguration(mode="non-blocking", max_buffer_size="2M"),
    )
    assert host.resources == Resources(memory="64M", memory_reservation="32M")


def test_create_sends_what_kanto_lacks(agent: ServedAgent, cli: Cli) -> None:
    words = shlex.split(
        "--mp /a:/b:ro --mp /c:/d:shared:ro --cpus 1.5 --cpu-shares 512 --cpuset-cpus 0-1,3 --pids-limit 64"
        " --ulimit nofile=64:128 --ulimit core=-1 --user app:100 --working-dir /srv --seccomp-profile unconfined"
        " --health-interval 10s --health-timeout 2s --health-retries 4 --health-start-period 1m"
    )
    result = cli("create", *words, "--health-cmd", "curl -f localhost", IMAGE)
    assert result.code == 0, result.err
    made = container(agent, result.out.strip())
    host = made.host_config
    assert host is not None
    assert made.mount_points == (
        MountPoint(source="/a", destination="/b", propagation_mode="rprivate", read_only=True),
        MountPoint(source="/c", destination="/d", propagation_mode="shared", read_only=True),
    )
    assert host.resources == Resources(cpus="1.5", cpu_shares=512, cpuset_cpus="0-1,3", pids_limit=64)
    assert host.ulimits == (
        Ulimit(name="nofile", soft=64, hard=128),
        Ulimit(name="core", soft=-1, hard=-1),
    )
    assert host.seccomp_profile == "unconfined"
    check = HealthCheck(
        exec=("/bin/sh", "-c", "curl -f localhost"),
        interval="10s",
        timeout="2s",
        retries=4,
        start_period="1m",
    )
    assert made.config == ContainerConfiguration(user="app:100", working_dir="/srv", health_check=check)


def test_a_health_check_of_a_port_needs_no_more(agent: ServedAgent, make: Callable[..., str]) -> None:
    made = container(agent, make("--health-tcp", "8080"))
    assert made.config is not None
    assert made.config.health_check == HealthCheck(tcp=8080, interval="30s", timeout="5s", retries=3)


def test_create_leaves_to_the_agent_what_is_not_given(agent: ServedAgent, make: Callable[..., str]) -> None:
    made = container(agent, make())
    assert made.config is None
    assert made.name == made.id
    assert made.host_config is not None
    assert made.host_config.resources is None
    assert made.host_config.restart_policy == RestartPolicy(type="unless-stopped")


def test_count_and_timeout_are_sent_for_on_failure_only(agent: ServedAgent, make: Callable[..., str]) -> None:
    made = container(agent, make("--rp", "always", "--rp-cnt", "3", "--rp-to", "9"))
    assert made.host_config is not None
    assert made.host_config.restart_policy == RestartPolicy(type="always")


def test_a_log_driver_of_none_needs_no_sizes(agent: ServedAgent, make: Callable[..., str]) -> None:
    made = container(agent, make("--log-driver", "none"))
    assert made.host_config is not None
    assert made.host_config.log_config is not None
    assert made.host_config.log_config.driver_config == LogDriverConfiguration(type="none")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "container image argument is expected"),
        (("--log-driver", "syslog", IMAGE), "unsupported log driver configuration"),
        (("--log-mode", "async", IMAGE), "unsupported log mode configuration"),
        (("--log-max-files", "0", IMAGE), "max log files cannot be < 1"),
        (("--log-max-size", "", IMAGE), "max logs size must be set"),
        (("--cap-add", "NET_ADMIN", IMAGE), "unknown capability NET_ADMIN, use CAP_NET_ADMIN"),
        (("--e", "1=2", IMAGE), "invalid environmental variable declaration provided : 1=2"),
        (("--devices", "/dev/x", IMAGE), "incorrect configuration value for device mapping /dev/x"),
        (("--mp", "/a", IMAGE), "Incorrect number of parameters of the mount point /a"),
        (("--mp", "/a:/b:no", IMAGE), "propagation mode must be set to one of the supported modes"),
        (("--rp-cnt", "x", IMAGE), 'invalid argument "x" for "--rp-cnt" flag: strconv.ParseInt: parsing "x": invalid syntax'),
        (("--ulimit", "nofile", IMAGE), "incorrect ulimit, name=soft[:hard] is wanted: nofile"),
        (("--ulimit", "nofile=1:", IMAGE), "incorrect ulimit, name=soft[:hard] is wanted: nofile=1:"),
        (("--cpus", "many", IMAGE), "cpus 'many' is not a number of CPUs from 0.01 on, such as 1.5"),
        (("--health-retries", "3", IMAGE), "health_check has neither exec nor tcp: exactly one of them is needed"),
        (("--health-cmd", "x", "--health-tcp", "1", IMAGE), "health_check has both exec and tcp: exactly one of them is needed"),
        (("--health-tcp", "99999", IMAGE), "health_check.tcp 99999 is not between 1 and 65535"),
        (("--health-tcp", "1", "--health-interval", "soon", IMAGE), 'health_check.interval: time: invalid duration "soon"'),
        (("--name",), "flag needs an argument: --name"),
        (("-x",), "unknown shorthand flag: 'x' in -x"),
    ],
)  # fmt: skip
def test_create_refuses_before_anything_is_sent(cli: Cli, words: tuple[str, ...], text: str) -> None:
    result = cli("--host", "/nowhere", "create", *words)
    assert result == (1, "", f"Error: {text}\n")


# ── create --file ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def from_file(cli: Cli, tmp_path: Path) -> Callable[..., Result]:
    def create(descriptor: object, *words: str) -> Result:
        path = tmp_path / "d.json"
        path.write_text(descriptor if isinstance(descriptor, str) else json.dumps(descriptor))
        return cli("create", "--file", str(path), *words)

    return create


def test_a_descriptor_needs_only_an_image(agent: ServedAgent, from_file: Callable[..., Result]) -> None:
    result = from_file({"image": {"name": IMAGE}})
    assert result.code == 0, result.err
    made = container(agent, result.out.strip())
    assert made.host_config is not None
    assert made.host_config.network_mode == "bridge"


def test_a_descriptor_may_leave_defaults_open_and_use_both_spellings(
    agent: ServedAgent, from_file: Callable[..., Result]
) -> None:
    result = from_file(
        {
            "container_id": "databroker",
            "container_name": "db",
            "image": {"name": IMAGE},
            "mount_points": [{"source": "/a", "destination": "/b"}],
            "host_config": {
                "port_mappings": [{"protocol": "udp", "container_port": 1, "host_port": 2}],
                "devices": [{"path_on_host": "/dev/x"}],
                "restart_policy": {"type": "on-failure", "maximum_retry_count": 1, "retry_timeout": 30},
            },
        }
    )
    assert result == (0, "databroker\n", "")
    made = container(agent, "databroker")
    assert made.mount_points[0].propagation_mode == "rprivate"
    assert made.host_config is not None
    assert made.host_config.port_mappings[0].proto == "udp"
    assert made.host_config.devices[0].cgroup_permissions == "rwm"
    assert made.host_config.restart_policy is not None
    assert made.host_config.restart_policy.retry_timeout == 30_000_000_000


def test_what_a_descriptor_says_of_an_earlier_state_is_not_even_read(
    agent: ServedAgent, from_file: Callable[..., Result]
) -> None:
    left = {"State": {"pid": -1, "status": "", "oom_killed": False}, "network_settings": []}
    result = from_file({"container_id": "seat", "image": {"name": IMAGE}, **left})
    assert result == (0, "seat\n", "")
    assert container(agent, "seat").state.status is Status.CREATED


def test_nothing_may_stand_beside_a_descriptor_but_global_flags(from_file: Callable[..., Result]) -> None:
    minimal = {"image": {"name": IMAGE}}
    arguments = "no arguments are expected when creating a container from file"
    flags = "no other flags are expected when creating a container from file"
    assert from_file(minimal, "image").err == f"Error: {arguments}\n"
    assert from_file(minimal, "--privileged").err == f"Error: {flags}\n"
    assert from_file(minimal, "--privileged", "true").err == f"Error: {arguments}\n"
    assert from_file(minimal, "--timeout", "5").code == 0


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "not valid JSON"),
        ('{"image": {"name": "a:1"}}\n}}}} <<<<<<< HEAD', "not valid JSON: Extra data at line 2 column 1"),
        ("[]", "document: [] is not an object"),
        ('{"image": {"name": 5}}', "image.name: 5 is not a string"),
        ('{"image": {}}', "the containers image configuration is invalid"),
        ('{"image": {"name": "x:1"}, "host_config": {"network_mode": "none"}}', "unsupported network mode none"),
        ('{"image": {"name": "x:1"}, "container_id": "../x"}', "invalid container id format : ../x"),
        ("[" * 10000, "levels deep"),
        (" " * (1024 * 1024 + 1), "longer than"),
    ],
)  # fmt: skip
def test_a_wrong_descriptor_is_one_line_that_says_what_is_wrong(
    from_file: Callable[..., Result], text: str, part: str
) -> None:
    result = from_file(text)
    assert (result.code, result.out) == (1, "")
    assert part in result.err
    assert result.err.count("\n") == 1


def test_a_missing_descriptor_is_named(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    assert cli("create", "-f", str(path)) == (1, "", f"Error: open {path}: no such file or directory\n")
    assert cli("create", "-f", str(tmp_path)).err == f"Error: open {tmp_path}: Is a directory\n"


#: The traits of the manifests that Leda ships.
LEDA = {
    "container_id": "feedercan",
    "container_name": "feedercan",
    "image": {"name": IMAGE},
    "mount_points": [],
    "hooks": [],
    "host_config": {
        "devices": [],
        "network_mode": "bridge",
        "privileged": False,
        "restart_policy": {"maximum_retry_count": 0, "retry_timeout": 0, "type": "unless-stopped"},
        "runtime": "io.containerd.runc.v2",
        "extra_hosts": ["mosquitto:host_ip", "databroker:container_databroker-host"],
        "port_mappings": [
            {
                "protocol": "tcp",
                "container_port": 55555,
                "host_ip": "localhost",
                "host_port": 30555,
                "host_port_end": 30555,
            }
        ],
        "log_config": {
            "driver_config": {"type": "json-file", "max_files": 2, "max_size": "1M", "root_dir": ""},
            "mode_config": {"mode": "blocking", "max_buffer_size": ""},
        },
        "resources": None,
    },
    "io_config": {"attach_stderr": False, "open_stdin": False, "tty": False},
    "config": {"env": ["log_level=info"], "cmd": ["--gpsd-host=localhost --gpsd-port=2948"]},
    "network_settings": None,
    "state": {"pid": -1, "status": "", "oom_killed": False},
    "created": "",
}


def test_a_descriptor_as_leda_writes_them_is_taken(
    agent: ServedAgent, from_file: Callable[..., Result]
) -> None:
    assert from_file(LEDA) == (0, "feedercan\n", "")
    made = container(agent, "feedercan")
    host = made.host_config
    assert host is not None
    assert host.resources is None
    assert host.port_mappings == (
        PortMapping(
            proto="tcp", container_port=55555, host_ip="localhost", host_port=30555, host_port_end=30555
        ),
    )
    assert host.extra_hosts == ("mosquitto:host_ip", "databroker:container_databroker-host")
    assert made.config is not None
    assert made.config.cmd == ("--gpsd-host=localhost --gpsd-port=2948",), "one string stays one argument"


def test_an_empty_cmd_of_a_descriptor_is_the_images(
    agent: ServedAgent, from_file: Callable[..., Result]
) -> None:
    assert from_file({**LEDA, "config": {"cmd": []}, "io_config": None}) == (0, "feedercan\n", "")
    made = container(agent, "feedercan")
    assert made.config == ContainerConfiguration()
    assert made.io_config == IOConfig()


def test_unknown_keys_are_named_with_the_nearest_known_one_and_the_create_goes_on(
    agent: ServedAgent, from_file: Callable[..., Result]
) -> None:
    result = from_file(
        {
            "container_id": "typo",
            "image": {"name": IMAGE},
            "labels": {},
            "mount_points": [{"source": "/a", "destination": "/b", "readonly": True}],
            "host_config": {"port_mapings": []},
        }
    )
    assert (result.code, result.out) == (0, "typo\n")
    lines = [line.partition("d.json': ")[2] for line in result.err.splitlines()]
    assert lines == [
        "'labels' is not known and left out",
        "'mount_points[0].readonly' is not known and left out; read_only may be meant",
        "'host_config.port_mapings' is not known and left out; port_mappings may be meant",
    ]
    assert container(agent, "typo").host_config is not None


def test_a_document_of_something_else_does_not_flood_the_terminal(
    from_file: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []
    monkeypatch.setattr(difflib, "get_close_matches", lambda key, _known, _most: compared.append(key) or [])
    result = from_file({"image": {"name": IMAGE}, **{f"x{n}": n for n in range(1000)}})
    assert result.code == 0
    assert result.err.count("\n") == 21
    assert len(compared) == 20, "the search for what was meant takes long"
