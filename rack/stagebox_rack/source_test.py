"""Captures sources for a while with the rack's own engine, without a mixer, and judges what came."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from stagebox_rack.audio.engine import AudioEngine
from stagebox_rack.audio.measurement import AudioItem, MeterMeasurement, SourceEvent, SourceState
from stagebox_rack.audio.plan import SourcePlan
from stagebox_rack.metering.levels import Levels

_TICK_S = 0.1
_FLOOR_DB = -150.0


class SourceTest:
    """One test run. `run`, `stop`, `report`, in that order."""

    def __init__(self, plans: Sequence[SourcePlan]) -> None:
        self._engine = AudioEngine(plans, self._take)
        self._lock = threading.Lock()
        self._frames: dict[str, list[MeterMeasurement]] = {plan.name: [] for plan in plans}
        self._arrived: dict[str, list[tuple[int, int]]] = {plan.name: [] for plan in plans}
        self._events: list[SourceEvent] = []
        self._ended = threading.Event()
        self.interrupted = False

    def run(self, seconds: float, on_tick: Callable[[], None] | None = None) -> None:
        """Capture for ``seconds`` or until every source has ended.

        Raises:
            CaptureError, InputError, ConfigError: a source cannot be captured.
        """
        self._engine.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._ended.wait(min(_TICK_S, max(0.0, end - time.monotonic()))):
                if not any(status.state is SourceState.RUNNING for status in self._engine.status()):
                    return
                self._ended.clear()
            if on_tick is not None:
                on_tick()

    def stop(self) -> None:
        """Stop capture."""
        self._engine.stop()

    def latest(self) -> dict[str, Levels]:
        """The newest levels of each source that has some."""
        with self._lock:
            return {name: frames[-1].levels for name, frames in self._frames.items() if frames}

    def report(self) -> dict[str, Any]:
        """What was captured and what was lost, for programs."""
        sources = [self._source(status) for status in self._engine.status()]
        return {
            "clean": bool(sources) and all(source["clean"] for source in sources),
            "interrupted": self.interrupted,
            "sources": sources,
        }

    def _take(self, item: AudioItem) -> None:
        with self._lock:
            if isinstance(item, MeterMeasurement):
                self._frames[item.source].append(item)
                self._arrived[item.source].append((time.monotonic_ns(), time.time_ns()))
            elif isinstance(item, SourceEvent):
                self._events.append(item)
                if item.name in ("source_ended", "source_error"):
                    self._ended.set()

    def _source(self, status: Any) -> dict[str, Any]:
        frames, arrived = self._frames[status.source], self._arrived[status.source]
        events = [event for event in self._events if event.source == status.source]
        troubles = ("gap", "source_lost", "source_error", "nonfinite")
        lost = status.overrun_frames + status.gap_frames + status.xruns
        return {
            **asdict(status),
            "state": status.state.value,
            "clean": bool(frames) and not lost and not any(event.name in troubles for event in events),
            "levels": _levels(status.channel_names, frames),
            "cadence_ms": _cadence(frames, arrived),
            "delay_ms": _delay(frames, arrived),
            "drift_ppm": _drift(frames, arrived),
            "events": [
                {"event": event.name, "start": event.start, **dict(event.detail)}
                for event in events
                if event.name != "source_started"
            ],
        }


def summary_lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    lines = []
    for source in report["sources"]:
        lines.append(
            f"{source['source']}: {source['channels']} channels, {source['rate']} Hz, {source['bits']} bit, "
            f"{source['frames'] / source['rate']:.1f} s captured"
        )
        for name, levels in source["levels"].items():
            lines.append(f"    {name:<12} peak {levels['peak']:7.1f} dBFS   rms {levels['rms']:7.1f} dBFS")
        cadence, delay, drift = source["cadence_ms"], source["delay_ms"], source["drift_ppm"]
        if cadence is not None:
            lines.append(
                f"    a frame every {cadence['p50']:.1f} ms, 99 % within {cadence['p99_off']:.1f} ms of that"
            )
        if delay is not None:
            lines.append(f"    measured {delay:.1f} ms after it was captured (median)")
        if drift is not None:
            lines.append(f"    its clock is {drift:+.0f} ppm from this machine's")
        lost = source["gap_frames"] + source["overrun_frames"]
        lines.append(
            f"    {source['gaps']} gaps, {lost} samples missing, {source['xruns']} overflows, "
            f"{source['losses']} losses of the device"
        )
        for event in source["events"]:
            facts = ", ".join(
                f"{name} {value}" for name, value in event.items() if name not in ("event", "start")
            )
            lines.append(f"    at sample {event['start']}: {event['event']} ({facts})")
    lines.append("nothing was lost" if report["clean"] else "NOT CLEAN: see above")
    return lines


def _levels(names: Sequence[str], frames: Sequence[MeterMeasurement]) -> dict[str, dict[str, float]]:
    if not frames:
        return {}
    peak = np.max([frame.levels.peak for frame in frames], axis=0)
    power = np.average(
        [10 ** (frame.levels.rms.astype(np.float64) / 10) for frame in frames],
        axis=0,
        weights=[frame.frames for frame in frames],
    )
    rms = np.maximum(10 * np.log10(power), _FLOOR_DB)
    return {
        name: {"peak": round(float(peak[n]), 2), "rms": round(float(rms[n]), 2)}
        for n, name in enumerate(names)
    }


def _cadence(
    frames: Sequence[MeterMeasurement], arrived: Sequence[tuple[int, int]]
) -> dict[str, float] | None:
    """The interval between frames, and how far 99 % of them are from the nominal one."""
    if len(frames) < 4:
        return None
    intervals = np.diff([at for at, _ in arrived])[1:] / 1e6
    nominal = np.array([frame.frames / frame.rate * 1000 for frame in frames[2:]])
    return {
        "p50": round(float(np.median(intervals)), 3),
        "p99": round(float(np.percentile(intervals, 99)), 3),
        "p99_off": round(float(np.percentile(np.abs(intervals - nominal), 99)), 3),
    }


def _delay(frames: Sequence[MeterMeasurement], arrived: Sequence[tuple[int, int]]) -> float | None:
    if not frames:
        return None
    late = [wall - frame.time_ns for frame, (_, wall) in zip(frames, arrived, strict=True)]
    return round(float(np.median(late)) / 1e6, 3)


def _drift(frames: Sequence[MeterMeasurement], arrived: Sequence[tuple[int, int]]) -> float | None:
    """How much faster the source's clock is than ours, ppm, by a line through what arrived; needs ten seconds."""
    if not frames or arrived[-1][0] - arrived[0][0] < 10e9:
        return None
    captured = np.array([(frame.start + frame.frames) / frame.rate for frame in frames])
    seen = np.array([at for at, _ in arrived]) / 1e9
    slope = np.polyfit(seen - seen[0], captured - captured[0], 1)[0]
    return round(float(slope - 1.0) * 1e6, 1)
