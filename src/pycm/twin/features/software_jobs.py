# SPDX-License-Identifier: Apache-2.0
"""Artifacts of software modules: where they lie, their checksums, and the container that one describes (mqtt-twin 4.3). Pure.

Every checksum that is given is verified. An artifact is a container in the form of the store and of descriptors.


How software is installed and removed, step by step, with the statuses that are told on the way (mqtt-twin 4.3.2).

A failing module does not keep the next from being tried. What a failed module has created stays, as in the original.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pycm.errors import InvalidInputError
from pycm.model.container import read_descriptor
from pycm.model.defaults import fill_defaults
from pycm.model.validation import check_id, validate
from pycm.twin.features.container_config import denial
from pycm.twin.lanes import INTERNAL, Create, Download, Failed, Operation, Property, Remove, Start, Steps

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from pycm.config.types import Policy
    from pycm.model.container import Container
    from pycm.twin.features.base import Arguments


#: Longest artifact; a container's description is a few kB.
MAX_ARTIFACT = 1 << 20
#: In the order in which they are verified. MD5 and SHA-1 guard against damage only; backends send them.
ALGORITHMS: tuple[tuple[str, int, Callable[[bytes], bytes]], ...] = (
    ("MD5", 16, lambda data: hashlib.md5(data, usedforsecurity=False).digest()),
    ("SHA1", 20, lambda data: hashlib.sha1(data, usedforsecurity=False).digest()),
    ("SHA256", 32, lambda data: hashlib.sha256(data).digest()),
)


class Rejected(Failed):
    """The artifact itself is at fault: it does not match its checksum, or describes no valid container."""


@dataclass(frozen=True)
class Artifact:
    """`url` "" if there is no link that can be followed."""

    url: str
    checksums: Mapping[str, str]
    where: str = ""


def artifact_of(given: Arguments) -> Artifact:
    """Errors: InvalidInputError. Of an HTTP and an HTTPS link the first counts, as in the original."""
    download, sums = given.child("download"), given.child("checksums")
    links = [download.child(name) for name in ("HTTP", "HTTPS")] if download else []
    url = next((link.text("url") for link in links if link), "")
    checksums = {name: sums.text(name) for name, _, _ in ALGORITHMS} if sums else {}
    return Artifact(url, {name: text for name, text in checksums.items() if text}, given.where)


def verify(artifact: Artifact, data: bytes) -> None:
    """Errors: Rejected if a checksum is no hexadecimal number or another's; Failed if it is longer than such a one can be."""
    for name, length, digest in ALGORITHMS:
        if name in artifact.checksums:
            expected = _bytes_of(artifact.checksums[name].strip(), length)
            if not hmac.compare_digest(expected, digest(data)):
                raise Rejected(f"{name.lower()} checksum does not match")


def _bytes_of(text: str, length: int) -> bytes:
    try:
        if not text.isalnum():  # fromhex would skip blanks
            raise ValueError
        found = bytes.fromhex(text)
    except ValueError:
        raise Rejected(
            f"the provided input hash is either invalid, not a hex string or the length exceeds {length} bytes"
        ) from None
    if len(found) > length:
        raise Failed(INTERNAL)
    return found


def container_in(data: bytes) -> Container:
    """The container that an artifact describes. Errors: Failed for what is no description, Rejected for an invalid one."""
    try:
        container = read_descriptor(data)
    except InvalidInputError as error:
        raise Failed(str(error), error.masked) from None
    try:
        filled = fill_defaults(container)
        check_id(filled.id)
        validate(filled)
    except InvalidInputError as error:
        raise Rejected(str(error), error.masked) from None
    return container


#: Statuses with which an operation has ended begin so.
FINISHED = "FINISHED_"
SUCCESS, ERROR, REJECTED = "FINISHED_SUCCESS", "FINISHED_ERROR", "FINISHED_REJECTED"
#: Modules, or pieces of software, of a command. Each has several statuses, all with the correlation id of the command.
MAX_SOFTWARE, MAX_CORRELATION = 256, 256
#: Bytes of all artifacts of a module, which are in memory until the last is there.
MAX_MODULE = 4 * MAX_ARTIFACT


# ── arguments ──


@dataclass(frozen=True)
class Module:
    name: str
    version: str
    artifacts: tuple[Artifact, ...]


@dataclass(frozen=True)
class Modules:
    correlation_id: str
    modules: tuple[Module, ...]

    @classmethod
    def read(cls, given: Arguments) -> Modules:
        """Errors: InvalidInputError."""
        modules = tuple(map(_module, given.children("softwareModules", MAX_SOFTWARE)))
        if not modules:
            raise InvalidInputError("there are no SoftwareModules to be installed")
        return cls(given.text("correlationId", MAX_CORRELATION), modules)


def _module(given: Arguments) -> Module:
    identity = given.child("softwareModule")
    if identity is None:
        raise InvalidInputError(f"{given.where}.softwareModule: is missing")
    name, version = identity.text("name"), identity.text("version")
    artifacts = tuple(map(artifact_of, given.children("artifacts")))
    if not artifacts:
        raise InvalidInputError(
            "there are no SoftwareArtifacts referenced for SoftwareModule"
            f" [Name.version] = [{name}.{version}]"
        )
    return Module(name, version, artifacts)


@dataclass(frozen=True)
class Item:
    name: str
    shown: Mapping[str, Any]


@dataclass(frozen=True)
class Software:
    correlation_id: str
    items: tuple[Item, ...]
    forced: bool

    @classmethod
    def read(cls, given: Arguments) -> Software:
        """Errors: InvalidInputError."""
        items = tuple(map(_item, given.children("software", MAX_SOFTWARE)))
        if not items:
            raise InvalidInputError("there are no DependencyDescriptions to be removed")
        return cls(given.text("correlationId", MAX_CORRELATION), items, given.flag("forced"))


def _item(given: Arguments) -> Item:
    shown = {"name": given.text("name"), "version": given.text("version")}
    group, kind = given.text("group"), given.text("type")
    return Item(
        given.text("name"),
        {**({"group": group} if group else {}), **shown, **({"type": kind} if kind else {})},
    )


# ── statuses ──


@dataclass(frozen=True)
class Teller:
    """Makes the properties that tell a status. *path*: the property above both."""

    path: str
    correlation_id: str

    def last(self, status: str, about: Mapping[str, Any], message: str = "") -> Property:
        return Property(f"{self.path}/lastOperation", self._value(status, about, message))

    def failed(self, status: str, about: Mapping[str, Any], message: str = "") -> Iterator[Property]:
        value = self._value(status, about, message)
        yield Property(f"{self.path}/lastFailedOperation", value)
        yield Property(f"{self.path}/lastOperation", value)

    def _value(self, status: str, about: Mapping[str, Any], message: str) -> dict[str, Any]:
        more = {"message": message} if message else {}
        return {"correlationId": self.correlation_id, "status": status, **about, **more}


def interrupted(last: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an operation that had this status when the agent ended has come to; None if it had ended itself."""
    status = last.get("status")
    if not isinstance(status, str) or status.startswith(FINISHED):
        return None
    message = f"the agent was restarted while the operation was {status}; it does not go on"
    return {**last, "status": ERROR, "message": message}


# ── install ──


def install(argument: Modules, path: str, policy: Policy, *, mask_env: bool) -> Steps:
    """Returns whether every module was installed. *mask_env*: no message has a value of an environment variable."""
    tell = Teller(path, argument.correlation_id)
    succeeded = True
    for module in argument.modules:
        about = {"softwareModule": {"name": module.name, "version": module.version}}
        try:
            yield from _install_one(module, policy, tell, about)
        except Rejected as failure:
            succeeded = False
            yield from tell.failed(REJECTED, about, failure.masked if mask_env else failure.message)
        except Failed as failure:
            succeeded = False
            yield from tell.failed(ERROR, about, failure.masked if mask_env else failure.message)
    return succeeded


def _install_one(module: Module, policy: Policy, tell: Teller, about: Mapping[str, Any]) -> Steps:
    yield tell.last("STARTED", about)
    yield tell.last("DOWNLOADING", about)
    containers: list[Container] = []
    room = MAX_MODULE
    for artifact in module.artifacts:  # no comprehension: it could not yield
        data = yield from _fetch(artifact, min(MAX_ARTIFACT, room))
        room -= len(data)
        containers.append(_container(data, policy))
    yield tell.last("DOWNLOADED", about)
    yield tell.last("INSTALLING", about)
    created: list[str] = []
    for container in containers:
        stored = yield Create(container)
        created.append(stored.id)
    yield tell.last("INSTALLED", about)
    for container_id in created:
        yield Start(container_id)
    yield tell.last(SUCCESS, about)


def _fetch(artifact: Artifact, limit: int) -> Generator[Operation | Property, Any, bytes]:
    if not artifact.url:
        raise Failed(f"{INTERNAL}: {artifact.where}.download: there is no HTTP and no HTTPS link")
    data: bytes = yield Download(artifact.url, limit)
    verify(artifact, data)
    return data


def _container(data: bytes, policy: Policy) -> Container:
    container = container_in(data)
    if reason := denial(policy, container, descriptor=True):
        raise Rejected(reason)
    return container


# ── remove ──


def remove(argument: Software, path: str, known: Callable[[str], bool]) -> Steps:
    """After the first failure the rest is left alone, unless `forced`. Each kind of result is told once, success last."""
    tell = Teller(path, argument.correlation_id)
    removed: list[Item] = []
    failed: list[Item] = []
    rejected: list[Item] = []
    errors: list[str] = []
    for item in argument.items:
        if failed and not argument.forced:
            rejected.append(item)
            continue
        yield tell.last("REMOVING", _about([item]))
        try:
            if not known(item.name):
                raise Failed(f"container with ID = {item.name} does not exist")
            yield Remove(item.name, force=True)
        except Failed as failure:
            failed.append(item)
            errors.append(failure.message)
        else:
            removed.append(item)
            yield tell.last("REMOVED", _about([item]))
    if rejected:
        yield from tell.failed(REJECTED, _about(rejected))
    if failed:
        yield from tell.failed(ERROR, _about(failed), _joined(errors))
    if removed:
        yield tell.last(SUCCESS, _about(removed))


def _about(items: list[Item]) -> dict[str, Any]:
    return {"software": [dict(item.shown) for item in items]}


def _joined(errors: list[str]) -> str:
    if len(errors) == 1:
        return errors[0]
    return f"{len(errors)} errors:\n\n" + "\n".join(f"* {error}" for error in errors)
