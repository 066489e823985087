# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from pycm.cli.daemon import main
from pycm.config.types import DefaultBridge, Network
from pycm.config.values import check_network
from pycm.errors import ConfigError

GOOD = {"ip4": "10.77.3.1/24"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        GOOD,
        {**GOOD, "fcidr4": "10.77.3.128/25", "gwip4": "10.77.3.254"},
        {**GOOD, "fcidr4": "10.77.3.0/24"},
        {"ip4": "192.168.1.1/30"},
        {"mtu": 0},
        {"mtu": 68},
        {"name": "a.b-c_15_letters"[:15]},
        {"icc": False},
    ],
)
def test_what_a_bridge_can_be(options: dict[str, str]) -> None:
    check_network(Network(default_bridge=DefaultBridge(**options)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ip4": "10.77.3.1"}, r"ip4: '10.77.3.1' is not an address with a prefix length, as 172.18.0.1/16"),
        ({"ip4": "10.77.3.1/33"}, r"ip4: '10.77.3.1/33' is not an address"),
        ({"ip4": "fd00::1/64"}, r"ip4: 'fd00::1/64' is not an address"),
        ({"ip4": "10.77.3.0/24"}, r"ip4: '10.77.3.0/24' is the first or last of its network"),
        ({"ip4": "10.77.3.255/24"}, "is the first or last of its network"),
        ({"ip4": "10.77.3.1/31"}, "leaves no address for a container: the prefix may be 30 at most"),
        ({"ip4": "127.0.0.1/8"}, "is not an address that a bridge can have"),
        ({"ip4": "224.0.0.1/8"}, "is not an address that a bridge can have"),
        ({"ip4": "10.0.0.1/4"}, "is not an address that a bridge can have"),
        ({**GOOD, "fcidr4": "10.78.0.0/24"}, r"fcidr4: '10.78.0.0/24' is not inside ip4 10.77.3.1/24"),
        ({**GOOD, "fcidr4": "10.77.0.0/16"}, "is not inside ip4 10.77.3.1/24"),
        ({**GOOD, "fcidr4": "10.77.3.1/25"}, "the bits after the prefix must be 0"),
        ({**GOOD, "fcidr4": "some"}, "fcidr4: 'some' is not a range of addresses"),
        ({**GOOD, "gwip4": "10.77.4.1"}, r"gwip4: '10.77.4.1' is not inside ip4 10.77.3.1/24"),
        ({**GOOD, "gwip4": "gateway"}, "gwip4: 'gateway' is not an address"),
        ({"fcidr4": "10.77.3.0/24"}, "fcidr4: .* needs ip4"),
        ({"gwip4": "10.77.3.1"}, "gwip4: .* needs ip4"),
        ({"name": "sixteen-letters-"}, "name: 'sixteen-letters-' is not a name of an interface"),
        ({"name": ""}, "name: '' is not a name"),
        ({"name": ".."}, "is not a name"),
        ({"name": "a/b"}, "is not a name"),
        ({"name": "a b"}, "is not a name"),
        ({"mtu": 67}, "mtu: 67 is less than 68"),
        ({"icc": False, "ip_tables": False}, "icc = false needs ip_tables = true"),
    ],
)
def test_what_it_cannot_be(options: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        check_network(Network(default_bridge=DefaultBridge(**options)))  # type: ignore[arg-type]
    assert str(caught.value).startswith("network.default_bridge.")


def test_directories_of_plugins_are_absolute() -> None:
    with pytest.raises(ConfigError, match="cni_bin_dirs: 'cni' is not an absolute path"):
        check_network(Network(cni_bin_dirs=("/usr/lib/cni", "cni")))


def test_a_bad_value_is_found_by_the_check_of_the_configuration(
    tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--check-config", "--net-br-ip4", "10.77.3.1"], etc=str(tmp_path)) == 1
    assert capsys.readouterr().err.startswith(
        "Error: network.default_bridge.ip4: '10.77.3.1' is not an address"
    )
