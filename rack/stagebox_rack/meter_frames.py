"""A measurement as the meter frame that goes on the wire (docs/reference/subjects.md). Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stagebox.records.meter import CHANNEL_KEYS, NO_VALUE_8, NO_VALUE_16, encode_packed
from stagebox_rack.audio.measurement import MeterMeasurement
from stagebox_rack.metering.levels import Float32

_CENTI = np.float32(100.0)


def encode_frame(item: MeterMeasurement, *, seq: int, boot: bytes) -> bytes:
    """Return the wire form of ``item``: all its levels in hundredths with one pass of numpy."""
    levels = item.levels
    per_channel = _hundredths(
        np.stack([getattr(levels, name) for name in CHANNEL_KEYS]), np.int16, NO_VALUE_16
    )
    return encode_packed(
        seq=seq,
        boot=boot,
        time_ns=item.time_ns,
        start=item.start,
        frames=item.frames,
        rate=item.rate,
        levels={key: per_channel[row].tobytes() for row, key in enumerate(CHANNEL_KEYS.values())},
        flags=item.flags,
        correlation=_hundredths(levels.correlation, np.int8, NO_VALUE_8).tobytes(),
        programmes=_hundredths(levels.programmes, np.int16, NO_VALUE_16).tobytes(),
    )


def _hundredths(values: Float32, dtype: type[np.int8 | np.int16], none: int) -> npt.NDArray[np.int_]:
    top = -none - 1
    scaled = np.clip(np.rint(values * _CENTI), -top, top)
    wire = np.where(np.isnan(scaled), np.float32(none), scaled)
    packed: npt.NDArray[np.int_] = wire.astype(np.dtype(dtype).newbyteorder("<"))
    return packed
