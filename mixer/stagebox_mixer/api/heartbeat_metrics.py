"""Metrics of racks from their heartbeats. What a heartbeat does not say, or says oddly, has no sample. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric

from stagebox.errors import InputError
from stagebox.identity import check_name
from stagebox_mixer.limits import LIMITS
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
    yield from _module_families(known)


def _module_families(known: Sequence[tuple[str, Presence]]) -> Iterator[Metric]:
    counted = [
        (name, _by_module(found.heartbeat.body if found.heartbeat is not None else {}))
        for name, found in known
    ]
    for metric, text, field in _OF_MODULES:
        family = GaugeMetricFamily(metric, text, labels=("rack", "module"))
        for name, modules in counted:
            for module, values in modules.items():
                if field in values:
                    family.add_metric((name, module), values[field])
        yield family


def _by_module(body: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the counts of each module, all its inserts together. A rack says what it likes: few names, legal ones."""
    rows = body.get("modules")
    found: dict[str, dict[str, float]] = {}
    for row in rows if isinstance(rows, list) else ():
        name = row.get("module") if isinstance(row, Mapping) else None
        if not isinstance(name, str) or not _is_name(name):
            continue
        if name not in found and len(found) >= LIMITS.metric_modules_per_rack:
            continue
        counts = found.setdefault(name, {})
        for _, _, field in _OF_MODULES:
            if (value := _number(row.get(field))) is not None:
                counts[field] = counts.get(field, 0.0) + value
    return found


def _is_name(text: str) -> bool:
    try:
        check_name("module", text)
    except InputError:
        return False
    return True


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
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # CBOR has integers of any size
        return None
    return number if math.isfinite(number) else None


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
_OF_MODULES = (
    ("stagebox_rack_module_faults", "Faults of a module on the rack, all its inserts.", "faults"),
    (
        "stagebox_rack_module_over_budget",
        "Blocks for which a module needed more than its limits.",
        "over_budget",
    ),
    ("stagebox_rack_module_bypassed", "Blocks that passed by a module.", "bypassed"),
)
