# SPDX-License-Identifier: Apache-2.0
"""`create`: make a container from flags, or from a descriptor in a file, and print its id."""

from __future__ import annotations

import contextlib
import sys

from pycm.cli.choose import id_of
from pycm.cli.line import Command
from pycm.errors import (
    InvalidInputError,
    NotFoundError,
    OperationFailedError,
    PycmError,
    UnavailableError,
    shorten,
)
from pycm.flags import Flag
from pycm.model.container import (
    Container,
    ContainerConfiguration,
    DecryptConfig,
    HealthCheck,
    HostConfig,
    Image,
    IOConfig,
    LogConfiguration,
    LogDriverConfiguration,
    LogModeConfiguration,
    Resources,
    RestartPolicy,
    read_descriptor,
)
from pycm.model.defaults import BRIDGE, fill_defaults
from pycm.model.frozen import replace
from pycm.model.parse import parse_device, parse_mount, parse_port, parse_ulimit
from pycm.model.records import unknown_keys
from pycm.model.units import NANOSECONDS
from pycm.model.validation import check_id, check_log, validate

TYPE_CHECKING = False  # not from typing, as everywhere on the command line
if TYPE_CHECKING:
    from typing import Any

    from pycm.cli.agent import Agent
    from pycm.cli.line import Line

# fmt: off
FLAGS = (
    Flag("name", "n", about="name (default: the ID)"),
    Flag("t", kind="bool", about="allocate a terminal"),
    Flag("i", kind="bool", about="keep standard input open"),
    Flag("privileged", kind="bool", about="give the container all rights of the host"),
    Flag("rp", about="restart policy: no, always, unless-stopped, on-failure (default unless-stopped)"),
    Flag("rp-cnt", kind="int", default=1, about="on-failure only: maximum number of restarts"),
    Flag("rp-to", kind="int64", default=30, about="on-failure only: longest wait between restarts, in seconds"),
    Flag("devices", kind="strings", about="devices as host:container[:permissions], permissions of r, w, m"),
    Flag("ports", kind="strings", about="ports as [ip:]host[-end]:container[/protocol]"),
    Flag("network", default=BRIDGE, about="bridge or host"),
    Flag("hosts", kind="strings", about="host names as name:ip, name:host_ip[_<interface>] or name:container_<host name>"),
    Flag("mp", kind="strings", about="mounts as source:destination[:propagation][:ro]"),
    Flag("e", kind="stringArray", about="environment variable as NAME=value, NAME= (empty) or NAME (not set)"),
    Flag("log-driver", default="json-file", about="json-file or none"),
    Flag("log-max-files", kind="int", default=2, about="number of log files to keep"),
    Flag("log-max-size", default="100M", about="size at which a new log file begins"),
    Flag("log-path", about="directory for the logs"),
    Flag("log-mode", default="blocking", about="blocking or non-blocking"),
    Flag("log-max-buffer-size", default="1M", about="non-blocking only: size of the buffer"),
    Flag("memory", "m", about="memory limit, such as 200M; at least 3M"),
    Flag("memory-reservation", about="soft memory limit"),
    Flag("memory-swap", about="limit of memory and swap together; -1 for none"),
    Flag("cpus", about="limit of CPU time in CPUs, such as 1.5"),
    Flag("cpu-shares", kind="int", about="weight of CPU time against others, 2 to 262144 (default 1024)"),
    Flag("cpuset-cpus", about="CPUs that it may run on, such as 0-2,5"),
    Flag("pids-limit", kind="int", about="maximum number of processes and threads"),
    Flag("ulimit", kind="strings", about="resource limits as name=soft[:hard], such as nofile=1024; -1: unlimited"),
    Flag("user", about="user to run as instead of the image's, as user[:group]"),
    Flag("working-dir", about="working directory instead of the image's"),
    Flag("seccomp-profile", about="unconfined, to allow all system calls"),
    Flag("health-cmd", about="shell command in the container that succeeds while it is healthy"),
    Flag("health-tcp", kind="int", about="port of the container that accepts connections while it is healthy"),
    Flag("health-interval", about="time between checks (default 30s)"),
    Flag("health-timeout", about="time that a check may take (default 5s)"),
    Flag("health-retries", kind="int", about="failures in a row that make it unhealthy (default 3)"),
    Flag("health-start-period", about="time after a start in which failures do not count"),
    Flag("dec-keys", kind="strings", about="keys for an encrypted image as file[:password]"),
    Flag("dec-recipients", kind="strings", about="recipients of an encrypted image as pkcs7:file"),
    Flag("cap-add", kind="strings", about="additional capabilities, such as CAP_NET_ADMIN"),
    Flag("file", "f", about="descriptor: the container as JSON; no other flags with it"),
)
# fmt: on
#: A descriptor longer than this is none.
MAX_DESCRIPTOR = 1024 * 1024
MOST_WARNINGS = 20


def create(line: Line) -> None:
    container = _from_file(line) if line.values["file"] else _from_flags(line)
    # checked as the agent will see it, sent as it was written: defaults are the agent's to choose
    validate(fill_defaults(container, new_id=_any_id))
    if sys.stderr.isatty():
        _pull(line.agent, container.image.name)
    sys.stdout.write(id_of(line.agent.create(container)) + "\n")


def _any_id() -> str:
    return "new"


def _pull(agent: Agent, reference: str) -> None:
    """Fetch an image that is missing and show how far it is. If that fails, the create says why, as it does without a
    terminal.
    """
    from pycm.cli.image import follow

    try:
        present = any(image["reference"] == reference for image in agent.images())
    except UnavailableError:
        raise
    except PycmError:  # not pycm's agent
        return
    if not present:
        with contextlib.suppress(PycmError):
            for _ in follow(agent, reference, live=True):
                pass


# ── from a file ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _from_file(line: Line) -> Container:
    if line.rest:
        raise InvalidInputError("no arguments are expected when creating a container from file")
    if line.given - {"file"}:
        raise InvalidInputError("no other flags are expected when creating a container from file")
    path = line.values["file"]
    try:
        container = read_descriptor(_read(path))
        if container.id:
            check_id(container.id)
    except InvalidInputError as error:
        raise InvalidInputError(f"descriptor {shorten(path)}: {error}") from None
    _warn_of_unknown_keys(path, container)
    host = container.host_config or HostConfig()
    host = replace(host, network_mode=host.network_mode or BRIDGE)
    return replace(container, host_config=host, io_config=container.io_config or IOConfig())


def _warn_of_unknown_keys(path: str, container: Container) -> None:
    found = list(unknown_keys(container))
    for key, nearest in found[:MOST_WARNINGS]:
        meant = f"; {near} may be meant" if (near := nearest()) else ""
        sys.stderr.write(
            f"Warning: descriptor {shorten(path)}: {shorten(key)} is not known and left out{meant}\n"
        )
    if len(found) > MOST_WARNINGS:
        sys.stderr.write(f"Warning: {len(found) - MOST_WARNINGS} more keys are not known\n")


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_DESCRIPTOR + 1)
    except FileNotFoundError:
        raise NotFoundError(f"open {path}: no such file or directory") from None
    except (OSError, ValueError) as error:
        raise OperationFailedError(f"open {path}: {getattr(error, 'strerror', error)}") from None
    if len(text) > MAX_DESCRIPTOR:
        raise InvalidInputError(f"longer than the {MAX_DESCRIPTOR} bytes that a descriptor may have")
    return text


# ── from flags ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _from_flags(line: Line) -> Container:
    if not line.rest:
        raise InvalidInputError("container image argument is expected")
    values = line.values
    image, *command = line.rest
    config = ContainerConfiguration(
        env=values["e"],
        cmd=tuple(command),
        user=values["user"],
        working_dir=values["working-dir"],
        health_check=_health_check(values),
    )
    return Container(
        name=values["name"],
        image=Image(name=image, decrypt_config=_decryption(values)),
        mount_points=tuple(map(parse_mount, _trimmed(values["mp"]))),
        config=config if config != ContainerConfiguration() else None,
        host_config=_host_config(values),
        io_config=IOConfig(tty=values["t"], open_stdin=values["i"]),
    )


def _host_config(values: dict[str, Any]) -> HostConfig:
    return HostConfig(
        privileged=values["privileged"],
        network_mode=values["network"],
        extra_hosts=_trimmed(values["hosts"]),
        extra_capabilities=values["cap-add"],
        devices=tuple(map(parse_device, _trimmed(values["devices"]))),
        port_mappings=tuple(map(parse_port, _trimmed(values["ports"]))),
        restart_policy=_policy(values),
        log_config=_log(values),
        resources=_resources(values),
        ulimits=tuple(map(parse_ulimit, _trimmed(values["ulimit"]))),
        seccomp_profile=values["seccomp-profile"],
    )


def _trimmed(items: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(item.strip() for item in items)


def _decryption(values: dict[str, Any]) -> DecryptConfig | None:
    keys, recipients = values["dec-keys"], values["dec-recipients"]
    return DecryptConfig(keys=keys, recipients=recipients) if keys or recipients else None


def _policy(values: dict[str, Any]) -> RestartPolicy | None:
    """None leaves it to the agent; count and time-out have a meaning for on-failure only."""
    kind = values["rp"]
    if not kind:
        return None
    if kind != "on-failure":
        return RestartPolicy(type=kind)
    timeout = values["rp-to"] * NANOSECONDS
    return RestartPolicy(type=kind, maximum_retry_count=values["rp-cnt"], retry_timeout=timeout)


def _log(values: dict[str, Any]) -> LogConfiguration:
    driver = LogDriverConfiguration(type=values["log-driver"])
    if driver.type != "none":
        driver = replace(
            driver,
            max_files=values["log-max-files"],
            max_size=values["log-max-size"],
            root_dir=values["log-path"],
        )
    buffered = values["log-mode"] == "non-blocking"
    mode = LogModeConfiguration(
        mode=values["log-mode"], max_buffer_size=values["log-max-buffer-size"] if buffered else ""
    )
    log = LogConfiguration(driver_config=driver, mode_config=mode)
    check_log(log)  # here, where 0 files and no number differ
    return log


def _resources(values: dict[str, Any]) -> Resources | None:
    wanted = Resources(
        memory=values["memory"],
        memory_reservation=values["memory-reservation"],
        memory_swap=values["memory-swap"],
        cpus=values["cpus"],
        cpu_shares=values["cpu-shares"],
        cpuset_cpus=values["cpuset-cpus"],
        pids_limit=values["pids-limit"],
    )
    return wanted if wanted != Resources() else None


def _health_check(values: dict[str, Any]) -> HealthCheck | None:
    command = values["health-cmd"]
    wanted = HealthCheck(
        exec=("/bin/sh", "-c", command) if command else (),
        tcp=values["health-tcp"],
        interval=values["health-interval"],
        timeout=values["health-timeout"],
        retries=values["health-retries"],
        start_period=values["health-start-period"],
    )
    return wanted if wanted != HealthCheck() else None


COMMANDS = {
    "create": Command(
        create,
        "create [flags] <image> [command] [argument]...",
        (
            "create --network host -n databroker --rp on-failure --rp-cnt 3 -m 64M registry.test/demo/app:1.0",
            "create -n seat --ports 30051:50051 --mp /srv:/data --e LEVEL=info registry.test/demo/app:1.0 /bin/app -v",
            "create --file /etc/container-management/seat.json",
        ),
        flags=FLAGS,
        interspersed=False,
    )
}
