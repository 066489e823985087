# SPDX-License-Identifier: Apache-2.0
"""The only module that depends on the version of paho: 1.6 (kirkstone), 2.0 (scarthgap) or newer.

They differ in the constructor, in the number of arguments of the callbacks, and in codes that are ints or objects.
Callbacks take what all versions send first and ignore the rest.
"""

from __future__ import annotations

from typing import Any

from paho.mqtt import client as library

SUCCESS: int = library.MQTT_ERR_SUCCESS
FAILURE = 128  # codes from here on mean that a subscription was refused
#: Acknowledgements and the like that wait to be sent. A broker that does not read them is disconnected.
MAX_UNSENT = 1000
_QOS_2 = 0x34  # type and QoS bits of a PUBLISH's first byte


class _Client(library.Client):  # type: ignore[misc, unused-ignore]  # Any without stubs
    """Checks the head of each packet before it allocates memory for the rest, however the bytes arrive."""

    longest = 0
    #: Why a packet was not read.
    excess = ""
    _in_packet: dict[str, Any]
    _out_packet: Any

    def _sock_recv(self, bufsize: int) -> bytes:
        # all versions read the head byte by byte, and then the rest of the packet
        packet = self._in_packet
        if packet["have_remaining"]:
            if packet["remaining_length"] > self.longest:
                self.excess = (
                    f"a packet of {packet['remaining_length']} bytes; at most {self.longest} are read"
                )
            elif packet["command"] & 0xF6 == _QOS_2:
                self.excess = "a message with QoS 2, without a subscription for it"
            elif len(self._out_packet) > MAX_UNSENT:
                self.excess = f"messages without reading their acknowledgements, of which {MAX_UNSENT} wait"
            if self.excess:
                raise ConnectionAbortedError(self.excess)
        received: bytes = super()._sock_recv(bufsize)  # type: ignore[misc]
        return received


def make_client(client_id: str, longest: int) -> Any:
    """A client of MQTT 3.1.1 with a clean session that never reconnects by itself. *longest*: bytes of a packet that is
    read.
    """
    options: dict[str, Any] = {
        "client_id": client_id,
        "clean_session": True,
        "protocol": library.MQTTv311,
        "reconnect_on_failure": False,
    }
    if hasattr(library, "CallbackAPIVersion"):
        options["callback_api_version"] = library.CallbackAPIVersion.VERSION2
    client = _Client(**options)
    client.longest = longest
    client.max_inflight_messages_set(0)  # bounded by the caller, which waits for each acknowledgement
    return client


def code(value: Any) -> int:
    """The number of a return or reason code."""
    return int(getattr(value, "value", value))


def refused(codes: Any) -> bool:
    """True if the SUBACK's codes (a list or one) contain a refusal."""
    items = codes if isinstance(codes, (list, tuple)) else [codes]
    return any(code(item) >= FAILURE for item in items)
