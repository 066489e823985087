# SPDX-License-Identifier: Apache-2.0
"""The configuration as frozen data: one line for each key says its default, its flag and its meaning.

Attributes are named as the keys of the file. The table of flags, the reading of files, `--check-config` and the page
docs/configuration.md all walk these declarations (through `pycm.config.keys`); nothing else knows the names. Durations are seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

HOME = "/var/lib/container-management"
EXEC_ROOT = "/var/run/container-management"
SOCKET = "/run/container-management/container-management.sock"
_SID = "container-management.service.local.v1.service-"
RUNC_RUNTIMES = ("io.containerd.runc.v2", "io.containerd.runc.v1", "io.containerd.runtime.v1.linux")
FEATURES = ("ContainerFactory", "SoftwareUpdatable", "Metrics")
_MOST = 2**31 - 1
#: Bytes of a string, as MQTT's own bound; of one that is a path; entries of a list or table.
LONGEST, LONGEST_PATH, MOST_ENTRIES = 65_535, 4095, 1024


@dataclass(frozen=True)
class Option:
    """What there is to know of a key beside its default.

    kind: "string", "int", "bool", "strings", "duration" (a Go duration), "stop_timeout" (a Go duration or whole seconds),
    "milliseconds" (a whole number), "size" (such as "100M", or ""), "map" (strings by name) or "registries". flag: without dashes, "" for none.
    choices: other values are replaced by the default (those in a list left out), with a warning; compared as written, or in
    capitals if *upper*.
    low, high: bounds of an int, or of a duration in seconds.
    rule: what a string must be to be taken at all: "identifier" (containerd's rule), "path" (absolute), "path or nothing".
    hide: what is never shown: "all" of the value, the "password" after a colon, or the "login" in an address.
    """

    kind: str
    flag: str
    about: str
    choices: tuple[str, ...] = ()
    upper: bool = False
    low: int = 0
    high: int = _MOST
    rule: str = ""
    hide: str = ""


def _key(flag: str, kind: str, about: str, **more: Any) -> dict[str, Option]:
    return {"option": Option(kind, flag, about, **more)}


def _string(flag: str, about: str, **more: Any) -> dict[str, Option]:
    return _key(flag, "string", about, **more)


@dataclass(frozen=True, kw_only=True)
class Log:
    log_level: str = field(
        default="INFO",
        metadata=_string(
            "log-level",
            "ERROR, WARN, INFO, DEBUG or TRACE",
            choices=("ERROR", "WARN", "INFO", "DEBUG", "TRACE"),
            upper=True,
        ),
    )
    log_file: str = field(
        default="log/container-management.log",
        metadata=_string(
            "log-file", "file for the log, relative to the working directory; empty: standard output"
        ),
    )
    log_file_size: int = field(
        default=2,
        metadata=_key("log-file-size", "int", "MB that the log file may reach before it is rotated; 0: 100"),
    )
    log_file_count: int = field(
        default=5, metadata=_key("log-file-count", "int", "rotated log files that are kept; 0: 1000")
    )
    log_file_max_age: int = field(
        default=28,
        metadata=_key("log-file-max-age", "int", "days that rotated log files are kept; 0: no limit"),
    )
    syslog: bool = field(
        default=False,
        metadata=_key("log-syslog", "bool", "log to the local syslog; only used without a log file"),
    )


@dataclass(frozen=True, kw_only=True)
class Deployment:
    enable: bool = field(
        default=True,
        metadata=_key("deployment-enable", "bool", "create containers from descriptors in ctr_dir"),
    )
    mode: str = field(
        default="update",
        metadata=_string(
            "deployment-mode",
            "init (at the first start only) or update (at each start)",
            choices=("init", "update"),
        ),
    )
    home_dir: str = field(
        default=HOME,
        metadata=_string("deployment-home-dir", "directory of the state of the deployment", rule="path"),
    )
    ctr_dir: str = field(
        default="/etc/container-management/containers",
        metadata=_string("deployment-ctr-dir", "directory of container descriptors (*.json)", rule="path"),
    )


@dataclass(frozen=True, kw_only=True)
class Manager:
    home_dir: str = field(
        default=HOME, metadata=_string("cm-home-dir", "directory of the stored containers", rule="path")
    )
    exec_root_dir: str = field(
        default=EXEC_ROOT,
        metadata=_string("cm-exec-root-dir", "directory of what lives until the next boot", rule="path"),
    )
    container_client_sid: str = field(
        default=_SID + "containerd-client",
        metadata=_string(
            "cm-cc-sid",
            "kept for compatibility: there is one container client",
            choices=(_SID + "containerd-client",),
        ),
    )
    network_manager_sid: str = field(
        default=_SID + "libnetwork-manager",
        metadata=_string(
            "cm-net-sid",
            "kept for compatibility: there is one network manager",
            choices=(_SID + "libnetwork-manager",),
        ),
    )
    default_ctrs_stop_timeout: float = field(
        default=30.0,
        metadata=_key(
            "cm-deflt-ctrs-stop-timeout",
            "stop_timeout",
            "time between SIGTERM and SIGKILL where a request names none; a bare number means seconds",
        ),
    )
    live_restore: bool = field(
        default=True,
        metadata=_key(
            "cm-live-restore",
            "bool",
            "containers keep running when the agent ends; false: they are stopped (addition of pycm)",
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Transport:
    """Of the broker connection (where the keys have flags) and of a registry."""

    root_ca: str = field(
        default="", metadata=_string("conn-root-ca", "PEM file with the authorities that are trusted")
    )
    client_cert: str = field(
        default="", metadata=_string("conn-client-cert", "PEM file with the client's certificate")
    )
    client_key: str = field(
        default="", metadata=_string("conn-client-key", "PEM file with the client's private key")
    )


@dataclass(frozen=True, kw_only=True)
class Credentials:
    user_id: str = field(default="", metadata=_string("", "user name at the registry"))
    password: str = field(
        default="", repr=False, metadata=_string("", "password at the registry", hide="all")
    )


@dataclass(frozen=True, kw_only=True)
class Registry:
    #: False if its section has an error: pulls from it are refused.
    usable: bool = True
    credentials: Credentials = field(default_factory=Credentials)
    transport: Transport = field(default_factory=Transport)


NO_REGISTRIES: Mapping[str, Registry] = MappingProxyType({})
NO_STRINGS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Containers:
    default_ns: str = field(
        default="kanto-cm",
        metadata=_string(
            "ccl-default-ns", "containerd namespace, and parent of the cgroups", rule="identifier"
        ),
    )
    address_path: str = field(
        default="/run/containerd/containerd.sock",
        metadata=_string("ccl-ap", "socket of containerd", rule="path"),
    )
    registry_configurations: Mapping[str, Registry] = field(
        default_factory=lambda: NO_REGISTRIES,
        metadata=_key("", "registries", "credentials and TLS files by registry host"),
    )
    insecure_registries: tuple[str, ...] = field(
        default=("localhost",),
        metadata=_key(
            "ccl-insecure-registries", "strings", "registries reached by HTTP, or HTTPS without verification"
        ),
    )
    exec_root_dir: str = field(
        default=EXEC_ROOT,
        metadata=_string("ccl-exec-root-dir", "directory of the FIFOs of container output", rule="path"),
    )
    home_dir: str = field(
        default=HOME, metadata=_string("ccl-home-dir", "directory of container logs", rule="path")
    )
    image_dec_keys: tuple[str, ...] = field(
        default=(),
        repr=False,
        metadata=_key(
            "ccl-image-dec-keys",
            "strings",
            "keys for encrypted images, as file[:password]",
            hide="password",
        ),
    )
    image_dec_recipients: tuple[str, ...] = field(
        default=(), metadata=_key("ccl-image-dec-recipients", "strings", "certificates for encrypted images")
    )
    runc_runtime: str = field(
        default=RUNC_RUNTIMES[0],
        metadata=_string("ccl-runc-runtime", "containerd runtime for containers", choices=RUNC_RUNTIMES),
    )
    runc_binary: str = field(
        default="",
        metadata=_string(
            "ccl-runc-binary",
            "OCI runtime that runc_runtime uses, such as crun, by name or path; empty: runc (addition of pycm)",
        ),
    )
    seccomp_profile: str = field(
        default="default",
        metadata=_string(
            "ccl-seccomp-profile",
            "which system calls containers may make: default, or unconfined for all (addition of pycm)",
            choices=("default", "unconfined"),
        ),
    )
    log_total_max_size: str = field(
        default="1G",
        metadata=_key(
            "ccl-log-total-max-size",
            "size",
            "size that the logs of all containers may reach together; the oldest rotated files go first; empty: no limit"
            " (addition of pycm)",
        ),
    )
    image_expiry: float = field(
        default=744 * 3600.0,
        metadata=_key("ccl-image-expiry", "duration", "age at which unused images are removed"),
    )
    image_expiry_disable: bool = field(
        default=False, metadata=_key("ccl-image-expiry-disable", "bool", "keep unused images for ever")
    )
    preload_dir: str = field(
        default="",
        metadata=_string(
            "ccl-preload-dir",
            "directory of image archives and OCI layouts that are imported once; empty: none (addition of pycm)",
            rule="path or nothing",
        ),
    )
    lease_id: str = field(
        default="kanto-cm.lease",
        metadata=_string("ccl-lease-id", "containerd lease that keeps what is in use", rule="identifier"),
    )
    image_verifier_type: str = field(
        default="none", metadata=_string("ccl-image-verifier-type", "none, or notation to check signatures")
    )
    image_verifier_config: Mapping[str, str] = field(
        default_factory=lambda: NO_STRINGS,
        metadata=_key("ccl-image-verifier-config", "map", "configDir and libexecDir of notation"),
    )


@dataclass(frozen=True, kw_only=True)
class DefaultBridge:
    disable: bool = field(default=False, metadata=_key("net-tbr-disable", "bool", "do without the bridge"))
    name: str = field(default="kanto-cm0", metadata=_string("net-br-name", "name of the bridge"))
    ip4: str = field(
        default="",
        metadata=_string(
            "net-br-ip4",
            "IPv4 address of the bridge, as 172.18.0.1/16; empty: of the first free private range",
        ),
    )
    fcidr4: str = field(
        default="",
        metadata=_string("net-br-fcidr4", "IPv4 range for containers, inside ip4; empty: all of it"),
    )
    gwip4: str = field(
        default="",
        metadata=_string("net-br-gwip4", "IPv4 gateway of containers, inside ip4; empty: the bridge"),
    )
    enable_ip6: bool = field(default=False, metadata=_key("net-br-enable-ip6", "bool", "IPv6 on the bridge"))
    mtu: int = field(
        default=1500, metadata=_key("net-br-mtu", "int", "largest packet on the bridge", high=65535)
    )
    icc: bool = field(default=True, metadata=_key("net-br-icc", "bool", "containers may talk to each other"))
    ip_tables: bool = field(default=True, metadata=_key("net-br-ipt", "bool", "set packet filter rules"))
    ip_forward: bool = field(default=True, metadata=_key("net-br-ipfw", "bool", "switch IP forwarding on"))
    ip_masq: bool = field(
        default=True, metadata=_key("net-br-ipmasq", "bool", "masquerade traffic to the outside")
    )
    userland_proxy: bool = field(
        default=False, metadata=_key("net-br-ulp", "bool", "kept for compatibility: there is no such proxy")
    )


@dataclass(frozen=True, kw_only=True)
class Network:
    type: str = field(
        default="bridge",
        metadata=_string("net-type", "kept for compatibility: each container has its network mode"),
    )
    home_dir: str = field(
        default=HOME,
        metadata=_string(
            "net-home-dir",
            "kept for compatibility: the files of networks lie in manager.home_dir",
            rule="path",
        ),
    )
    exec_root_dir: str = field(
        default=EXEC_ROOT,
        metadata=_string(
            "net-exec-root-dir", "directory of network namespaces and what belongs to them", rule="path"
        ),
    )
    cni_bin_dirs: tuple[str, ...] = field(
        default=("/usr/lib/cni", "/usr/libexec/cni", "/opt/cni/bin"),
        metadata=_key(
            "net-cni-bin-dirs", "strings", "directories where CNI plugins are looked for (addition of pycm)"
        ),
    )
    default_bridge: DefaultBridge = field(default_factory=DefaultBridge)


@dataclass(frozen=True, kw_only=True)
class GrpcServer:
    protocol: str = field(default="unix", metadata=_string("grpc-serv-netp", "unix, tcp, tcp4 or tcp6"))
    address_path: str = field(
        default=SOCKET, metadata=_string("grpc-serv-ap", "path of the socket, or host:port for tcp")
    )


def _allowed(flag: str, about: str) -> bool:
    allowed: bool = field(default=True, metadata=_key(flag, "bool", f"{about} (addition of pycm)"))
    return allowed


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What may be asked for over MQTT."""

    create: bool = _allowed("things-policy-create", "over MQTT: create containers, install software")
    privileged: bool = _allowed("things-policy-privileged", "over MQTT: privileged containers")
    capabilities: bool = _allowed(
        "things-policy-capabilities", "over MQTT: extra capabilities, seccomp profile unconfined"
    )
    hooks: bool = _allowed("things-policy-hooks", "over MQTT: hooks, which are programs that run on the host")
    mounts: bool = _allowed("things-policy-mounts", "over MQTT: mounts of host directories, log directories")
    devices: bool = _allowed("things-policy-devices", "over MQTT: devices of the host")


@dataclass(frozen=True, kw_only=True)
class Things:
    enable: bool = field(default=True, metadata=_key("things-enable", "bool", "digital twin over MQTT"))
    home_dir: str = field(
        default=HOME, metadata=_string("things-home-dir", "directory of the state of the twin", rule="path")
    )
    features: tuple[str, ...] = field(
        default=FEATURES,
        metadata=_key("things-features", "strings", "features of the twin", choices=FEATURES),
    )
    mask_env: bool = field(
        default=False,
        metadata=_key(
            "things-mask-env",
            "bool",
            "values of environment variables are *** in the twin (addition of pycm)",
        ),
    )
    system_metrics: bool = field(
        default=False,
        metadata=_key(
            "things-system-metrics",
            "bool",
            "take the place of Kanto's system-metrics: figures of the machine on the device's own thing (addition of pycm)",
        ),
    )
    private_downloads: bool = _allowed(
        "things-private-downloads", "artifacts of software may lie at private and loopback addresses"
    )
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True, kw_only=True)
class UpdateAgent:
    enable: bool = field(default=False, metadata=_key("ua-enable", "bool", "update agent over MQTT"))
    domain: str = field(default="containers", metadata=_string("ua-domain", "domain of the update agent"))
    system_containers: tuple[str, ...] = field(
        default=(), metadata=_key("ua-system-containers", "strings", "containers that updates never touch")
    )
    verbose_inventory_report: bool = field(
        default=False,
        metadata=_key("ua-verbose-inventory-report", "bool", "report more parameters of each container"),
    )


@dataclass(frozen=True, kw_only=True)
class Connection:
    broker_url: str = field(
        default="tcp://localhost:1883",
        repr=False,
        metadata=_string(
            "conn-broker-url", "address of the MQTT broker; without a scheme: tcp", hide="login"
        ),
    )
    keep_alive: float = field(
        default=20.0, metadata=_key("conn-keep-alive", "duration", "interval of pings", high=65535)
    )
    disconnect_timeout: float = field(
        default=0.25, metadata=_key("conn-disconnect-timeout", "duration", "time for an orderly disconnect")
    )
    client_username: str = field(
        default="", metadata=_string("conn-client-username", "user name at the broker")
    )
    client_password: str = field(
        default="",
        repr=False,
        metadata=_string("conn-client-password", "password at the broker", hide="all"),
    )
    connect_timeout: float = field(
        default=30.0, metadata=_key("conn-connect-timeout", "duration", "time for connecting")
    )
    acknowledge_timeout: float = field(
        default=15.0, metadata=_key("conn-ack-timeout", "duration", "time for the answer to a message")
    )
    subscribe_timeout: float = field(
        default=15.0, metadata=_key("conn-sub-timeout", "duration", "time for the answer to a subscription")
    )
    unsubscribe_timeout: float = field(
        default=5.0, metadata=_key("conn-unsub-timeout", "duration", "time for the answer to its end")
    )
    alpn: tuple[str, ...] = field(
        default=(),
        metadata=_key(
            "conn-alpn",
            "strings",
            "protocols to offer with TLS, as x-amzn-mqtt-ca at port 443 (addition of pycm)",
        ),
    )
    will_topic: str = field(
        default="",
        metadata=_string(
            "conn-will-topic",
            "topic of the last will, which the broker publishes if the agent vanishes; empty: none (addition of pycm)",
        ),
    )
    will_message: str = field(
        default="", metadata=_string("conn-will-message", "message of the last will (addition of pycm)")
    )
    transport: Transport = field(default_factory=Transport)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything the agent can be told; without arguments, the defaults."""

    log: Log = field(default_factory=Log)
    deployment: Deployment = field(default_factory=Deployment)
    manager: Manager = field(default_factory=Manager)
    containers: Containers = field(default_factory=Containers)
    network: Network = field(default_factory=Network)
    grpc_server: GrpcServer = field(default_factory=GrpcServer)
    things: Things = field(default_factory=Things)
    update_agent: UpdateAgent = field(default_factory=UpdateAgent)
    connection: Connection = field(default_factory=Connection)
