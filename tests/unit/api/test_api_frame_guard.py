# SPDX-License-Identifier: Apache-2.0
"""Frame lengths are seen however the bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycm.api.server.grpc_connection import (
    ALLOWANCE,
    MAX_FRAME,
    MAX_HEADERS,
    PER_SECOND,
    PREFACE_SIZE,
    TINY,
    FrameGuard,
)


def stream(*lengths: int) -> bytes:
    frames = (length.to_bytes(3, "big") + bytes(6) + b"\xff" * length for length in lengths)
    return b"\xff" * PREFACE_SIZE + b"".join(frames)


@given(st.lists(st.integers(0, 300), max_size=20), st.integers(1, 50))
def test_allowed_frames_pass_in_pieces_of_any_size(lengths: list[int], piece: int) -> None:
    guard, data = FrameGuard(0.0), stream(*lengths, MAX_FRAME)
    assert all(guard.refusal(data[i : i + piece]) == "" for i in range(0, len(data), piece))


@given(st.lists(st.integers(0, 300), max_size=20), st.integers(1, 50))
def test_a_frame_too_long_is_refused_at_its_length(lengths: list[int], piece: int) -> None:
    guard = FrameGuard(0.0)
    data = stream(*lengths) + (MAX_FRAME + 1).to_bytes(3, "big")
    refusals = [guard.refusal(data[i : i + piece]) for i in range(0, len(data), piece)]
    assert refusals[:-1] == [""] * (len(refusals) - 1)
    assert "longer than allowed" in refusals[-1]


def frame(kind: int, length: int = 0, flags: int = 0) -> bytes:
    return length.to_bytes(3, "big") + bytes((kind, flags)) + bytes(4 + length)


def greeted() -> FrameGuard:
    guard = FrameGuard(0.0)
    assert guard.refusal(bytes(PREFACE_SIZE)) == ""
    return guard


@pytest.mark.parametrize(
    ("kind", "length", "flags", "name"),
    [
        (0, 0, 0, "DATA"), (0, TINY - 1, 0, "DATA"), (0, 0, 0x1, "DATA"), (0, TINY, 0x8, "DATA"), (1, 10, 0x4, "HEADERS"), (2, 5, 0, "PRIORITY"), (3, 4, 0, "RST_STREAM"),
        (4, 0, 0, "SETTINGS"), (4, 0, 1, "SETTINGS"), (6, 8, 0, "PING"), (7, 8, 0, "GOAWAY"), (8, 4, 0, "WINDOW_UPDATE"),
        (9, 0, 0x4, "CONTINUATION"), (250, 1023, 0, "type 250"),
    ],
)  # fmt: skip
def test_frame_guard_refuses_one_frame_more_than_the_allowance(
    kind: int, length: int, flags: int, name: str
) -> None:
    guard, one = greeted(), frame(kind, length, flags)
    assert guard.refusal(one * ALLOWANCE) == ""
    count = ALLOWANCE + 1
    assert guard.refusal(one) == f"too many frames without use ({count} of {count} are {name})"


@pytest.mark.parametrize(("length", "flags"), [(TINY, 0), (MAX_FRAME, 0), (TINY, 0x1)])
def test_frame_guard_takes_any_number_of_data_frames_that_carry_something(length: int, flags: int) -> None:
    guard, one = greeted(), frame(0, length, flags)
    assert all(guard.refusal(one) == "" for _ in range(2 * ALLOWANCE))


def test_frame_guard_charges_long_frames_for_their_length() -> None:
    guard, long = greeted(), frame(4, MAX_FRAME)
    assert guard.refusal(long * (ALLOWANCE // 17)) == ""
    assert "SETTINGS" in guard.refusal(long)


def test_frame_guard_gives_credit_for_time_and_work_up_to_the_allowance() -> None:
    guard, ping = greeted(), frame(6, 8)
    guard.note(1000.0, 10**6)
    assert guard.refusal(ping * ALLOWANCE) == ""
    guard.note(1001.0, 10**6 + 7)
    assert guard.refusal(ping * (PER_SECOND + 7)) == ""
    guard.note(1001.0, 10**6 + 7)
    assert guard.refusal(ping) != ""


def test_frame_guard_bounds_a_block_of_headers() -> None:
    for sizes, refused in (((MAX_HEADERS,), False), ((MAX_HEADERS - 1, 1), False), ((MAX_HEADERS, 1), True)):
        guard = greeted()
        first, *rest = sizes
        answers = [guard.refusal(frame(1, first, 0 if rest else 0x4))]
        answers += [guard.refusal(frame(9, size, 0x4)) for size in rest]
        assert [bool(answer) for answer in answers] == [False] * (len(sizes) - 1) + [refused]
    guard = greeted()  # the next block begins at nothing
    assert not any(guard.refusal(frame(1, MAX_HEADERS, 0x4)) for _ in range(3))


def test_frame_guard_tells_where_a_client_has_stopped() -> None:
    guard = FrameGuard(0.0)
    steps = [
        (b"x" * (PREFACE_SIZE - 1), 0, True), (b"x", 0, False), (b"\0\0\2\4\0", 0, True), (bytes(4), 1, True),
        (b"x", 1, True), (b"x", 1, False), (b"\0", 1, True), (frame(1, 3)[1:], 2, True), (frame(9, 3), 3, True),
        (frame(9, 3, 4), 4, False),
    ]  # fmt: skip
    for number, (data, frames, midway) in enumerate(steps):
        assert guard.refusal(data) == ""
        assert (guard.frames, guard.midway, guard.greeted) == (frames, midway, number >= 5)
