# SPDX-License-Identifier: Apache-2.0
"""Frame lengths are seen however the bytes are cut."""

from hypothesis import given
from hypothesis import strategies as st

from pycm.api.frame_guard import MAX_FRAME, PREFACE_SIZE, FrameGuard


def stream(*lengths: int) -> bytes:
    frames = (length.to_bytes(3, "big") + bytes(6) + b"\xff" * length for length in lengths)
    return b"\xff" * PREFACE_SIZE + b"".join(frames)


@given(st.lists(st.integers(0, 300), max_size=20), st.integers(1, 50))
def test_allowed_frames_pass_in_pieces_of_any_size(lengths: list[int], piece: int) -> None:
    guard, data = FrameGuard(), stream(*lengths, MAX_FRAME)
    assert all(guard.admits(data[i : i + piece]) for i in range(0, len(data), piece))


@given(st.lists(st.integers(0, 300), max_size=20), st.integers(1, 50))
def test_a_frame_too_long_is_refused_at_its_length(lengths: list[int], piece: int) -> None:
    guard = FrameGuard()
    data = stream(*lengths) + (MAX_FRAME + 1).to_bytes(3, "big")
    admitted = [guard.admits(data[i : i + piece]) for i in range(0, len(data), piece)]
    assert admitted[:-1] == [True] * (len(admitted) - 1)
    assert not admitted[-1]
