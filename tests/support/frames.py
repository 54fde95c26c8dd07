"""Meter frames of a steady level, for tests that care about everything else."""

from __future__ import annotations

from typing import Any

from stagebox.records.meter import MeterFrame, ProgrammeLevels, levels


def meter_frame(
    seq: int,
    boot: bytes,
    *,
    time_ns: int = 1,
    start: int = 0,
    frames: int = 2400,
    rate: int = 48_000,
    channels: int = 2,
    peak: float = -20.0,
    apart: float = 0.0,
    momentary: float = -23.0,
    **fields: Any,
) -> MeterFrame:
    """Return a frame in which channels read ``peak`` on every meter and the one programme ``momentary``.

    Each further channel reads ``apart`` dB less than the one before.
    """
    one = levels([peak - n * apart for n in range(channels)])
    measured: dict[str, Any] = {
        **dict.fromkeys(("peak", "peak_hold", "true_peak", "rms", "ppm1", "ppm2", "vu"), one),
        "momentary": levels([momentary] * channels),
        "flags": bytes(channels),
        "correlation": levels([0.5] * (channels // 2)),
        "programmes": (ProgrammeLevels(momentary, momentary, momentary, 0.0, momentary, momentary, peak),),
    }
    return MeterFrame(
        seq=seq, boot=boot, time_ns=time_ns, start=start, frames=frames, rate=rate, **{**measured, **fields}
    )
