"""Recorded speech and rendered music: within a tenth of a LU of libebur128, which shares no code with us."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conformance.programme_material import Float32, compare, music, speech


@pytest.mark.parametrize("material", [speech, music], ids=["speech", "music"])
def test_programme_material_reads_within_a_tenth_of_libebur128(material: Callable[[], Float32]) -> None:
    off = compare(material())
    assert off.frames > 100
    assert off.momentary <= 0.1
    assert off.short_term <= 0.1
    assert off.integrated <= 0.1
    assert off.highest_momentary <= 0.1
    assert off.highest_short_term <= 0.1
    assert off.true_peak <= 0.2
    # libebur128 takes a window a second, the standard asks for at least that; we take ten.
    assert off.loudness_range <= 1.0
