"""The noise-event classifier beside the same in numpy: `deploy/modules/noise-event-classifier`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from conformance.modules.noise_reference import Classifier, Settings
from support.module_builds import Built
from support.wasm_guest import Guest

RATE = 48_000

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def background(seconds: float, level: float = 1e-3, rate: int = RATE, seed: int = 1) -> Float64:
    """White noise of RMS ``level``; 1e-3 is −60 dBFS."""
    return level * np.random.default_rng(seed).standard_normal(round(seconds * rate))


def at(signal: Float64, seconds: float, sound: Float64, rate: int = RATE) -> None:
    first = round(seconds * rate)
    signal[first : first + len(sound)] += sound


def click(rate: int = RATE) -> Float64:
    """A hit: noise that decays within some milliseconds."""
    n = np.arange(round(0.03 * rate))
    made = np.random.default_rng(7).standard_normal(len(n)) * np.exp(-n / (0.004 * rate))
    made[0] = 2.0
    return 0.4 * made


def tone(hz: float, seconds: float, amplitude: float = 0.1, rate: int = RATE) -> Float64:
    return amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def hiss(seconds: float, level: float = 0.05, rate: int = RATE) -> Float64:
    return background(seconds, level, rate, seed=3)


def pink(seconds: float, level: float = 0.05, rate: int = RATE) -> Float64:
    spectrum = np.fft.rfft(background(seconds, 1.0, rate, seed=5))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 20.0 * seconds))
    made = np.fft.irfft(spectrum)
    return np.asarray(level * made / np.sqrt(np.mean(made**2)))


def heard_by(module: Built, signal: Float64, rate: int = RATE, **params: float) -> list[dict[str, Any]]:
    """The module's events of one channel, with positions from the signal's beginning."""
    guest = Guest(module.data, rate, 1, module.params(**params))
    out = guest.run(signal.astype(np.float32)[:, np.newaxis])
    assert np.array_equal(out[:, 0], signal.astype(np.float32)), "what it hears goes on as it came"
    return positions(guest)


def positions(guest: Guest) -> list[dict[str, Any]]:
    events = []
    for emitted in guest.emitted:
        assert emitted.out == "event"
        event = dict(emitted.data)
        event["onset"] = emitted.start - event.pop("onset_before")
        event["peak_at"] = emitted.start - event.pop("peak_before")
        events.append(event)
    return events


def agree(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ("class", "onset", "peak_at", "frames", "cut"):
            assert ours[key] == theirs[key], key
        for key in ("peak", "level", "background", "flux", "flatness", "hz", "octaves"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-9, abs=1e-9), key


def scene(rate: int = RATE) -> Float64:
    """Ten seconds of quiet noise in which three things of each class happen."""
    signal = background(10.0, rate=rate)
    for seconds in (1.0, 4.013, 7.0501):
        at(signal, seconds, click(rate), rate)
    for seconds, hz, length in ((2.0, 440.0, 0.5), (5.0, 1_000.0, 0.1), (8.0, 3_150.0, 0.8)):
        at(signal, seconds, tone(hz, length, rate=rate), rate)
    for seconds, sound in (
        (3.0, hiss(0.4, rate=rate)),
        (6.0, pink(0.6, rate=rate)),
        (9.1, hiss(0.2, 0.2, rate)),
    ):
        at(signal, seconds, sound, rate)
    return signal


SCENE = ["impulsive", "tonal", "broadband"] * 3


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000, 96_000, 192_000])
def test_bursts_tones_and_noise_are_the_events_that_numpy_finds(classifier: Built, rate: int) -> None:
    signal = scene(rate)
    found = heard_by(classifier, signal, rate)
    agree(found, Classifier(rate).run(signal.astype(np.float32)))
    assert [event["class"] for event in found] == SCENE


def test_events_are_where_the_sounds_are(classifier: Built) -> None:
    found = heard_by(classifier, scene())
    starts = [1.0, 2.0, 3.0, 4.013, 5.0, 6.0, 7.0501, 8.0, 9.1]
    lengths = [None, 0.5, 0.4, None, 0.1, 0.6, None, 0.8, 0.2]
    for event, start, length in zip(found, starts, lengths, strict=True):
        assert event["onset"] / RATE == pytest.approx(start, abs=0.002)
        if length is not None:
            assert event["frames"] / RATE == pytest.approx(length, abs=0.03)
        assert event["onset"] <= event["peak_at"] < event["onset"] + event["frames"]
        assert event["background"] == pytest.approx(-60.0, abs=0.5)
        assert not event["cut"]
    assert [event["onset"] for event in found if event["class"] == "impulsive"] == [48_000, 192_624, 338_405]
    clicks = [event["frames"] for event in found if event["class"] == "impulsive"]
    assert max(clicks) < 0.02 * RATE


def test_a_tones_frequency_level_and_octave_are_right(classifier: Built) -> None:
    signal = background(3.0)
    at(signal, 1.0, tone(440.0, 1.0, amplitude=0.1))
    (event,) = heard_by(classifier, signal)
    assert event["hz"] == pytest.approx(440.0, abs=1.0)
    assert event["level"] == pytest.approx(-23.01, abs=0.1)
    assert event["peak"] == pytest.approx(-20.0, abs=0.3)
    assert int(np.argmax(event["octaves"])) == 3, "500 Hz"
    assert event["flatness"] < 0.01


def test_an_event_needs_both_the_level_and_the_onset(classifier: Built) -> None:
    swell = background(6.0)
    envelope = np.concatenate([np.zeros(RATE), np.linspace(0.0, 1.0, 5 * RATE)])
    swell += 0.01 * 10 ** (envelope - 1) * np.sign(envelope) * background(6.0, 1.0, seed=9)
    assert heard_by(classifier, swell) == []
    faint = background(3.0)
    at(faint, 1.0, hiss(0.5, 3e-3))
    assert heard_by(classifier, faint) == []
    assert len(heard_by(classifier, faint, rise=6.0, fall=3.0)) == 1


def test_an_event_ends_only_below_the_lower_threshold(classifier: Built) -> None:
    signal = background(4.0)
    at(signal, 1.0, hiss(0.5, 0.02))
    # 9 dB over the background: too little to begin with, enough to go on.
    at(signal, 1.5, hiss(0.5, 1e-3 * 10 ** (9 / 20)))
    at(signal, 2.0, hiss(0.5, 0.02))
    (one,) = heard_by(classifier, signal)
    assert one["frames"] / RATE == pytest.approx(1.5, abs=0.05)
    assert len(heard_by(classifier, signal, fall=11.0)) == 2


def test_two_short_sounds_with_a_breath_between_are_two_events(classifier: Built) -> None:
    signal = background(3.0)
    at(signal, 1.0, click())
    at(signal, 1.2, click())
    assert len(heard_by(classifier, signal)) == 2
    close = background(3.0)
    at(close, 1.0, click())
    at(close, 1.045, click())
    assert len(heard_by(classifier, close)) == 1


def test_what_goes_on_for_too_long_is_cut_and_becomes_the_background(classifier: Built) -> None:
    signal = background(8.0)
    at(signal, 1.0, hiss(5.0, 0.02))
    at(signal, 5.0, click())
    found = heard_by(classifier, signal, longest=2.0)
    assert [event["cut"] for event in found] == [True, False]
    assert found[0]["frames"] / RATE == pytest.approx(2.0, abs=0.05)
    assert found[1]["class"] == "impulsive"
    assert found[1]["background"] == pytest.approx(-34.0, abs=1.0)
    agree(found, Classifier(RATE, Settings(longest=2.0)).run(signal.astype(np.float32)))


def test_silence_and_a_constant_are_no_events(classifier: Built) -> None:
    for level in (0.0, 0.5):
        assert heard_by(classifier, np.full(3 * RATE, level)) == []


def test_in_digital_silence_the_lowest_level_decides(classifier: Built) -> None:
    signal = np.zeros(3 * RATE)
    at(signal, 1.0, tone(1_000.0, 0.5, amplitude=10 ** (-75 / 20)))
    assert heard_by(classifier, signal) == []
    (event,) = heard_by(classifier, signal, lowest=-90.0)
    assert event["class"] == "tonal"
    assert event["background"] < -120.0


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        ({"rise": 40.0}, Settings(rise=40.0)),
        ({"fall": 20.0}, Settings(fall=20.0)),
        ({"flux": 0.75}, Settings(flux=float(np.float32(0.75)))),
        ({"impulse": 500.0}, Settings(impulse=500.0)),
        ({"tonal": 0.5}, Settings(tonal=0.5)),
        ({"lowest": -20.0}, Settings(lowest=-20.0)),
    ],
)
def test_every_parameter_means_what_numpys_does(
    classifier: Built, change: dict[str, float], settings: Settings
) -> None:
    signal = scene()
    found = heard_by(classifier, signal, RATE, **change)
    agree(found, Classifier(RATE, settings).run(signal.astype(np.float32)))
    assert found != heard_by(classifier, signal)


def test_the_mean_of_all_channels_is_heard_or_one_of_them(classifier: Built) -> None:
    signal = np.stack([background(3.0, seed=seed) for seed in range(4)], axis=1)
    at(signal[:, 2], 1.0, tone(1_000.0, 0.5))
    samples = signal.astype(np.float32)

    def events(channel: int) -> list[dict[str, Any]]:
        guest = Guest(classifier.data, RATE, 4, classifier.params(channel=channel))
        guest.run(samples)
        return positions(guest)

    agree(events(3), Classifier(RATE).run(samples[:, 2]))
    mean = (samples.astype(np.float64).sum(axis=1) / 4).astype(np.float32)
    agree(events(0), Classifier(RATE).run(mean))
    assert events(1) == []
    with pytest.raises(ValueError, match="param 0"):
        events(5)


@pytest.mark.parametrize("cut", [lambda n: 1 + n % 5, lambda n: 7 + 13 * n % 950, lambda n: 960])
def test_blocks_of_any_length_give_the_same_events(classifier: Built, cut: Callable[[int], int]) -> None:
    signal = background(1.6)
    at(signal, 0.8, click())
    at(signal, 1.0, tone(700.0, 0.3))
    samples = signal.astype(np.float32)[:, np.newaxis]
    guest = Guest(classifier.data, RATE, 1, classifier.defaults)
    first, number = 0, 0
    while first < len(samples):
        size = cut(number)
        guest.process(samples[first : first + size])
        first, number = first + size, number + 1
    agree(positions(guest), Classifier(RATE).run(samples[:, 0]))


def test_what_is_no_number_is_heard_as_silence(classifier: Built) -> None:
    signal = scene()
    broken = signal.copy()
    broken[[70_000, 100_000, 200_000]] = [np.nan, np.inf, -np.inf]
    signal[[70_000, 100_000, 200_000]] = 0.0
    guest = Guest(classifier.data, RATE, 1, classifier.defaults)
    guest.run(broken.astype(np.float32)[:, np.newaxis])
    agree(positions(guest), Classifier(RATE).run(signal.astype(np.float32)))


def test_a_record_that_is_not_taken_is_dropped_and_nothing_else(classifier: Built) -> None:
    guest = Guest(classifier.data, RATE, 1, classifier.defaults)
    guest.answers = [0, 1, 2]
    guest.run(scene().astype(np.float32)[:, np.newaxis])
    expected = Classifier(RATE).run(scene().astype(np.float32))
    agree(positions(guest), [expected[0], *expected[3:]])


@pytest.mark.parametrize(
    ("number", "value"),
    [(0, -1.0), (0, 0.5), (0, 2.0), (1, 2.0), (2, 0.0), (3, 1.0), (4, 1.5), (5, 0.0), (6, -0.1), (7, 0.1), (8, 0.0),
     (-1, 0.0), (1, np.nan)],
)  # fmt: skip
def test_a_value_or_an_id_that_it_does_not_have_is_refused(
    classifier: Built, number: int, value: float
) -> None:
    with pytest.raises(ValueError, match="param"):
        Guest(classifier.data, RATE, 1).set(number, value)
