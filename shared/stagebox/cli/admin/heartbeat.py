"""A rack's presence and latest heartbeat as text for people. Pure; shows what is there and leaves out what is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stagebox.cli.admin.rendering import field_lines, table_lines, utc

_MIB = 1 << 20


def presence_text(presence: object) -> str:
    """``online``, or since when it was not heard, in a few words."""
    if not isinstance(presence, Mapping):
        return "–"
    state, age = str(presence.get("state", "unknown")), presence.get("age_s")
    if state == "online" or not isinstance(age, int | float):
        return state
    return f"{state}, heard {duration(age)} ago"


def duration(seconds: float) -> str:
    """A time span in its two largest units."""
    whole = int(seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def size(count: object) -> str:
    """Bytes in a unit that reads well."""
    if not isinstance(count, int | float):
        return "–"
    return f"{count / _MIB:,.0f} MiB" if count < 10_240 * _MIB else f"{count / (1024 * _MIB):,.1f} GiB"


def heartbeat_lines(heartbeat: Mapping[str, Any]) -> list[str]:
    """The heartbeat in groups: the machine, the clock, journal, counters; then sources, buses and modules."""
    lines = ["", f"heartbeat of {utc(heartbeat.get('time_ns'))}"]
    for title, fields in _groups(heartbeat):
        if fields:
            lines += ["", title, *(f"  {line}" for line in field_lines(fields))]
    lines += _table("sources", heartbeat.get("sources"), _SOURCE_COLUMNS)
    lines += _table("monitor buses", heartbeat.get("buses"), _BUS_COLUMNS)
    lines += _table("modules", heartbeat.get("modules"), _MODULE_COLUMNS)
    omitted = heartbeat.get("modules_omitted")
    if isinstance(omitted, int) and omitted > 0:
        lines.append(f"  and {omitted} more, for which the heartbeat had no room")
    return lines


def _groups(heartbeat: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, object]]]:
    yield "rack", _given(_rack(heartbeat))
    yield "machine", _given(_machine(_map(heartbeat.get("host"))))
    yield "clock", _given(_clock(_map(heartbeat.get("clock"))))
    yield "journal", _given(_journal(_map(heartbeat.get("wal"))))
    yield "dropped on the way", _given(_dropped(heartbeat))


def _rack(heartbeat: Mapping[str, Any]) -> dict[str, object]:
    return {
        "state": heartbeat.get("state"),
        "up for": _maybe(heartbeat.get("uptime_s"), duration),
        "software": heartbeat.get("version"),
        "certificate until": _maybe(heartbeat.get("certificate_not_after"), lambda s: utc(s * 1_000_000_000)),
        "passport": heartbeat.get("passport_serial"),
        "transport": _joined(heartbeat.get("transport"), ("tls", "cipher")),
    }


def _machine(host: Mapping[str, Any]) -> dict[str, object]:
    cores, versions = host.get("cpu_count", "?"), _map(host.get("versions"))
    return {
        "processor": _maybe(host.get("cpu_percent"), lambda v: f"{v:.0f} % of {cores} cores"),
        "this process": _maybe(host.get("process_cpu_percent"), lambda v: f"{v:.0f} % of a core"),
        "memory free": _of(host, "memory_available", "memory_total"),
        "disk free": _of(host, "disk_free", "disk_total"),
        "temperature": _maybe(host.get("temperature_c"), lambda v: f"{v:.0f} °C"),
        **{f"address {name}": found for name, found in _map(host.get("addresses")).items()},
        "versions": ", ".join(f"{name} {value}" for name, value in versions.items()) or None,
    }


def _clock(clock: Mapping[str, Any]) -> dict[str, object]:
    return {
        "synchronised": clock.get("synchronised"),
        "error at most": _maybe(clock.get("max_error_us"), lambda us: f"{us / 1000:,.1f} ms"),
    }


def _journal(wal: Mapping[str, Any]) -> dict[str, object]:
    return {
        "shipper": wal.get("shipper"),
        "behind": _maybe(wal.get("lag_records"), lambda n: f"{n:,} records"),
        "on disk": _maybe(wal.get("segment_bytes"), lambda n: size(n + (wal.get("hot_bytes") or 0))),
        "lost": wal.get("lost"),
    }


def _dropped(heartbeat: Mapping[str, Any]) -> dict[str, object]:
    by_subject = heartbeat.get("dropped")
    return {
        "bus": None if by_subject is None else sum(_map(by_subject).values()),
        "between threads": heartbeat.get("handover_dropped"),
        "not journalled": heartbeat.get("not_journalled"),
    }


_SOURCE_COLUMNS = (
    ("SOURCE", "source"),
    ("STATE", "state"),
    ("RATE", "rate"),
    ("CHANNELS", "channels"),
    ("GAPS", "gaps"),
    ("MISSING", "gap_frames"),
    ("XRUNS", "xruns"),
    ("OVERRUNS", "overruns"),
    ("REOPENS", "reopens"),
    ("CLOCK STEPS", "clock_steps"),
    ("REASON", "reason"),
)
_BUS_COLUMNS = (
    ("BUS", "name"),
    ("SOURCE", "source"),
    ("MODE", "mode"),
    ("KBIT/S", "kbit"),
    ("LISTENING", "listening"),
    ("PACKETS", "packets"),
    ("OVERRUNS", "overruns"),
    ("LIMITED", "clipped"),
)
_MODULE_COLUMNS = (
    ("INSERT", "insert"),
    ("MODULE", "module"),
    ("VERSION", "version"),
    ("POINT", "point"),
    ("SOURCE", "source"),
    ("STATE", "state"),
    ("FAULTS", "faults"),
    ("OVER BUDGET", "over_budget"),
    ("BYPASSED", "bypassed"),
    ("CODE", "code"),
)


def _table(title: str, rows: object, columns: Sequence[tuple[str, str]]) -> list[str]:
    found = [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
    if not found:
        return []
    cells = [[_cell(row.get(key)) for _, key in columns] for row in found]
    return ["", title, *(f"  {line}" for line in table_lines([name for name, _ in columns], cells))]


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def _given(fields: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None and value != []}


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _maybe(value: Any, show: Any) -> str | None:
    return show(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _of(fields: Mapping[str, Any], part: str, whole: str) -> str | None:
    if not isinstance(fields.get(part), int | float) or not fields.get(whole):
        return None
    return f"{size(fields[part])} of {size(fields[whole])} ({100 * fields[part] / fields[whole]:.0f} %)"


def _joined(fields: object, names: Sequence[str]) -> str | None:
    found = [str(_map(fields)[name]) for name in names if _map(fields).get(name)]
    return ", ".join(found) or None
