"""A lost packet is bearable: nearer to what was lost than silence is, without a step at either end, and soon silent."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from stagebox.listening.concealment import Concealer

RATE, PACKET = 48_000, 960
SPEECH = Path("/usr/share/sounds/alsa/Front_Center.wav")
Float32 = npt.NDArray[np.float32]


def tone(hz: float) -> Float32:
    n = np.arange(RATE)
    wave_ = 0.3 * np.sin(2 * np.pi * hz * n / RATE) + 0.1 * np.sin(2 * np.pi * 2 * hz * n / RATE + 1)
    return np.stack((wave_, 0.5 * wave_), axis=1).astype(np.float32)


def vowel() -> Float32:
    """The loudest half second of recorded speech."""
    with wave.open(str(SPEECH)) as file:
        mono = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16).astype(np.float32) / 32768
    power = np.convolve(mono**2, np.ones(RATE // 2), "valid")
    at = int(power.argmax())
    return np.repeat(mono[at : at + RATE // 2, np.newaxis], 2, axis=1)


def with_loss(signal: Float32, lost: int, count: int = 1) -> Float32:
    """The signal as it is heard with packets ``lost`` … missing."""
    concealer, parts = Concealer(signal.shape[1]), []
    for number in range(len(signal) // PACKET):
        part = signal[number * PACKET : (number + 1) * PACKET]
        missing = lost <= number < lost + count
        parts.append(concealer.conceal(PACKET) if missing else concealer.received(part))
    return np.concatenate(parts)


def error_db(heard: Float32, signal: Float32, lost: int) -> float:
    part = slice(lost * PACKET, (lost + 1) * PACKET)
    error = heard[part] - signal[part]
    return float(10 * np.log10(np.mean(error**2) / np.mean(signal[part] ** 2)))


@pytest.mark.parametrize("hz", [100.0, 123.4, 440.0, 997.0])
def test_a_tone_goes_on_as_if_nothing_were_missing(hz: float) -> None:
    signal = tone(hz)
    assert error_db(with_loss(signal, 20), signal, 20) < -18


def test_speech_is_nearer_to_what_was_said_than_silence() -> None:
    signal = vowel()
    errors = [error_db(with_loss(signal, lost), signal, lost) for lost in range(6, 20)]
    assert np.median(errors) < 0.0


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_there_is_no_step_where_it_begins_or_ends(count: int) -> None:
    signal = tone(317.0)
    heard = with_loss(signal, 20, count)
    steepest = np.abs(np.diff(signal, axis=0)).max()
    assert np.abs(np.diff(heard, axis=0)).max() < 2.5 * steepest


def test_it_fades_and_after_60_ms_it_is_silence() -> None:
    heard = with_loss(tone(317.0), 20, 5)
    packets = [np.abs(heard[(20 + n) * PACKET : (21 + n) * PACKET]).max() for n in range(5)]
    assert packets[0] > 0.2
    assert packets[1] <= packets[0] * 1.05
    assert packets[2] < packets[1]
    assert packets[3:] == [0.0, 0.0]


def test_silence_is_concealed_by_silence_and_nothing_is_made_of_nothing() -> None:
    heard = with_loss(np.zeros((RATE, 2), dtype=np.float32), 20, 3)
    assert not heard.any()
    concealer = Concealer(2)
    assert not concealer.conceal(PACKET).any(), "nothing was heard yet"


def test_what_was_received_is_not_changed_but_for_the_fade() -> None:
    signal = tone(440.0)
    heard = with_loss(signal, 20)
    np.testing.assert_array_equal(heard[: 20 * PACKET], signal[: 20 * PACKET])
    np.testing.assert_array_equal(heard[21 * PACKET + 240 :], signal[21 * PACKET + 240 : len(heard)])
