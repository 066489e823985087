# SPDX-License-Identifier: Apache-2.0
"""Frames of exec and attach: split and joined the same way at both ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pycm.api.protocol import EXIT, MAX_PAYLOAD, STDIN, STDOUT, FrameError, Frames, frame


def test_frame_has_kind_length_and_payload() -> None:
    assert frame(STDOUT, b"ab") == b"\x01\x00\x00\x00\x02ab"
    assert frame(STDIN) == b"\x00\x00\x00\x00\x00"


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=20))), st.integers(1, 9))
def test_frames_are_found_whatever_pieces_they_come_in(sent: list[tuple[int, bytes]], step: int) -> None:
    data = b"".join(frame(*one) for one in sent)
    frames, found = Frames(), []
    for position in range(0, len(data), step):
        frames.feed(data[position : position + step])
        found += list(frames.take())
    assert found == sent


def test_longest_frame_is_taken_and_a_longer_one_refused_at_its_head() -> None:
    frames = Frames()
    frames.feed(frame(STDIN, bytes(MAX_PAYLOAD)))
    assert [len(payload) for _, payload in frames.take()] == [MAX_PAYLOAD]
    frames.feed(bytes((EXIT,)) + (MAX_PAYLOAD + 1).to_bytes(4, "big"))
    with pytest.raises(FrameError, match="65537 bytes, at most 65536"):
        list(frames.take())
