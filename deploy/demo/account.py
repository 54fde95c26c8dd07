"""The account of one run: what the racks say they did, what arrived, what is stored, and whether all agree. Pure.

Rules: every number is read from whoever counted it and none is assumed; what could not be counted is None and
fails the run. ``failures`` names each disagreement in words; no failure is the only way to exit code 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stagebox.cipher_policy import CIPHER_SUITE
from stagebox.subjects import Kind

TLS_EXPECTED = {"tls": "TLSv1.3", "cipher": CIPHER_SUITE, "client_certificate": True}
LIVE_KINDS = (Kind.METER, Kind.AUDIO)


@dataclass(frozen=True)
class Arrived:
    """Records of one kind as the subscriber counted them."""

    received: int
    verified: int


@dataclass(frozen=True)
class RackEvidence:
    """What is known of one rack after it stopped.

    ``final`` is the body of its verified last status record, ``journal`` the report of ``rack wal verify``,
    ``lake`` the mixer's rows for it; None where there is none. ``enroll_command_ms`` is the part of
    ``enroll_to_first_frame_ms`` that `admin enroll` itself ran (the first frame may come before it ends).
    """

    name: str
    source: str
    arrived: Mapping[Kind, Arrived]
    final: Mapping[str, Any] | None
    journal: Mapping[str, Any] | None
    lake: Sequence[Mapping[str, Any]] | None
    enroll_to_first_frame_ms: float
    enroll_command_ms: float

    def published(self, kind: Kind) -> int | None:
        """Return how many live records of ``kind`` the rack says it sent."""
        return None if self.final is None else published(self.final, self.name, kind)

    @property
    def lost(self) -> int | None:
        """Records the journal or the lake lacks, and those the rack says it could not journal."""
        if self.final is None or self.journal is None or self.lake is None:
            return None
        wal = self.final["wal"]
        # Three witnesses of where the journal must at least reach.
        last = max(self.journal["last"], self.journal["mark"] or 0, wal["committed"])
        missing = last - self.journal["records"]
        skipped = sum(row["last"] - row["records"] for row in self.lake)
        refused = self.final["not_journalled"] + self.final["handover_dropped"]
        return int(max(missing, wal["lost"]) + skipped + refused)

    @property
    def gap_frames(self) -> int | None:
        """Sample frames the rack says it could not capture."""
        if self.final is None:
            return None
        return sum(
            int(source["gap_frames"]) + int(source["overrun_frames"]) for source in self.final["sources"]
        )

    @property
    def committed(self) -> int | None:
        """Records of this rack in the mixer's lake."""
        return None if self.lake is None else sum(int(row["records"]) for row in self.lake)


@dataclass(frozen=True)
class Account:
    """The whole run. ``seconds`` is how long both racks ran after they were heard."""

    racks: Sequence[RackEvidence]
    startup_ms: float
    seconds: float
    strangers: int = 0
    troubles: Sequence[str] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        failures = self.failures()
        return {
            "racks": sum(rack.final is not None for rack in self.racks),
            "meter": self._live(Kind.METER),
            "audio": self._live(Kind.AUDIO),
            "wal": {
                "records": _sum(_of(rack.journal, "records") for rack in self.racks),
                "committed": _sum(rack.committed for rack in self.racks),
                "lost": _sum(rack.lost for rack in self.racks),
                "segments": _sum(_of(rack.journal, "segments") for rack in self.racks),
                "verified": all(rack.journal is not None and rack.journal["verified"] for rack in self.racks),
            },
            "transport": self._transport(),
            "startup_ms": round(self.startup_ms),
            "enroll_to_first_frame_ms": round(max(rack.enroll_to_first_frame_ms for rack in self.racks)),
            "seconds": round(self.seconds, 3),
            "source": {rack.name: rack.source for rack in self.racks},
            "by_rack": {rack.name: _figures(rack) for rack in self.racks},
            "ok": not failures,
            "failures": failures,
        }

    def failures(self) -> list[str]:
        """Return what was lost, not verified or not counted, in words; empty when all is well."""
        found = list(self.troubles)
        for rack in self.racks:
            found += [f"{rack.name}: {what}" for what in (*_live_failures(rack), *_wal_failures(rack))]
            if rack.final is not None and rack.final["transport"] != TLS_EXPECTED:
                found.append(f"{rack.name}: its snake is {rack.final['transport']}, not {TLS_EXPECTED}")
        if self.strangers:
            found.append(f"{self.strangers} records came from racks that are not of this demo")
        return found

    def _live(self, kind: Kind) -> dict[str, int | None]:
        return {
            "published": _sum(rack.published(kind) for rack in self.racks),
            "received": sum(rack.arrived[kind].received for rack in self.racks),
            "verified": sum(rack.arrived[kind].verified for rack in self.racks),
        }

    def _transport(self) -> dict[str, Any] | None:
        """Return what the racks negotiated, None unless they agree."""
        facts = [rack.final["transport"] if rack.final is not None else None for rack in self.racks]
        return facts[0] if all(fact == facts[0] for fact in facts) else None


def published(body: Mapping[str, Any], rack: str, kind: Kind) -> int:
    """Return how many records of ``kind`` a status body counts as sent."""
    prefix = f"rack.{rack}.{kind.value}."
    return sum(int(count) for subject, count in body["published"].items() if f"{subject}.".startswith(prefix))


def _live_failures(rack: RackEvidence) -> list[str]:
    if rack.final is None:
        return ["no verified final status came, so what it published cannot be counted"]
    found = []
    for kind in LIVE_KINDS:
        sent, arrived = rack.published(kind), rack.arrived[kind]
        if not sent:
            found.append(f"it published no {kind.value} record")
        if not sent == arrived.received == arrived.verified:
            found.append(
                f"{kind.value} published {sent}, received {arrived.received}, verified {arrived.verified}"
            )
    if rack.gap_frames:
        found.append(f"{rack.gap_frames} sample frames could not be captured")
    found += [
        f"source {source['source']} is {source['state']}: {source['reason']}"
        for source in rack.final["sources"]
        if source["state"] in ("lost", "error")
    ]
    return found


def _wal_failures(rack: RackEvidence) -> list[str]:
    found = []
    if rack.journal is None:
        found.append("its journal could not be verified")
    else:
        found += [f"journal: {problem}" for problem in rack.journal["problems"]]
        if not rack.journal["verified"] and not rack.journal["problems"]:
            found.append("its journal does not verify")
        if not rack.journal["records"]:
            found.append("its journal is empty")
    if rack.lake is None:
        found.append("the mixer's lake could not be read")
    elif rack.journal is not None and rack.committed != rack.journal["records"]:
        found.append(f"journal has {rack.journal['records']} records, the mixer committed {rack.committed}")
    rejected = sum(int(row["rejected"]) for row in rack.lake or ())
    if rejected:
        found.append(f"the mixer rejected {rejected} batches")
    if rack.lost:
        found.append(f"{rack.lost} records were lost")
    return found


def _figures(rack: RackEvidence) -> dict[str, Any]:
    return {
        "meter": {"published": rack.published(Kind.METER), **vars(rack.arrived[Kind.METER])},
        "audio": {"published": rack.published(Kind.AUDIO), **vars(rack.arrived[Kind.AUDIO])},
        "wal": {
            "records": _of(rack.journal, "records"),
            "committed": rack.committed,
            "lost": rack.lost,
            "segments": _of(rack.journal, "segments"),
            "proved_by_checkpoint": None if rack.lake is None else sum(row["proved"] for row in rack.lake),
        },
        "gap_frames": rack.gap_frames,
        # Live records made while there was no connection (before the first one, say): journalled or audio, not sent.
        "not_sent": None if rack.final is None else sum(rack.final["dropped"].values()),
        "enroll_to_first_frame_ms": round(rack.enroll_to_first_frame_ms),
        "enroll_command_ms": round(rack.enroll_command_ms),
    }


def _of(report: Mapping[str, Any] | None, name: str) -> int | None:
    return None if report is None else int(report[name])


def _sum(values: Any) -> int | None:
    """Add counts up; what was not counted makes the sum unknown."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total
