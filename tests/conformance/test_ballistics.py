"""PPM and VU move as their standards say, wherever a burst begins and whatever the sample rate."""

from __future__ import annotations

import pytest

from conformance.ballistics_cases import (
    BURSTS,
    FLAT_DB,
    RATES,
    RETURNS,
    VU_OVERSHOOT,
    VU_RISE_S,
    VU_RISE_TOLERANCE,
    Burst,
    Return,
    burst_readings,
    return_time,
    steady_readings,
    vu_step,
)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("burst", BURSTS, ids=lambda burst: f"{burst.field}-{burst.ms:g}ms")
def test_a_tone_burst_reads_as_much_less_as_the_standard_says(burst: Burst, rate: int) -> None:
    for reading in burst_readings(burst, rate):
        assert reading == pytest.approx(burst.expected, abs=burst.tolerance)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("case", RETURNS, ids=lambda case: case.field)
def test_the_meter_returns_in_the_time_the_standard_says(case: Return, rate: int) -> None:
    assert return_time(case, rate) == pytest.approx(case.seconds, abs=case.tolerance)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("field", ["ppm1", "ppm2", "vu"])
def test_a_steady_tone_reads_its_level_at_every_frequency(field: str, rate: int) -> None:
    for hz, off in steady_readings(field, rate).items():
        if field == "vu" and hz < 40:
            continue  # the needle follows the waveform there, as a real one does
        assert off == pytest.approx(0.0, abs=FLAT_DB), hz


@pytest.mark.parametrize("rate", RATES)
def test_the_vu_needle_reaches_99_per_cent_in_300_ms_and_overshoots_a_little(rate: int) -> None:
    rise, overshoot = vu_step(rate)
    assert rise == pytest.approx(VU_RISE_S, abs=VU_RISE_TOLERANCE)
    assert VU_OVERSHOOT[0] <= overshoot <= VU_OVERSHOOT[1]
