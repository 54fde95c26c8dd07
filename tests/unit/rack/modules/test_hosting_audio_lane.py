"""A host's side of a chain, with gains in place of guests: order, fades, faults, and no click whatever is arranged."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagebox.modules.statement import ModuleLimits
from stagebox_rack.modules.hosting.audio_lane import AudioLane
from stagebox_rack.modules.hosting.fades import Float32
from stagebox_rack.modules.hosting.lane import ANSWERED, ASKED, DRY, FRAMES, START, STATUS, TIME, WET, Lane
from stagebox_rack.modules.hosting.order import in_step
from stagebox_rack.modules.hosting.spec import InstanceSpec
from stagebox_rack.modules.hosting.wasm import GuestFault

RATE, BLOCK, BLOCKS = 3_200, 64, 5


class Gain:
    """Stands in for an instance: multiplies, or fails while it is told to."""

    def __init__(self, number: int, gain: float) -> None:
        self.spec = InstanceSpec(number, f"insert{number}", 1, frozenset(), ModuleLimits())
        self.gain = gain
        self.broken = self.closed = self.failing = self.lame = False
        self.faults: list[str] = []
        self.repairs = self.fuel = 0

    def play(self, source: ctypes.c_void_p, target: ctypes.c_void_p, frames: int) -> bool:
        assert not self.closed
        if self.failing or self.broken or self.lame:
            self.broken = not self.lame
            return False
        samples = np.frombuffer(ctypes.string_at(source.value or 0, 4 * BLOCK), np.float32)
        made = (samples * np.float32(self.gain)).tobytes()
        ctypes.memmove(target, made, len(made))
        return True

    def fail(self, fault: GuestFault) -> None:
        self.faults.append(fault.code)
        self.broken = True

    def repair(self) -> bool:
        self.broken, self.failing = False, False
        self.repairs += 1
        return True

    def close(self) -> None:
        assert not self.closed
        self.closed = True


class Rig:
    """A lane with both of its sides in one process."""

    def __init__(self) -> None:
        self.memory = Lane.create(BLOCK, 1, BLOCKS)
        self.replies, self.reply = os.pipe()
        self.theirs = AudioLane(self.memory, os.dup(self.reply), RATE, 1)
        self.ours = Lane(self.memory, BLOCK, 1, BLOCKS)

    def play(self, samples: Float32, start: int = 0) -> tuple[int, Float32]:
        header = self.ours.header
        self.ours.write(samples[:, np.newaxis])
        header[FRAMES], header[START], header[TIME] = len(samples), start, 1_000
        header[ASKED] += 1
        self.theirs.serve()
        assert header[ANSWERED] == header[ASKED]
        heard = self.ours.read(len(samples))[:, 0]
        while self.theirs.chores():
            pass
        return int(header[STATUS]), heard if header[STATUS] == WET else samples

    def order(self, *gains: Gain) -> None:
        self.theirs.order([(gain, 0) for gain in gains])  # type: ignore[misc]

    def close(self) -> None:
        self.theirs.close()
        self.ours.close()
        os.close(self.memory)
        os.close(self.replies)
        os.close(self.reply)


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    with np.errstate(all="ignore"):  # as a host has it
        yield made
    made.close()


def ones(frames: int = BLOCK) -> Float32:
    return np.ones(frames, np.float32)


def test_nothing_in_order_is_dry(rig: Rig) -> None:
    assert rig.play(ones())[0] == DRY


def test_all_play_in_order_whatever_their_number(rig: Rig) -> None:
    gains = [Gain(number, 2.0) for number in range(1, 8)]
    for count in range(1, 8):
        rig.order(*gains[:count])
        rig.play(ones(4 * BLOCK))
        status, heard = rig.play(ones(5 * BLOCK))
        assert status == WET
        assert np.all(heard == 2.0**count)


def test_one_that_is_not_finite_is_passed_over_and_blamed(rig: Rig) -> None:
    bad = Gain(2, float("inf"))
    rig.order(Gain(1, 2.0), bad, Gain(3, 3.0))
    rig.play(ones(4 * BLOCK))
    assert set(bad.faults) == {"not_finite"}
    assert np.isfinite(rig.play(ones(BLOCK // 2))[1]).all()
    bad.lame = True
    rig.play(ones(4 * BLOCK))
    assert np.all(rig.play(ones(BLOCK // 2))[1] == 6.0)


def test_what_lies_beyond_the_frames_of_a_short_block_is_nobodys_fault(rig: Rig) -> None:
    one = Gain(1, 2.0)
    rig.order(one)
    rig.play(ones(3 * BLOCK))
    rig.ours.inputs[0, 0, 5:] = np.nan
    header = rig.ours.header
    header[FRAMES] = 5
    header[ASKED] += 1
    rig.theirs.serve()
    assert one.faults == []
    assert np.all(rig.ours.read(5) == 2.0)


def test_one_that_fails_is_bypassed_repaired_once_and_faded_in(rig: Rig) -> None:
    one = Gain(1, 3.0)
    rig.order(one)
    rig.play(ones(3 * BLOCK))
    one.failing = True
    status, heard = rig.play(ones(2 * BLOCK))
    assert status == DRY
    assert one.repairs == 1
    _, heard = rig.play(ones(2 * BLOCK))
    assert np.abs(np.diff(heard, prepend=1.0)).max() < 2 * 2 / BLOCK
    assert heard[-1] == 3.0


def test_one_that_leaves_is_closed_after_it_faded_out(rig: Rig) -> None:
    one = Gain(1, 3.0)
    rig.order(one)
    rig.play(ones(2 * BLOCK))
    rig.order()
    _, heard = rig.play(ones(BLOCK // 2))
    assert not one.closed
    assert heard[-1] == pytest.approx(2.0)
    rig.play(ones(BLOCK // 2))
    assert [one.closed] == [True]
    assert rig.play(ones())[0] == DRY


def test_what_a_host_before_was_asked_is_answered_dry(rig: Rig) -> None:
    rig.ours.header[ASKED] += 1
    rig.ours.header[STATUS] = WET
    AudioLane(rig.memory, os.dup(rig.reply), RATE, 1).close()
    assert rig.ours.header[ANSWERED] == rig.ours.header[ASKED]
    assert rig.ours.header[STATUS] == DRY


@pytest.mark.parametrize("frames", [0, -1, BLOCK * BLOCKS + 1, 1 << 60])
def test_a_request_that_makes_no_sense_is_answered_dry(rig: Rig, frames: int) -> None:
    rig.order(Gain(1, 2.0))
    rig.ours.header[FRAMES] = frames
    rig.ours.header[ASKED] += 1
    rig.theirs.serve()
    assert rig.ours.header[ANSWERED] == rig.ours.header[ASKED]
    assert rig.ours.header[STATUS] == DRY


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(1, 6), unique=True, max_size=5), st.lists(st.integers(1, 200), max_size=4)
        ),
        min_size=1,
        max_size=8,
    )
)
def test_whatever_is_arranged_when_there_is_no_click_and_it_ends_as_asked(
    orders: list[tuple[list[int], list[int]]],
) -> None:
    rig, gains, order = Rig(), {}, []  # type: ignore[var-annotated]
    numbers = iter(range(1, 1000))
    level, made = [np.float32(1.0)], []
    try:
        for wanted, pieces in orders:
            kept = in_step(order, wanted)
            for key in wanted:
                if key not in kept:
                    # A fresh one, between 0.8 and 1.25, as one that moved has to be.
                    gains[key] = Gain(next(numbers), 0.75 + 0.1 * (key % 6))
                    made.append(gains[key])
            order = wanted
            rig.order(*(gains[key] for key in order))
            # Time enough for every fade to end: one that is cut short may step.
            for frames in [*pieces, 2 * BLOCK]:
                level.extend(rig.play(ones(frames))[1])
        assert np.abs(np.diff(level)).max() <= 5 * 0.35 * 3 / BLOCK
        assert level[-1] == pytest.approx(
            float(np.prod([gains[key].gain for key in order], dtype=np.float32))
        )
        assert [one for one in made if not one.closed] == [
            one for one in made if one in [gains[k] for k in order]
        ]
    finally:
        rig.close()
    assert all(one.closed for one in made)
