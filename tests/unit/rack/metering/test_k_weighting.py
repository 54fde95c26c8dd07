"""K-weighting in blocks is the same filter as the recursion, at every rate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import sosfilt, sosfreqz

from stagebox_rack.limits import LIMITS
from stagebox_rack.metering.k_weighting import KWeighting, block_length, k_weighting_sections

RATES = LIMITS.audio_rates
TABULATED_48K = [  # BS.1770-5, tables 1 and 2
    [1.53512485958697, -2.69169618940638, 1.19839281085285, 1.0, -1.69065929318241, 0.73248077421585],
    [1.0, -2.0, 1.0, 1.0, -1.99004745483398, 0.99007225036621],
]


def test_the_standards_own_coefficients_come_out_at_48_khz() -> None:
    np.testing.assert_allclose(k_weighting_sections(48_000), TABULATED_48K, atol=1e-8)


@pytest.mark.parametrize("rate", RATES)
def test_the_response_is_the_same_at_every_rate(rate: int) -> None:
    # The bilinear transform bends the response towards half the sample rate, so compare below 5 kHz.
    hertz = np.array([20.0, 50.0, 100.0, 997.0, 2000.0, 5000.0])
    _, reference = sosfreqz(k_weighting_sections(48_000), hertz, fs=48_000)
    _, response = sosfreqz(k_weighting_sections(rate), hertz, fs=rate)
    difference = 20 * np.log10(np.abs(response) / np.abs(reference))
    assert np.max(np.abs(difference)) < 0.05


@pytest.mark.parametrize("rate", RATES)
def test_block_filtering_equals_the_sample_by_sample_recursion(rate: int) -> None:
    block = block_length(rate // 100)
    frame = rate // 20
    signal = np.random.default_rng(rate).standard_normal((3, frame * 8))
    filter_ = KWeighting(rate, 3, block=block, max_blocks=frame // block)
    out = np.concatenate(
        [
            filter_.process(signal[:, at : at + frame].astype(np.float32)).copy()
            for at in range(0, signal.shape[1], frame)
        ],
        axis=1,
    )
    np.testing.assert_allclose(out, sosfilt(k_weighting_sections(rate), signal, axis=1), rtol=0, atol=2e-5)


def test_fewer_blocks_than_the_most_are_filtered_alike() -> None:
    signal = np.random.default_rng(1).standard_normal((2, 48 * 60))
    filter_ = KWeighting(48_000, 2, block=48, max_blocks=50)
    parts, at = [], 0
    for blocks in (1, 50, 0, 7, 2):
        parts.append(filter_.process(signal[:, at : at + blocks * 48].astype(np.float32)).copy())
        at += blocks * 48
    expected = sosfilt(k_weighting_sections(48_000), signal, axis=1)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, rtol=0, atol=2e-5)


def test_a_reset_filter_remembers_nothing() -> None:
    filter_ = KWeighting(48_000, 1, block=48, max_blocks=50)
    filter_.process(np.ones((1, 2400), dtype=np.float32))
    filter_.reset()
    assert not filter_.process(np.zeros((1, 2400), dtype=np.float32)).any()


def test_a_second_of_silence_ends_in_exact_zero_and_not_in_denormals() -> None:
    filter_ = KWeighting(48_000, 1, block=48, max_blocks=50)
    filter_.process(np.ones((1, 2400), dtype=np.float32))
    for _ in range(20):
        out = filter_.process(np.zeros((1, 2400), dtype=np.float32))
    assert not out.any()


def test_a_length_that_is_not_whole_blocks_is_refused() -> None:
    filter_ = KWeighting(48_000, 1, block=48, max_blocks=50)
    for frames in (47, 48 * 51):
        with pytest.raises(ValueError, match="blocks of 48"):
            filter_.process(np.zeros((1, frames), dtype=np.float32))
