"""Checking a lake again, from the racks' own signatures to every row. Blocking; changes nothing.

What is checked: each file against its manifest; each batch rebuilt to the byte from its rows, against its digest and
the rack's signature; each journal's chain from batch to batch; each seal's signature and that it names this chain;
each tombstone; each checkpoint's signature, and which records it lists. What a key is worth is the registry's word,
kept in the manifest when the batch came.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stagebox import envelope
from stagebox.columns.table import records_of_kind
from stagebox.errors import StageboxError, VerificationError
from stagebox.records import seal, tombstone
from stagebox.records.checkpoint import Checkpoint
from stagebox.records.digest import record_digest
from stagebox.records.walbatch import WalBatch, WalRecord, payload_digest
from stagebox.subjects import Kind
from stagebox_mixer.lake.reading import LakeReader, Span
from stagebox_mixer.lake.state import BATCHES, LakeFile
from stagebox_mixer.lake.tables import Partition

Progress = Callable[[int, int], None]
_LIVE = frozenset({Kind.METER, Kind.STATUS, Kind.EVENT, Kind.ALERT, Kind.MODULE})


@dataclass
class LakeReport:
    """Exactly what was covered, and what was wrong. ``gaps`` are explained or not; they are not faults of the lake."""

    racks: int = 0
    journals: int = 0
    files: int = 0
    bytes: int = 0
    batches: int = 0
    signatures: int = 0
    unsigned: int = 0
    records: int = 0
    seals: int = 0
    sealed_records: int = 0
    checkpoints: int = 0
    proved: int = 0
    unproved: int = 0
    tombstones: int = 0
    gaps: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def read(self, file: LakeFile) -> None:
        """Count a file whose hash is its manifest's."""
        self.files += 1
        self.bytes += file.size

    @property
    def covered(self) -> str:
        """One sentence for people."""
        return (
            f"{self.records} records in {self.batches} batches of {self.journals} journals of {self.racks} racks, in "
            f"{self.files} files ({self.bytes} bytes): every file's hash, every batch rebuilt, {self.signatures} "
            f"signatures of batches, the chain of every journal; {self.seals} seals over {self.sealed_records} "
            f"records, {self.checkpoints} checkpoints that prove {self.proved} live records ({self.unproved} are in "
            f"none), {self.tombstones} tombstones; {len(self.gaps)} gaps, {self.unsigned} batches of an older ledger "
            "without signature"
        )


class LakeDamageError(VerificationError):
    """A lake does not prove itself whole; ``report`` says what does and what does not."""

    def __init__(self, report: LakeReport) -> None:
        shown = "; ".join(report.problems[:5])
        more = f"; and {len(report.problems) - 5} more" if len(report.problems) > 5 else ""
        super().__init__(
            f"the lake does not verify: {shown}{more}",
            remedy="keep the lake as it is and see the guide 'When verify complains'; what verifies is still readable",
        )
        self.report = report


@dataclass(frozen=True)
class _Link:
    """One committed batch: what it names and what it is."""

    first: int
    last: int
    previous: bytes
    digest: bytes


@dataclass
class _Journal:
    """What was found of one journal of one rack."""

    journal: bytes
    links: list[_Link] = field(default_factory=list)
    seals: list[tuple[seal.Seal, bytes]] = field(default_factory=list)
    graves: list[tombstone.Tombstone] = field(default_factory=list)


def verify(reader: LakeReader, span: Span, progress: Progress | None = None) -> LakeReport:
    """Verify everything in ``span``; ``progress`` gets (bytes done, bytes in all).

    Raises:
        LakeDamageError: something does not verify; all of it was looked at first.
        StorageError: the storage failed.
    """
    report = LakeReport()
    racks = sorted(
        {journal.rack for journal in reader.state.journals.values() if span.rack in ("", journal.rack)}
    )
    total = sum(file.size for file in reader.state.files.values() if span.holds(file.rack, file.date))
    waiting = reader.arrivals(span, lambda error: report.problems.append(error.message), report.read)
    for rack in racks:
        mine = {where: table for where, table in waiting.items() if where.rack == rack}
        work = _Rack(reader, rack, report, progress, total, mine)
        work.verify(span)
        report.racks += 1
    if report.problems:
        raise LakeDamageError(report)
    return report


class _Rack:
    """The verification of one rack."""

    def __init__(
        self,
        reader: LakeReader,
        rack: str,
        report: LakeReport,
        progress: Progress | None,
        total: int,
        waiting: Mapping[Partition, Any],
    ) -> None:
        self._reader = reader
        self._rack = rack
        self._report = report
        self._progress = progress
        self._total = total
        self._waiting = waiting
        self._keys: Sequence[bytes] = reader.state.keys.get(rack, ())
        self._journals: dict[bytes, _Journal] = {}
        # Rows of batches that are not whole yet: a batch at midnight has rows in two dates.
        self._open: dict[tuple[bytes, int], dict[int, WalRecord]] = {}
        self._evidence: dict[tuple[bytes, int], dict[str, Any]] = {}
        self._recorded: dict[bytes, None] = {}
        self._listed: dict[bytes, None] = {}

    def verify(self, span: Span) -> None:
        dates = {file.date for file in self._reader.state.files.values() if file.rack == self._rack}
        dates |= {where.date for where in self._waiting}
        for date in sorted(date for date in dates if span.holds(self._rack, date)):
            self._date(date)
            for where, table in self._waiting.items():
                if where.date == date:
                    self._take(where.kind, table)
            self._close_whole_batches()
        for journal, first in self._evidence:
            self._report.problems.append(
                f"{self._rack}: batch {first} of journal {journal.hex()} has no whole rows"
            )
        for (journal, first), rows in self._open.items():
            if (journal, first) not in self._evidence:
                self._report.problems.append(
                    f"{self._rack}: {len(rows)} rows of batch {first} of journal {journal.hex()} have no evidence"
                )
        for journal, found in sorted(self._journals.items()):
            self._chain(journal, found, whole=not (span.first or span.last))
        self._report.journals += len(self._journals)
        self._report.proved += len(self._recorded.keys() & self._listed.keys())
        self._report.unproved += len(self._recorded.keys() - self._listed.keys())

    def _date(self, date: str) -> None:
        for file in self._reader.state.files.values():
            if (file.rack, file.date) != (self._rack, date):
                continue
            try:
                table = self._reader.tables.read(file)
            except StageboxError as error:
                self._report.problems.append(error.message)
                continue
            self._report.read(file)
            if table.num_rows != file.rows:
                self._report.problems.append(
                    f"{file.path} has {table.num_rows} rows, its manifest says {file.rows}"
                )
            self._take(file.kind, table)
            if self._progress is not None:
                self._progress(self._report.bytes, self._total)

    def _take(self, kind: str, table: Any) -> None:
        if kind == BATCHES:
            for row in table.to_pylist():
                self._evidence[row["journal"], row["first"]] = row
            return
        try:
            data = records_of_kind(table, kind)
        except StageboxError as error:
            self._report.problems.append(f"{self._rack}: {error.message}")
            return
        columns = [table[name].to_pylist() for name in ("journal", "batch", "seq", "time_ns", "subject")]
        for record, journal, batch, seq, time_ns, subject in zip(data, *columns, strict=True):
            rows = self._open.setdefault((journal, batch), {})
            if seq in rows:
                self._report.problems.append(f"{self._rack}: record {seq} is in the lake twice")
            rows[seq] = WalRecord(kind, time_ns, subject, record)

    def _close_whole_batches(self) -> None:
        for key, row in list(self._evidence.items()):
            rows = self._open.get(key, {})
            if row["payload"] is None and len(rows) != row["last"] - row["first"] + 1:
                continue
            del self._evidence[key]
            self._open.pop(key, None)
            self._batch(key[0], row, tuple(rows[seq] for seq in sorted(rows)))

    def _batch(self, journal: bytes, row: dict[str, Any], records: tuple[WalRecord, ...]) -> None:
        report, where = self._report, f"{self._rack}: batch {row['first']}-{row['last']}"
        batch = WalBatch(self._rack, row["first"], row["previous"], records, journal=journal)
        payload = row["payload"] if row["payload"] is not None else batch.encode()
        if payload_digest(payload) != row["digest"] or WalBatch.decode(payload).records != records:
            report.problems.append(f"{where} is not what was committed")
            return
        if row["signature"]:
            try:
                if row["key"] not in self._keys:
                    raise VerificationError("its key was never this rack's")
                envelope.verify(envelope.DOMAIN_WAL, payload, row["signature"], row["key"])
                report.signatures += 1
            except VerificationError as error:
                report.problems.append(f"{where}: {error.message}")
        else:
            report.unsigned += 1
        report.batches += 1
        report.records += len(records)
        found = self._journals.setdefault(journal, _Journal(journal))
        found.links.append(_Link(row["first"], row["last"], row["previous"], row["digest"]))
        for record in records:
            self._record(record, found, where)

    def _record(self, record: WalRecord, found: _Journal, where: str) -> None:
        try:
            if record.kind == seal.KIND:
                opened = seal.open_seal(record.data, self._keys[0], self._keys[1:])
                if seal.seal_hash(record.data) not in {held for _, held in found.seals}:
                    found.seals.append((opened, seal.seal_hash(record.data)))
            elif record.kind == tombstone.KIND:
                grave = tombstone.open_tombstone(record.data, self._keys[0], self._keys[1:])
                if (grave.rack, grave.journal) != (self._rack, found.journal):
                    raise VerificationError("it speaks of another journal")
                found.graves.append(grave)
                self._report.tombstones += 1
            elif record.kind == Kind.CHECKPOINT:
                payload = envelope.open_by_any(envelope.DOMAIN_CHECKPOINT, record.data, self._keys)
                self._report.checkpoints += 1
                for stream in Checkpoint.decode(payload).streams.values():
                    self._listed.update(dict.fromkeys(stream.digests))
            elif record.kind in _LIVE:
                self._recorded[record_digest(record.subject, record.data)] = None
        except (StageboxError, IndexError) as error:
            message = error.message if isinstance(error, StageboxError) else "no key of this rack is known"
            self._report.problems.append(f"{where} has a {record.kind} that does not verify: {message}")

    def _chain(self, journal: bytes, found: _Journal, *, whole: bool) -> None:
        links = sorted(found.links, key=lambda link: link.first)
        name = f"{self._rack}, journal {journal.hex()}"
        graves = [(grave.first, grave.last) for grave in found.graves]
        expected, previous = (1, bytes(32)) if whole and links and links[0].first == 1 else (0, b"")
        if whole and links and links[0].first != 1:
            self._gap(name, 1, links[0].first - 1, graves)
        for link in links:
            if expected and link.first > expected:
                self._gap(name, expected, link.first - 1, graves)
            elif expected and (link.first < expected or link.previous != previous):
                self._report.problems.append(f"{name}: the chain is broken before record {link.first}")
            expected, previous = link.last + 1, link.digest
        state = self._reader.state.journals.get((self._rack, journal))
        if (
            whole
            and state is not None
            and links
            and (state.last, state.head) != (links[-1].last, links[-1].digest)
        ):
            self._report.problems.append(
                f"{name}: records up to {state.last} were committed, the rows end at {links[-1].last}"
            )
        self._seals(name, found, {link.last: link for link in links}, {link.first: link for link in links})

    def _seals(
        self, name: str, found: _Journal, ending: dict[int, _Link], beginning: dict[int, _Link]
    ) -> None:
        for sealed, _ in found.seals:
            last, first = ending.get(sealed.last), beginning.get(sealed.first)
            if last is None or first is None:
                continue  # outside of what was asked for, or in a gap, which is reported as one
            if (first.previous, last.digest) != (sealed.previous, sealed.head):
                self._report.problems.append(
                    f"{name}: the seal of {sealed.first}-{sealed.last} names another chain"
                )
                continue
            self._report.seals += 1
            self._report.sealed_records += sealed.count
        by_first = sorted(found.seals, key=lambda entry: entry[0].first)
        for (before, held), (after, _) in itertools.pairwise(by_first):
            if after.version > 1 and after.first == before.last + 1 and after.previous_seal != held:
                self._report.problems.append(
                    f"{name}: the seal of {after.first}-{after.last} does not follow the one before"
                )

    def _gap(self, name: str, first: int, last: int, graves: Sequence[tuple[int, int]]) -> None:
        reached = first - 1
        for start, end in sorted(graves):
            if start <= reached + 1:
                reached = max(reached, end)
        told = "the rack signed a tombstone" if reached >= last else "unexplained"
        self._report.gaps.append(f"{name}: records {first}-{last} never came ({told})")
