# SPDX-License-Identifier: Apache-2.0
"""The configuration as data: one row a key, which says all there is to know of it.

Attributes are named as the keys of the file. Flags, the readers of files, `--check-config` and the tables of
docs/configuration.md walk these rows; nothing else knows the names. Durations are seconds. Rooms take the sections as
they are.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pycm.model.durations import SECOND, format_duration
from pycm.model.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Path = tuple[str, ...]

HOME = "/var/lib/container-management"
EXEC_ROOT = "/var/run/container-management"
SOCKET = "/run/container-management/container-management.sock"
_SID = "container-management.service.local.v1.service-"
RUNC_RUNTIMES = ("io.containerd.runc.v2", "io.containerd.runc.v1", "io.containerd.runtime.v1.linux")
FEATURES = ("ContainerFactory", "SoftwareUpdatable", "Metrics")
LEVELS = ("ERROR", "WARN", "INFO", "DEBUG", "TRACE")
_MOST = 2**31 - 1
#: Bytes of a string, as MQTT's own bound; bytes of a path; entries of a list or table.
LONGEST, LONGEST_PATH, MOST_ENTRIES = 65_535, 4095, 1024


class Consequence(NamedTuple):
    """What follows from an error: in words, and as values that replace those in force."""

    text: str
    values: Mapping[Path, Any] = MappingProxyType({})


# fmt: off
DEFAULT = Consequence("the default is used")
REFUSED = Consequence("pulls from this registry are refused")
_NO_EXPIRY = Consequence("unused images are kept", {("containers", "image_expiry_disable"): True})
# nobody knows which images were to be refused
_NO_START = Consequence("no container is created or started", {("containers", "image_verifier_type"): "unknown"})
_NO_DEPLOYMENT = Consequence("deployment is disabled", {("deployment", "enable"): False})
_NO_TWIN = Consequence("the digital twin is disabled", {("things", "enable"): False})
_NO_UPDATE = Consequence("the update agent is disabled", {("update_agent", "enable"): False})
_NO_MQTT = Consequence("MQTT is disabled: no digital twin, no update agent", {**_NO_TWIN.values, **_NO_UPDATE.values})
_API = Consequence("the API listens at its default address", {("grpc_server", "protocol"): "unix", ("grpc_server", "address_path"): SOCKET})
# fmt: on


class Key(NamedTuple):
    """A row. `path` is filled in by `keys`.

    kind: "string", "int", "bool", "strings", "duration" (a Go duration), "stop_timeout" (a Go duration or whole
    seconds), "milliseconds" (a whole number), "size" (such as "100M", or ""), "map" (strings by name) or "registries".
    flag: without dashes, "" for none. about: the help text. choices: other values are replaced by the default (those in
    a list left out), with a warning. upper: choices are compared in capitals. low, high: bounds of an int, or of a
    duration in seconds. rule: what a string must be: "identifier" (containerd's rule), "path" (absolute), "path or
    nothing". hide: what is never shown: "all" of the value, the "password" after a colon, or the "login" in an address.
    on_error: what follows from an invalid value, if not what follows from an error in the section. old: the key exists
    in the deprecated section things.connection too. compat
    """

    kind: str
    default: Any
    flag: str
    about: str
    choices: tuple[str, ...] = ()
    upper: bool = False
    low: int = 0
    high: int = _MOST
    rule: str = ""
    hide: str = ""
    on_error: Consequence | None = None
    old: bool = False
    path: Path = ()

    @property
    def name(self) -> str:
        return ".".join(self.path)


def _row(default: Any, flag: str, about: str, kind: str = "", *, own: bool = False, **more: Any) -> Any:
    """*kind*: by the default's type if empty. *own*: an addition of pycm, which the help text says."""
    found = kind or {bool: "bool", int: "int", float: "duration", tuple: "strings"}.get(
        type(default), "string"
    )
    return Key(found, default, flag, about + (" (addition of pycm)" if own else ""), **more)


class Section(Frozen):
    """A section of the configuration.

    MEMBERS: the keys and sections in it, by name. ON_ERROR: what follows from an error in it, None if the section
    around it says so, or the agent ends.
    """

    if TYPE_CHECKING:
        MEMBERS: ClassVar[Mapping[str, Key | Section]]
        ON_ERROR: ClassVar[Consequence | None]

    def __init_subclass__(cls, on_error: Consequence | None = None) -> None:
        super().__init_subclass__()
        cls.MEMBERS = {name: value for name, value in vars(cls).items() if isinstance(value, Key | Section)}
        cls.ON_ERROR = on_error
        for name, member in cls.MEMBERS.items():
            if isinstance(member, Key):
                setattr(cls, name, member.default)

    def __repr__(self) -> str:
        """Without values that hold secrets."""
        hidden = {name for name, member in self.MEMBERS.items() if isinstance(member, Key) and member.hide}
        shown = (f"{name}={value!r}" for name, value in vars(self).items() if name not in hidden)
        return f"{type(self).__name__}({', '.join(shown)})"


# fmt: off
class Log(Section, on_error=DEFAULT):
    log_level: str = _row("INFO", "log-level", "ERROR, WARN, INFO, DEBUG or TRACE", choices=LEVELS, upper=True)
    log_file: str = _row("log/container-management.log", "log-file", "file for the log, relative to the working directory; empty: standard output")
    log_file_size: int = _row(2, "log-file-size", "size in MB at which the log file is rotated; 0: 100")
    log_file_count: int = _row(5, "log-file-count", "number of rotated log files that are kept; 0: 1000")
    log_file_max_age: int = _row(28, "log-file-max-age", "days that rotated log files are kept; 0: no limit")
    syslog: bool = _row(False, "log-syslog", "log to the local syslog; has no effect with a log file")


class Deployment(Section, on_error=_NO_DEPLOYMENT):
    enable: bool = _row(True, "deployment-enable", "create containers from the descriptors in ctr_dir")
    mode: str = _row("update", "deployment-mode", "init (at the first start only) or update (at each start)", choices=("init", "update"))
    home_dir: str = _row(HOME, "deployment-home-dir", "directory of the state of the deployment", rule="path")
    ctr_dir: str = _row("/etc/container-management/containers", "deployment-ctr-dir", "directory of container descriptors (*.json)", rule="path")


class Manager(Section):
    home_dir: str = _row(HOME, "cm-home-dir", "directory of the stored containers", rule="path")
    exec_root_dir: str = _row(EXEC_ROOT, "cm-exec-root-dir", "directory of files that last until the next boot", rule="path")
    container_client_sid: str = _row(_SID + "containerd-client", "cm-cc-sid", "kept for compatibility: there is one container client", choices=(_SID + "containerd-client",), on_error=DEFAULT)
    network_manager_sid: str = _row(_SID + "libnetwork-manager", "cm-net-sid", "kept for compatibility: there is one network manager", choices=(_SID + "libnetwork-manager",), on_error=DEFAULT)
    default_ctrs_stop_timeout: float = _row(30.0, "cm-deflt-ctrs-stop-timeout", "time between SIGTERM and SIGKILL if a request names none; a bare number means seconds", "stop_timeout", on_error=DEFAULT)
    live_restore: bool = _row(True, "cm-live-restore", "containers keep running when the agent ends; false: they are stopped", own=True, on_error=DEFAULT)


class Transport(Section):
    """Of the broker connection (where the keys have flags) and of a registry."""

    root_ca: str = _row("", "conn-root-ca", "PEM file with the trusted authorities")
    client_cert: str = _row("", "conn-client-cert", "PEM file with the client's certificate")
    client_key: str = _row("", "conn-client-key", "PEM file with the client's private key")


class Credentials(Section):
    user_id: str = _row("", "", "user name at the registry")
    password: str = _row("", "", "password at the registry", hide="all")


class Registry(Section):
    #: False if its section has an error: pulls from it are refused.
    usable: bool = True
    credentials: Credentials = Credentials()
    transport: Transport = Transport()


class Containers(Section):
    default_ns: str = _row("kanto-cm", "ccl-default-ns", "containerd namespace, and parent of the cgroups", rule="identifier")
    address_path: str = _row("/run/containerd/containerd.sock", "ccl-ap", "socket of containerd", rule="path")
    registry_configurations: Mapping[str, Registry] = _row(MappingProxyType({}), "", "credentials and TLS files by registry host", "registries", on_error=DEFAULT)
    insecure_registries: tuple[str, ...] = _row(("localhost",), "ccl-insecure-registries", "registries reached by HTTP, or HTTPS without verification", on_error=DEFAULT)
    exec_root_dir: str = _row(EXEC_ROOT, "ccl-exec-root-dir", "directory of the FIFOs of container output", rule="path")
    home_dir: str = _row(HOME, "ccl-home-dir", "directory of container logs", rule="path")
    image_dec_keys: tuple[str, ...] = _row((), "ccl-image-dec-keys", "keys for encrypted images, as file[:password]", hide="password", on_error=DEFAULT)
    image_dec_recipients: tuple[str, ...] = _row((), "ccl-image-dec-recipients", "certificates for encrypted images", on_error=DEFAULT)
    runc_runtime: str = _row(RUNC_RUNTIMES[0], "ccl-runc-runtime", "containerd runtime for containers", choices=RUNC_RUNTIMES, on_error=DEFAULT)
    runc_binary: str = _row("", "ccl-runc-binary", "OCI runtime that runc_runtime uses, such as crun, by name or path; empty: runc", own=True, on_error=DEFAULT)
    seccomp_profile: str = _row("default", "ccl-seccomp-profile", "system calls that containers may make: default, or unconfined for all", own=True, choices=("default", "unconfined"), on_error=DEFAULT)
    log_total_max_size: str = _row("1G", "ccl-log-total-max-size", "size limit for the logs of all containers together; the oldest rotated files are removed first; empty: no limit", "size", own=True, on_error=DEFAULT)
    image_expiry: float = _row(744 * 3600.0, "ccl-image-expiry", "age at which unused images are removed", on_error=_NO_EXPIRY)
    image_expiry_disable: bool = _row(False, "ccl-image-expiry-disable", "keep unused images for ever", on_error=_NO_EXPIRY)
    preload_dir: str = _row("", "ccl-preload-dir", "directory of image archives and OCI layouts that are imported once; empty: none", own=True, rule="path or nothing", on_error=DEFAULT)
    lease_id: str = _row("kanto-cm.lease", "ccl-lease-id", "containerd lease that protects content in use", rule="identifier", on_error=DEFAULT)
    image_verifier_type: str = _row("none", "ccl-image-verifier-type", "none, or notation to check signatures", on_error=_NO_START)
    image_verifier_config: Mapping[str, str] = _row(MappingProxyType({}), "ccl-image-verifier-config", "configDir and libexecDir of notation", "map", on_error=DEFAULT)


class DefaultBridge(Section):
    disable: bool = _row(False, "net-tbr-disable", "disable the bridge")
    name: str = _row("kanto-cm0", "net-br-name", "name of the bridge")
    ip4: str = _row("", "net-br-ip4", "IPv4 address of the bridge, as 172.18.0.1/16; empty: in the first free private range")
    fcidr4: str = _row("", "net-br-fcidr4", "IPv4 range for containers, inside ip4; empty: all of it")
    gwip4: str = _row("", "net-br-gwip4", "IPv4 gateway of containers, inside ip4; empty: the bridge")
    enable_ip6: bool = _row(False, "net-br-enable-ip6", "IPv6 on the bridge")
    mtu: int = _row(1500, "net-br-mtu", "largest packet on the bridge", high=65535)
    icc: bool = _row(True, "net-br-icc", "containers may talk to each other")
    ip_tables: bool = _row(True, "net-br-ipt", "set packet filter rules")
    ip_forward: bool = _row(True, "net-br-ipfw", "enable IP forwarding")
    ip_masq: bool = _row(True, "net-br-ipmasq", "masquerade traffic to the outside")
    userland_proxy: bool = _row(False, "net-br-ulp", "kept for compatibility: there is no such proxy")


_NO_BRIDGE = Consequence("network mode bridge is disabled", {("network", "default_bridge"): DefaultBridge(disable=True)})


class Network(Section, on_error=_NO_BRIDGE):
    type: str = _row("bridge", "net-type", "kept for compatibility: each container has its network mode", on_error=DEFAULT)
    home_dir: str = _row(HOME, "net-home-dir", "kept for compatibility: the files of networks lie in manager.home_dir", rule="path", on_error=DEFAULT)
    exec_root_dir: str = _row(EXEC_ROOT, "net-exec-root-dir", "directory of network namespaces and their records", rule="path")
    cni_bin_dirs: tuple[str, ...] = _row(("/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin"), "net-cni-bin-dirs", "directories that are searched for CNI plugins", own=True)
    default_bridge: DefaultBridge = DefaultBridge()


class GrpcServer(Section, on_error=_API):
    protocol: str = _row("unix", "grpc-serv-netp", "unix, tcp, tcp4 or tcp6")
    address_path: str = _row(SOCKET, "grpc-serv-ap", "path of the socket, or host:port for tcp")


class Policy(Section):
    """What requests over MQTT may contain."""

    create: bool = _row(True, "things-policy-create", "over MQTT: create containers, install software", own=True)
    privileged: bool = _row(True, "things-policy-privileged", "over MQTT: privileged containers", own=True)
    capabilities: bool = _row(True, "things-policy-capabilities", "over MQTT: extra capabilities, seccomp profile unconfined", own=True)
    hooks: bool = _row(True, "things-policy-hooks", "over MQTT: hooks, which are programs that run on the host", own=True)
    mounts: bool = _row(True, "things-policy-mounts", "over MQTT: mounts of host directories, log directories", own=True)
    devices: bool = _row(True, "things-policy-devices", "over MQTT: devices of the host", own=True)


class Things(Section, on_error=_NO_TWIN):
    enable: bool = _row(True, "things-enable", "digital twin over MQTT")
    home_dir: str = _row(HOME, "things-home-dir", "directory of the state of the twin", rule="path")
    features: tuple[str, ...] = _row(FEATURES, "things-features", "features of the twin", choices=FEATURES)
    mask_env: bool = _row(False, "things-mask-env", "show values of environment variables as *** in the twin", own=True)
    system_metrics: bool = _row(False, "things-system-metrics", "replace Kanto's system-metrics: figures of the machine on the device's own thing", own=True)
    private_downloads: bool = _row(True, "things-private-downloads", "artifacts of software may lie at private and loopback addresses", own=True)
    policy: Policy = Policy()


class UpdateAgent(Section, on_error=_NO_UPDATE):
    enable: bool = _row(False, "ua-enable", "update agent over MQTT")
    domain: str = _row("containers", "ua-domain", "domain of the update agent")
    system_containers: tuple[str, ...] = _row((), "ua-system-containers", "containers that updates never touch")
    verbose_inventory_report: bool = _row(False, "ua-verbose-inventory-report", "report more parameters of each container")


class Connection(Section, on_error=_NO_MQTT):
    broker_url: str = _row("tcp://localhost:1883", "conn-broker-url", "address of the MQTT broker; without a scheme: tcp", hide="login", old=True)
    keep_alive: float = _row(20.0, "conn-keep-alive", "interval of pings", high=65535, old=True)
    disconnect_timeout: float = _row(0.25, "conn-disconnect-timeout", "time limit for an orderly disconnect", old=True)
    client_username: str = _row("", "conn-client-username", "user name at the broker", old=True)
    client_password: str = _row("", "conn-client-password", "password at the broker", hide="all", old=True)
    connect_timeout: float = _row(30.0, "conn-connect-timeout", "time limit for connecting", old=True)
    acknowledge_timeout: float = _row(15.0, "conn-ack-timeout", "time limit for the answer to a message", old=True)
    subscribe_timeout: float = _row(15.0, "conn-sub-timeout", "time limit for the answer to a subscription", old=True)
    unsubscribe_timeout: float = _row(5.0, "conn-unsub-timeout", "time limit for the answer to an unsubscription", old=True)
    alpn: tuple[str, ...] = _row((), "conn-alpn", "protocols to offer with TLS, as x-amzn-mqtt-ca at port 443", own=True)
    will_topic: str = _row("", "conn-will-topic", "topic of the last will, which the broker publishes if the agent vanishes; empty: none", own=True)
    will_message: str = _row("", "conn-will-message", "message of the last will", own=True)
    transport: Transport = Transport()


class Config(Section):
    """Everything that can be configured; without arguments, the defaults."""

    log: Log = Log()
    deployment: Deployment = Deployment()
    manager: Manager = Manager()
    containers: Containers = Containers()
    network: Network = Network()
    grpc_server: GrpcServer = GrpcServer()
    things: Things = Things()
    update_agent: UpdateAgent = UpdateAgent()
    connection: Connection = Connection()
# fmt: on


def keys(section: type[Section] = Config, path: Path = ()) -> Iterator[Key]:
    """All keys of a section and of those in it, with their paths, in the order of their declaration."""
    for name, member in section.MEMBERS.items():
        if isinstance(member, Key):
            yield member._replace(path=(*path, name))
        else:
            yield from keys(type(member), (*path, name))


def _deprecated() -> Iterator[Key]:
    for name, key in Connection.MEMBERS.items():
        if isinstance(key, Key) and key.old:
            kind = "milliseconds" if key.kind == "duration" else key.kind
            flag = "things-" + key.flag.removesuffix("-url")
            about = (
                f"deprecated: overrides connection.{name}{', in milliseconds' if kind != key.kind else ''}"
            )
            yield key._replace(
                path=("things", "connection", name), kind=kind, flag=flag, about=about, default=None
            )


#: Section things.connection of Kanto up to v1.0.0. A key of it that is set wins over that of [connection]. compat
DEPRECATED = tuple(_deprecated())
#: The key that each flag sets.
BY_FLAG = {key.flag: key for key in (*keys(), *DEPRECATED) if key.flag}


def consequence(path: Path) -> Consequence | None:
    """What follows from an error at *path*. None: the agent ends, since the key says where the containers are."""
    section: Section = Config()
    found = None
    for name in path:
        member = section.MEMBERS.get(name)
        if isinstance(member, Key):
            return REFUSED if member.kind == "registries" and len(path) > 2 else member.on_error or found
        if member is None:
            break
        section, found = member, member.ON_ERROR or found
    return found


def build(values: Mapping[Path, Any], section: type[Section] = Config, path: Path = ()) -> Any:
    """A *section* with *values* in place of its defaults."""
    arguments: dict[str, Any] = {}
    for name, member in section.MEMBERS.items():
        here = (*path, name)
        if isinstance(member, Section):
            arguments[name] = build(values, type(member), here)
        elif here in values:
            arguments[name] = values[here]
    return section(**arguments)


def plain(key: Key, value: Any) -> Any:
    """A value as files and flags write it: durations as text."""
    if key.kind in ("duration", "stop_timeout"):
        return format_duration(round(value * SECOND))
    return value
