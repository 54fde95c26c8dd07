"""The ring: nothing torn, nothing merged, every loss counted, nobody stalled."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from stagebox_rack.audio.ring import BlockFlag, Cursor, Ring


def ramp(start: int, frames: int, channels: int = 1) -> npt.NDArray[np.float32]:
    values = np.arange(start, start + frames, dtype=np.float32)
    return np.repeat(values[:, np.newaxis], channels, axis=1)


def test_a_block_comes_out_as_it_went_in() -> None:
    ring = Ring(1000, 2, min_block=10)
    cursor = ring.open_cursor()
    ring.write(ramp(0, 480, 2), 7000, 123, BlockFlag.LATE)
    block = cursor.read(0)
    assert block is not None
    assert (block.index, block.time_ns, block.flags, block.lost) == (7000, 123, BlockFlag.LATE, 0)
    np.testing.assert_array_equal(block.samples, ramp(0, 480, 2))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32])
def test_samples_keep_every_bit_nan_and_infinity_too(dtype: type) -> None:
    ring = Ring(1000, 3, min_block=10, dtype=dtype)
    cursor = ring.open_cursor()
    raw = np.random.default_rng(0).integers(0, 256, (700, 3, np.dtype(dtype).itemsize), dtype=np.uint8)
    samples: npt.NDArray[Any] = raw.view(dtype)[:, :, 0]
    for _ in range(2):  # the second one wraps around
        ring.write(samples, 0, 0, BlockFlag.NONE)
        block = cursor.read(0)
        assert block is not None
        assert block.samples.tobytes() == samples.tobytes()


def test_packed_24_bit_samples_are_left_justified_by_copying_alone() -> None:
    ring = Ring(1000, 2, min_block=10, dtype=np.int32)
    cursor = ring.open_cursor()
    values = np.array([[-(1 << 23), (1 << 23) - 1], [-1, 0], [1, 123_456]] * 200, dtype=np.int32)
    packed = values.astype("<i4").view(np.uint8).reshape(600, 2, 4)[:, :, :3]
    for _ in range(2):
        ring.write(packed, 0, 0, BlockFlag.NONE)
        block = cursor.read(0)
        assert block is not None
        np.testing.assert_array_equal(block.samples, values << 8)


def test_a_block_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="int16 does not fit a ring of float32"):
        Ring(10, 1, min_block=1).write(np.zeros((2, 1), dtype=np.int16), 0, 0, BlockFlag.NONE)
    with pytest.raises(ValueError, match="uint8 does not fit a ring of int16"):
        Ring(10, 1, min_block=1, dtype=np.int16).write(
            np.zeros((2, 1, 3), dtype=np.uint8), 0, 0, BlockFlag.NONE
        )


def test_a_closed_cursor_is_woken_no_more_and_the_others_are() -> None:
    ring = Ring(1000, 1, min_block=10)
    one, other = ring.open_cursor(), ring.open_cursor()
    ring.close_cursor(one)
    ring.close_cursor(one)
    ring.write(ramp(0, 10), 0, 0, BlockFlag.NONE)
    assert one not in ring._cursors
    assert other.read(0) is not None


class Cursors(RuleBasedStateMachine):
    """Cursors that come, read and go in any order, against what each must have seen."""

    def __init__(self) -> None:
        super().__init__()
        self.ring = Ring(200, 1, min_block=10)
        self.written = 0
        self.cursors: list[tuple[Cursor, int]] = []  # with the next frame each expects

    @rule()
    def come(self) -> None:
        if len(self.cursors) < 5:
            self.cursors.append((self.ring.open_cursor(), self.written))

    @rule(frames=st.integers(10, 60))
    def write(self, frames: int) -> None:
        self.ring.write(ramp(self.written, frames), self.written, 0, BlockFlag.NONE)
        self.written += frames

    @rule(data=st.data(), blocks=st.integers(1, 6))
    def read(self, data: st.DataObject, blocks: int) -> None:
        if not self.cursors:
            return
        number = data.draw(st.integers(0, len(self.cursors) - 1))
        cursor, expected = self.cursors[number]
        for _ in range(blocks):
            block = cursor.read(0)
            if block is None:
                assert expected == self.written
                break
            assert block.index == expected + block.lost
            np.testing.assert_array_equal(block.samples, ramp(block.index, len(block.samples)))
            expected = block.index + len(block.samples)
        self.cursors[number] = cursor, expected

    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        if self.cursors:
            cursor, _ = self.cursors.pop(data.draw(st.integers(0, len(self.cursors) - 1)))
            self.ring.close_cursor(cursor)


TestCursors = Cursors.TestCase


@example(capacity=50, min_block=1, steps=[(1, 0, 0), (50, 1, 0)])
@given(
    capacity=st.integers(50, 400),
    min_block=st.integers(1, 50),
    steps=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 4), st.integers(0, 30)), max_size=60),
)
def test_whatever_the_rhythm_every_frame_is_read_right_or_counted_as_lost(
    capacity: int, min_block: int, steps: list[tuple[int, int, int]]
) -> None:
    ring = Ring(capacity, 1, min_block=min_block)
    cursor = ring.open_cursor()
    written = index = seen = lost = 0
    expected_index: dict[int, int] = {}
    for frames, reads, gap in steps:
        index += gap
        ring.write(ramp(written, frames), index, written, BlockFlag.NONE)
        expected_index[written] = index
        written += frames
        index += frames
        for _ in range(reads):
            block = cursor.read(0)
            if block is None:
                assert seen + lost == written
                break
            first = int(block.samples[0, 0])
            np.testing.assert_array_equal(block.samples, ramp(first, len(block.samples)))
            assert block.index == expected_index[first]
            assert first == seen + lost + block.lost
            assert bool(block.flags & BlockFlag.OVERRUN) == (block.lost > 0)
            lost += block.lost
            seen += len(block.samples)
    assert cursor.lost_frames == lost


def test_a_lapped_cursor_gives_up_enough_not_to_be_lapped_at_once() -> None:
    ring = Ring(1000, 1, min_block=10)
    cursor = ring.open_cursor()
    for n in range(30):
        ring.write(ramp(n * 100, 100), n * 100, 0, BlockFlag.NONE)
    block = cursor.read(0)
    assert block is not None
    assert block.flags & BlockFlag.OVERRUN
    assert block.index >= 3000 - 750
    assert block.lost == block.index
    assert (cursor.overruns, cursor.lost_frames) == (1, block.lost)


def test_a_block_overwritten_while_it_is_copied_is_lost_and_not_torn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ring = Ring(1000, 1, min_block=10)
    cursor = ring.open_cursor()
    ring.write(ramp(0, 600), 0, 0, BlockFlag.NONE)
    copy_out = Cursor._copy_out

    def raced(self: Cursor, entry: Any) -> npt.NDArray[np.generic]:
        monkeypatch.undo()
        ring.write(ramp(600, 600), 600, 0, BlockFlag.NONE)  # reaches into what is being copied
        return copy_out(self, entry)

    monkeypatch.setattr(Cursor, "_copy_out", raced)
    block = cursor.read(0)
    assert block is not None
    assert (block.index, block.lost) == (600, 600)
    np.testing.assert_array_equal(block.samples, ramp(600, 600))


def test_a_sleeping_cursor_costs_another_cursor_nothing() -> None:
    ring = Ring(1000, 1, min_block=10)
    sleeper, reader = ring.open_cursor(), ring.open_cursor()
    for n in range(50):
        ring.write(ramp(n * 100, 100), n * 100, 0, BlockFlag.NONE)
        block = reader.read(0)
        assert block is not None
        assert block.index == n * 100
    assert reader.overruns == 0
    assert sleeper.read(0) is not None
    assert sleeper.overruns == 1


def test_a_closed_ring_is_drained_before_it_ends() -> None:
    ring = Ring(1000, 1, min_block=10)
    cursor = ring.open_cursor()
    ring.write(ramp(0, 10), 0, 0, BlockFlag.NONE)
    ring.close()
    seen = [(cursor.at_end, cursor.read(1) is None) for _ in range(2)]
    assert seen == [(False, False), (True, True)]


def test_a_waiting_reader_is_woken_by_a_write_and_by_the_end() -> None:
    ring = Ring(1000, 1, min_block=10)
    cursor = ring.open_cursor()
    got: list[int | None] = []

    def consume() -> None:
        while not cursor.at_end:
            block = cursor.read(30)
            got.append(None if block is None else block.index)

    thread = threading.Thread(target=consume)
    thread.start()
    for n in range(20):
        ring.write(ramp(n, 1), n, 0, BlockFlag.NONE)
    ring.close()
    thread.join(10)
    assert not thread.is_alive()
    assert [index for index in got if index is not None] == list(range(20))


@settings(deadline=None, max_examples=5)
@given(channels=st.sampled_from([2, 16, 64]))
def test_a_64_bit_counter_survives_a_racing_producer_bit_for_bit(channels: int) -> None:
    """Each frame carries its own number as four exact 16-bit digits; torn data would show."""
    ring = Ring(4800, channels, min_block=64)
    cursor = ring.open_cursor()
    blocks, size, start = 1500, 96, (1 << 62) + 12345

    def frames_of(first: int) -> npt.NDArray[np.float32]:
        numbers = np.arange(first, first + size, dtype=np.uint64) + np.uint64(start)
        digits = np.stack([(numbers >> np.uint64(16 * k)) & np.uint64(0xFFFF) for k in range(4)], axis=1)
        return np.tile(digits.astype(np.float32), (1, channels // 4 + 1))[:, :channels]

    def produce() -> None:
        for n in range(blocks):
            ring.write(frames_of(n * size), n * size, 0, BlockFlag.NONE)
        ring.close()

    thread = threading.Thread(target=produce)
    thread.start()
    seen = 0
    while not cursor.at_end:
        block = cursor.read(5)
        if block is not None:
            np.testing.assert_array_equal(block.samples, frames_of(block.index))
            seen += len(block.samples)
    thread.join(10)
    assert seen + cursor.lost_frames == blocks * size


def test_a_block_larger_than_the_ring_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Ring(10, 1, min_block=1).write(ramp(0, 11), 0, 0, BlockFlag.NONE)
