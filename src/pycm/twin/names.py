# SPDX-License-Identifier: Apache-2.0
"""Names: the device that the cloud connector tells, the thing made of it, and its MQTT topics (shared specification, mqtt-twin 1.3, 2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pycm.errors import InvalidInputError, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

EDGE_REQUEST = "edge/thing/request"
EDGE_RESPONSE = "edge/thing/response"
THING_SUFFIX = ":edge:containers"
CONTAINER_PREFIX = "Container:"

#: Longest device or tenant id; Ditto's own limit for a thing is 256.
MAX_NAME = 256
#: Would change the level or the meaning of an MQTT topic, or the name of a file.
_UNFIT = re.compile(r"[/+#\x00-\x1f\x7f\ufffd]")


@dataclass(frozen=True)
class Device:
    """What the connector says; `policy_id` is only compared."""

    device_id: str
    tenant_id: str
    policy_id: str = ""


@dataclass(frozen=True)
class Thing:
    tenant: str
    id: str

    @property
    def ditto(self) -> str:
        """namespace/name, as Ditto's topics begin."""
        return self.id.replace(":", "/", 1)

    @property
    def events(self) -> str:
        return f"e/{self.tenant}/{self.id}"

    @property
    def commands(self) -> str:
        return f"command//{self.id}/req/#"


def thing_of(device: Device) -> Thing:
    return Thing(device.tenant_id, device.device_id + THING_SUFFIX)


def response_topic(thing_id: str, request_id: str, status: int) -> str:
    return f"command//{thing_id}/res/{request_id}/{status}"


def device_from(message: Mapping[str, Any]) -> Device:
    """The device of an edge response, given with lower-case keys. Errors: InvalidInputError, what is wrong with which member."""
    device_id = _text(message, "deviceId")
    namespace, _, name = device_id.partition(":")
    if not namespace or not name:
        raise InvalidInputError(f"deviceId: {shorten(device_id)} is not of the form namespace:name")
    tenant_id = _text(message, "tenantId")
    if not tenant_id:
        raise InvalidInputError("tenantId: is missing or empty")
    return Device(device_id, tenant_id, _text(message, "policyId"))


def _text(message: Mapping[str, Any], name: str) -> str:
    value = message.get(name.lower())
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidInputError(f"{name}: {shorten(value)} is not a string")
    if len(value) > MAX_NAME:
        raise InvalidInputError(f"{name}: {shorten(value)} is longer than {MAX_NAME} characters")
    if _UNFIT.search(value):
        raise InvalidInputError(f"{name}: {shorten(value)} has a character that no topic may have")
    return value
