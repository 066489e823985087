# SPDX-License-Identifier: Apache-2.0
"""One value of the configuration: from what a file or a flag holds to what the program uses, and what of it may be
shown.

A value of the wrong type is an error. An unreadable duration, and a word that is not among the choices, are replaced by
the default, with a warning: the original does so, and a device in a vehicle should start. The bridge's options are
checked together.
"""

from __future__ import annotations

import re
from os.path import isabs
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pycm.config.types import LONGEST, LONGEST_PATH, MOST_ENTRIES, plain
from pycm.errors import ConfigError, InvalidInputError, shorten
from pycm.flags import printable, read_bool, read_int
from pycm.model.durations import SECOND, parse_duration
from pycm.model.units import size_to_bytes
from pycm.model.validation import is_identifier

if TYPE_CHECKING:
    from collections.abc import Callable, Sized
    from ipaddress import IPv4Address, IPv4Interface, IPv4Network

    from pycm.config.types import DefaultBridge, Key, Network

MASK = "***"
_PRINTED_BITS = 64  # larger integers are not repeated in errors: Python refuses to print the largest


def read(key: Key, raw: Any) -> tuple[Any, str]:
    """Return the value that *raw* stands for, and a warning or "". Errors: InvalidInputError with the reason and what
    to write.
    """
    value = _READERS[key.kind](key, raw)
    if isinstance(value, InvalidInputError):
        if key.kind == "milliseconds":
            return None, f"{value}; the value of [connection] is used"
        return key.default, f"{value}; the default {plain(key, key.default)!r} is used"
    return _chosen(key, value) if key.choices else (value, "")


def _chosen(key: Key, value: Any) -> tuple[Any, str]:
    """The word, or the words of a list, that are among the choices; the warning names the first that is not."""
    words = value if key.kind == "strings" else (value,)
    kept = tuple(word for word in (map(str.upper, words) if key.upper else words) if word in key.choices)
    unknown = next((word for word in words if (word.upper() if key.upper else word) not in key.choices), None)
    warning = "" if unknown is None else f"{shorten(unknown)} is not known ({', '.join(key.choices)})"
    if key.kind == "strings":
        return kept, warning and f"{warning}; it is ignored"
    return (kept[0], "") if kept else (key.default, f"{warning}; the default {key.default!r} is used")


def _wrong(key: Key, raw: Any, wanted: str) -> InvalidInputError:
    return InvalidInputError(f"{MASK if key.hide else show_raw(raw)} is not {wanted}")


def _string(key: Key, raw: Any) -> str:
    if not isinstance(raw, str):
        raise _wrong(key, raw, "a string; put it in double quotes")
    longest = LONGEST_PATH if key.rule.startswith("path") else LONGEST
    if len(raw.encode(errors="replace")) > longest:
        raise _wrong(key, raw, f"usable: it is longer than {longest} bytes")
    if "\0" in raw:
        raise _wrong(key, raw, "usable: it has a NUL character in it")
    # bytes of a flag that are not UTF-8; file names may have them
    if not key.rule.startswith("path") and any("\ud800" <= char <= "\udfff" for char in raw):
        raise _wrong(key, raw, "usable: it is not UTF-8 text")
    if key.rule and not _RULES[key.rule][0](raw):
        raise _wrong(key, raw, _RULES[key.rule][1])
    return raw


#: Rules for strings, and the answer to a text that breaks one: "... is not ...".
_RULES: dict[str, tuple[Callable[[str], object], str]] = {
    "identifier": (
        is_identifier,
        "a name that containerd takes: at most 76 letters and digits, with . _ - between them",
    ),
    "path": (isabs, "an absolute path"),
    "path or nothing": (lambda raw: not raw or isabs(raw), "an absolute path"),
}


def _number(raw: Any) -> int | None:
    """A whole number, which may also be a string; None for anything else."""
    try:
        value = read_int(raw) if isinstance(raw, str) else raw
    except InvalidInputError:
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _int(key: Key, raw: Any) -> int:
    value = _number(raw)
    if value is None or not key.low <= value <= key.high:
        raise _wrong(key, raw, f"a whole number from {key.low} to {key.high}")
    return value


def _bool(key: Key, raw: Any) -> bool:
    try:
        value = read_bool(raw) if isinstance(raw, str) else raw
    except InvalidInputError:
        value = None
    if not isinstance(value, bool):
        raise _wrong(key, raw, "true or false")
    return value


def _strings(key: Key, raw: Any) -> tuple[str, ...]:
    if not isinstance(raw, list | tuple):
        raise _wrong(key, raw, 'a list of strings, such as ["a", "b"]')
    check_entries(raw)
    return tuple(_string(key, item) for item in raw)


def _duration(key: Key, raw: Any) -> float | InvalidInputError:
    if not isinstance(raw, str):
        raise _wrong(key, raw, 'a duration, a string such as "30s" or "1h15m"')
    try:
        seconds = parse_duration(raw) / SECOND
    except InvalidInputError as error:
        return error
    return _bounded(key, seconds, raw)


def _milliseconds(key: Key, raw: Any) -> float | InvalidInputError:
    value = _number(raw)
    if value is None:
        error = _wrong(key, raw, "a whole number of milliseconds")
        if isinstance(raw, str):
            return error
        raise error
    if not key.low <= value <= key.high * 1000:
        return InvalidInputError(f"{show_raw(raw)} is not between {key.low} and {key.high * 1000} ms")
    return value / 1000


def _stop_timeout(key: Key, raw: Any) -> float | InvalidInputError:
    """Whole seconds; fractions of a second are cut."""
    if isinstance(raw, str) and raw.isascii() and raw.isdigit():
        return _bounded(key, float(raw), raw)
    if isinstance(raw, int) and not isinstance(raw, bool):
        return _bounded(key, raw, raw)
    seconds = _duration(key, raw)
    return seconds if isinstance(seconds, InvalidInputError) else float(int(seconds))


def _size(key: Key, raw: Any) -> str | InvalidInputError:
    text = _string(key, raw)
    try:
        if text:
            size_to_bytes(text)
    except InvalidInputError as error:
        return error
    return text


def _bounded(key: Key, seconds: float, raw: Any) -> float | InvalidInputError:
    if not key.low <= seconds <= key.high:
        return InvalidInputError(f"{show_raw(raw)} is not between {key.low}s and {key.high}s")
    return float(seconds)


def _map(key: Key, raw: Any) -> MappingProxyType[str, str]:
    if not isinstance(raw, dict):
        raise _wrong(key, raw, "a table of strings")
    check_entries(raw)
    return MappingProxyType({name: _string(key, value) for name, value in raw.items()})


def check_entries(raw: Sized) -> None:
    if len(raw) > MOST_ENTRIES:
        raise InvalidInputError(f"it has {len(raw)} entries; at most {MOST_ENTRIES} are allowed")


_READERS: dict[str, Callable[[Key, Any], Any]] = {
    "string": _string, "int": _int, "bool": _bool, "strings": _strings, "duration": _duration,
    "stop_timeout": _stop_timeout, "milliseconds": _milliseconds, "size": _size, "map": _map,
}  # fmt: skip


def show_raw(raw: Any) -> str:
    """A value of a file on one short line; of lists and tables only the kind, since they may hold secrets."""
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, list | tuple):
        return "a list"
    if isinstance(raw, dict):
        return "a table"
    if isinstance(raw, int) and raw.bit_length() > _PRINTED_BITS:
        return "a number of more than 64 bits"
    return printable(shorten(raw))


def masked(key: Key, value: Any) -> Any:
    """*value* without what `hide` says is secret."""
    if key.hide == "password":
        return tuple(_without_password(item) for item in value)
    if key.hide == "login":
        return _without_login(value)
    return MASK if key.hide and value else value


def _without_password(item: str) -> str:
    file, colon, _ = item.partition(":")
    return file + (colon + MASK if colon else "")


def _without_login(address: str) -> str:
    before, at, host = address.rpartition("@")
    scheme, slashes, _ = before.partition("://")
    return f"{scheme if slashes else ''}{slashes}{MASK}@{host}" if at else address


# ── options of the bridge, as far as they can be checked without the machine ────────────────────────────────────────

_BRIDGE = "network.default_bridge"
#: Names that the kernel takes for an interface: 15 characters, and none that mean something in a path or an alias.
_NAME = re.compile(r"(?!\.\.?$)[^\s/:\0]{1,15}")
#: Smallest packet that IPv4 asks every link to carry; 0 leaves it to the default.
_SMALLEST_MTU = 68
#: The bridge, one container, and the two ends of the range.
_LONGEST_PREFIX = 30


def check_network(network: Network) -> None:
    """ConfigError that names the option, its value and the reason; for two options that contradict each other, both."""
    bridge = network.default_bridge
    if not _NAME.fullmatch(bridge.name):
        raise _unusable(
            "name", bridge.name, "is not a name of an interface: 1 to 15 characters without / : and spaces"
        )
    if 0 < bridge.mtu < _SMALLEST_MTU:
        raise ConfigError(f"{_BRIDGE}.mtu: {bridge.mtu} is less than {_SMALLEST_MTU}, the minimum of IPv4")
    if not bridge.icc and not bridge.ip_tables:
        raise ConfigError(
            f"{_BRIDGE}.icc = false needs ip_tables = true: without rules nothing separates containers"
        )
    for directory in network.cni_bin_dirs:
        if not isabs(directory):
            raise ConfigError(f"network.cni_bin_dirs: {shorten(directory)} is not an absolute path")
    _check_addresses(bridge)


def _check_addresses(bridge: DefaultBridge) -> None:
    if not bridge.ip4:
        for name, value in (("fcidr4", bridge.fcidr4), ("gwip4", bridge.gwip4)):
            if value:
                raise _unusable(name, value, "needs ip4, the address of the bridge")
        return
    own = bridge_address(bridge.ip4)
    if bridge.fcidr4 and not container_range(bridge.fcidr4).subnet_of(own.network):
        raise _unusable("fcidr4", bridge.fcidr4, f"is not inside ip4 {own}")
    if bridge.gwip4 and gateway_address(bridge.gwip4) not in own.network:
        raise _unusable("gwip4", bridge.gwip4, f"is not inside ip4 {own}")


def bridge_address(text: str) -> IPv4Interface:
    """`ip4`: the bridge's own address with the length of its network's prefix."""
    import ipaddress

    try:
        interface = ipaddress.IPv4Interface(text)
    except ValueError:
        interface = None
    if interface is None or "/" not in text:
        raise _unusable("ip4", text, "is not an address with a prefix length, as 172.18.0.1/16")
    network, address = interface.network, interface.ip
    if network.prefixlen > _LONGEST_PREFIX:
        reason = f"leaves no address for a container: the prefix may be {_LONGEST_PREFIX} at most"
        raise _unusable("ip4", text, reason)
    if address.is_loopback or address.is_multicast or address.is_unspecified or network.prefixlen < 8:
        raise _unusable("ip4", text, "is not an address that a bridge can have")
    if address in (network.network_address, network.broadcast_address):
        reason = f"is the first or last of its network: no machine can have the address {address}"
        raise _unusable("ip4", text, reason)
    return interface


def container_range(text: str) -> IPv4Network:
    """`fcidr4`: the range of the containers' addresses."""
    import ipaddress

    try:
        return ipaddress.IPv4Network(text)
    except ValueError as error:
        more = "; the bits after the prefix must be 0" if "host bits" in str(error) else ""
        raise _unusable("fcidr4", text, f"is not a range of addresses, as 172.18.4.0/24{more}") from None


def gateway_address(text: str) -> IPv4Address:
    """`gwip4`: the gateway of the containers."""
    import ipaddress

    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        raise _unusable("gwip4", text, "is not an address, as 172.18.0.1") from None


def _unusable(name: str, value: str, why: str) -> ConfigError:
    return ConfigError(f"{_BRIDGE}.{name}: {shorten(value)} {why}")
