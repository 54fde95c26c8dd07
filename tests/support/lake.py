"""The mixer's lake as tests look at it: from outside, with the cluster's key, beside a running mixer or without one."""

from __future__ import annotations

from pathlib import Path

from stagebox.columns.table import records_of_kind
from stagebox.records.walbatch import WalRecord
from stagebox_keys.storage import LAKE_LABEL
from stagebox_mixer.lake.lake import Commit
from stagebox_mixer.lake.reading import LakeReader, Span, open_reader
from stagebox_mixer.lake.state import BATCHES, ChainHead, JournalState
from stagebox_mixer.lake.storage import LocalStorage
from support.cluster import Cluster, RunningMixer
from support.rackside import Journal

LakeRecord = tuple[int, str, bytes]
"""(sequence, kind, data)."""


def open_lake(cluster: Cluster, data: Path) -> LakeReader:
    """Open the lake in a mixer's data directory."""
    name = cluster.keys.cluster.name
    return open_reader(LocalStorage(data / "lake"), cluster.keys.storage_key(LAKE_LABEL), cluster=name)


def records_in(reader: LakeReader, rack: str, journal: bytes | None = None) -> list[LakeRecord]:
    """Return every record of a rack, of one journal or all, in the order of their sequences."""
    found: list[LakeRecord] = []
    kinds = {line.kind for line in reader.listing(Span(rack))} - {BATCHES}
    for kind in kinds:
        for _, table in reader.tables_of(kind, Span(rack)):
            rows = zip(
                table["journal"].to_pylist(),
                table["seq"].to_pylist(),
                records_of_kind(table, kind),
                strict=True,
            )
            found.extend((seq, kind, data) for held, seq, data in rows if journal in (None, held))
    return sorted(found)


def lake_records(mixer: RunningMixer, rack: str, journal: bytes | None = None) -> list[LakeRecord]:
    """Return every committed record of a rack of a running mixer."""
    return records_in(open_lake(mixer.cluster, mixer.settings.data), rack, journal)


def journals(mixer: RunningMixer, rack: str) -> list[JournalState]:
    """Return what a running mixer has committed of a rack's journals, as its manifests say."""
    state = open_lake(mixer.cluster, mixer.settings.data).state
    return [journal for (name, _), journal in sorted(state.journals.items()) if name == rack]


def commit(journal: Journal, *records: WalRecord, seq: int = 1) -> Commit:
    """Return the next batch of a journal as the ingest gives it to the lake."""
    batch = journal.of(*records)
    signed = batch.sign(journal.key)
    return Commit(
        rack=journal.rack,
        journal=journal.journal,
        first=batch.first,
        head=ChainHead(batch.last, batch.digest()),
        payload=batch.encode(),
        signature=signed[-64:],
        key=bytes(journal.key.verify_key),
        stream_seq=seq,
        checkpoints=0,
        proved=0,
    )
