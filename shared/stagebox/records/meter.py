"""Meter frames: one measurement of all channels of one source.

Version 2 is what racks make: hundredths of a decibel in 16 bits, so that 64 channels fit 1.5 KiB. Version 1, float32
and without ballistics, is still read: a rack of the first release talks to everything later.
"""

from __future__ import annotations

import enum
import math
import sys
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from cbor2 import CBORTag

from stagebox import cbor
from stagebox.errors import DecodeError
from stagebox.limits import LIMITS
from stagebox.records.header import close_record, open_versioned

METER_FLOOR_DB = -150.0
"""Levels at or below this (dBFS, dBTP, LUFS) are reported as this."""

VERSION: Final = 2
_FIRST_VERSION: Final = 1
# RFC 8746 typed arrays.
_FLOAT32_LE: Final = 85
_INT16_LE: Final = 77
_INT8: Final = 72
NO_VALUE_16: Final = -(1 << 15)
"""Stands for NaN in an int16 array of hundredths."""
NO_VALUE_8: Final = -(1 << 7)
"""Stands for NaN in an int8 array of hundredths."""
_CENTI: Final = 100
_WHAT: Final = "meter frame"


class Condition(enum.IntFlag):
    """What is wrong with a channel now; one byte a channel in a frame."""

    CLIP = 1
    SILENCE = 2
    FLATLINE = 4
    DC = 8
    HUM = 16
    NONFINITE = 32


@dataclass(frozen=True)
class ProgrammeLevels:
    """Loudness of one programme: LUFS, LU for ``range``, dBTP for ``max_true_peak``; NaN where there is no value yet.

    ``integrated``, ``range`` and the maxima are since the last reset (BS.1770-5, EBU Tech 3341 and 3342).
    """

    momentary: float
    short_term: float
    integrated: float
    range: float
    max_momentary: float
    max_short_term: float
    max_true_peak: float


PROGRAMME_FIELDS: Final = tuple(entry.name for entry in fields(ProgrammeLevels))

# Field of the frame → key on the wire, for the arrays that have a value for each channel.
CHANNEL_KEYS: Final[Mapping[str, str]] = {
    "peak": "peak",
    "peak_hold": "hold",
    "true_peak": "tp",
    "rms": "rms",
    "ppm1": "p1",
    "ppm2": "p2",
    "vu": "vu",
    "momentary": "m",
}


def _empty() -> array[float]:
    return array("f")


@dataclass(frozen=True)
class MeterFrame:
    """Levels over ``frames`` samples from sample index ``start`` of one source.

    ``time_ns`` is the capture time of the frame's last sample. float32[channels]: ``peak``, ``peak_hold``, ``rms`` in
    dBFS (the RMS of a full-scale sine is −3.01), ``true_peak`` in dBTP, ``ppm1`` and ``ppm2`` (IEC 60268-10 types I
    and II) and ``vu`` in dBFS of the sine that reads the same, ``momentary`` in LUFS of the channel alone. ``flags``
    has one byte of :class:`Condition` a channel, ``correlation`` one value from −1 to +1 for each stereo pair (NaN in
    silence). Nothing is below :data:`METER_FLOOR_DB`; what has no value is NaN. In a frame of ``version`` 1
    ``peak_hold``, ``ppm1``, ``ppm2``, ``vu``, ``flags`` and ``correlation`` are empty.
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
    peak_hold: array[float] = field(default_factory=_empty)
    ppm1: array[float] = field(default_factory=_empty)
    ppm2: array[float] = field(default_factory=_empty)
    vu: array[float] = field(default_factory=_empty)
    flags: bytes = b""
    correlation: array[float] = field(default_factory=_empty)
    programmes: tuple[ProgrammeLevels, ...] = ()
    version: int = VERSION
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """How many channels the source has."""
        return len(self.peak)

    @property
    def programme_momentary(self) -> float:
        """LUFS-M of the first programme; NaN if there is none."""
        return self.programmes[0].momentary if self.programmes else math.nan

    def encode(self) -> bytes:
        """Return the wire form, version 2; levels are rounded to hundredths."""
        return encode_packed(
            seq=self.seq,
            boot=self.boot,
            time_ns=self.time_ns,
            start=self.start,
            frames=self.frames,
            rate=self.rate,
            levels={key: _pack_16(getattr(self, name)) for name, key in CHANNEL_KEYS.items()},
            flags=self.flags,
            correlation=_hundredths(self.correlation, "b", NO_VALUE_8).tobytes(),
            programmes=_pack_16(
                [getattr(entry, name) for entry in self.programmes for name in PROGRAMME_FIELDS]
            ),
            extra=self.extra,
        )

    @classmethod
    def decode(cls, data: bytes) -> MeterFrame:
        """Parse the wire form of either version; unknown fields are kept in ``extra``.

        Raises:
            DecodeError: malformed, or arrays of different lengths.
        """
        version, seq, boot, time_ns, wire = open_versioned(data, _WHAT, (_FIRST_VERSION, VERSION))
        measured = _first_version(wire) if version == _FIRST_VERSION else _second_version(wire)
        return cls(
            version=version,
            seq=seq,
            boot=boot,
            time_ns=time_ns,
            start=cbor.take_uint(wire, "start", _WHAT),
            frames=cbor.take_uint(wire, "n", _WHAT, bits=32),
            rate=cbor.take_uint(wire, "rate", _WHAT, bits=32),
            extra=wire,
            **measured,
        )


def encode_packed(
    *,
    seq: int,
    boot: bytes,
    time_ns: int,
    start: int,
    frames: int,
    rate: int,
    levels: Mapping[str, bytes],
    flags: bytes,
    correlation: bytes,
    programmes: bytes,
    extra: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the wire form of what is in hundredths already: int16 little-endian, `correlation` int8.

    ``levels`` maps each of :data:`CHANNEL_KEYS`' keys to its array, ``programmes`` holds seven values a programme. For
    makers that have numpy: 64 channels are 512 values, 20 times a second.
    """
    wire: dict[str, Any] = {key: CBORTag(_INT16_LE, packed) for key, packed in levels.items()}
    wire |= {
        "start": start,
        "n": frames,
        "rate": rate,
        "flags": flags,
        "corr": CBORTag(_INT8, correlation),
        "prog": CBORTag(_INT16_LE, programmes),
    }
    return close_record(seq, boot, time_ns, {**(extra or {}), **wire}, version=VERSION)


def levels(values: Iterable[float]) -> array[float]:
    """Return ``values`` as the float32 array a frame holds."""
    return array("f", values)


def _second_version(wire: dict[str, Any]) -> dict[str, Any]:
    measured: dict[str, Any] = {name: _unpack_16(wire, key) for name, key in CHANNEL_KEYS.items()}
    measured["flags"] = cbor.take_bytes(wire, "flags", _WHAT)
    _same_channels([len(measured[name]) for name in (*CHANNEL_KEYS, "flags")])
    pairs = _take_array(wire, "corr", _INT8, 1)
    if len(pairs) > LIMITS.max_channels:
        raise DecodeError(f"{_WHAT} has {len(pairs)} correlations")
    measured["correlation"] = _from_hundredths(array("b", pairs), NO_VALUE_8)
    measured["programmes"] = _programmes(_unpack_16(wire, "prog"))
    return measured


def _first_version(wire: dict[str, Any]) -> dict[str, Any]:
    keys = {"peak": "peak", "rms": "rms", "true_peak": "tp", "momentary": "m"}
    measured: dict[str, Any] = {name: _unpack_float32(wire, key) for name, key in keys.items()}
    _same_channels([len(values) for values in measured.values()])
    momentary = float(cbor.take(wire, "pm", float, _WHAT))
    missing = [math.nan] * (len(PROGRAMME_FIELDS) - 1)
    measured["programmes"] = (ProgrammeLevels(momentary, *missing),)
    return measured


def _programmes(values: array[float]) -> tuple[ProgrammeLevels, ...]:
    count, rest = divmod(len(values), len(PROGRAMME_FIELDS))
    if rest or count > LIMITS.max_programmes:
        raise DecodeError(f"{_WHAT} has {len(values)} values of programmes")
    width = len(PROGRAMME_FIELDS)
    return tuple(ProgrammeLevels(*values[n * width : (n + 1) * width]) for n in range(count))


def _same_channels(lengths: list[int]) -> None:
    if len(set(lengths)) != 1 or not 1 <= lengths[0] <= LIMITS.max_channels:
        raise DecodeError(f"{_WHAT} has arrays of {sorted(set(lengths))} channels")


def _hundredths(values: Iterable[float], typecode: str, none: int) -> array[int]:
    """Return hundredths in the range of ``typecode``; NaN becomes ``none``."""
    top = -none - 1
    return array(
        typecode,
        [none if math.isnan(value) else round(max(-top, min(top, value * _CENTI))) for value in values],
    )


def _from_hundredths(values: array[int], none: int) -> array[float]:
    return array("f", [math.nan if value == none else value / _CENTI for value in values])


def _pack_16(values: Iterable[float]) -> bytes:
    packed = _hundredths(values, "h", NO_VALUE_16)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _unpack_16(wire: dict[str, Any], key: str) -> array[float]:
    packed = array("h", _take_array(wire, key, _INT16_LE, 2))
    if sys.byteorder == "big":
        packed.byteswap()
    return _from_hundredths(packed, NO_VALUE_16)


def _unpack_float32(wire: dict[str, Any], key: str) -> array[float]:
    values = array("f", _take_array(wire, key, _FLOAT32_LE, 4))
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _take_array(wire: dict[str, Any], key: str, tag: int, width: int) -> bytes:
    found = cbor.take(wire, key, CBORTag, _WHAT)
    if found.tag != tag or type(found.value) is not bytes or len(found.value) % width:
        raise DecodeError(f"{_WHAT} field {key!r} is not a typed array of tag {tag}")
    return found.value
