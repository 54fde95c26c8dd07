"""What is wrong with a channel: clipping, silence, a stuck value, DC, hum.

Each condition is raised and ended once, with hysteresis in level and in time, so that a signal at a threshold makes a
pair of events and not a stream of them. Judged frame by frame from what the meters have measured already; hum once a
second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
Value = Float32 | Float64 | None

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
        names = [name for name in CONDITIONS if getattr(settings, name).enabled]
        self._steady = tuple(name for name in names if name != "hum")
        self._bits = np.array([[CONDITIONS[name]] for name in self._steady], dtype=np.uint8).reshape(-1, 1)
        self._watched = self._hysteresis(layout, self._steady)
        self._clip_level = np.float32(10 ** (settings.clip.raise_db / 20))
        self._clip_tail: Mask = np.zeros((layout.channels, max(0, settings.clip_samples - 1)), dtype=bool)
        self._mean: Float64 = np.zeros(layout.channels)
        self._mean_known = False
        self._hum = Hum(layout.channels, layout.rate, layout.step) if "hum" in names else None
        self._humming = self._hysteresis(layout, ("hum",))
        self._unjudged = 0  # samples since hum was judged last

    def reset(self) -> None:
        """What comes next does not continue what came before; what is raised stays raised until it recovers."""
        self._watched.reset()
        self._humming.reset()
        self._clip_tail[...] = False
        self._mean_known = False
        self._unjudged = 0
        if self._hum is not None:
            self._hum.reset()

    def observe(self, rows: Float32, levels: Levels, start: int) -> tuple[Flags, list[ConditionChange]]:
        """Judge one frame: float32[channels, samples] and its levels, from sample index ``start``."""
        changes: list[ConditionChange] = []
        flags: Flags = np.zeros(len(rows), dtype=np.uint8)
        if self._steady:
            judged = [self._judge(name, rows, levels) for name in self._steady]
            seen, absent = np.stack([one[0] for one in judged]), np.stack([one[1] for one in judged])
            raised, ended = self._watched.observe(seen, absent, start, rows.shape[1])
            if raised.any() or ended.any():
                values = [one[2] for one in judged]
                changes += self._changes(self._watched, self._steady, values, raised, ended)
            flags |= (self._watched.active * self._bits).sum(axis=0, dtype=np.uint8)
        if self._hum is not None:
            changes += self._judge_hum(self._hum, rows, start)
            flags |= self._humming.active[0] * np.uint8(CONDITIONS["hum"])
        return flags, changes

    def _hysteresis(self, layout: MeterLayout, names: Sequence[str]) -> Hysteresis:
        rules = [getattr(self._settings, name) for name in names]
        return Hysteresis(
            layout.channels,
            [round(rule.hold_s * layout.rate) for rule in rules],
            [round(rule.recover_s * layout.rate) for rule in rules],
        )

    def _judge(self, name: str, rows: Float32, levels: Levels) -> tuple[Mask, Mask, Value]:
        """Whether it is seen, whether it is absent, and the level it is judged by."""
        rules = self._settings
        if name == "clip":
            clipped = self._clipped(rows, levels.peak)
            return clipped, ~clipped, levels.peak
        if name == "silence":
            return levels.rms <= rules.silence.raise_db, levels.rms > rules.silence.clear_db, levels.rms
        if name == "flatline":
            stuck = rows.max(axis=1) == rows.min(axis=1)
            return stuck, ~stuck, None
        offset = self._offset(rows)
        return offset >= rules.dc.raise_db, offset < rules.dc.clear_db, offset

    def _judge_hum(self, hum: Hum, rows: Float32, start: int) -> list[ConditionChange]:
        self._unjudged += rows.shape[1]
        found = hum.process(rows)
        if found is None:
            return []
        level, prominence = found
        rule, stands = self._settings.hum, prominence >= LIMITS.hum_prominence_db
        seen = stands & (level >= rule.raise_db)
        absent = ~stands | (level < rule.clear_db)
        judged, self._unjudged = self._unjudged, 0
        raised, ended = self._humming.observe(
            seen[None], absent[None], start + rows.shape[1] - judged, judged
        )
        return self._changes(self._humming, ("hum",), [level], raised, ended)

    @staticmethod
    def _changes(
        watched: Hysteresis, names: Sequence[str], values: Sequence[Value], raised: Mask, ended: Mask
    ) -> list[ConditionChange]:
        changes = []
        for row, name in enumerate(names):
            for recovered, changed in ((False, raised[row]), (True, ended[row])):
                if not changed.any():
                    continue
                value, only = values[row], np.zeros_like(raised)
                only[row] = changed
                changes.append(
                    ConditionChange(
                        name,
                        recovered,
                        tuple(int(number) for number in np.flatnonzero(changed)),
                        watched.since(only),
                        None if value is None else float(value[changed].max()),
                    )
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
