"""What a heartbeat says about the rack."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from stagebox.bus import BusClient
from stagebox.errors import BusError
from stagebox_rack.audio.measurement import SourceStatus
from stagebox_rack.clock_state import clock_state
from stagebox_rack.publisher import Publisher
from stagebox_rack.state import RackIdentity
from stagebox_rack.wal.wal import WalStats


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
) -> dict[str, Any]:
    """Return the body of a status record; its fields are listed in docs/reference/subjects.md."""
    return {
        "version": version("stagebox-rack"),
        "uptime_s": round(uptime_s, 3),
        "sources": [_source(source) for source in sources],
        "buses": [dict(bus) for bus in buses],
        "host": dict(host),
        "clock": clock_state(),
        "published": dict(publisher.published),
        "dropped": dict(publisher.dropped),
        "handover_dropped": handover_dropped,
        "not_journalled": publisher.not_journalled,
        "wal": {**asdict(wal), "shipper": shipper_phase, "lag_records": wal.committed - wal.acknowledged},
        "transport": _transport(bus),
        "certificate_not_after": int(identity.chain[0].not_valid_after_utc.timestamp()),
        "passport_serial": identity.passport.serial,
        "renewal": dict(renewal),
    }


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
