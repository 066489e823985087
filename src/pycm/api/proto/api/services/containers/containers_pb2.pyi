# SPDX-License-Identifier: Apache-2.0
from pycm.api.proto.api.types.containers import types_pb2 as _types_pb2
from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AttachContainerRequest(_message.Message):
    __slots__ = ["data_to_write", "finish_write", "id", "read_limit", "read_offset", "std_in", "write_offset"]
    DATA_TO_WRITE_FIELD_NUMBER: _ClassVar[int]
    FINISH_WRITE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    READ_LIMIT_FIELD_NUMBER: _ClassVar[int]
    READ_OFFSET_FIELD_NUMBER: _ClassVar[int]
    STD_IN_FIELD_NUMBER: _ClassVar[int]
    WRITE_OFFSET_FIELD_NUMBER: _ClassVar[int]
    data_to_write: bytes
    finish_write: bool
    id: str
    read_limit: int
    read_offset: int
    std_in: bool
    write_offset: int
    def __init__(self, id: _Optional[str] = ..., std_in: bool = ..., write_offset: _Optional[int] = ..., finish_write: bool = ..., read_offset: _Optional[int] = ..., read_limit: _Optional[int] = ..., data_to_write: _Optional[bytes] = ...) -> None: ...

class AttachContainerResponse(_message.Message):
    __slots__ = ["id", "read_data", "std_in", "write_committed_size"]
    ID_FIELD_NUMBER: _ClassVar[int]
    READ_DATA_FIELD_NUMBER: _ClassVar[int]
    STD_IN_FIELD_NUMBER: _ClassVar[int]
    WRITE_COMMITTED_SIZE_FIELD_NUMBER: _ClassVar[int]
    id: str
    read_data: bytes
    std_in: bool
    write_committed_size: int
    def __init__(self, id: _Optional[str] = ..., std_in: bool = ..., write_committed_size: _Optional[int] = ..., read_data: _Optional[bytes] = ...) -> None: ...

class CreateContainerRequest(_message.Message):
    __slots__ = ["container"]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    container: _types_pb2.Container
    def __init__(self, container: _Optional[_Union[_types_pb2.Container, _Mapping[str, object]]] = ...) -> None: ...

class CreateContainerResponse(_message.Message):
    __slots__ = ["container"]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    container: _types_pb2.Container
    def __init__(self, container: _Optional[_Union[_types_pb2.Container, _Mapping[str, object]]] = ...) -> None: ...

class GetContainerRequest(_message.Message):
    __slots__ = ["id"]
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetContainerResponse(_message.Message):
    __slots__ = ["container"]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    container: _types_pb2.Container
    def __init__(self, container: _Optional[_Union[_types_pb2.Container, _Mapping[str, object]]] = ...) -> None: ...

class GetLogsRequest(_message.Message):
    __slots__ = ["id", "tail"]
    ID_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    id: str
    tail: int
    def __init__(self, id: _Optional[str] = ..., tail: _Optional[int] = ...) -> None: ...

class GetLogsResponse(_message.Message):
    __slots__ = ["log"]
    LOG_FIELD_NUMBER: _ClassVar[int]
    log: str
    def __init__(self, log: _Optional[str] = ...) -> None: ...

class ListContainerMessage(_message.Message):
    __slots__ = ["container"]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    container: _types_pb2.Container
    def __init__(self, container: _Optional[_Union[_types_pb2.Container, _Mapping[str, object]]] = ...) -> None: ...

class ListContainersRequest(_message.Message):
    __slots__: list[str] = []
    def __init__(self) -> None: ...

class ListContainersResponse(_message.Message):
    __slots__ = ["containers"]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    containers: _containers.RepeatedCompositeFieldContainer[_types_pb2.Container]
    def __init__(self, containers: _Optional[_Iterable[_Union[_types_pb2.Container, _Mapping[str, object]]]] = ...) -> None: ...

class PauseContainerRequest(_message.Message):
    __slots__ = ["id"]
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RemoveContainerRequest(_message.Message):
    __slots__ = ["force", "id", "stopOptions"]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    STOPOPTIONS_FIELD_NUMBER: _ClassVar[int]
    force: bool
    id: str
    stopOptions: _types_pb2.StopOptions
    def __init__(self, id: _Optional[str] = ..., force: bool = ..., stopOptions: _Optional[_Union[_types_pb2.StopOptions, _Mapping[str, object]]] = ...) -> None: ...

class RenameContainerRequest(_message.Message):
    __slots__ = ["id", "name"]
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class RestartContainerRequest(_message.Message):
    __slots__ = ["id"]
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class StartContainerRequest(_message.Message):
    __slots__ = ["id"]
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class StopContainerRequest(_message.Message):
    __slots__ = ["id", "stopOptions"]
    ID_FIELD_NUMBER: _ClassVar[int]
    STOPOPTIONS_FIELD_NUMBER: _ClassVar[int]
    id: str
    stopOptions: _types_pb2.StopOptions
    def __init__(self, id: _Optional[str] = ..., stopOptions: _Optional[_Union[_types_pb2.StopOptions, _Mapping[str, object]]] = ...) -> None: ...

class UnpauseContainerRequest(_message.Message):
    __slots__ = ["id"]
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class UpdateContainerRequest(_message.Message):
    __slots__ = ["id", "updateOptions"]
    ID_FIELD_NUMBER: _ClassVar[int]
    UPDATEOPTIONS_FIELD_NUMBER: _ClassVar[int]
    id: str
    updateOptions: _types_pb2.UpdateOptions
    def __init__(self, id: _Optional[str] = ..., updateOptions: _Optional[_Union[_types_pb2.UpdateOptions, _Mapping[str, object]]] = ...) -> None: ...
