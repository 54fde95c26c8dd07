"""The synthetic signals of EBU Tech 3341 and 3342 and what they must read, measured as a rack measures.

Every case is run at several start offsets at once, each offset as a programme of its own, in frames of 50 ms. The
signals are made from the documents' descriptions. Tech 3341 cases 7 and 8 and Tech 3342 cases 5 and 6 are authentic
programmes and are not here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stagebox_rack.metering.layout import MeterLayout, Programme, programme_weights
from stagebox_rack.metering.meter import Meter

RATES = (44_100, 48_000, 96_000)
OFFSETS_MS = (0.0, 3.3, 17.1, 41.9)
TOLERANCE_LU = 0.1
MOMENTARY, SHORT_TERM, INTEGRATED, RANGE, MAX_MOMENTARY, MAX_SHORT_TERM, MAX_TRUE_PEAK = range(7)

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Signal:
    """float32[samples, channels], and where its segments end (in samples) if it has any."""

    samples: Float32
    ends: tuple[int, ...] = ()


@dataclass(frozen=True)
class Run:
    """Frames of one offset: float32[frames, 7], where each ends (sample index), and what stood at segments' ends."""

    frames: Float32
    ends: npt.NDArray[np.int64]
    at_segment_ends: Float32
    rate: int
    offset: int


@dataclass(frozen=True)
class LoudnessCase:
    """One case: ``read`` returns every value that has to be ``expected``, of one run."""

    name: str
    what: str
    build: Callable[[int], Signal]
    read: Callable[[Run], Sequence[float]]
    expected: float | Sequence[float]
    above: float
    below: float
    unit: str
    reset_at_segments: bool = False


def tone(
    rate: int, seconds: float, dbfs: float | Sequence[float], hz: float = 1000.0, channels: int = 2
) -> Float32:
    """A sine of peak ``dbfs`` in every channel, or one level a channel; −∞ is silence."""
    n = np.arange(round(seconds * rate))
    levels = [dbfs] * channels if isinstance(dbfs, int | float) else list(dbfs)
    wave = np.sin(2 * np.pi * hz * n / rate)
    amplitudes = [0.0 if level == -math.inf else 10 ** (level / 20) for level in levels]
    return np.outer(wave, amplitudes).astype(np.float32)


def sequence(*parts: tuple[float | Sequence[float], float], channels: int = 2) -> Callable[[int], Signal]:
    """Tones of (level, seconds), one after the other."""
    return lambda rate: Signal(
        np.concatenate([tone(rate, s, level, channels=channels) for level, s in parts])
    )


def segments(make: Callable[[int], list[tuple[float, float]]], count: int = 20) -> Callable[[int], Signal]:
    """``count`` segments, each of tones of (level, seconds)."""

    def build(rate: int) -> Signal:
        parts, ends, total = [], [], 0
        for number in range(count):
            for level, seconds in make(number):
                parts.append(tone(rate, seconds, level))
                total += len(parts[-1])
            ends.append(total)
        return Signal(np.concatenate(parts), tuple(ends))

    return build


def true_peak_sine(divisor: float, degrees: float, amplitude: float) -> Callable[[int], Signal]:
    """A sine of the sample rate over ``divisor`` from ``degrees``, in and out over 10 ms."""

    def build(rate: int) -> Signal:
        n = np.arange(rate // 2)
        wave = amplitude * np.sin(2 * np.pi * n / divisor + math.radians(degrees))
        return Signal(_stereo(wave * _taper(len(n), rate // 100)))

    return build


def true_peak_burst(offset: int) -> Callable[[int], Signal]:
    """A pulse of peak 1.0 between samples: made band-limited at four times the rate, every fourth sample taken."""

    def build(rate: int) -> Signal:
        length = 4 * (rate // 4)
        n = np.arange(length) - length // 2
        wave = np.cos(2 * np.pi * n / 24) * np.exp(-0.5 * (n / 96) ** 2)  # fs/6 of the final rate, no aliases
        return Signal(_stereo(wave[offset::4]))

    return build


def run(case: LoudnessCase, rate: int, offsets_ms: Sequence[float] = OFFSETS_MS) -> list[Run]:
    """Measure ``case`` at ``rate`` Hz, all offsets side by side."""
    signal = case.build(rate)
    length, channels = signal.samples.shape
    offsets = [round(offset * rate / 1000) for offset in offsets_ms]
    layout = MeterLayout(
        rate,
        channels * len(offsets),
        tuple(
            Programme(str(k), tuple(range(k * channels, (k + 1) * channels)), programme_weights(channels))
            for k in range(len(offsets))
        ),
    )
    meter = Meter(layout)
    total = length + max(offsets) + rate // 10
    # A reset takes effect where a frame ends: it is made in the silence before the segment's end.
    early = rate // 2 if case.reset_at_segments else 0
    ends = [np.array([end + offset - early for end in signal.ends]) for offset in offsets]
    stood: list[list[Float32]] = [[] for _ in offsets]
    frames, frame_ends, at = [], [], 0
    while at < total:
        size = meter.next_frame_size
        block = np.zeros((size, layout.channels), dtype=np.float32)
        for k, offset in enumerate(offsets):
            first, last = max(at, offset), min(at + size, offset + length)
            if first < last:
                block[first - at : last - at, k * channels : (k + 1) * channels] = signal.samples[
                    first - offset : last - offset
                ]
        levels = meter.measure(block)
        at += size
        frames.append(levels.programmes)
        frame_ends.append(at)
        for k, segment_ends in enumerate(ends):
            if len(stood[k]) < len(segment_ends) and at >= segment_ends[len(stood[k])]:
                stood[k].append(levels.programmes[k].copy())
                if case.reset_at_segments:
                    meter.reset_loudness(k)
    measured = np.stack(frames)
    return [
        Run(measured[:, k], np.array(frame_ends), np.array(stood[k] or np.empty((0, 7))), rate, offset)
        for k, offset in enumerate(offsets)
    ]


def _taper(length: int, edge: int) -> Float64:
    rise = 0.5 - 0.5 * np.cos(np.pi * np.arange(edge) / edge)
    shape = np.ones(length)
    shape[:edge], shape[-edge:] = rise, rise[::-1]
    return shape


def _stereo(wave: Float64) -> Float32:
    return np.repeat(wave[:, np.newaxis], 2, axis=1).astype(np.float32)


def _while_it_lasts(column: int, after_s: float, until_s: float) -> Callable[[Run], Sequence[float]]:
    """Every reading of ``column`` between two times of the signal."""

    def read(run: Run) -> Sequence[float]:
        begin, end = run.offset + after_s * run.rate, run.offset + until_s * run.rate
        chosen = run.frames[(run.ends - 0.05 * run.rate >= begin) & (run.ends <= end), column]
        return [float(value) for value in chosen]

    return read


def _last(column: int) -> Callable[[Run], Sequence[float]]:
    return lambda run: [float(run.frames[-1, column])]


def _steady(run: Run) -> Sequence[float]:
    readings = [*_while_it_lasts(MOMENTARY, 1.0, 19.9)(run), *_while_it_lasts(SHORT_TERM, 3.5, 19.9)(run)]
    return [*readings, *_last(INTEGRATED)(run)]


def _at_segments(column: int) -> Callable[[Run], Sequence[float]]:
    return lambda run: [float(value) for value in run.at_segment_ends[:, column]]


def _case(
    name: str,
    what: str,
    build: Callable[[int], Signal],
    read: Callable[[Run], Sequence[float]],
    expected: float | Sequence[float],
    *,
    reset_at_segments: bool = False,
) -> LoudnessCase:
    return LoudnessCase(
        name,
        what,
        build,
        read,
        expected,
        TOLERANCE_LU,
        TOLERANCE_LU,
        "LUFS",
        reset_at_segments=reset_at_segments,
    )


def _peak(name: str, what: str, build: Callable[[int], Signal], expected: float) -> LoudnessCase:
    return LoudnessCase(name, what, build, _last(MAX_TRUE_PEAK), expected, 0.2, 0.4, "dBTP")


def _range(name: str, what: str, build: Callable[[int], Signal], expected: float) -> LoudnessCase:
    return LoudnessCase(name, what, build, _last(RANGE), expected, 1.0, 1.0, "LU")


_SILENT = -math.inf
_RISING = [-38.0 + number for number in range(20)]
_QUIET_ENDS = ((-36.0, 10.0), (-23.0, 60.0), (-36.0, 10.0))
_SURROUND = (-28.0, -28.0, -24.0, _SILENT, -30.0, -30.0)

TECH_3341 = (
    _case("3341-1", "−23 dBFS, 20 s: M, S and I", sequence((-23.0, 20.0)), _steady, -23.0),
    _case("3341-2", "−33 dBFS, 20 s: M, S and I", sequence((-33.0, 20.0)), _steady, -33.0),
    _case("3341-3", "quiet ends are gated: I", sequence(*_QUIET_ENDS), _last(INTEGRATED), -23.0),
    _case(
        "3341-4",
        "absolute and relative gate: I",
        sequence((-72.0, 10.0), *_QUIET_ENDS, (-72.0, 10.0)),
        _last(INTEGRATED),
        -23.0,
    ),
    _case(
        "3341-5",
        "nothing is gated: I",
        sequence((-26.0, 20.0), (-20.0, 20.1), (-26.0, 20.0)),
        _last(INTEGRATED),
        -23.0,
    ),
    _case("3341-6", "five channels: I", sequence((_SURROUND, 20.0), channels=6), _last(INTEGRATED), -23.0),
    _case(
        "3341-9",
        "alternating, S is steady after 3 s",
        sequence(*[(-20.0, 1.34), (-30.0, 1.66)] * 5),
        _while_it_lasts(SHORT_TERM, 3.0, 15.0),
        -23.0,
    ),
    _case(
        "3341-10",
        "3 s at 20 offsets: highest S of each",
        segments(lambda i: [(_SILENT, 0.15 * i), (-23.0, 3.0), (_SILENT, 1.0)]),
        _at_segments(MAX_SHORT_TERM),
        -23.0,
        reset_at_segments=True,
    ),
    _case(
        "3341-11",
        "rising tones: highest S after each",
        segments(lambda i: [(_SILENT, 0.15 * i), (-38.0 + i, 3.0), (_SILENT, 3.0 - 0.15 * i)]),
        _at_segments(MAX_SHORT_TERM),
        _RISING,
    ),
    _case(
        "3341-12",
        "alternating, M is steady after 1 s",
        sequence(*[(-20.0, 0.18), (-30.0, 0.22)] * 25),
        _while_it_lasts(MOMENTARY, 1.0, 10.0),
        -23.0,
    ),
    _case(
        "3341-13",
        "0.4 s at 20 offsets: highest M of each",
        segments(lambda i: [(_SILENT, 0.02 * i), (-23.0, 0.4), (_SILENT, 1.0)]),
        _at_segments(MAX_MOMENTARY),
        -23.0,
        reset_at_segments=True,
    ),
    _case(
        "3341-14",
        "rising tones: highest M after each",
        segments(lambda i: [(_SILENT, 0.02 * i), (-38.0 + i, 0.4), (_SILENT, 0.4 - 0.02 * i)]),
        _at_segments(MAX_MOMENTARY),
        _RISING,
    ),
    _peak("3341-15", "fs/4, 0°, amplitude 0.5", true_peak_sine(4, 0.0, 0.5), -6.0),
    _peak("3341-16", "fs/4, 45°, amplitude 0.5", true_peak_sine(4, 45.0, 0.5), -6.0),
    _peak("3341-17", "fs/6, 60°, amplitude 0.5", true_peak_sine(6, 60.0, 0.5), -6.0),
    _peak("3341-18", "fs/8, 67.5°, amplitude 0.5", true_peak_sine(8, 67.5, 0.5), -6.0),
    _peak("3341-19", "fs/4, 45°, amplitude 1.41", true_peak_sine(4, 45.0, 1.41), 3.0),
    *(
        _peak(f"3341-{20 + n}", f"a pulse {n} quarter samples off the grid", true_peak_burst(n), 0.0)
        for n in range(4)
    ),
)
TECH_3342 = (
    _range("3342-1", "−20, −30 dBFS", sequence((-20.0, 20.0), (-30.0, 20.0)), 10.0),
    _range("3342-2", "−20, −15 dBFS", sequence((-20.0, 20.0), (-15.0, 20.0)), 5.0),
    _range("3342-3", "−40, −20 dBFS", sequence((-40.0, 20.0), (-20.0, 20.0)), 20.0),
    _range(
        "3342-4",
        "−50, −35, −20, −35, −50 dBFS",
        sequence(*[(level, 20.0) for level in (-50.0, -35.0, -20.0, -35.0, -50.0)]),
        15.0,
    ),
)
CASES = TECH_3341 + TECH_3342
