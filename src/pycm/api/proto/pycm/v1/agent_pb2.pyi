# SPDX-License-Identifier: Apache-2.0
from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
NEXT_EXIT: WaitCondition
NOT_RUNNING: WaitCondition
REMOVED: WaitCondition
RUNNING: WaitCondition

class ContainerStats(_message.Message):
    __slots__ = ["container_id", "container_name", "cpu_percent", "io_read_bytes", "io_write_bytes", "memory_total_bytes", "memory_used_bytes", "net_read_bytes", "net_write_bytes", "pids"]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_NAME_FIELD_NUMBER: _ClassVar[int]
    CPU_PERCENT_FIELD_NUMBER: _ClassVar[int]
    IO_READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    IO_WRITE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    NET_READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    NET_WRITE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PIDS_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    container_name: str
    cpu_percent: float
    io_read_bytes: int
    io_write_bytes: int
    memory_total_bytes: int
    memory_used_bytes: int
    net_read_bytes: int
    net_write_bytes: int
    pids: int
    def __init__(self, container_id: _Optional[str] = ..., container_name: _Optional[str] = ..., cpu_percent: _Optional[float] = ..., memory_used_bytes: _Optional[int] = ..., memory_total_bytes: _Optional[int] = ..., io_read_bytes: _Optional[int] = ..., io_write_bytes: _Optional[int] = ..., net_read_bytes: _Optional[int] = ..., net_write_bytes: _Optional[int] = ..., pids: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ["action", "container_id", "container_name", "error", "exit_code", "image", "status", "time"]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_NAME_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    action: str
    container_id: str
    container_name: str
    error: str
    exit_code: int
    image: str
    status: str
    time: str
    def __init__(self, time: _Optional[str] = ..., action: _Optional[str] = ..., container_id: _Optional[str] = ..., container_name: _Optional[str] = ..., image: _Optional[str] = ..., status: _Optional[str] = ..., exit_code: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...

class EventsRequest(_message.Message):
    __slots__ = ["actions", "container_ids"]
    ACTIONS_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_IDS_FIELD_NUMBER: _ClassVar[int]
    actions: _containers.RepeatedScalarFieldContainer[str]
    container_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, container_ids: _Optional[_Iterable[str]] = ..., actions: _Optional[_Iterable[str]] = ...) -> None: ...

class ExecEnd(_message.Message):
    __slots__ = ["error", "exit_code"]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    error: str
    exit_code: int
    def __init__(self, exit_code: _Optional[int] = ..., error: _Optional[str] = ...) -> None: ...

class ExecRequest(_message.Message):
    __slots__ = ["resize", "signal", "start", "stdin"]
    RESIZE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    resize: TerminalSize
    signal: int
    start: ExecStart
    stdin: bytes
    def __init__(self, start: _Optional[_Union[ExecStart, _Mapping[str, object]]] = ..., stdin: _Optional[bytes] = ..., resize: _Optional[_Union[TerminalSize, _Mapping[str, object]]] = ..., signal: _Optional[int] = ...) -> None: ...

class ExecResponse(_message.Message):
    __slots__ = ["end", "started", "stderr", "stdout"]
    END_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    end: ExecEnd
    started: bool
    stderr: bytes
    stdout: bytes
    def __init__(self, started: bool = ..., stdout: _Optional[bytes] = ..., stderr: _Optional[bytes] = ..., end: _Optional[_Union[ExecEnd, _Mapping[str, object]]] = ...) -> None: ...

class ExecStart(_message.Message):
    __slots__ = ["command", "container_id", "env", "size", "stdin", "tty", "user", "working_dir"]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    TTY_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    WORKING_DIR_FIELD_NUMBER: _ClassVar[int]
    command: _containers.RepeatedScalarFieldContainer[str]
    container_id: str
    env: _containers.RepeatedScalarFieldContainer[str]
    size: TerminalSize
    stdin: bool
    tty: bool
    user: str
    working_dir: str
    def __init__(self, container_id: _Optional[str] = ..., command: _Optional[_Iterable[str]] = ..., tty: bool = ..., stdin: bool = ..., env: _Optional[_Iterable[str]] = ..., user: _Optional[str] = ..., working_dir: _Optional[str] = ..., size: _Optional[_Union[TerminalSize, _Mapping[str, object]]] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ["container_ids", "created", "digest", "reference", "size_bytes"]
    CONTAINER_IDS_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    container_ids: _containers.RepeatedScalarFieldContainer[str]
    created: str
    digest: str
    reference: str
    size_bytes: int
    def __init__(self, reference: _Optional[str] = ..., digest: _Optional[str] = ..., size_bytes: _Optional[int] = ..., created: _Optional[str] = ..., container_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ListImagesRequest(_message.Message):
    __slots__: list[str] = []
    def __init__(self) -> None: ...

class ListImagesResponse(_message.Message):
    __slots__ = ["images"]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[Image]
    def __init__(self, images: _Optional[_Iterable[_Union[Image, _Mapping[str, object]]]] = ...) -> None: ...

class PruneImagesRequest(_message.Message):
    __slots__: list[str] = []
    def __init__(self) -> None: ...

class PruneImagesResponse(_message.Message):
    __slots__ = ["references"]
    REFERENCES_FIELD_NUMBER: _ClassVar[int]
    references: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, references: _Optional[_Iterable[str]] = ...) -> None: ...

class PullImageRequest(_message.Message):
    __slots__ = ["reference"]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    def __init__(self, reference: _Optional[str] = ...) -> None: ...

class PullImageResponse(_message.Message):
    __slots__ = ["done", "image", "step", "total"]
    DONE_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    done: int
    image: Image
    step: str
    total: int
    def __init__(self, step: _Optional[str] = ..., done: _Optional[int] = ..., total: _Optional[int] = ..., image: _Optional[_Union[Image, _Mapping[str, object]]] = ...) -> None: ...

class RemoveImageRequest(_message.Message):
    __slots__ = ["reference"]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    def __init__(self, reference: _Optional[str] = ...) -> None: ...

class ResizeRequest(_message.Message):
    __slots__ = ["container_id", "size"]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    size: TerminalSize
    def __init__(self, container_id: _Optional[str] = ..., size: _Optional[_Union[TerminalSize, _Mapping[str, object]]] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ["container_ids", "interval_ms", "samples"]
    CONTAINER_IDS_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    container_ids: _containers.RepeatedScalarFieldContainer[str]
    interval_ms: int
    samples: int
    def __init__(self, container_ids: _Optional[_Iterable[str]] = ..., interval_ms: _Optional[int] = ..., samples: _Optional[int] = ...) -> None: ...

class StatsResponse(_message.Message):
    __slots__ = ["containers", "time"]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    containers: _containers.RepeatedCompositeFieldContainer[ContainerStats]
    time: str
    def __init__(self, time: _Optional[str] = ..., containers: _Optional[_Iterable[_Union[ContainerStats, _Mapping[str, object]]]] = ...) -> None: ...

class TerminalSize(_message.Message):
    __slots__ = ["columns", "rows"]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    columns: int
    rows: int
    def __init__(self, columns: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class WaitRequest(_message.Message):
    __slots__ = ["condition", "container_id"]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    condition: WaitCondition
    container_id: str
    def __init__(self, container_id: _Optional[str] = ..., condition: _Optional[_Union[WaitCondition, str]] = ...) -> None: ...

class WaitResponse(_message.Message):
    __slots__ = ["error", "exit_code", "removed", "status"]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    error: str
    exit_code: int
    removed: bool
    status: str
    def __init__(self, status: _Optional[str] = ..., exit_code: _Optional[int] = ..., error: _Optional[str] = ..., removed: bool = ...) -> None: ...

class WaitCondition(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__: list[str] = []
