# SPDX-License-Identifier: Apache-2.0
"""The one place that knows which paho is installed: 1.6 (kirkstone), 2.0 (scarthgap) or newer.

They differ in the constructor, in the number of arguments of the callbacks and in codes that are ints here and objects there.
Callbacks take what both send first and ignore the rest.
"""

from __future__ import annotations

from typing import Any

from paho.mqtt import client as library

SUCCESS: int = library.MQTT_ERR_SUCCESS
FAILURE = 128  # codes from here on mean that a subscription was refused


def make_client(client_id: str) -> Any:
    """A client of MQTT 3.1.1 with a clean session that never reconnects by itself."""
    options: dict[str, Any] = {
        "client_id": client_id,
        "clean_session": True,
        "protocol": library.MQTTv311,
        "reconnect_on_failure": False,
    }
    if hasattr(library, "CallbackAPIVersion"):
        options["callback_api_version"] = library.CallbackAPIVersion.VERSION2
    client: Any = library.Client(**options)
    client.max_inflight_messages_set(0)  # bounded by the caller, who waits for each acknowledgement
    return client


def code(value: Any) -> int:
    """The number of a return or reason code."""
    return int(getattr(value, "value", value))


def refused(codes: Any) -> bool:
    """True if the SUBACK's codes (a list or one) contain a refusal."""
    items = codes if isinstance(codes, (list, tuple)) else [codes]
    return any(code(item) >= FAILURE for item in items)


def incoming_length(client: Any) -> int:
    """Bytes of the packet that is being received; 0 if paho does not say. Its only hint before the memory is filled."""
    packet = getattr(client, "_in_packet", None)
    return int(packet["remaining_length"]) if packet and packet.get("have_remaining") else 0
