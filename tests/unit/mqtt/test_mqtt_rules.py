# SPDX-License-Identifier: Apache-2.0
"""The parts of the connection that are pure: addresses, pauses, reasons, and the shim over paho's versions."""

import os
import socket
import ssl
from types import SimpleNamespace

import pytest

from pycm.config.types import Connection, Transport
from pycm.errors import ConfigError, UnavailableError
from pycm.mqtt import link, paho
from pycm.mqtt.client import (
    FIRST_REFUSED,
    LOCAL_CAP,
    MAX_REFUSALS,
    REFUSED_CAP,
    REMOTE_CAP,
    Refusals,
    Request,
)
from pycm.mqtt.settings import check, parse_address
from pycm.waiting import Backoff


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("tcp://localhost:1883", "localhost", 1883, False),
        ("mqtt://broker", "broker", 1883, False),
        ("SSL://broker", "broker", 8883, True),
        ("mqtt+ssl://broker:99", "broker", 99, True),
        ("tcps://[::1]:8884", "::1", 8884, True),
        ("localhost", "localhost", 1883, False),
        ("localhost:1884", "localhost", 1884, False),
        ("10.0.0.1:1883", "10.0.0.1", 1883, False),
        ("[::1]:1884", "::1", 1884, False),
        ("user:secret@broker:1884", "broker", 1884, False),
    ],
)
def test_an_address_is_taken_apart(url, host, port, tls):
    address = parse_address(url)
    assert (address.host, address.port, address.tls) == (host, port, tls)


@pytest.mark.parametrize(
    "url",
    [
        "",
        ":1883",
        "mqtt:h",
        "tcp://[::1",
        "tcp://a\u2100b",
        "localhost:x",
        "ws://h:1",
        "wss://h:1",
        "tcp://",
        "tcp://h:99999",
        "tcp://h:x",
    ],
)
def test_an_address_that_cannot_be_used_is_named_with_the_reason(url):
    with pytest.raises(ConfigError, match=r"connection\.broker_url: .* cannot be used: "):
        parse_address(url)


def test_a_password_in_the_address_stays_out_of_texts():
    assert "secret" not in parse_address("tcp://user:secret@host:1").shown
    with pytest.raises(ConfigError) as raised:
        parse_address("http://user:secret@host:1")
    assert "secret" not in str(raised.value)


def test_the_password_is_not_shown_with_the_settings():
    assert "hunter2" not in repr(Connection(client_username="u", client_password="hunter2"))


def test_tls_without_a_ca_is_refused():
    with pytest.raises(ConfigError, match="root_ca"):
        check(Connection(broker_url="ssl://host"))


def test_half_a_client_pair_is_refused():
    with pytest.raises(ConfigError, match="must be set together"):
        check(
            Connection(broker_url="ssl://host", transport=Transport(root_ca="ca.pem", client_key="key.pem"))
        )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"will_topic": "a/#"}, "will_topic"),
        ({"will_topic": "x" * 2000}, "will_topic"),
        ({"will_topic": "a", "will_message": "x" * 70_000}, "will_message"),
        ({"alpn": ("",)}, "alpn"),
        ({"alpn": ("x" * 256,)}, "alpn"),
    ],
)
def test_a_will_or_protocol_that_cannot_be_is_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        check(Connection(**settings))


def test_pauses_double_up_to_the_cap_and_begin_anew_after_a_success():
    backoff = Backoff(LOCAL_CAP, chance=lambda: 0.0)
    assert [backoff.next() for _ in range(6)] == [1, 2, 4, 8, 8, 8]
    backoff.reset()
    assert backoff.next() == 1


@pytest.mark.parametrize(("cap", "promise"), [(LOCAL_CAP, 10), (REMOTE_CAP, 60), (REFUSED_CAP, 300)])
def test_backoff_pauses_stay_below_the_promised_recovery_time(cap, promise):
    for chance in (0.0, 1.0):
        backoff = Backoff(cap, chance=lambda chance=chance: chance)
        pauses = [backoff.next() for _ in range(50)]
        assert 0.5 <= min(pauses) <= max(pauses) <= cap < promise
        assert max(pauses) >= cap * 0.75
    assert Backoff(LOCAL_CAP, chance=lambda: 1.0).next() < Backoff(LOCAL_CAP, chance=lambda: 0.0).next()


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("tcp://localhost", True),
        ("tcp://LOCALHOST.", True),
        ("tcp://broker.localhost", True),
        ("tcp://127.0.0.1", True),
        ("tcp://127.9.9.9", True),
        ("tcp://[::1]", True),
        (f"tcp://{socket.gethostname()}", True),
        ("tcp://192.168.1.1", False),
        ("tcp://broker.example", False),
        ("tcp://localhost.example", False),
        ("tcp://[fe80::1]", False),
    ],
)
def test_address_knows_a_broker_on_this_machine(url, local):
    assert parse_address(url).is_local is local


# ── messages that the broker refuses ──


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def refusals():
    clock = Clock()
    made = Refusals(clock, chance=lambda: 0.0)
    made.clock = clock
    return made


BIG = Request("PUBLISH", "e/tenant/thing", 1000)


def refused(refusals, request):
    """Two losses in a row."""
    assert refusals.lost([request]) is None
    assert refusals.lost([request]) == request
    return refusals.refuse(request)[0]


def test_refusals_name_a_message_that_waited_at_two_losses_in_a_row(refusals):
    assert refused(refusals, BIG) == FIRST_REFUSED
    assert not refusals.suspicious


def test_refusals_suspect_nothing_that_was_acknowledged_meanwhile(refusals):
    assert refusals.lost([BIG]) is None
    assert not refusals.acknowledged(BIG)
    assert refusals.lost([BIG]) is None


def test_refusals_do_not_choose_among_several_messages(refusals):
    other = Request("PUBLISH", "e/tenant/thing", 10)
    assert refusals.lost([other, BIG]) is None
    assert refusals.suspicious
    assert refusals.lost([other, BIG]) is None
    assert refusals.lost([BIG]) == BIG


@pytest.mark.parametrize(("size", "same"), [(900, True), (899, False), (5000, True)])
def test_refusals_take_a_slightly_shorter_value_for_the_same_message(refusals, size, same):
    refusals.lost([BIG])
    assert (refusals.lost([Request("PUBLISH", BIG.topic, size)]) is not None) is same


@pytest.mark.parametrize(
    ("request_", "waits"),
    [
        (BIG, True),
        (Request("PUBLISH", BIG.topic, 1001), True),
        (Request("PUBLISH", BIG.topic, 999), False),
        (Request("PUBLISH", "e/tenant/other", 1000), False),
        (Request("SUBSCRIBE", BIG.topic, 1000), False),
    ],
)
def test_refusals_hold_back_what_is_as_long_and_of_the_same_topic(refusals, request_, waits):
    refused(refusals, BIG)
    assert (refusals.pause(request_) > 0) is waits


def test_refusals_take_the_answers_to_all_commands_for_one_kind(refusals):
    refused(refusals, Request("PUBLISH", "command//thing/res/1/204", 300))
    assert refusals.pause(Request("PUBLISH", "command//thing/res/2/400", 300)) > 0
    assert refusals.pause(Request("PUBLISH", "command//other/res/2/400", 300)) == 0


def test_refusals_end_their_pause_in_time(refusals):
    pause = refused(refusals, BIG)
    refusals.clock.now += pause - 0.5
    assert refusals.pause(BIG) == 0.5
    refusals.clock.now += 0.5
    assert refusals.pause(BIG) == 0


def test_refusals_know_a_message_at_its_next_loss_and_wait_longer_each_time(refusals):
    pauses = [refused(refusals, BIG)]
    for _ in range(7):
        refusals.clock.now += pauses[-1]
        assert refusals.lost([BIG]) == BIG
        pauses.append(refusals.refuse(BIG)[0])
    assert pauses == [8, 16, 32, 64, 128, 240, 240, 240]


def test_refusals_are_news_until_the_pause_is_the_longest(refusals):
    news = [refusals.refuse(BIG)[1] for _ in range(8)]
    assert news == [True] * 5 + [False] * 3
    assert refusals.refuse(Request("PUBLISH", BIG.topic, 999))[1], "a shorter one is"


def test_refusals_open_with_the_first_acknowledgement_and_keep_the_pause(refusals):
    refused(refusals, BIG)
    refusals.clock.now += FIRST_REFUSED
    assert not refusals.acknowledged(Request("PUBLISH", BIG.topic, 999)), "that was never in doubt"
    assert refusals.acknowledged(BIG)
    assert not refusals.acknowledged(BIG)
    assert refusals.lost([BIG]) == BIG
    assert refusals.refuse(BIG)[0] == 2 * FIRST_REFUSED


def test_refusals_forget_the_pause_after_a_connection_that_lasted(refusals):
    refused(refusals, BIG)
    refusals.lasted()
    assert refusals.pause(BIG) > 0, "it was not tried since"
    assert refusals.acknowledged(BIG)
    refusals.lasted()
    assert refused(refusals, BIG) == FIRST_REFUSED


@pytest.mark.parametrize("event", ["nothing waited", "the broker was away"])
def test_refusals_are_open_after_a_loss_for_another_reason(refusals, event):
    refused(refusals, BIG)
    refusals.lost([Request("PUBLISH", "other", 1)])
    if event == "nothing waited":
        assert refusals.lost([]) is None
    else:
        refusals.acquit()
    assert refusals.pause(BIG) == 0
    assert not refusals.suspicious


@pytest.mark.parametrize(("size", "one_loss_is_enough"), [(500, False), (501, True), (999, True)])
def test_refusals_lower_the_size_at_once_only_for_what_is_longer_than_all_accepted(
    refusals, size, one_loss_is_enough
):
    refused(refusals, BIG)
    for accepted in (500, 100):
        assert not refusals.acknowledged(Request("PUBLISH", BIG.topic, accepted))
    request = Request("PUBLISH", BIG.topic, size)
    assert (refusals.lost([request]) == request) is one_loss_is_enough
    if not one_loss_is_enough:
        assert refusals.pause(request) == 0
        assert refusals.lost([request]) == request


def test_refusals_forget_accepted_sizes_that_are_refused_now(refusals):
    refused(refusals, BIG)
    refusals.acknowledged(Request("PUBLISH", BIG.topic, 500))
    refused(refusals, Request("PUBLISH", BIG.topic, 400))
    request = Request("PUBLISH", BIG.topic, 400)
    assert refusals.lost([request]) == request


def test_refusals_try_nothing_again_while_the_search_goes_on(refusals):
    pause = refused(refusals, BIG)
    other = Request("PUBLISH", "other", 1)
    refusals.clock.now += pause - 1
    refusals.lost([other])
    assert refusals.pause(BIG) == pause
    refusals.clock.now += pause
    assert refusals.pause(BIG) == 0


def test_refusals_are_bounded(refusals):
    requests = [Request("PUBLISH", f"topic-{number}") for number in range(MAX_REFUSALS + 1)]
    for request in requests:
        refusals.refuse(request)
    waiting = [refusals.pause(request) > 0 for request in requests]
    assert waiting == [False] + [True] * MAX_REFUSALS


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(111, "refused"), "nothing listens there"),
        (socket.gaierror(-2, "Name or service not known"), "cannot be resolved"),
        (TimeoutError(), "no answer in time"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "TLS failed"),
        (OSError(113, "No route to host"), "No route to host"),
        (UnavailableError("failed to load CA: x"), "failed to load CA: x"),
        (AttributeError("no attribute 'x'"), "unexpected AttributeError"),
    ],
)
def test_a_failure_is_told_in_one_line(error, words):
    text = link.reason_of(error)
    assert words in text
    assert "\n" not in text


@pytest.mark.parametrize("code", [5, 135])
def test_refused_credentials_are_told_in_the_same_words_with_any_paho(code):
    assert "client_username" in link.refusal_of(code)


def test_an_unknown_refusal_names_its_code():
    assert "99" in link.refusal_of(99)


@pytest.mark.parametrize(
    ("codes", "refused"),
    [([1], False), ([128], True), ((0, 128), True), ([SimpleNamespace(value=135)], True), (1, False)],
)
def test_a_refused_subscription_is_known_in_either_form(codes, refused):
    assert paho.refused(codes) is refused


def test_the_client_never_reconnects_by_itself():
    client = paho.make_client("id", 1000)
    assert client._reconnect_on_failure is False
    assert client._max_inflight_messages == 0


async def test_link_refuses_a_fifo_in_place_of_a_tls_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    settings = Connection(transport=Transport(root_ca=str(tmp_path / "fifo")))
    made = link.Link(settings, parse_address("ssl://localhost"), "id", lambda *_: None)
    with pytest.raises(
        UnavailableError, match=r"connection\.transport\.root_ca: .*/fifo.*: not a regular file"
    ):
        made._make_context()
