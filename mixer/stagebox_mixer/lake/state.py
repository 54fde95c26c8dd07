"""What a lake is at one moment, and how one commit changes it. Pure.

A commit is one manifest: the files that come and go, the journals' new heads, and how far the stream is dealt with.
Applying manifests in the order of their numbers gives the state; there is no other truth about which files count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from stagebox import cbor
from stagebox.errors import DecodeError
from stagebox.records.walbatch import FIRST_PREVIOUS, FIRST_SEQUENCE

VERSION: Final = 1
_WHAT: Final = "lake manifest"
ARRIVALS: Final = "arrivals"
"""The kind of files that hold batches as they came, before they are sorted into partitions."""
BATCHES: Final = "_batches"
"""The kind of files that hold what proves the records: each batch's digest, signature and key."""


@dataclass(frozen=True)
class ChainHead:
    """Where a journal's committed chain ends."""

    last: int = FIRST_SEQUENCE - 1
    digest: bytes = FIRST_PREVIOUS


@dataclass(frozen=True)
class LakeFile:
    """One Parquet file. ``rack`` and ``date`` (UTC, YYYY-MM-DD) are empty for arrivals; times in ns since the epoch."""

    path: str
    kind: str
    rack: str
    date: str
    rows: int
    size: int
    digest: bytes
    first_ns: int
    last_ns: int

    def fields(self) -> list[Any]:
        """Return the CBOR form."""
        return [
            self.path, self.kind, self.rack, self.date, self.rows, self.size, self.digest, self.first_ns, self.last_ns
        ]  # fmt: skip


@dataclass(frozen=True)
class Missing:
    """Records of a journal that never came; ``explained`` if the rack signed a tombstone for them."""

    first: int
    last: int
    explained: bool = False


@dataclass(frozen=True)
class JournalState:
    """What is committed of one journal of one rack.

    ``reported`` is the highest record the rack ever said to have committed; ``gaps`` are the newest stretches that
    never came; ``seal`` is the hash of its newest seal.
    """

    rack: str
    journal: bytes
    last: int = 0
    head: bytes = bytes(32)
    records: int = 0
    batches: int = 0
    checkpoints: int = 0
    proved: int = 0
    rejected: int = 0
    missing: int = 0
    stream_seq: int = 0
    reported: int = 0
    gaps: tuple[Missing, ...] = ()
    seal: bytes = bytes(32)

    def fields(self) -> list[Any]:
        """Return the CBOR form."""
        counters = [self.records, self.batches, self.checkpoints, self.proved, self.rejected, self.missing]
        gaps = [[gap.first, gap.last, gap.explained] for gap in self.gaps]
        return [
            self.rack, self.journal, self.last, self.head, counters, self.stream_seq, self.reported, gaps, self.seal
        ]  # fmt: skip


@dataclass(frozen=True)
class Hold:
    """A legal hold: nothing of ``rack`` (all if empty) from ``first`` to ``last`` (dates, both in) may go."""

    name: str
    rack: str
    first: str
    last: str
    reason: str

    def covers(self, rack: str, date: str) -> bool:
        """Whether a partition is held."""
        return self.rack in ("", rack) and self.first <= date <= self.last

    def fields(self) -> list[Any]:
        """Return the CBOR form."""
        return [self.name, self.rack, self.first, self.last, self.reason]


@dataclass(frozen=True)
class Position:
    """How far a stream is dealt with: every message up to ``stream_seq`` is committed or rejected.

    ``stream_id`` tells one stream from another of the same name (its creation, ns since the Unix epoch).
    """

    stream_id: int = 0
    stream_seq: int = 0


@dataclass(frozen=True)
class Change:
    """One commit. ``keys`` are racks' public keys that verified something in it; ``holds`` replaces all holds."""

    add: Sequence[LakeFile] = ()
    remove: Sequence[str] = ()
    journals: Sequence[JournalState] = ()
    position: Position | None = None
    keys: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    holds: Sequence[Hold] | None = None
    swept: Sequence[str] = ()

    def encode(self, number: int, previous: bytes, time_ns: int) -> bytes:
        """Return the manifest's CBOR; ``previous`` is the BLAKE3 of the manifest before it."""
        position = self.position
        return cbor.encode(
            {
                "Version": VERSION,
                "Number": number,
                "Previous": previous,
                "Time": time_ns,
                "Add": [file.fields() for file in self.add],
                "Remove": list(self.remove),
                "Journals": [journal.fields() for journal in self.journals],
                "Position": [position.stream_id, position.stream_seq] if position is not None else [],
                "Keys": {rack: list(keys) for rack, keys in self.keys.items()},
                "Holds": [[hold.fields() for hold in self.holds]] if self.holds is not None else [],
                "Swept": list(self.swept),
            }
        )


@dataclass(frozen=True)
class State:
    """A lake after manifest ``number``; ``dropped`` maps a removed file that still lies there to when it went."""

    number: int = 0
    digest: bytes = bytes(32)
    files: Mapping[str, LakeFile] = field(default_factory=dict)
    journals: Mapping[tuple[str, bytes], JournalState] = field(default_factory=dict)
    position: Position = Position()
    keys: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    holds: tuple[Hold, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)

    def after(self, change: Change, number: int, digest: bytes, time_ns: int) -> State:
        """Return the state after ``change`` as manifest ``number``.

        Raises:
            DecodeError: it removes a file that is not there, or adds one twice.
        """
        gone = set(change.remove)
        if not gone <= self.files.keys() or any(file.path in self.files for file in change.add):
            raise DecodeError(f"{_WHAT} {number} does not fit the files of the lake")
        keys = dict(self.keys)
        for rack, more in change.keys.items():
            keys[rack] = (*keys.get(rack, ()), *(key for key in more if key not in keys.get(rack, ())))
        dropped = {path: at for path, at in self.dropped.items() if path not in set(change.swept)}
        return State(
            number=number,
            digest=digest,
            files={p: f for p, f in self.files.items() if p not in gone} | {f.path: f for f in change.add},
            journals={**self.journals, **{(j.rack, j.journal): j for j in change.journals}},
            position=change.position or self.position,
            keys=keys,
            holds=tuple(change.holds) if change.holds is not None else self.holds,
            dropped={**dropped, **dict.fromkeys(change.remove, time_ns)},
        )

    def of_kind(self, kind: str) -> list[LakeFile]:
        """Return the files of one kind, the oldest first."""
        return sorted(
            (file for file in self.files.values() if file.kind == kind),
            key=lambda file: (file.first_ns, file.path),
        )

    def kinds(self) -> list[str]:
        """Return the kinds of record that are sorted into partitions."""
        return sorted({file.kind for file in self.files.values()} - {ARRIVALS, BATCHES})

    def snapshot(self) -> bytes:
        """Return the whole state's CBOR."""
        return cbor.encode(
            {
                "Version": VERSION,
                "Number": self.number,
                "Digest": self.digest,
                "Files": [file.fields() for file in self.files.values()],
                "Journals": [journal.fields() for journal in self.journals.values()],
                "Position": [self.position.stream_id, self.position.stream_seq],
                "Keys": {rack: list(keys) for rack, keys in self.keys.items()},
                "Holds": [hold.fields() for hold in self.holds],
                "Dropped": dict(self.dropped),
            }
        )


def decode_change(data: bytes, max_bytes: int) -> tuple[Change, int, bytes, int]:
    """Return (change, number, digest of the manifest before, time).

    Raises:
        DecodeError: malformed or of an unknown version.
    """
    fields = _open(data, max_bytes)
    try:
        position, holds = fields["Position"], fields["Holds"]
        change = Change(
            add=[LakeFile(*file) for file in fields["Add"]],
            remove=fields["Remove"],
            journals=[_journal(journal) for journal in fields["Journals"]],
            position=Position(*position) if position else None,
            keys=fields["Keys"],
            holds=[Hold(*hold) for hold in holds[0]] if holds else None,
            swept=fields["Swept"],
        )
        return change, int(fields["Number"]), bytes(fields["Previous"]), int(fields["Time"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DecodeError(f"{_WHAT} is malformed: {error!r}") from None


def decode_snapshot(data: bytes, max_bytes: int) -> State:
    """Return the state in a snapshot.

    Raises:
        DecodeError: malformed or of an unknown version.
    """
    fields = _open(data, max_bytes)
    try:
        files = [LakeFile(*file) for file in fields["Files"]]
        journals = [_journal(journal) for journal in fields["Journals"]]
        return State(
            number=int(fields["Number"]),
            digest=bytes(fields["Digest"]),
            files={file.path: file for file in files},
            journals={(journal.rack, journal.journal): journal for journal in journals},
            position=Position(*fields["Position"]),
            keys={rack: tuple(keys) for rack, keys in fields["Keys"].items()},
            holds=tuple(Hold(*hold) for hold in fields["Holds"]),
            dropped=fields["Dropped"],
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DecodeError(f"{_WHAT} is malformed: {error!r}") from None


def with_gap(journal: JournalState, gap: Missing, most: int) -> JournalState:
    """Return the journal with one more stretch that never came; only the newest ``most`` are listed."""
    count = gap.last - gap.first + 1
    return replace(journal, gaps=(*journal.gaps, gap)[-most:], missing=journal.missing + count)


def explained(journal: JournalState, first: int, last: int, most: int) -> JournalState:
    """Return the journal after a tombstone for records ``first`` … ``last``; it may cover a part of a gap only."""
    gaps: list[Missing] = []
    for gap in journal.gaps:
        parts = [gap]
        if not gap.explained and gap.first <= last and first <= gap.last:
            parts = [
                Missing(gap.first, first - 1),
                Missing(max(gap.first, first), min(gap.last, last), explained=True),
                Missing(last + 1, gap.last),
            ]
        for part in parts:
            before = gaps[-1] if gaps else None
            if part.first > part.last:
                continue
            if before is not None and (before.last + 1, before.explained) == (part.first, part.explained):
                gaps[-1] = replace(before, last=part.last)
            else:
                gaps.append(part)
    return replace(journal, gaps=tuple(gaps[-most:]))


def _open(data: bytes, max_bytes: int) -> dict[str, Any]:
    fields = cbor.expect_map(cbor.decode_trusted(data, max_bytes=max_bytes), _WHAT)
    version = cbor.take_uint(fields, "Version", _WHAT)
    if version != VERSION:
        raise DecodeError(f"{_WHAT} has version {version}, this software understands {VERSION}")
    return fields


def _journal(fields: Sequence[Any]) -> JournalState:
    rack, journal, last, head, counters, stream_seq, reported, gaps, seal = fields
    records, batches, checkpoints, proved, rejected, missing = counters
    return JournalState(
        rack=rack,
        journal=journal,
        last=last,
        head=head,
        records=records,
        batches=batches,
        checkpoints=checkpoints,
        proved=proved,
        rejected=rejected,
        missing=missing,
        stream_seq=stream_seq,
        reported=reported,
        gaps=tuple(Missing(*gap) for gap in gaps),
        seal=seal,
    )
