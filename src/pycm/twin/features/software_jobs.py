# SPDX-License-Identifier: Apache-2.0
"""How software is installed and removed: artifacts with their checksums, and the statuses that a job publishes.

An artifact is a container in the form of the store and of descriptors. A failing module does not prevent the next one
from being tried. Containers that a failed module has created stay, as in the original.
"""

from __future__ import annotations

import hashlib
import hmac
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pycm.errors import InvalidInputError, OperationFailedError, PycmError
from pycm.model.container import read_descriptor
from pycm.model.defaults import fill_defaults
from pycm.model.validation import check_id, validate
from pycm.twin.features.container_config import denial
from pycm.twin.features.software_updatable import LAST, LAST_FAILED
from pycm.twin.lanes import INTERNAL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pycm.config.types import Policy
    from pycm.model.container import Container
    from pycm.twin.features import Arguments
    from pycm.twin.lanes import Job, JobContext

#: The statuses that end an operation begin so.
FINISHED = "FINISHED_"
SUCCESS, ERROR, REJECTED = "FINISHED_SUCCESS", "FINISHED_ERROR", "FINISHED_REJECTED"
#: Modules, or pieces of software, of a command, and characters of its correlation id, which is part of each status.
MAX_SOFTWARE, MAX_CORRELATION = 256, 256
#: Longest artifact (a container's description has a few kB), and bytes of all artifacts of a module, which are in
# memory together.
MAX_ARTIFACT = 1 << 20
MAX_MODULE = 4 * MAX_ARTIFACT
#: (name, bytes, digest) in the order of verification. MD5 and SHA-1 protect against damage only; backends send them.
ALGORITHMS: tuple[tuple[str, int, Callable[[bytes], bytes]], ...] = (
    ("MD5", 16, lambda data: hashlib.md5(data, usedforsecurity=False).digest()),
    ("SHA1", 20, lambda data: hashlib.sha1(data, usedforsecurity=False).digest()),
    ("SHA256", 32, lambda data: hashlib.sha256(data).digest()),
)


class RejectedError(PycmError):
    """The artifact itself is wrong: it does not match its checksum, or describes no valid container."""


# ── arguments ──


class Artifact(NamedTuple):
    """`url` "" without an HTTP or HTTPS link. `where`: its path in the argument."""

    url: str
    checksums: Mapping[str, str]
    where: str = ""


class Module(NamedTuple):
    name: str
    version: str
    artifacts: tuple[Artifact, ...]


class Modules(NamedTuple):
    correlation_id: str
    modules: tuple[Module, ...]


class Software(NamedTuple):
    """`items` are in the form of the statuses."""

    correlation_id: str
    items: tuple[Mapping[str, str], ...]
    forced: bool


def read_modules(given: Arguments) -> Modules:
    """Raises InvalidInputError."""
    modules = tuple(map(_module, given.children("softwareModules", MAX_SOFTWARE)))
    if not modules:
        raise InvalidInputError("there are no SoftwareModules to be installed")  # compat
    return Modules(given.text("correlationId", MAX_CORRELATION), modules)


def _module(given: Arguments) -> Module:
    identity = given.child("softwareModule")
    if identity is None:
        raise InvalidInputError(f"{given.where}.softwareModule: is missing")
    name, version = identity.text("name"), identity.text("version")
    artifacts = tuple(map(_artifact, given.children("artifacts")))
    if not artifacts:
        raise InvalidInputError(  # compat
            f"there are no SoftwareArtifacts referenced for SoftwareModule [Name.version] = [{name}.{version}]"
        )
    return Module(name, version, artifacts)


def _artifact(given: Arguments) -> Artifact:
    """Of an HTTP and an HTTPS link the first counts, as in the original."""
    download, sums = given.child("download"), given.child("checksums")
    links = [download.child(name) for name in ("HTTP", "HTTPS")] if download else []
    url = next((link.text("url") for link in links if link), "")
    checksums = {name: sums.text(name) for name, _, _ in ALGORITHMS} if sums else {}
    return Artifact(url, {name: text for name, text in checksums.items() if text}, given.where)


def read_software(given: Arguments) -> Software:
    """Raises InvalidInputError."""
    items = tuple(map(_item, given.children("software", MAX_SOFTWARE)))
    if not items:
        raise InvalidInputError("there are no DependencyDescriptions to be removed")  # compat
    return Software(given.text("correlationId", MAX_CORRELATION), items, given.flag("forced"))


def _item(given: Arguments) -> Mapping[str, str]:
    values = {name: given.text(name) for name in ("group", "name", "version", "type")}
    return {name: value for name, value in values.items() if value or name in ("name", "version")}


# ── statuses ──


class Status:
    """Publishes the statuses of one command with `JobContext.tell`."""

    def __init__(self, context: JobContext, correlation_id: str) -> None:
        self._tell = context.tell
        self._correlation_id = correlation_id

    def last(self, status: str, about: Mapping[str, Any], message: str = "") -> None:
        self._tell(LAST, self._value(status, about, message))

    def failed(self, status: str, about: Mapping[str, Any], message: str = "") -> None:
        value = self._value(status, about, message)
        self._tell(LAST_FAILED, value)
        self._tell(LAST, value)

    def _value(self, status: str, about: Mapping[str, Any], message: str) -> dict[str, Any]:
        more = {"message": message} if message else {}
        return {"correlationId": self._correlation_id, "status": status, **about, **more}


def interrupted(last: Mapping[str, Any]) -> dict[str, Any] | None:
    """The status of an operation that was running when the agent ended; None if the operation had ended."""
    status = last.get("status")
    if not isinstance(status, str) or status.startswith(FINISHED):
        return None
    message = f"the agent was restarted while the operation was {status}; the operation was not resumed"
    return {**last, "status": ERROR, "message": message}


# ── install ──


def install(argument: Modules, policy: Policy, *, mask_env: bool) -> Job:
    """A job that returns whether every module was installed. *mask_env*: messages have no values of environment
    variables.
    """
    return partial(_install, argument, policy, mask_env)


async def _install(argument: Modules, policy: Policy, mask_env: bool, context: JobContext) -> bool:  # noqa: FBT001  partial
    status = Status(context, argument.correlation_id)
    succeeded = True
    for module in argument.modules:
        about = {"softwareModule": {"name": module.name, "version": module.version}}
        try:
            await context.attempt(_install_one(context, module, policy, partial(status.last, about=about)))
        except PycmError as error:
            succeeded = False
            kind = REJECTED if isinstance(error, RejectedError) else ERROR
            status.failed(kind, about, error.masked if mask_env else str(error))
    return succeeded


async def _install_one(
    context: JobContext, module: Module, policy: Policy, tell: Callable[[str], None]
) -> None:
    tell("STARTED")
    tell("DOWNLOADING")
    containers: list[Container] = []
    room = MAX_MODULE
    for artifact in module.artifacts:
        data = await _fetch(context, artifact, min(MAX_ARTIFACT, room))
        room -= len(data)
        containers.append(_container(data, policy))
    tell("DOWNLOADED")
    tell("INSTALLING")
    created = [(await context.containers.create(container)).id for container in containers]
    tell("INSTALLED")
    for container_id in created:
        await context.containers.start(container_id)
    tell(SUCCESS)


async def _fetch(context: JobContext, artifact: Artifact, limit: int) -> bytes:
    if not artifact.url:
        raise OperationFailedError(f"{INTERNAL}: {artifact.where}.download has no HTTP or HTTPS link")
    data = await context.download(artifact.url, limit)
    _verify(artifact, data)
    return data


def _verify(artifact: Artifact, data: bytes) -> None:
    """Check every given checksum. Raises RejectedError; OperationFailedError for a checksum that is too long, as the
    original.
    """
    for name, length, digest in ALGORITHMS:
        if name in artifact.checksums:
            expected = _bytes_of(artifact.checksums[name].strip(), length)
            if not hmac.compare_digest(expected, digest(data)):
                raise RejectedError(f"{name.lower()} checksum does not match")  # compat


def _bytes_of(text: str, length: int) -> bytes:
    try:
        if not text.isalnum():  # fromhex would skip blanks
            raise ValueError
        found = bytes.fromhex(text)
    except ValueError:
        raise RejectedError(  # compat
            f"the provided input hash is either invalid, not a hex string or the length exceeds {length} bytes"
        ) from None
    if len(found) > length:
        raise OperationFailedError(INTERNAL)
    return found


def _container(data: bytes, policy: Policy) -> Container:
    container = container_in(data)
    if reason := denial(policy, container, descriptor=True):
        raise RejectedError(reason)
    return container


def container_in(data: bytes) -> Container:
    """The container that an artifact describes. Raises RejectedError for an invalid one, InvalidInputError for anything
    else.
    """
    container = read_descriptor(data)
    try:
        filled = fill_defaults(container)
        check_id(filled.id)
        validate(filled)
    except InvalidInputError as error:
        raise RejectedError(str(error), masked=error.masked) from None
    return container


# ── remove ──


def remove(argument: Software, known: Callable[[str], bool]) -> Job:
    return partial(_remove, argument, known)


async def _remove(argument: Software, known: Callable[[str], bool], context: JobContext) -> None:
    """After the first failure the rest is skipped, unless `forced`. Each kind of result is published once, success
    last.
    """
    status = Status(context, argument.correlation_id)
    removed: list[Mapping[str, str]] = []
    failed: list[Mapping[str, str]] = []
    rejected: list[Mapping[str, str]] = []
    errors: list[str] = []
    for item in argument.items:
        if failed and not argument.forced:
            rejected.append(item)
            continue
        status.last("REMOVING", _about([item]))
        try:
            await context.attempt(_remove_one(context, item["name"], known))
        except PycmError as error:
            failed.append(item)
            errors.append(str(error))
        else:
            removed.append(item)
            status.last("REMOVED", _about([item]))
    if rejected:
        status.failed(REJECTED, _about(rejected))
    if failed:
        status.failed(ERROR, _about(failed), _joined(errors))
    if removed:
        status.last(SUCCESS, _about(removed))


async def _remove_one(context: JobContext, container_id: str, known: Callable[[str], bool]) -> None:
    if not known(container_id):
        raise OperationFailedError(f"container with ID = {container_id} does not exist")  # compat
    await context.containers.remove(container_id, force=True)


def _about(items: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    return {"software": list(items)}


def _joined(errors: list[str]) -> str:
    """One error, or several in the form of the original."""
    if len(errors) == 1:
        return errors[0]
    return f"{len(errors)} errors:\n\n" + "\n".join(f"* {error}" for error in errors)  # compat
