"""Blocks in, frames of one size out."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stagebox_rack.audio.framing import FrameAssembler

RATE = 48_000
NS = 1_000_000_000


@given(
    size=st.integers(1, 50), blocks=st.lists(st.integers(0, 120), max_size=20), start=st.integers(0, 10**12)
)
def test_frames_hold_every_sample_once_with_its_index_and_end_time(
    size: int, blocks: list[int], start: int
) -> None:
    assembler = FrameAssembler(size, 1, RATE)
    total, seen = sum(blocks), 0
    data = np.arange(total, dtype=np.float32)[:, np.newaxis]
    done = 0
    for length in blocks:
        index = start + done
        for frame in assembler.push(data[done : done + length], index, index * NS // RATE):
            assert len(frame.samples) == size
            assert frame.index == start + seen
            np.testing.assert_array_equal(frame.samples, data[seen : seen + size])
            seen += size
            assert abs(frame.end_ns - (start + seen) * NS // RATE) <= 1
        done += length
    rest = assembler.flush()
    assert len(rest.samples) == total - seen
    np.testing.assert_array_equal(rest.samples, data[seen:])
    assert assembler.pending == 0
