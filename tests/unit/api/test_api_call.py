# SPDX-License-Identifier: Apache-2.0
"""A call as the client sees it: messages out of bytes, and how it ended."""

import pytest

from pycm.api.call import (
    CANCELED,
    DEADLINE_EXCEEDED,
    INTERNAL,
    MAX_ANSWER,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    UNKNOWN,
    Call,
    CallError,
    percent_decoded,
)

HEADERS = [(":status", "200"), ("content-type", "application/grpc")]


def frame(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def failure(call: Call) -> CallError:
    with pytest.raises(CallError) as caught:
        call.check()
    return caught.value


def test_messages_come_out_whole_however_the_bytes_are_cut() -> None:
    data = frame(b"one") + frame(b"") + frame(b"three")
    call = Call()
    call.headers(HEADERS)
    got = []
    for i in range(len(data)):
        call.data(data[i : i + 1])
        got += call.messages()
    assert got == [b"one", b"", b"three"]


def test_messages_that_came_before_the_end_are_given_out() -> None:
    call = Call()
    call.headers(HEADERS)
    call.data(frame(b"one"))
    call.headers([("grpc-status", "0")])
    call.end()
    assert list(call.messages()) == [b"one"]
    call.check()


def test_the_status_may_stand_in_the_headers() -> None:
    call = Call()
    call.headers([*HEADERS, ("grpc-status", "2"), ("grpc-message", "caf%C3%A9 100%25 %zz")])
    call.end()
    error = failure(call)
    assert (error.code, error.text) == (UNKNOWN, "café 100% %zz")
    assert str(error) == "rpc error: code = Unknown desc = café 100% %zz"


def test_a_status_that_is_no_number_is_unknown_and_one_that_has_no_name_keeps_its_number() -> None:
    for text, code in (("x", UNKNOWN), ("", UNKNOWN), ("99", 99), ("1" * 5000, UNKNOWN)):
        call = Call()
        call.headers([*HEADERS, ("grpc-status", text)])
        call.end()
        assert failure(call).code == code
    assert str(CallError(99, "x")) == "rpc error: code = Code(99) desc = x"


def test_an_end_without_status_is_an_error() -> None:
    call = Call()
    call.headers(HEADERS)
    call.end()
    assert "without a status" in failure(call).text


def test_an_end_in_the_middle_of_a_message_is_an_error() -> None:
    call = Call()
    call.headers(HEADERS)
    call.data(frame(b"half")[:-1])
    call.headers([("grpc-status", "0")])
    call.end()
    assert list(call.messages()) == []
    assert failure(call).code == INTERNAL


def test_an_http_error_is_no_grpc() -> None:
    call = Call()
    call.headers([(":status", "415")])
    assert call.done
    assert failure(call).code == UNAVAILABLE


@pytest.mark.parametrize(
    ("head", "code"),
    [(b"\1\0\0\0\1", INTERNAL), (b"\0" + (MAX_ANSWER + 1).to_bytes(4, "big"), RESOURCE_EXHAUSTED)],
)
def test_compressed_and_endless_messages_end_the_call(head: bytes, code: int) -> None:
    call = Call()
    call.headers(HEADERS)
    call.data(head)
    assert list(call.messages()) == []
    assert call.done
    assert failure(call).code == code


@pytest.mark.parametrize(
    ("number", "code"), [(8, CANCELED), (7, UNAVAILABLE), (11, RESOURCE_EXHAUSTED), (1, INTERNAL)]
)
def test_a_reset_has_the_status_that_grpc_defines(number: int, code: int) -> None:
    call = Call()
    call.reset(number)
    assert failure(call).code == code


def test_what_comes_after_the_end_changes_nothing() -> None:
    call = Call()
    call.headers([*HEADERS, ("grpc-status", "0")])
    call.end()
    call.reset(1)
    call.lost("gone")
    call.expire(1)
    call.end()
    call.check()


def test_the_first_failure_stays() -> None:
    call = Call()
    call.expire(2.5)
    call.lost("gone")
    error = failure(call)
    assert (error.code, error.text) == (DEADLINE_EXCEEDED, "no answer within 2.5 s")


@pytest.mark.parametrize("text", ["", "%", "%4", "%%41", "%+1", "a%C3b", "ü%41"])
def test_any_message_text_is_decoded_somehow(text: str) -> None:
    assert isinstance(percent_decoded(text), str)


def test_percent_signs_that_are_no_escape_stay() -> None:
    assert percent_decoded("%%41") == "%A"
    assert percent_decoded("%+1") == "%+1"
