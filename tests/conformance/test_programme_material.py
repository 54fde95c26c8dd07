"""Recorded speech and rendered music: within a tenth of a LU of libebur128, which shares no code with us."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyebur128
import pytest

from demo.render_programme import render
from stagebox_rack.metering.layout import MeterLayout, Programme
from stagebox_rack.metering.meter import Meter

SPEECH = Path("/usr/share/sounds/alsa")
RATE = 48_000
Float32 = npt.NDArray[np.float32]


def speech() -> Float32:
    """All of Debian's recorded speech, one after the other, right channel quieter and later."""
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
    return np.ascontiguousarray(render().T, dtype=np.float32)


@pytest.mark.parametrize("material", [speech, music], ids=["speech", "music"])
def test_programme_material_reads_within_a_tenth_of_libebur128(material: object) -> None:
    signal: Float32 = material()  # type: ignore[operator]
    mode = pyebur128.MeasurementMode
    oracle = pyebur128.R128State(
        2, RATE, mode.MODE_I | mode.MODE_S | mode.MODE_M | mode.MODE_LRA | mode.MODE_TRUE_PEAK
    )
    meter = Meter(MeterLayout(RATE, 2, (Programme("all", (0, 1), (1.0, 1.0)),)))
    size, step = 2400, 480
    compared, highest = 0, np.full(2, -np.inf)
    for at in range(0, len(signal) // size * size, size):
        ours = meter.measure(signal[at : at + size]).programmes[0]
        short, momentary = -np.inf, -np.inf
        for part in range(at, at + size, step):
            oracle.add_frames(signal[part : part + step].astype(np.float64).ravel(), step)
            momentary = max(momentary, pyebur128.get_loudness_momentary(oracle))
            short = max(short, pyebur128.get_loudness_shortterm(oracle))
        highest = np.maximum(highest, (momentary, short))
        if at > 3 * RATE and short > -60 and momentary > -60:
            assert ours[0] == pytest.approx(momentary, abs=0.1)
            assert ours[1] == pytest.approx(short, abs=0.1)
            compared += 1
    assert compared > 100
    assert ours[2] == pytest.approx(pyebur128.get_loudness_global(oracle), abs=0.1)
    assert ours[4:6] == pytest.approx(highest, abs=0.1)
    peak = max(pyebur128.get_true_peak(oracle, channel) for channel in range(2))
    assert ours[6] == pytest.approx(20 * np.log10(peak), abs=0.2)
    # libebur128 takes a window a second, the standard asks for at least that; we take ten.
    assert ours[3] == pytest.approx(pyebur128.get_loudness_range(oracle), abs=1.0)
