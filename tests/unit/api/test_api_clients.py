# SPDX-License-Identifier: Apache-2.0
"""What clients share: connections by address, lines in the log."""

import pytest

from pycm.api.server import clients
from pycm.api.server.clients import Complaints, share_of


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("unknown", "unknown", True),
    ],
)
def test_share_of_an_address_is_its_machines(one: str, other: str, same: bool) -> None:
    assert (share_of(one) == share_of(other)) is same


def test_complaints_are_bounded_and_the_rest_counted(caplog: pytest.LogCaptureFixture) -> None:
    some = Complaints()
    allowed = [some.allowed(float(second)) for second in range(30)]
    assert allowed == [True] * clients.COMPLAINTS + [False] * (30 - clients.COMPLAINTS)
    assert not some.allowed(clients.COMPLAINTS_PERIOD - 0.1)
    assert some.allowed(clients.COMPLAINTS_PERIOD)
    assert caplog.messages == ["API clients: 21 more complaints were not logged"]
