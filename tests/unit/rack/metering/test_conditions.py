"""What is raised and what is not: each condition on material that has it and on material that only looks like it."""

from __future__ import annotations

import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.render_programme import render
from stagebox.records.meter import Condition
from stagebox_rack.metering.conditions import ConditionChange, Conditions, ConditionSettings, Rule
from stagebox_rack.metering.hysteresis import Hysteresis
from stagebox_rack.metering.layout import MeterLayout
from stagebox_rack.metering.meter import Meter

RATE = 48_000
SPEECH = Path("/usr/share/sounds/alsa/Front_Center.wav")
Float32 = npt.NDArray[np.float32]
QUICK = ConditionSettings(silence=Rule(-60.0, -55.0, 0.5, 0.2), flatline=Rule(0.0, 0.0, 0.5, 0.2))


def watch(
    signal: npt.NDArray[np.floating], settings: ConditionSettings = QUICK, rate: int = RATE
) -> tuple[list[ConditionChange], npt.NDArray[np.uint8]]:
    """Changes and the flags of every frame, uint8[frames, channels], of a signal [samples] or [samples, channels]."""
    block = np.atleast_2d(signal.astype(np.float32).T).T
    layout = MeterLayout(rate, block.shape[1])
    meter, conditions = Meter(layout), Conditions(layout, settings)
    changes, flags = [], []
    for at in range(0, len(block) // (rate // 20) * (rate // 20), rate // 20):
        levels = meter.measure(block[at : at + rate // 20])
        raised, found = conditions.observe(meter.rows, levels, at)
        flags.append(raised)
        changes += found
    return changes, np.array(flags)


def names(changes: list[ConditionChange]) -> list[str]:
    return [change.name + (".recovered" if change.recovered else "") for change in changes]


def noise(seconds: float, level: float, seed: int = 0, rate: int = RATE) -> npt.NDArray[np.float64]:
    return level * np.random.default_rng(seed).standard_normal(round(seconds * rate))


def tone(hz: float, dbfs: float, seconds: float, rate: int = RATE) -> npt.NDArray[np.float64]:
    return 10 ** (dbfs / 20) * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def test_healthy_noise_raises_nothing() -> None:
    changes, flags = watch(noise(20.0, 0.05))
    assert (changes, int(flags.max())) == ([], 0)


def test_clipping_is_consecutive_samples_at_the_top_and_recovers() -> None:
    signal = noise(6.0, 0.05)
    signal[48_000:48_010] = 1.0
    changes, flags = watch(signal)
    assert names(changes) == ["clip", "clip.recovered"]
    assert changes[0].start == 48_000
    assert changes[0].value == pytest.approx(0.0)
    assert changes[1].start - changes[0].start == 2400
    assert np.flatnonzero(flags[:, 0] & Condition.CLIP).tolist() == list(range(20, 60))


def test_a_full_scale_sample_alone_is_not_clipping_and_a_run_across_two_frames_is() -> None:
    alone = noise(1.0, 0.05)
    alone[[1000, 1002, 1004]] = -1.0
    assert watch(alone)[0] == []
    across = noise(1.0, 0.05)
    across[2398:2401] = -1.0
    assert names(watch(across)[0]) == ["clip"]


def test_silence_has_to_last_and_says_where_it_began() -> None:
    signal = np.concatenate((noise(1.0, 0.05), noise(2.0, 1e-5), noise(1.0, 0.05)))
    changes, flags = watch(signal)
    assert [(c.name, c.recovered, c.start) for c in changes] == [
        ("silence", False, 48_000),
        ("silence", True, 144_000),
    ]
    assert not flags[:29].any()
    assert watch(np.concatenate((noise(1.0, 0.05), noise(0.4, 1e-5), noise(1.0, 0.05))))[0] == []


def test_a_level_between_the_two_thresholds_changes_nothing() -> None:
    between = tone(997.0, -57.0 + 3.01, 3.0)
    assert watch(np.concatenate((noise(1.0, 0.05), between)))[0] == []
    changes, _ = watch(np.concatenate((noise(1.0, 1e-5), between)))
    assert names(changes) == ["silence"]


def test_a_stuck_value_is_a_flatline_and_one_bit_of_noise_is_not() -> None:
    stuck = np.concatenate((noise(1.0, 0.05), np.full(RATE, 0.25)))
    assert "flatline" in names(watch(stuck)[0])
    alive = np.random.default_rng(0).integers(0, 2, 2 * RATE) / 32768
    changes, _ = watch(alive)
    assert names(changes) == ["silence"], "quiet, but alive"
    assert names(watch(np.zeros(2 * RATE))[0]) == ["silence", "flatline"], "digital silence is both"


def test_an_offset_is_raised_and_recovers_below_its_lower_threshold() -> None:
    offset = np.concatenate((np.full(6 * RATE, 0.05), np.zeros(12 * RATE)))
    changes, _ = watch(offset + noise(18.0, 0.02))
    assert names(changes) == ["dc", "dc.recovered"]
    assert changes[0].value == pytest.approx(-26.0, abs=0.5)
    assert watch(tone(40.0, -6.0, 10.0))[0] == [], "a slow tone is no offset"


@pytest.mark.parametrize("rate", [44_100, 48_000, 96_000])
@pytest.mark.parametrize("mains", [50.0, 60.0, 49.9, 60.1])
def test_hum_is_raised_for_the_mains_and_its_harmonics(mains: float, rate: int) -> None:
    lines = (
        tone(mains, -50.0, 12.0, rate)
        + tone(2 * mains, -45.0, 12.0, rate)
        + tone(3 * mains, -52.0, 12.0, rate)
    )
    clean = noise(10.0, 0.003, 4, rate)
    changes, flags = watch(np.concatenate((lines + noise(12.0, 0.003, 3, rate), clean)), rate=rate)
    assert names(changes) == ["hum", "hum.recovered"]
    assert changes[0].value == pytest.approx(-43.2, abs=1.0)
    assert flags[200, 0] & Condition.HUM


def test_speech_music_noise_and_a_single_bass_note_are_not_hum() -> None:
    with wave.open(str(SPEECH)) as file:
        spoken = np.frombuffer(file.readframes(file.getnframes()), dtype=np.int16) / 32768
    music = render()[0]
    assert "hum" not in names(watch(np.tile(spoken, 12))[0])
    assert "hum" not in names(watch(music)[0])
    assert "hum" not in names(watch(noise(20.0, 0.1))[0])
    assert "hum" not in names(watch(tone(50.0, -20.0, 12.0) + noise(12.0, 0.001))[0]), "one line is a note"
    assert "hum" not in names(
        watch(tone(55.0, -20.0, 12.0) + tone(110.0, -20.0, 12.0) + noise(12.0, 0.001))[0]
    )


def test_channels_that_change_together_are_one_change() -> None:
    signal = np.stack((noise(3.0, 1e-5), noise(3.0, 0.05), noise(3.0, 1e-5)), axis=1)
    changes, _ = watch(signal)
    assert [(change.name, change.channels) for change in changes] == [("silence", (0, 2))]


def test_what_is_switched_off_is_not_looked_for() -> None:
    settings = replace(QUICK, silence=replace(QUICK.silence, enabled=False))
    assert names(watch(np.zeros(2 * RATE), settings)[0]) == ["flatline"]
    assert watch(np.ones(2 * RATE), ConditionSettings.none())[0] == []


def test_after_a_gap_a_condition_that_was_under_way_starts_anew() -> None:
    layout = MeterLayout(RATE, 1)
    meter, conditions = Meter(layout), Conditions(layout, QUICK)
    changes = []
    for frame in range(18):
        if frame == 9:
            meter.reset()
            conditions.reset()
        levels = meter.measure(np.zeros((2400, 1), dtype=np.float32))
        changes += conditions.observe(meter.rows, levels, frame * 2400)[1]
    assert changes == []


@given(
    observed=st.lists(st.tuples(st.sampled_from("+-0"), st.integers(1, 50)), max_size=60),
    hold=st.integers(0, 200),
    recover=st.integers(0, 200),
)
def test_hysteresis_never_flaps_within_its_times(
    observed: list[tuple[str, int]], hold: int, recover: int
) -> None:
    watched = Hysteresis(1, [hold], [recover])
    at, since, run, last = 0, None, "", 0
    active = False
    for what, samples in observed:
        seen, absent = np.array([[what == "+"]]), np.array([[what == "-"]])
        raised, ended = watched.observe(seen, absent, at, samples)
        wanted = "-" if active else "+"
        since = (at if run != wanted or since is None else since) if what == wanted else None
        run = what
        at += samples
        if raised[0, 0] or ended[0, 0]:
            assert bool(raised[0, 0]) is not active
            assert since is not None
            assert at - since >= (recover if active else hold)
            assert watched.since(raised | ended) == since
            active, since, run, last = not active, None, "", at
        assert bool(watched.active[0, 0]) is active
    assert last <= at
