"""The mixer's answers as text for people: fields, tables, times. Pure, except for the functions named ``echo_…``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import typer

_NONE = "–"


def field_lines(fields: Mapping[str, object]) -> list[str]:
    """Return one line a field; maps are flattened, times are UTC, ``v`` and the doubles of old clients left out."""
    rows = list(_flat(fields))
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name:<{width}}  {shown}" for name, shown in rows]


def rack_lines(rack: Mapping[str, object]) -> list[str]:
    """Return a rack's fields, its journals after them."""
    journals = rack.get("wal")
    lines = field_lines({name: value for name, value in rack.items() if name != "wal"})
    for journal in journals if isinstance(journals, list) else []:
        if isinstance(journal, dict):
            lines += field_lines({f"wal.{name}": value for name, value in journal.items()})
    return lines


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return columns, each as wide as its widest cell."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]


def rack_notes(rack: Mapping[str, object]) -> str:
    """Return what an operator should know of a rack beyond its status."""
    notes = []
    if (ban := rack.get("denied")) is not None:
        notes.append(f"denied: {ban.get('reason') or ban.get('kind')}" if isinstance(ban, dict) else "denied")
    if problem := rack.get("problem"):
        notes.append(f"renewal fails: {problem}")
    if isinstance(pending := rack.get("pending"), dict):
        notes.append(f"issue {pending.get('serial')} not taken yet")
    return "; ".join(notes)


def time_of(fields: Mapping[str, object], name: str) -> str:
    """Return the time ``name``, which mixers of the first release send without ``_ns``."""
    return utc(fields.get(f"{name}_ns", fields.get(name)))


def utc(time_ns: object) -> str:
    """Return a time in ns since the Unix epoch as UTC text."""
    from datetime import UTC, datetime

    if time_ns is None:
        return _NONE
    if not isinstance(time_ns, int):
        return str(time_ns)
    try:
        return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).isoformat(timespec="seconds")
    except (OverflowError, OSError, ValueError):
        return f"{time_ns} ns since 1970"


def echo_lines(lines: Sequence[str]) -> None:
    """Write lines without control characters: names and reasons come from elsewhere."""
    from stagebox.logs import printable

    for line in lines:
        typer.echo(printable(line))


def echo_json(value: object) -> None:
    """Write a value for programs."""
    typer.echo(json.dumps(value, indent=2))


def _flat(fields: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if name == "v" or f"{name}_ns" in fields:
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name.removesuffix('_ns')}", _shown(name, value)


def _shown(name: str, value: object) -> str:
    if name.endswith(("_ns", "_at", "_after")):
        return utc(value)
    if value is None or value == "":
        return _NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or _NONE
    return str(value)
