"""Renders the demo's programme: 30 s of music and a speech-like voice, 48 kHz stereo, a seamless loop.

Rules: deterministic (the raw words of a seeded PCG64 are the only noise); everything is placed on a ring, so
the end runs into the start without a click; the loudness is set to −23 LUFS (BS.1770-5, measured on the ring).
It is a rendering and is declared as one, never as something captured.

``python -m demo.render_programme programme.wav`` writes the file.
"""

from __future__ import annotations

import sys
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float64]

RATE = 48_000
SECONDS = 30
FRAMES = RATE * SECONDS
TARGET_LUFS = -23.0

_BEAT = RATE * 5 // 8  # 96 beats a minute: 48 beats, 12 bars, in the loop
_SEED = 20_480
_CYCLE = 1 << 14  # samples of one stored cycle of a wave; a power of two
# Two bars each: A minor, F, C, G, D minor, E; MIDI notes.
_CHORDS = ((57, 60, 64), (53, 57, 60), (55, 60, 64), (55, 59, 62), (53, 57, 62), (52, 56, 59))
# One vowel each: formant centre (Hz), bandwidth (Hz), gain.
_VOWELS = (
    ((730, 90, 1.0), (1090, 110, 0.5), (2440, 170, 0.12)),
    ((270, 60, 1.0), (2290, 200, 0.18), (3010, 240, 0.12)),
    ((530, 70, 1.0), (1840, 150, 0.3), (2480, 190, 0.14)),
    ((570, 80, 1.0), (840, 90, 0.45), (2410, 170, 0.08)),
)
_SYLLABLES = 7  # in one bar of speech
_SPEECH_BARS = (2, 3, 6, 7, 10)
_FORMANT_FLOOR = 0.004
# BS.1770-5 tables 1 and 2: the K-weighting biquads at 48 kHz, (b, a).
_K_STAGES = (
    (
        (1.53512485958697, -2.69169618940638, 1.19839281085285),
        (1.0, -1.69065929318241, 0.73248077421585),
    ),
    ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621)),
)


def render() -> Samples:
    """Return the programme, float64[2, FRAMES], at its final level."""
    ring = np.zeros((2, FRAMES))
    _pads(ring)
    _plucks(ring)
    _percussion(ring)
    _voice(ring)
    ring *= 10 ** ((TARGET_LUFS - integrated_loudness(ring)) / 20)
    return ring


def write(path: Path) -> None:
    """Render and write a 16-bit WAV file with triangular dither."""
    ring = render()
    noise = _noise(2 * FRAMES, _SEED + 1).reshape(2, FRAMES)
    dither = (noise - np.roll(noise, 1)) / 2
    words = np.rint(ring * 32767 + dither).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(words.T.tobytes())


def integrated_loudness(ring: Samples) -> float:
    """Gated loudness in LUFS (BS.1770-5) of float64[channels, frames] taken as a loop."""
    unit = np.exp(-2j * np.pi * np.arange(ring.shape[1] // 2 + 1) / ring.shape[1])
    response = np.ones_like(unit)
    for b, a in _K_STAGES:
        response *= np.polyval(b[::-1], unit) / np.polyval(a[::-1], unit)
    weighted = np.fft.irfft(np.fft.rfft(ring) * response, ring.shape[1])
    steps = np.square(weighted).sum(axis=0).reshape(-1, RATE // 10).mean(axis=1)
    power = sum(np.roll(steps, -shift) for shift in range(4)) / 4
    loudness = -0.691 + 10 * np.log10(np.maximum(power, 1e-20))
    kept = power[loudness > -70]
    relative = -0.691 + 10 * np.log10(kept.mean()) - 10
    gated = power[(loudness > -70) & (loudness > relative)]
    return float(-0.691 + 10 * np.log10(gated.mean()))


def _noise(count: int, seed: int) -> Samples:
    """Uniform noise in −1…1; the raw words are the same in every numpy."""
    words = np.random.PCG64(seed).random_raw(count)
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1


def _place(ring: Samples, start: int, sound: Samples, gain: float, pan: float) -> None:
    """Add a mono sound at ``start`` of the ring, its tail wrapping; ``pan`` −1 is left, 1 is right."""
    angle = (pan + 1) * np.pi / 4
    start %= FRAMES
    head = min(len(sound), FRAMES - start)
    for channel, share in ((0, np.cos(angle)), (1, np.sin(angle))):
        ring[channel, start : start + head] += gain * share * sound[:head]
        ring[channel, : len(sound) - head] += gain * share * sound[head:]


def _hz(note: float) -> float:
    return float(440 * 2 ** ((note - 69) / 12))


def _cycle(gains: Sequence[float]) -> Samples:
    """One cycle of a wave with these gains of its harmonics, from the first on."""
    turn = 2 * np.pi * np.arange(_CYCLE) / _CYCLE
    waves: Samples = np.sin(np.outer(np.arange(1, len(gains) + 1), turn))
    return np.asarray(np.asarray(gains) @ waves)


def _oscillate(cycle: Samples, cycles: Samples) -> Samples:
    """Read ``cycle`` at a phase given in cycles."""
    return np.asarray(cycle[(cycles * _CYCLE).astype(np.int64) & (_CYCLE - 1)])


def _pads(ring: Samples) -> None:
    length = 9 * _BEAT
    t = np.arange(length) / RATE
    swell = np.minimum(1, np.minimum(t / 0.8, (length / RATE - t) / 0.9))
    cycle = _cycle([number**-1.7 for number in range(1, 7)])
    for index, chord in enumerate(_CHORDS):
        for voice, note in enumerate((chord[0] - 12, *chord)):
            for side, cents in ((-0.8, -4), (0.8, 4)):
                tone = _oscillate(cycle, _hz(note + cents / 100) * t)
                _place(ring, index * 8 * _BEAT, tone * swell, 0.022 if voice else 0.036, side)


def _plucks(ring: Samples) -> None:
    noise = _noise(RATE // 20, _SEED)
    strings: dict[int, Samples] = {}
    for step in range(96):
        if step % 8 in (3, 6):
            continue
        chord = _CHORDS[step // 16]
        note = chord[(step * 2 + step // 4) % 3] + (24 if step % 5 == 0 else 12)
        period = round(RATE / _hz(note))
        if period not in strings:
            strings[period] = _string(noise, period)
        _place(ring, step * _BEAT // 2, strings[period], 0.4, 0.5 * np.sin(step * 1.3))


def _string(noise: Samples, period: int) -> Samples:
    """A plucked string (Karplus and Strong 1983), one period of the delay line at a time."""
    line = noise[:period] - noise[:period].mean()
    periods = []
    for _ in range(RATE * 6 // 5 // period):
        periods.append(line)
        line = 0.4985 * (line + np.roll(line, 1))
    sound = np.concatenate(periods)
    fade = RATE // 50
    sound[-fade:] *= np.linspace(1, 0, fade)
    return sound


def _percussion(ring: Samples) -> None:
    t = np.arange(RATE // 3) / RATE
    edge = np.minimum(1, t / 0.001)
    kick = np.sin(2 * np.pi * (48 * t + 1.9 * (1 - np.exp(-t * 38)))) * np.exp(-t * 11) * edge
    noise = _noise(len(t) * 8, _SEED + 2).reshape(8, -1)
    fade = np.clip((t[-1] - t) / 0.02, 0, 1)
    for beat in range(48):
        if beat % 4 in (0, 2):
            _place(ring, beat * _BEAT, kick * fade, 0.33, 0.0)
        if beat % 4 in (1, 3):
            snare = noise[beat % 8] * np.exp(-t * 22) * edge * fade
            _place(ring, beat * _BEAT, snare, 0.13, 0.15)
        for half in (0, 1):
            hat = np.diff(noise[(beat + half * 3) % 8], prepend=0.0) * np.exp(-t * (70 - 30 * half)) * fade
            _place(ring, beat * _BEAT + half * _BEAT // 2, hat, 0.05, -0.4)


def _voice(ring: Samples) -> None:
    length = RATE * 7 // 25
    t = np.arange(length) / RATE
    envelope = np.sin(np.pi * np.minimum(1, t / t[-1])) ** 0.6
    for bar in _SPEECH_BARS:
        for syllable in range(_SYLLABLES):
            pitch = 118 + 14 * np.sin(bar + syllable * 1.7) - 3.0 * syllable
            cycle = _cycle(
                [_formants(n * pitch, _VOWELS[(bar * 3 + syllable) % 4]) / n for n in range(1, 31)]
            )
            sound = _oscillate(cycle, np.cumsum(pitch * (1 - 0.12 * t / t[-1])) / RATE)
            start = bar * 4 * _BEAT + syllable * 4 * _BEAT // (_SYLLABLES + 1)
            _place(ring, start, sound * envelope, 0.7, -0.1)


def _formants(hz: float, vowel: tuple[tuple[int, int, float], ...]) -> float:
    """The vocal tract's gain at ``hz``: one resonance a formant, and a little of everything."""
    return _FORMANT_FLOOR + sum(
        gain / (1 + ((hz - centre) / bandwidth) ** 2) for centre, bandwidth, gain in vowel
    )


def main() -> int:
    """Write the file named on the command line."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.stderr.write("usage: python -m demo.render_programme FILE.wav\n")
        return 2
    write(Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
