"""Meter frames: one measurement of all channels of one source."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from cbor2 import CBORTag

from stagebox import cbor
from stagebox.errors import DecodeError
from stagebox.limits import LIMITS
from stagebox.records.header import close_record, open_record

METER_FLOOR_DB = -150.0
"""Levels at or below this (dBFS, dBTP, LUFS) are reported as this."""

_FLOAT32_LE = 85  # RFC 8746: little-endian binary32 typed array


@dataclass(frozen=True)
class MeterFrame:
    """Levels over ``frames`` samples from sample index ``start`` of one source.

    ``time_ns`` is the capture time of the frame's last sample. ``peak`` and ``rms`` are in dBFS (RMS of a
    full-scale sine is −3.01), ``true_peak`` in dBTP, ``momentary`` and ``programme_momentary`` in LUFS over
    the last 400 ms (BS.1770-5). Each array is float32[channels]; nothing is below :data:`METER_FLOOR_DB`.
    """

    seq: int
    boot: bytes
    time_ns: int
    start: int
    frames: int
    rate: int
    peak: array[float]
    rms: array[float]
    true_peak: array[float]
    momentary: array[float]
    programme_momentary: float
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """How many channels the source has."""
        return len(self.peak)

    def encode(self) -> bytes:
        """Return the wire form."""
        return close_record(
            self.seq,
            self.boot,
            self.time_ns,
            {
                **self.extra,
                "start": self.start,
                "n": self.frames,
                "rate": self.rate,
                "peak": _pack(self.peak),
                "rms": _pack(self.rms),
                "tp": _pack(self.true_peak),
                "m": _pack(self.momentary),
                "pm": self.programme_momentary,
            },
        )

    @classmethod
    def decode(cls, data: bytes) -> MeterFrame:
        """Parse the wire form; unknown fields are kept in ``extra``.

        Raises:
            DecodeError: malformed, or arrays of different lengths.
        """
        what = "meter frame"
        seq, boot, time_ns, fields = open_record(data, what)
        frame = cls(
            seq=seq,
            boot=boot,
            time_ns=time_ns,
            start=cbor.take_uint(fields, "start", what),
            frames=cbor.take_uint(fields, "n", what, bits=32),
            rate=cbor.take_uint(fields, "rate", what, bits=32),
            peak=_unpack(fields, "peak"),
            rms=_unpack(fields, "rms"),
            true_peak=_unpack(fields, "tp"),
            momentary=_unpack(fields, "m"),
            programme_momentary=float(cbor.take(fields, "pm", float, what)),
            extra=fields,
        )
        lengths = {len(frame.peak), len(frame.rms), len(frame.true_peak), len(frame.momentary)}
        if len(lengths) != 1 or not 1 <= len(frame.peak) <= LIMITS.max_channels:
            raise DecodeError(f"{what} has arrays of {sorted(lengths)} channels")
        return frame


def levels(values: Iterable[float]) -> array[float]:
    """Return ``values`` as the float32 array a frame holds."""
    return array("f", values)


def _pack(values: array[float]) -> CBORTag:
    if sys.byteorder == "big":
        values = array("f", values)
        values.byteswap()
    return CBORTag(_FLOAT32_LE, values.tobytes())


def _unpack(fields: dict[str, Any], name: str) -> array[float]:
    tag = cbor.take(fields, name, CBORTag, "meter frame")
    if tag.tag != _FLOAT32_LE or type(tag.value) is not bytes or len(tag.value) % 4:
        raise DecodeError(f"meter frame field {name!r} is not a float32 little-endian typed array")
    values = array("f", tag.value)
    if sys.byteorder == "big":
        values.byteswap()
    return values
