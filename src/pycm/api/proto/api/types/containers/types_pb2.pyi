# SPDX-License-Identifier: Apache-2.0
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Container(_message.Message):
    __slots__ = ["config", "created", "domain_name", "hooks", "host_config", "host_name", "hostname_path", "hosts_path", "id", "image", "io_config", "manually_stopped", "mounts", "name", "network_settings", "resolv_conf_path", "restart_count", "state"]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_NAME_FIELD_NUMBER: _ClassVar[int]
    HOOKS_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_PATH_FIELD_NUMBER: _ClassVar[int]
    HOSTS_PATH_FIELD_NUMBER: _ClassVar[int]
    HOST_CONFIG_FIELD_NUMBER: _ClassVar[int]
    HOST_NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    IO_CONFIG_FIELD_NUMBER: _ClassVar[int]
    MANUALLY_STOPPED_FIELD_NUMBER: _ClassVar[int]
    MOUNTS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NETWORK_SETTINGS_FIELD_NUMBER: _ClassVar[int]
    RESOLV_CONF_PATH_FIELD_NUMBER: _ClassVar[int]
    RESTART_COUNT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    config: ContainerConfiguration
    created: str
    domain_name: str
    hooks: _containers.RepeatedCompositeFieldContainer[Hook]
    host_config: HostConfig
    host_name: str
    hostname_path: str
    hosts_path: str
    id: str
    image: Image
    io_config: IOConfig
    manually_stopped: bool
    mounts: _containers.RepeatedCompositeFieldContainer[MountPoint]
    name: str
    network_settings: NetworkSettings
    resolv_conf_path: str
    restart_count: int
    state: State
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., image: _Optional[_Union[Image, _Mapping[str, object]]] = ..., host_name: _Optional[str] = ..., domain_name: _Optional[str] = ..., resolv_conf_path: _Optional[str] = ..., hosts_path: _Optional[str] = ..., hostname_path: _Optional[str] = ..., mounts: _Optional[_Iterable[_Union[MountPoint, _Mapping[str, object]]]] = ..., hooks: _Optional[_Iterable[_Union[Hook, _Mapping[str, object]]]] = ..., host_config: _Optional[_Union[HostConfig, _Mapping[str, object]]] = ..., io_config: _Optional[_Union[IOConfig, _Mapping[str, object]]] = ..., config: _Optional[_Union[ContainerConfiguration, _Mapping[str, object]]] = ..., network_settings: _Optional[_Union[NetworkSettings, _Mapping[str, object]]] = ..., state: _Optional[_Union[State, _Mapping[str, object]]] = ..., created: _Optional[str] = ..., manually_stopped: bool = ..., restart_count: _Optional[int] = ...) -> None: ...

class ContainerConfiguration(_message.Message):
    __slots__ = ["cmd", "env", "health_check", "user", "working_dir"]
    CMD_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    HEALTH_CHECK_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    WORKING_DIR_FIELD_NUMBER: _ClassVar[int]
    cmd: _containers.RepeatedScalarFieldContainer[str]
    env: _containers.RepeatedScalarFieldContainer[str]
    health_check: HealthCheck
    user: str
    working_dir: str
    def __init__(self, env: _Optional[_Iterable[str]] = ..., cmd: _Optional[_Iterable[str]] = ..., user: _Optional[str] = ..., working_dir: _Optional[str] = ..., health_check: _Optional[_Union[HealthCheck, _Mapping[str, object]]] = ...) -> None: ...

class DecryptConfig(_message.Message):
    __slots__ = ["keys", "recipients"]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    RECIPIENTS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[str]
    recipients: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, keys: _Optional[_Iterable[str]] = ..., recipients: _Optional[_Iterable[str]] = ...) -> None: ...

class DeviceMapping(_message.Message):
    __slots__ = ["cgroup_permissions", "path_in_container", "path_on_host"]
    CGROUP_PERMISSIONS_FIELD_NUMBER: _ClassVar[int]
    PATH_IN_CONTAINER_FIELD_NUMBER: _ClassVar[int]
    PATH_ON_HOST_FIELD_NUMBER: _ClassVar[int]
    cgroup_permissions: str
    path_in_container: str
    path_on_host: str
    def __init__(self, path_on_host: _Optional[str] = ..., path_in_container: _Optional[str] = ..., cgroup_permissions: _Optional[str] = ...) -> None: ...

class EndpointSettings(_message.Message):
    __slots__ = ["gateway", "id", "ip_address", "mac_address", "network_id"]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    IP_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    MAC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_ID_FIELD_NUMBER: _ClassVar[int]
    gateway: str
    id: str
    ip_address: str
    mac_address: str
    network_id: str
    def __init__(self, id: _Optional[str] = ..., gateway: _Optional[str] = ..., ip_address: _Optional[str] = ..., mac_address: _Optional[str] = ..., network_id: _Optional[str] = ...) -> None: ...

class HealthCheck(_message.Message):
    __slots__ = ["exec", "interval", "retries", "start_period", "tcp", "timeout"]
    EXEC_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    START_PERIOD_FIELD_NUMBER: _ClassVar[int]
    TCP_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    exec: _containers.RepeatedScalarFieldContainer[str]
    interval: str
    retries: int
    start_period: str
    tcp: int
    timeout: str
    def __init__(self, exec: _Optional[_Iterable[str]] = ..., tcp: _Optional[int] = ..., interval: _Optional[str] = ..., timeout: _Optional[str] = ..., retries: _Optional[int] = ..., start_period: _Optional[str] = ...) -> None: ...

class Hook(_message.Message):
    __slots__ = ["args", "env", "path", "timeout", "type"]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    args: _containers.RepeatedScalarFieldContainer[str]
    env: _containers.RepeatedScalarFieldContainer[str]
    path: str
    timeout: int
    type: str
    def __init__(self, path: _Optional[str] = ..., args: _Optional[_Iterable[str]] = ..., env: _Optional[_Iterable[str]] = ..., timeout: _Optional[int] = ..., type: _Optional[str] = ...) -> None: ...

class HostConfig(_message.Message):
    __slots__ = ["devices", "extra_capabilities", "extra_hosts", "log_config", "network_mode", "port_mappings", "privileged", "resources", "restart_policy", "runtime", "seccomp_profile", "ulimits"]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    EXTRA_CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    EXTRA_HOSTS_FIELD_NUMBER: _ClassVar[int]
    LOG_CONFIG_FIELD_NUMBER: _ClassVar[int]
    NETWORK_MODE_FIELD_NUMBER: _ClassVar[int]
    PORT_MAPPINGS_FIELD_NUMBER: _ClassVar[int]
    PRIVILEGED_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    RESTART_POLICY_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    SECCOMP_PROFILE_FIELD_NUMBER: _ClassVar[int]
    ULIMITS_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[DeviceMapping]
    extra_capabilities: _containers.RepeatedScalarFieldContainer[str]
    extra_hosts: _containers.RepeatedScalarFieldContainer[str]
    log_config: LogConfiguration
    network_mode: str
    port_mappings: _containers.RepeatedCompositeFieldContainer[PortMapping]
    privileged: bool
    resources: Resources
    restart_policy: RestartPolicy
    runtime: str
    seccomp_profile: str
    ulimits: _containers.RepeatedCompositeFieldContainer[Ulimit]
    def __init__(self, devices: _Optional[_Iterable[_Union[DeviceMapping, _Mapping[str, object]]]] = ..., network_mode: _Optional[str] = ..., privileged: bool = ..., restart_policy: _Optional[_Union[RestartPolicy, _Mapping[str, object]]] = ..., runtime: _Optional[str] = ..., extra_hosts: _Optional[_Iterable[str]] = ..., port_mappings: _Optional[_Iterable[_Union[PortMapping, _Mapping[str, object]]]] = ..., log_config: _Optional[_Union[LogConfiguration, _Mapping[str, object]]] = ..., resources: _Optional[_Union[Resources, _Mapping[str, object]]] = ..., extra_capabilities: _Optional[_Iterable[str]] = ..., ulimits: _Optional[_Iterable[_Union[Ulimit, _Mapping[str, object]]]] = ..., seccomp_profile: _Optional[str] = ...) -> None: ...

class IOConfig(_message.Message):
    __slots__ = ["attach_stderr", "attach_stdin", "attach_stdout", "open_stdin", "stdin_once", "tty"]
    ATTACH_STDERR_FIELD_NUMBER: _ClassVar[int]
    ATTACH_STDIN_FIELD_NUMBER: _ClassVar[int]
    ATTACH_STDOUT_FIELD_NUMBER: _ClassVar[int]
    OPEN_STDIN_FIELD_NUMBER: _ClassVar[int]
    STDIN_ONCE_FIELD_NUMBER: _ClassVar[int]
    TTY_FIELD_NUMBER: _ClassVar[int]
    attach_stderr: bool
    attach_stdin: bool
    attach_stdout: bool
    open_stdin: bool
    stdin_once: bool
    tty: bool
    def __init__(self, attach_stderr: bool = ..., attach_stdin: bool = ..., attach_stdout: bool = ..., open_stdin: bool = ..., stdin_once: bool = ..., tty: bool = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ["decrypt_config", "name"]
    DECRYPT_CONFIG_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    decrypt_config: DecryptConfig
    name: str
    def __init__(self, name: _Optional[str] = ..., decrypt_config: _Optional[_Union[DecryptConfig, _Mapping[str, object]]] = ...) -> None: ...

class LogConfiguration(_message.Message):
    __slots__ = ["driver_config", "mode_config"]
    DRIVER_CONFIG_FIELD_NUMBER: _ClassVar[int]
    MODE_CONFIG_FIELD_NUMBER: _ClassVar[int]
    driver_config: LogDriverConfiguration
    mode_config: LogModeConfiguration
    def __init__(self, driver_config: _Optional[_Union[LogDriverConfiguration, _Mapping[str, object]]] = ..., mode_config: _Optional[_Union[LogModeConfiguration, _Mapping[str, object]]] = ...) -> None: ...

class LogDriverConfiguration(_message.Message):
    __slots__ = ["max_files", "max_size", "root_dir", "type"]
    MAX_FILES_FIELD_NUMBER: _ClassVar[int]
    MAX_SIZE_FIELD_NUMBER: _ClassVar[int]
    ROOT_DIR_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    max_files: int
    max_size: str
    root_dir: str
    type: str
    def __init__(self, type: _Optional[str] = ..., max_files: _Optional[int] = ..., max_size: _Optional[str] = ..., root_dir: _Optional[str] = ...) -> None: ...

class LogModeConfiguration(_message.Message):
    __slots__ = ["max_buffer_size", "mode"]
    MAX_BUFFER_SIZE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    max_buffer_size: str
    mode: str
    def __init__(self, mode: _Optional[str] = ..., max_buffer_size: _Optional[str] = ...) -> None: ...

class MountPoint(_message.Message):
    __slots__ = ["destination", "propagation_mode", "read_only", "source"]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    PROPAGATION_MODE_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    destination: str
    propagation_mode: str
    read_only: bool
    source: str
    def __init__(self, destination: _Optional[str] = ..., source: _Optional[str] = ..., propagation_mode: _Optional[str] = ..., read_only: bool = ...) -> None: ...

class NetworkSettings(_message.Message):
    __slots__ = ["network_controller_id", "networks", "sandbox_id", "sandbox_key"]
    class NetworksEntry(_message.Message):
        __slots__ = ["key", "value"]
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: EndpointSettings
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[EndpointSettings, _Mapping[str, object]]] = ...) -> None: ...
    NETWORKS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_CONTROLLER_ID_FIELD_NUMBER: _ClassVar[int]
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    SANDBOX_KEY_FIELD_NUMBER: _ClassVar[int]
    network_controller_id: str
    networks: _containers.MessageMap[str, EndpointSettings]
    sandbox_id: str
    sandbox_key: str
    def __init__(self, networks: _Optional[_Mapping[str, EndpointSettings]] = ..., sandbox_id: _Optional[str] = ..., sandbox_key: _Optional[str] = ..., network_controller_id: _Optional[str] = ...) -> None: ...

class PortMapping(_message.Message):
    __slots__ = ["container_port", "host_ip", "host_port", "host_port_end", "protocol"]
    CONTAINER_PORT_FIELD_NUMBER: _ClassVar[int]
    HOST_IP_FIELD_NUMBER: _ClassVar[int]
    HOST_PORT_END_FIELD_NUMBER: _ClassVar[int]
    HOST_PORT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    container_port: int
    host_ip: str
    host_port: int
    host_port_end: int
    protocol: str
    def __init__(self, protocol: _Optional[str] = ..., host_ip: _Optional[str] = ..., host_port: _Optional[int] = ..., host_port_end: _Optional[int] = ..., container_port: _Optional[int] = ...) -> None: ...

class Resources(_message.Message):
    __slots__ = ["cpu_shares", "cpus", "cpuset_cpus", "memory", "memory_reservation", "memory_swap", "pids_limit"]
    CPUSET_CPUS_FIELD_NUMBER: _ClassVar[int]
    CPUS_FIELD_NUMBER: _ClassVar[int]
    CPU_SHARES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    MEMORY_RESERVATION_FIELD_NUMBER: _ClassVar[int]
    MEMORY_SWAP_FIELD_NUMBER: _ClassVar[int]
    PIDS_LIMIT_FIELD_NUMBER: _ClassVar[int]
    cpu_shares: int
    cpus: str
    cpuset_cpus: str
    memory: str
    memory_reservation: str
    memory_swap: str
    pids_limit: int
    def __init__(self, memory: _Optional[str] = ..., memory_reservation: _Optional[str] = ..., memory_swap: _Optional[str] = ..., cpus: _Optional[str] = ..., cpu_shares: _Optional[int] = ..., cpuset_cpus: _Optional[str] = ..., pids_limit: _Optional[int] = ...) -> None: ...

class RestartPolicy(_message.Message):
    __slots__ = ["maximum_retry_count", "retry_timeout", "type"]
    MAXIMUM_RETRY_COUNT_FIELD_NUMBER: _ClassVar[int]
    RETRY_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    maximum_retry_count: int
    retry_timeout: int
    type: str
    def __init__(self, maximum_retry_count: _Optional[int] = ..., retry_timeout: _Optional[int] = ..., type: _Optional[str] = ...) -> None: ...

class State(_message.Message):
    __slots__ = ["dead", "error", "exit_code", "exited", "finished_at", "health", "health_error", "oomKilled", "paused", "pid", "restarting", "running", "started_at", "status"]
    DEAD_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    EXITED_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    FINISHED_AT_FIELD_NUMBER: _ClassVar[int]
    HEALTH_ERROR_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    OOMKILLED_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    RESTARTING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    dead: bool
    error: str
    exit_code: int
    exited: bool
    finished_at: str
    health: str
    health_error: str
    oomKilled: bool
    paused: bool
    pid: int
    restarting: bool
    running: bool
    started_at: str
    status: str
    def __init__(self, pid: _Optional[int] = ..., started_at: _Optional[str] = ..., error: _Optional[str] = ..., exit_code: _Optional[int] = ..., finished_at: _Optional[str] = ..., exited: bool = ..., dead: bool = ..., restarting: bool = ..., paused: bool = ..., running: bool = ..., status: _Optional[str] = ..., oomKilled: bool = ..., health: _Optional[str] = ..., health_error: _Optional[str] = ...) -> None: ...

class StopOptions(_message.Message):
    __slots__ = ["force", "signal", "timeout"]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    force: bool
    signal: str
    timeout: int
    def __init__(self, timeout: _Optional[int] = ..., force: bool = ..., signal: _Optional[str] = ...) -> None: ...

class Ulimit(_message.Message):
    __slots__ = ["hard", "name", "soft"]
    HARD_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SOFT_FIELD_NUMBER: _ClassVar[int]
    hard: int
    name: str
    soft: int
    def __init__(self, name: _Optional[str] = ..., soft: _Optional[int] = ..., hard: _Optional[int] = ...) -> None: ...

class UpdateOptions(_message.Message):
    __slots__ = ["resources", "restart_policy"]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    RESTART_POLICY_FIELD_NUMBER: _ClassVar[int]
    resources: Resources
    restart_policy: RestartPolicy
    def __init__(self, restart_policy: _Optional[_Union[RestartPolicy, _Mapping[str, object]]] = ..., resources: _Optional[_Union[Resources, _Mapping[str, object]]] = ...) -> None: ...
