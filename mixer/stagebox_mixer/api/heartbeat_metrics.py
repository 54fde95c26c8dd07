"""Metrics of racks from their heartbeats. What a heartbeat does not say, or says oddly, has no sample. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric

from stagebox_mixer.presence.roll import Presence, PresenceState
from stagebox_mixer.registry.model import RackEntry


def presence_families(racks: Sequence[RackEntry], presence: Mapping[str, Presence]) -> Iterator[Metric]:
    """Return the metrics of the racks that are in ``presence``."""
    known = [(entry.name, presence[entry.name]) for entry in racks if entry.name in presence]
    states = GaugeMetricFamily(
        "stagebox_rack_presence", "1 for the state a rack is in by its heartbeats.", labels=("rack", "state")
    )
    for name, found in known:
        for state in PresenceState:
            states.add_metric((name, state.value), float(found.state is state))
    yield states
    age = GaugeMetricFamily(
        "stagebox_rack_heartbeat_age_seconds", "Seconds since a rack's last heartbeat.", labels=("rack",)
    )
    for name, found in known:
        if found.age_s is not None:
            age.add_metric((name,), found.age_s)
    yield age
    for metric, text, read in _FROM_HEARTBEAT:
        family = GaugeMetricFamily(metric, text, labels=("rack",))
        for name, found in known:
            value = read(found.heartbeat.body) if found.heartbeat is not None else None
            if value is not None:
                family.add_metric((name,), value)
        yield family


def _at(*path: str) -> Callable[[Mapping[str, Any]], float | None]:
    def read(body: Mapping[str, Any]) -> float | None:
        value: Any = body
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        return _number(value)

    return read


def _sum_of_sources(*names: str) -> Callable[[Mapping[str, Any]], float | None]:
    def read(body: Mapping[str, Any]) -> float | None:
        sources = body.get("sources")
        if not isinstance(sources, list):
            return None
        rows = [source for source in sources if isinstance(source, Mapping)]
        values = [_number(source.get(name)) for source in rows for name in names]
        return math.fsum(value for value in values if value is not None)

    return read


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


_FROM_HEARTBEAT = (
    (
        "stagebox_rack_cpu_percent",
        "CPU of the rack's machine, all cores together.",
        _at("host", "cpu_percent"),
    ),
    ("stagebox_rack_temperature_celsius", "The rack's hottest sensor.", _at("host", "temperature_c")),
    ("stagebox_rack_disk_free_bytes", "Free bytes where the rack keeps its state.", _at("host", "disk_free")),
    ("stagebox_rack_journal_lag_records", "Journalled and not yet acknowledged.", _at("wal", "lag_records")),
    (
        "stagebox_rack_xruns",
        "Overflows of capture devices since the rack captures.",
        _sum_of_sources("xruns"),
    ),
    ("stagebox_rack_gap_frames", "Samples missing since the rack captures.", _sum_of_sources("gap_frames")),
)
