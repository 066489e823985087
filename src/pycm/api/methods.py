# SPDX-License-Identifier: Apache-2.0
"""Names and numbers of the gRPC API that server and client share. Imports nothing: every start of the command line reads it."""

from __future__ import annotations

_SERVICES = "github.com.eclipse_kanto.container_management.containerm.api.services"
CONTAINERS = f"/{_SERVICES}.containers.Containers/"
PROJECT_INFO = f"/{_SERVICES}.sysinfo.SystemInfo/ProjectInfo"

#: pycm's own service; its code is imported when it is called for the first time.
AGENT = "/pycm.v1.Agent/"

#: Trailing metadata of Attach: the exit code of the container, if it has ended. An addition to Kanto's API.
EXIT_CODE = "pycm-exit-code"

#: The version of the API that ProjectInfo reports: clients compare it.
API_VERSION = "1.0.0"
#: What is not known about a build; the values must hold no blanks.
UNKNOWN_BUILD = "unknown"

#: Longest request accepted, and longest answer that the client takes: what Go's library has as default.
MAX_MESSAGE = 4 * 1024 * 1024
#: flag (not compressed) and length that stand before each message.
PREFIX = ">?I"
PREFIX_SIZE = 5

#: Status codes as Go's library prints them; the position is the number.
CODES = (
    "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied",
    "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable", "DataLoss",
    "Unauthenticated",
)  # fmt: skip


def code_name(number: int) -> str:
    return CODES[number] if 0 <= number < len(CODES) else f"Code({number})"
