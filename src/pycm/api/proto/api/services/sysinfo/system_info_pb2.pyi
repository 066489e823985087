# SPDX-License-Identifier: Apache-2.0
from pycm.api.proto.api.types.sysinfo import types_pb2 as _types_pb2
from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ProjectInfoResponse(_message.Message):
    __slots__ = ["project_info"]
    PROJECT_INFO_FIELD_NUMBER: _ClassVar[int]
    project_info: _types_pb2.ProjectInfo
    def __init__(self, project_info: _Optional[_Union[_types_pb2.ProjectInfo, _Mapping[str, object]]] = ...) -> None: ...
