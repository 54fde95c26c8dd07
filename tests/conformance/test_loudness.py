"""EBU Tech 3341 and 3342: every synthetic case, at four start offsets and three sample rates."""

from __future__ import annotations

import numpy as np
import pytest

from conformance.loudness_cases import CASES, RATES, LoudnessCase, run


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_synthetic_case_reads_what_the_ebu_says(case: LoudnessCase, rate: int) -> None:
    for result in run(case, rate):
        readings = np.array(case.read(result))
        expected = np.broadcast_to(np.array(case.expected), readings.shape)
        assert len(readings), "a case without a reading shows nothing"
        off = readings - expected
        assert np.all(off <= case.above), (case.what, result.offset, readings)
        assert np.all(off >= -case.below), (case.what, result.offset, readings)
