# SPDX-License-Identifier: Apache-2.0
"""The records that describe a container, with their names in Kanto's JSON files and gRPC messages.

Order of fields = order of keys in the JSON (docs/spec/container.md, "JSON"). Sizes stay the strings that the user wrote
and times are RFC 3339 strings, so that a file is written back as it was read. Empty fields that Kanto lacks are left
out: a file without them is one that Kanto could have written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pycm.model import gojson
from pycm.model.frozen import replace
from pycm.model.records import Record, always, decode, flag, integer, many, mapping, one, port, text, texts
from pycm.model.states import NO_PID, Status
from pycm.model.units import NANOSECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Bounds of the kernel in bytes: of a path; of a word of a command line and of a variable.
PATH = 4095
WORD = 128 * 1024 - 1
#: Bytes of a reference to an image, and of a size, a duration or a choice.
REFERENCE, SIZE = 1024, 64
#: Bytes of a whole description as it is stored; the store reads more, see `storage.store`.
LARGEST = 1024 * 1024
#: Bytes of all keys of a new description that no field claims: many small values take 25 times their size in memory.
MOST_UNKNOWN = 64 * 1024

HOOK_TYPES = ("Prestart", "Poststart", "Poststop", "Unknown")


def _hook_word(number: int) -> str:
    return HOOK_TYPES[number] if 0 <= number < len(HOOK_TYPES) else HOOK_TYPES[-1]


def _hook_number(word: str) -> int:
    return HOOK_TYPES.index(word) if word in HOOK_TYPES else len(HOOK_TYPES) - 1


class DecryptConfig(Record):
    keys: tuple[str, ...] = texts("keys", omit=True, most=64, longest=PATH)
    recipients: tuple[str, ...] = texts("recipients", omit=True, most=64, longest=PATH)


class Image(Record):
    name: str = text("name", longest=REFERENCE)
    decrypt_config: DecryptConfig | None = one("decrypt_config", DecryptConfig, omit=True)


class MountPoint(Record):
    destination: str = text("destination", longest=PATH)
    source: str = text("source", longest=PATH)
    propagation_mode: str = text("propagation_mode", longest=SIZE)
    read_only: bool = flag("read_only", omit=True)


class Hook(Record):
    path: str = text("path", longest=PATH)
    args: tuple[str, ...] = texts("args", most=1024, longest=WORD)
    env: tuple[str, ...] = texts("env", most=1024, longest=WORD)
    timeout: int = integer("timeout", most=24 * 3600)
    type: int = integer("type", to_wire=_hook_word, from_wire=_hook_number)


class HealthCheck(Record):
    """A check of the container's service: a command in the container (`exec`), or a connection to its TCP port (`tcp`).

    interval, timeout and start_period are durations ("30s"); the check fails after `retries` failures in a row.
    """

    exec: tuple[str, ...] = texts("exec", omit=True, most=1024, longest=WORD)
    tcp: int = port("tcp", omit=True)
    interval: str = text("interval", omit=True, longest=SIZE)
    timeout: str = text("timeout", omit=True, longest=SIZE)
    retries: int = integer("retries", omit=True)
    start_period: str = text("start_period", omit=True, longest=SIZE)


class ContainerConfiguration(Record):
    """`user` ("name", "uid:gid") and `working_dir` replace those of the image."""

    env: tuple[str, ...] = texts("env", omit=True, most=4096, longest=WORD)
    cmd: tuple[str, ...] = texts("cmd", omit=True, most=4096, longest=WORD)
    user: str = text("user", omit=True)
    working_dir: str = text("working_dir", omit=True, longest=PATH)
    health_check: HealthCheck | None = one("health_check", HealthCheck, omit=True)


class DeviceMapping(Record):
    path_on_host: str = text("path_on_host", longest=PATH)
    path_in_container: str = text("path_in_container", longest=PATH)
    cgroup_permissions: str = text("cgroup_permissions", longest=SIZE)


class RestartPolicy(Record):
    """`retry_timeout`: cap of the back-off in nanoseconds; seconds on the wire, rounded down."""

    maximum_retry_count: int = integer("maximum_retry_count", most=2**31 - 1)
    retry_timeout: int = integer(
        "retry_timeout",
        to_wire=lambda ns: ns // NANOSECONDS,
        from_wire=lambda s: s * NANOSECONDS,
        most=365 * 24 * 3600 * NANOSECONDS,
    )
    type: str = text("type")


class PortMapping(Record):
    proto: str = text("proto", "protocol")
    container_port: int = port("container_port")
    host_ip: str = text("host_ip")
    host_port: int = port("host_port")
    host_port_end: int = port("host_port_end")


class LogDriverConfiguration(Record):
    type: str = text("type", omit=True)
    max_files: int = integer("max_files", omit=True)
    max_size: str = text("max_size", omit=True, longest=SIZE)
    root_dir: str = text("root_dir", omit=True, longest=PATH)


class LogModeConfiguration(Record):
    mode: str = text("mode", omit=True)
    max_buffer_size: str = text("max_buffer_size", omit=True, longest=SIZE)


class LogConfiguration(Record):
    driver_config: LogDriverConfiguration | None = one("driver_config", LogDriverConfiguration, omit=True)
    mode_config: LogModeConfiguration | None = one("mode_config", LogModeConfiguration, omit=True)


class Resources(Record, uncompared=("swap_filled",)):
    """Memory limits as size strings ("200M"); "" means no limit. memory_swap is the sum of memory and swap.

    cpus: the time of so many CPUs ("1.5"). cpu_shares: weight against others, 1024 if 0. cpuset_cpus: the CPUs to run
    on ("0-2,5"). pids_limit: number of processes and threads; 0 for no limit. swap_filled: memory_swap was derived from
    the memory limit; stored only.
    """

    memory: str = text("memory", omit=True, longest=SIZE)
    memory_reservation: str = text("memory_reservation", omit=True, longest=SIZE)
    memory_swap: str = text("memory_swap", omit=True, longest=SIZE)
    cpus: str = text("cpus", omit=True, longest=SIZE)
    cpu_shares: int = integer("cpu_shares", omit=True)
    cpuset_cpus: str = text("cpuset_cpus", omit=True, longest=1024)
    pids_limit: int = integer("pids_limit", omit=True)
    swap_filled: bool = flag("memory_swap_filled", "", omit=True)


class Ulimit(Record):
    """A resource limit of the container's processes, by its name in lower case ("nofile"); -1 for unlimited."""

    name: str = text("name")
    soft: int = integer("soft")
    hard: int = integer("hard")


class HostConfig(Record):
    """`seccomp_profile`: "" for the default one, "unconfined" for none."""

    devices: tuple[DeviceMapping, ...] = many("devices", DeviceMapping, most=256)
    network_mode: str = text("network_mode")
    privileged: bool = flag("privileged")
    restart_policy: RestartPolicy | None = one("restart_policy", RestartPolicy)
    runtime: str = text("runtime")
    extra_hosts: tuple[str, ...] = texts("extra_hosts", most=1024, longest=512)
    extra_capabilities: tuple[str, ...] = texts("extra_capabilities", most=64, longest=SIZE)
    port_mappings: tuple[PortMapping, ...] = many("port_mappings", PortMapping, most=256)
    log_config: LogConfiguration | None = one("log_config", LogConfiguration)
    resources: Resources | None = one("resources", Resources)
    ulimits: tuple[Ulimit, ...] = many("ulimits", Ulimit, omit=True, most=16)
    seccomp_profile: str = text("seccomp_profile", omit=True)


class IOConfig(Record):
    attach_stderr: bool = flag("attach_stderr")
    attach_stdin: bool = flag("attach_stdin")
    attach_stdout: bool = flag("attach_stdout")
    open_stdin: bool = flag("open_stdin")
    stdin_once: bool = flag("stdin_once")
    tty: bool = flag("tty")


class EndpointSettings(Record):
    id: str = text("id", omit=True)
    gateway: str = text("gateway")
    ip_address: str = text("ip_address")
    mac_address: str = text("mac_address")
    network_id: str = text("network_id", omit=True)


class NetworkSettings(Record):
    networks: Mapping[str, EndpointSettings] = mapping("networks", EndpointSettings)
    sandbox_id: str = text("sandbox_id", omit=True)
    sandbox_key: str = text("sandbox_key", omit=True, longest=0)
    network_controller_id: str = text("network_controller_id", omit=True)


class State(Record):
    """`pid` is -1 without a process; times are RFC 3339 in UTC with nanoseconds, "" for never.

    health: "starting", "healthy" or "unhealthy" of a running container with a health check, else "". health_error: the
    reason if the last check failed, else "".
    """

    pid: int = integer("pid", default=NO_PID)
    started_at: str = text("started_at")
    error: str = text("error", longest=0)
    exit_code: int = integer("exit_code")
    finished_at: str = text("finished_at")
    exited: bool = flag("exited")
    dead: bool = flag("dead")
    restarting: bool = flag("restarting")
    paused: bool = flag("paused")
    running: bool = flag("running")
    oom_killed: bool = flag("oomKilled")
    status: Status = integer(
        "status",
        default=Status.CREATING,
        to_wire=lambda status: Status(status).word,
        from_wire=Status.from_word,
    )
    health: str = text("health", omit=True)
    health_error: str = text("health_error", omit=True, longest=0)


class Container(Record):
    id: str = text("container_id", "id", longest=76)
    name: str = text("container_name", "name")
    image: Image = always("image", Image)
    domain_name: str = text("domain_name", longest=512)
    host_name: str = text("host_name", longest=64)
    resolv_conf_path: str = text("resolv_conf_path", omit=True, longest=0)
    hosts_path: str = text("hosts_path", omit=True, longest=0)
    hostname_path: str = text("hostname_path", omit=True, longest=0)
    mount_points: tuple[MountPoint, ...] = many("mount_points", MountPoint, "mounts", most=256)
    hooks: tuple[Hook, ...] = many("hooks", Hook, most=64)
    config: ContainerConfiguration | None = one("config", ContainerConfiguration)
    host_config: HostConfig | None = one("host_config", HostConfig)
    io_config: IOConfig | None = one("io_config", IOConfig)
    network_settings: NetworkSettings | None = one("network_settings", NetworkSettings)
    state: State = always("state", State)
    created: str = text("created", omit=True)
    restart_count: int = integer("restart_count")
    manually_stopped: bool = flag("manually_stopped")
    started_successfully_before: bool = flag("started_successfully_before", "")

    @property
    def resources(self) -> Resources | None:
        return self.host_config.resources if self.host_config else None

    @property
    def log_config(self) -> LogConfiguration | None:
        return self.host_config.log_config if self.host_config else None


class StopOptions(Record):
    """timeout: seconds (0: the configured default); force: SIGKILL after it; signal: name or number ("": SIGTERM)."""

    timeout: int = integer("timeout")
    force: bool = flag("force")
    signal: str = text("signal")


class UpdateOptions(Record):
    """None keeps the part as it is; Resources replace all limits."""

    restart_policy: RestartPolicy | None = one("restart_policy", RestartPolicy)
    resources: Resources | None = one("resources", Resources)


# ── descriptors: containers described by people, in files and artifacts ──

#: Keys that describe a former state. Leda's manifests have them in another form (a status as text).
FOUND_OUT = frozenset({"state", "network_settings"})
#: Values of `retry_timeout` below this are seconds, not nanoseconds.
_SECONDS_BELOW = 1_000_000


def read_descriptor(data: str | bytes) -> Container:
    """Return the container that *data* describes, without defaults. Errors: InvalidInputError."""
    wanted = gojson.read(data)
    if isinstance(wanted, dict):
        wanted = {key: value for key, value in wanted.items() if key.lower() not in FOUND_OUT}
    return descriptor_policy(decode(Container, wanted, aliases=True))


def descriptor_policy(container: Container) -> Container:
    """Convert a retry_timeout in seconds, as Kanto's documentation describes it; Kanto's loader expects nanoseconds."""
    host = container.host_config
    policy = host.restart_policy if host else None
    if host is None or policy is None or not 0 < policy.retry_timeout < _SECONDS_BELOW:
        return container
    policy = replace(policy, retry_timeout=policy.retry_timeout * NANOSECONDS)
    return replace(container, host_config=replace(host, restart_policy=policy))
