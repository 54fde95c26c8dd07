"""The shared memory of a chain: one layout for both sides, planar, and of a size that nobody can change."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagebox_rack.modules.hosting.lane import ANSWERED, ASKED, FRAMES, START, STATUS, TIME, Lane

BLOCK, BLOCKS = 32, 3


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = Lane.create(BLOCK, 2, BLOCKS)
    yield descriptor
    os.close(descriptor)


def test_both_sides_see_the_same_header_and_samples(memory: int) -> None:
    ours, theirs = Lane(memory, BLOCK, 2, BLOCKS), Lane(memory, BLOCK, 2, BLOCKS)
    for place, word in enumerate((ASKED, FRAMES, START, TIME, ANSWERED, STATUS)):
        ours.header[word] = 1000 + place
        assert theirs.header[word] == 1000 + place
    samples = np.arange(2 * BLOCK, dtype=np.float32).reshape(BLOCK, 2)
    ours.write(samples)
    assert np.array_equal(theirs.inputs[0], samples.T)
    theirs.outputs[0] = samples.T + 1
    assert np.array_equal(ours.read(BLOCK), samples + 1)
    assert ours.capacity == BLOCK * BLOCKS
    for lane in (ours, theirs):
        lane.close()


def test_the_layout_is_the_one_that_is_written_down(memory: int) -> None:
    lane = Lane(memory, BLOCK, 2, BLOCKS)
    lane.header[ASKED], lane.header[ANSWERED] = 7, 9
    lane.inputs[...] = 0.25
    lane.outputs[...] = 0.5
    raw = os.pread(memory, 1 << 20, 0)
    assert len(raw) == 3 * 4096
    assert int.from_bytes(raw[0:8], "little") == 7
    assert int.from_bytes(raw[64:72], "little") == 9
    samples = BLOCKS * 2 * BLOCK
    assert np.all(np.frombuffer(raw, "<f4", samples, 4096) == 0.25)
    assert np.all(np.frombuffer(raw, "<f4", samples, 8192) == 0.5)
    lane.close()


@given(st.integers(1, BLOCK * BLOCKS), st.integers(1, 4))
def test_a_piece_of_any_length_goes_through_whole(frames: int, channels: int) -> None:
    descriptor = Lane.create(BLOCK, channels, BLOCKS)
    lane = Lane(descriptor, BLOCK, channels, BLOCKS)
    try:
        lane.inputs[...] = np.nan
        samples = np.random.default_rng(frames).standard_normal((frames, channels)).astype(np.float32)
        lane.write(samples)
        lane.outputs[...] = lane.inputs
        heard = lane.read(frames)
        assert np.array_equal(heard, samples)
        assert heard.flags.c_contiguous
    finally:
        lane.close()
        os.close(descriptor)


def test_what_was_read_is_nobody_elses(memory: int) -> None:
    lane = Lane(memory, BLOCK, 2, BLOCKS)
    lane.outputs[...] = 1.0
    heard = lane.read(BLOCK)
    lane.outputs[...] = 2.0
    assert np.all(heard == 1.0)
    lane.close()
    assert np.all(heard == 1.0)


def test_nobody_can_change_its_size(memory: int) -> None:
    for size in (0, 1 << 20):
        with pytest.raises(PermissionError):
            os.ftruncate(memory, size)
