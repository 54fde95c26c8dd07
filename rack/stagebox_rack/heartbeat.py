"""What a heartbeat says about the rack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Final

from stagebox import cbor, subjects
from stagebox.bus import BusClient
from stagebox.errors import BusError
from stagebox.subjects import Kind
from stagebox_rack.audio.measurement import SourceStatus
from stagebox_rack.clock_state import clock_state
from stagebox_rack.limits import LIMITS
from stagebox_rack.publisher import Publisher
from stagebox_rack.state import RackIdentity
from stagebox_rack.wal.wal import WalStats

RUNNING: Final = "running"


def status_body(
    *,
    uptime_s: float,
    identity: RackIdentity,
    sources: Iterable[SourceStatus],
    buses: Sequence[Mapping[str, Any]],
    host: Mapping[str, Any],
    publisher: Publisher,
    handover_dropped: int,
    wal: WalStats,
    shipper_phase: str,
    bus: BusClient,
    renewal: Mapping[str, Any],
    modules: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the body of a status record; its fields are listed in docs/reference/subjects.md."""
    body = {
        "version": version("stagebox-rack"),
        "uptime_s": round(uptime_s, 3),
        "sources": [_source(source) for source in sources],
        "buses": [dict(bus) for bus in buses],
        "host": dict(host),
        "clock": clock_state(),
        "published": _by_subject(publisher.published),
        "dropped": _by_subject(publisher.dropped),
        "handover_dropped": handover_dropped,
        "not_journalled": publisher.not_journalled,
        "wal": {**asdict(wal), "shipper": shipper_phase, "lag_records": wal.committed - wal.acknowledged},
        "transport": _transport(bus),
        "certificate_not_after": int(identity.chain[0].not_valid_after_utc.timestamp()),
        "passport_serial": identity.passport.serial,
        "renewal": dict(renewal),
    }
    room = min(LIMITS.heartbeat_modules_bytes, LIMITS.heartbeat_bytes - len(cbor.encode(body)))
    shown = _fitting(modules, room)
    return {**body, "modules": shown, "modules_omitted": len(modules) - len(shown)}


def _fitting(modules: Sequence[Mapping[str, Any]], room: int) -> list[dict[str, Any]]:
    """Return as many as fit ``room`` bytes, in their order; those that do not run are the last to be left out."""
    kept: set[int] = set()
    for number in sorted(range(len(modules)), key=lambda number: modules[number].get("state") == RUNNING):
        room -= len(cbor.encode(dict(modules[number])))
        if room < 0:
            break
        kept.add(number)
    return [dict(modules[number]) for number in sorted(kept)]


def _by_subject(counts: Mapping[str, int]) -> dict[str, int]:
    """Return ``counts`` with those of all module records as one: third parties choose these subjects."""
    found: Counter[str] = Counter()
    for subject, count in counts.items():
        parsed = subjects.parse(subject)
        together = f"rack.{parsed.rack}.{parsed.kind.value}.>"
        found[together if parsed.kind is Kind.MODULE else subject] += count
    return dict(found)


def _source(source: SourceStatus) -> dict[str, Any]:
    return {
        **asdict(source),
        "state": source.state.value,
        "channel_names": list(source.channel_names),
        "programmes": list(source.programmes),
        "pairs": [list(pair) for pair in source.pairs],
    }


def _transport(bus: BusClient) -> dict[str, Any] | None:
    try:
        return bus.transport_facts()
    except BusError:
        return None
