"""What is wrong with a channel: clipping, silence, a stuck value, DC, hum.

Each condition is raised and ended once, with hysteresis in level and in time, so that a signal at a threshold makes a
pair of events and not a stream of them. Judged frame by frame from what the meters have measured already; hum once a
second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from stagebox.records.meter import Condition
from stagebox_rack.limits import LIMITS
from stagebox_rack.metering.hum import Hum
from stagebox_rack.metering.hysteresis import Hysteresis, Mask
from stagebox_rack.metering.layout import MeterLayout
from stagebox_rack.metering.levels import Float32, Float64, Levels, decibels

Flags = npt.NDArray[np.uint8]

_DC_S: Final = 1.0  # over which an offset is averaged


@dataclass(frozen=True)
class Rule:
    """When one condition is raised and when it ends: levels in dBFS, times in seconds."""

    raise_db: float
    clear_db: float
    hold_s: float
    recover_s: float
    enabled: bool = True


@dataclass(frozen=True)
class ConditionSettings:
    """The rules of one source.

    * ``clip``: ``clip_samples`` consecutive samples at or above ``raise_db``;
    * ``silence``: RMS at or below ``raise_db``; ends above ``clear_db``;
    * ``flatline``: every sample the same; a converter that lives has noise. Levels are not used;
    * ``dc``: mean over a second at or above ``raise_db``; ends below ``clear_db``;
    * ``hum``: lines of the mains that stand out, together at or above ``raise_db``; ends below ``clear_db``.
    """

    clip: Rule = field(default_factory=lambda: Rule(-0.01, -0.01, 0.0, 2.0))
    clip_samples: int = 3
    silence: Rule = field(default_factory=lambda: Rule(-60.0, -55.0, 10.0, 0.5))
    flatline: Rule = field(default_factory=lambda: Rule(0.0, 0.0, 2.0, 0.5))
    dc: Rule = field(default_factory=lambda: Rule(-40.0, -46.0, 3.0, 3.0))
    hum: Rule = field(default_factory=lambda: Rule(-60.0, -66.0, 5.0, 3.0))

    @classmethod
    def none(cls) -> ConditionSettings:
        """Nothing is looked for."""
        every = cls()
        return replace(
            every,
            **{name: replace(getattr(every, name), enabled=False) for name in CONDITIONS},
        )


CONDITIONS: Final = {
    "clip": Condition.CLIP,
    "silence": Condition.SILENCE,
    "flatline": Condition.FLATLINE,
    "dc": Condition.DC,
    "hum": Condition.HUM,
}
"""Name of each condition's rule → its bit in a frame's flags."""


@dataclass(frozen=True)
class ConditionChange:
    """A condition that began, or ended (``recovered``), on ``channels`` at sample index ``start``.

    ``value`` is the highest level that was measured on them, in dBFS; None where there is no level.
    """

    name: str
    recovered: bool
    channels: tuple[int, ...]
    start: int
    value: float | None


class Conditions:
    """Watches the channels of one source."""

    def __init__(self, layout: MeterLayout, settings: ConditionSettings) -> None:
        """Start with nothing raised."""
        self._rate = layout.rate
        self._settings = settings
        self._watched = {
            name: Hysteresis(
                layout.channels,
                round(getattr(settings, name).hold_s * layout.rate),
                round(getattr(settings, name).recover_s * layout.rate),
            )
            for name in CONDITIONS
            if getattr(settings, name).enabled
        }
        self._clip_level = np.float32(10 ** (settings.clip.raise_db / 20))
        self._clip_tail: Mask = np.zeros((layout.channels, max(0, settings.clip_samples - 1)), dtype=bool)
        self._mean: Float64 = np.zeros(layout.channels)
        self._mean_known = False
        self._hum = Hum(layout.channels, layout.rate, layout.step) if "hum" in self._watched else None
        self._unjudged = 0  # samples since hum was judged last

    def reset(self) -> None:
        """What comes next does not continue what came before; what is raised stays raised until it recovers."""
        for watched in self._watched.values():
            watched.reset()
        self._clip_tail[...] = False
        self._mean_known = False
        self._unjudged = 0
        if self._hum is not None:
            self._hum.reset()

    def observe(self, rows: Float32, levels: Levels, start: int) -> tuple[Flags, list[ConditionChange]]:
        """Judge one frame: float32[channels, samples] and its levels, from sample index ``start``."""
        samples = rows.shape[1]
        changes: list[ConditionChange] = []
        for name, seen, absent, value in self._judge(rows, levels):
            changes += self._note(name, seen, absent, value, start, samples)
        changes += self._judge_hum(rows, start)
        flags: Flags = np.zeros(len(rows), dtype=np.uint8)
        for name, watched in self._watched.items():
            flags |= np.where(watched.active, np.uint8(CONDITIONS[name]), np.uint8(0))
        return flags, changes

    def _judge(
        self, rows: Float32, levels: Levels
    ) -> Iterator[tuple[str, Mask, Mask, Float32 | Float64 | None]]:
        rules = self._settings
        if "clip" in self._watched:
            clipped = self._clipped(rows, levels.peak)
            yield "clip", clipped, ~clipped, levels.peak
        if "silence" in self._watched:
            rule = rules.silence
            yield "silence", levels.rms <= rule.raise_db, levels.rms > rule.clear_db, levels.rms
        if "flatline" in self._watched:
            stuck = rows.max(axis=1) == rows.min(axis=1)
            yield "flatline", stuck, ~stuck, None
        if "dc" in self._watched:
            offset = self._offset(rows)
            yield "dc", offset >= rules.dc.raise_db, offset < rules.dc.clear_db, offset

    def _judge_hum(self, rows: Float32, start: int) -> list[ConditionChange]:
        if self._hum is None:
            return []
        self._unjudged += rows.shape[1]
        found = self._hum.process(rows)
        if found is None:
            return []
        level, prominence = found
        rule, stands = self._settings.hum, prominence >= LIMITS.hum_prominence_db
        seen = stands & (level >= rule.raise_db)
        absent = ~stands | (level < rule.clear_db)
        judged, self._unjudged = self._unjudged, 0
        return self._note("hum", seen, absent, level, start + rows.shape[1] - judged, judged)

    def _note(
        self, name: str, seen: Mask, absent: Mask, value: Float32 | Float64 | None, start: int, samples: int
    ) -> list[ConditionChange]:
        watched = self._watched[name]
        changes = []
        for recovered, changed in enumerate(watched.observe(seen, absent, start, samples)):
            if changed.any():
                level = None if value is None else float(value[changed].max())
                channels = tuple(int(number) for number in np.flatnonzero(changed))
                changes.append(
                    ConditionChange(name, bool(recovered), channels, watched.since(changed), level)
                )
        return changes

    def _clipped(self, rows: Float32, peak: Float32) -> Mask:
        """Which channels had enough consecutive samples at the top; runs go on from frame to frame."""
        wanted = self._settings.clip_samples
        tail = wanted - 1
        none = np.zeros(len(rows), dtype=bool)
        if not (peak >= self._settings.clip.raise_db - 0.001).any():
            self._clip_tail[...] = False
            return none
        at_top = np.concatenate((self._clip_tail, np.abs(rows) >= self._clip_level), axis=1)
        run: Mask = at_top[:, tail:].copy()
        for back in range(1, wanted):
            np.logical_and(run, at_top[:, tail - back : at_top.shape[1] - back], out=run)
        if tail:
            self._clip_tail = at_top[:, -tail:]
        return np.asarray(run.any(axis=1), dtype=bool)

    def _offset(self, rows: Float32) -> Float64:
        """Each channel's mean over about a second, dBFS."""
        mean = rows.mean(axis=1, dtype=np.float64)
        keep = math.exp(-rows.shape[1] / self._rate / _DC_S) if self._mean_known else 0.0
        self._mean = keep * self._mean + (1.0 - keep) * mean
        self._mean_known = True
        return decibels(np.square(self._mean))
