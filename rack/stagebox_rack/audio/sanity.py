"""What no converter gives: samples that are NaN, infinite, or absurdly far above full scale. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stagebox_rack.limits import LIMITS
from stagebox_rack.metering.levels import Float32


def is_audio(samples: Float32) -> bool:
    """Whether all of them, in any shape and at least one, are what :func:`replace_bad` leaves as it is."""
    # None is larger than the root of the sum of all squares, which takes a third of the time and, unlike other
    # products, overflows without a warning.
    if np.vdot(samples, samples) < LIMITS.sample_limit**2:
        return True
    return bool(samples.max() < LIMITS.sample_limit and samples.min() > -LIMITS.sample_limit)


def replace_bad(samples: Float32) -> npt.NDArray[np.bool_] | None:
    """Replace what is no sample (NaN, infinite, 100 dB above full scale) by 0; return where, if anywhere."""
    # A NaN is neither above nor below anything, so both ends are asked for what is good.
    if samples.max() < LIMITS.sample_limit and samples.min() > -LIMITS.sample_limit:
        return None
    bad = ~(np.abs(samples) < LIMITS.sample_limit)
    samples[bad] = 0.0
    return bad
