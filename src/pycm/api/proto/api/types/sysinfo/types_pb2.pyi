# SPDX-License-Identifier: Apache-2.0
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class ProjectInfo(_message.Message):
    __slots__ = ["api_version", "build_time", "git_commit", "project_version"]
    API_VERSION_FIELD_NUMBER: _ClassVar[int]
    BUILD_TIME_FIELD_NUMBER: _ClassVar[int]
    GIT_COMMIT_FIELD_NUMBER: _ClassVar[int]
    PROJECT_VERSION_FIELD_NUMBER: _ClassVar[int]
    api_version: str
    build_time: str
    git_commit: str
    project_version: str
    def __init__(self, project_version: _Optional[str] = ..., build_time: _Optional[str] = ..., api_version: _Optional[str] = ..., git_commit: _Optional[str] = ...) -> None: ...
