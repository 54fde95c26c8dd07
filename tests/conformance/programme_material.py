"""Recorded speech and rendered music, measured by us and by libebur128, which shares no code with us."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyebur128

from demo.render_programme import render
from stagebox_rack.metering.layout import MeterLayout, Programme
from stagebox_rack.metering.meter import Meter

SPEECH = Path("/usr/share/sounds/alsa")
RATE = 48_000
FRAME, STEP = 2400, 480
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Comparison:
    """How far we are from libebur128, LU or dB: at most in any frame, or at the end."""

    frames: int
    seconds: float
    momentary: float
    short_term: float
    integrated: float
    loudness_range: float
    highest_momentary: float
    highest_short_term: float
    true_peak: float


def speech() -> Float32:
    """All of Debian's recorded speech, one after the other, right channel quieter and later: float32[frames, 2]."""
    parts = []
    for path in sorted(SPEECH.glob("*.wav")):
        if path.name == "Noise.wav":
            continue
        with wave.open(str(path)) as file:
            assert (file.getframerate(), file.getnchannels()) == (RATE, 1)
            parts.append(np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16) / 32768)
    assert len(parts) >= 6, f"{SPEECH} has no recordings: apt-get install alsa-utils"
    mono = np.tile(np.concatenate(parts), 2)
    return np.stack((mono, 0.5 * np.roll(mono, 4321)), axis=1).astype(np.float32)


def music() -> Float32:
    """The demo's programme, float32[frames, 2]."""
    return np.ascontiguousarray(render().T, dtype=np.float32)


def compare(signal: Float32) -> Comparison:
    """Measure float32[frames, 2] with both; frames below -60 LUFS and the first three seconds are not compared."""
    mode = pyebur128.MeasurementMode
    oracle = pyebur128.R128State(
        2, RATE, mode.MODE_I | mode.MODE_S | mode.MODE_M | mode.MODE_LRA | mode.MODE_TRUE_PEAK
    )
    meter = Meter(MeterLayout(RATE, 2, (Programme("all", (0, 1), (1.0, 1.0)),)))
    off, highest = [], np.full(2, -np.inf)
    for at in range(0, len(signal) // FRAME * FRAME, FRAME):
        ours = meter.measure(signal[at : at + FRAME]).programmes[0]
        theirs = np.full(2, -np.inf)
        for part in range(at, at + FRAME, STEP):
            oracle.add_frames(signal[part : part + STEP].astype(np.float64).ravel(), STEP)
            now = (pyebur128.get_loudness_momentary(oracle), pyebur128.get_loudness_shortterm(oracle))
            theirs = np.maximum(theirs, now)
        highest = np.maximum(highest, theirs)
        if at > 3 * RATE and theirs.min() > -60:
            off.append(np.abs(ours[:2] - theirs))
    worst = np.max(off, axis=0)
    peak = max(pyebur128.get_true_peak(oracle, channel) for channel in range(2))
    return Comparison(
        frames=len(off),
        seconds=len(signal) / RATE,
        momentary=float(worst[0]),
        short_term=float(worst[1]),
        integrated=abs(float(ours[2]) - pyebur128.get_loudness_global(oracle)),
        loudness_range=abs(float(ours[3]) - pyebur128.get_loudness_range(oracle)),
        highest_momentary=abs(float(ours[4] - highest[0])),
        highest_short_term=abs(float(ours[5] - highest[1])),
        true_peak=abs(float(ours[6]) - float(20 * np.log10(peak))),
    )
