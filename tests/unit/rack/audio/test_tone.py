"""The tone source: exact samples at any index."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stagebox_rack.audio.capture import CaptureClock
from stagebox_rack.audio.source_uri import parse_source
from stagebox_rack.audio.tone import ToneCapture


def tone(text: str) -> ToneCapture:
    spec = parse_source(text)
    return ToneCapture(spec, lambda event: None, CaptureClock())  # type: ignore[arg-type]


def test_the_tone_is_the_sine_its_setting_describes() -> None:
    samples = tone("tone:997@-23?channels=3").samples(0, 48_000)
    n = np.arange(48_000)
    expected = 10 ** (-23 / 20) * np.sin(2 * math.pi * 997 * n / 48_000)
    assert samples.shape == (48_000, 3)
    for channel in range(3):
        np.testing.assert_allclose(samples[:, channel], expected, atol=1e-8)


@pytest.mark.parametrize("start", [1, 480, 48_000 * 86_400 * 365])
def test_blocks_join_without_a_seam_even_after_a_year(start: int) -> None:
    source = tone("tone:997.123@-6?rate=44100")
    whole = source.samples(start, 1000)
    parts = np.concatenate([source.samples(start + k, 100) for k in range(0, 1000, 100)])
    np.testing.assert_array_equal(whole, parts)
    phase = (997_123_000 * start) % (44_100 * 10**6) / (44_100 * 10**6)
    assert whole[0, 0] == pytest.approx(10 ** (-6 / 20) * math.sin(2 * math.pi * phase), abs=1e-7)
