"""Segments on disk: encrypted zstd Parquet that ordinary tools read, and its exact way back to batches.

Rules: a segment is one unbroken chain of batches; every batch payload is rebuilt from its rows and the chain
is computed again from the seal's ``previous`` to its ``head``. pyarrow is imported on first use.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from stagebox.errors import DecodeError, StorageError, VerificationError
from stagebox.records.seal import Seal, open_seal
from stagebox.records.walbatch import WalBatch, WalRecord, payload_digest
from stagebox_rack.limits import LIMITS
from stagebox_rack.wal.journal_format import CommittedBatch
from stagebox_rack.wal.keyring import Keyring
from stagebox_rack.wal.segment_key import key_context, open_key

VERSION: Final = 2
"""Version of the columns in a segment's file; 1 had every record as bytes alone and is still read."""


@dataclass(frozen=True)
class SegmentFiles:
    """The files of a segment. The tombstone is there only while the others go."""

    parquet: Path
    key: Path
    seal: Path
    tombstone: Path

    @classmethod
    def of(cls, stem: Path) -> SegmentFiles:
        """Return the files whose common path without suffix is ``stem``."""
        suffixes = (".parquet", ".key", ".seal", ".tombstone")
        return cls(*(stem.with_name(stem.name + suffix) for suffix in suffixes))

    def __iter__(self) -> Iterator[Path]:
        """The seal first: removing in this order never leaves a seal without its data."""
        return iter((self.seal, self.key, self.parquet))


@dataclass(frozen=True)
class SegmentIdentity:
    """What the metadata of a segment's file says it is."""

    rack: str
    journal: bytes
    kek_version: int
    file_id: bytes
    boot: bytes


def segment_parquet(batches: Sequence[CommittedBatch], dek: bytes, identity: SegmentIdentity) -> bytes:
    """Return the file of one unbroken run of batches, encrypted under ``dek``.

    Raises:
        DecodeError: a batch has fields that a segment cannot hold.
    """
    import pyarrow as pa

    from stagebox.columns.parquet import to_parquet

    # One column chunk a column: a hot file holds far less than the 32 MB DuckDB takes.
    table = pa.concat_tables(_chunks(batches), promote_options="default").combine_chunks()
    return to_parquet(table.replace_schema_metadata(_metadata(batches, identity)), dek)


def _metadata(batches: Sequence[CommittedBatch], identity: SegmentIdentity) -> dict[str, str]:
    first, last = batches[0].first, batches[-1].last
    return {
        "stagebox.version": str(VERSION),
        "stagebox.rack": identity.rack,
        "stagebox.journal": identity.journal.hex(),
        "stagebox.first": str(first),
        "stagebox.last": str(last),
        "stagebox.count": str(last - first + 1),
        "stagebox.previous": batches[0].previous.hex(),
        "stagebox.file_id": identity.file_id.hex(),
        "stagebox.kek_version": str(identity.kek_version),
        "stagebox.boot": identity.boot.hex(),
    }


def _chunks(batches: Sequence[CommittedBatch]) -> Iterator[Any]:
    from stagebox.columns.table import mixed_table

    first: list[int] = []
    rows: list[tuple[WalRecord, ...]] = []
    count = 0
    for batch in batches:
        decoded = batch.decode()
        if decoded.extra:
            raise DecodeError(
                f"batch {batch.first} has fields a segment cannot hold: {sorted(decoded.extra)}"
            )
        first.append(batch.first)
        rows.append(decoded.records)
        count += len(decoded.records)
        if count >= LIMITS.wal_seal_rows:
            yield mixed_table(first, rows)
            first, rows, count = [], [], 0
            time.sleep(0)  # hands the interpreter to the audio and bus threads between chunks
    if rows:
        yield mixed_table(first, rows)


def load_seal(
    stem: Path, public: bytes, earlier: Collection[bytes] = (), files: SegmentFiles | None = None
) -> Seal:
    """Read and verify a segment's seal and check that its name and its other files agree with it.

    ``files`` are where they lie, if not beside ``stem``.

    Raises:
        StorageError: a file of the segment is missing or unreadable.
        DecodeError, VerificationError: the seal is not the rack's, or speaks of another file.
    """
    paths = files or SegmentFiles.of(stem)
    try:
        data = paths.seal.read_bytes()
        size = paths.parquet.stat().st_size
        paths.key.stat()
    except OSError as error:
        raise StorageError(
            f"segment {stem.name} is incomplete: {error.strerror}: {error.filename}"
        ) from error
    seal = open_seal(data, public, earlier)
    if f"{seal.first:020d}-{seal.last:020d}" != stem.name:
        raise VerificationError(f"the seal of {stem.name} speaks of records {seal.first}-{seal.last}")
    if seal.file_bytes != size:
        raise VerificationError(f"segment {stem.name} has {size} bytes, its seal says {seal.file_bytes}")
    return seal


def segment_key(stem: Path, seal: Seal, keyring: Keyring, files: SegmentFiles | None = None) -> bytes:
    """Return the data key of a segment, for reading its Parquet file with any tool; ``files`` as above.

    Raises:
        StorageError: the key file cannot be read.
        DecodeError, VerificationError: it is damaged or belongs to another KEK or segment.
    """
    path = (files or SegmentFiles.of(stem)).key
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path.name}: {error.strerror}") from error
    context = key_context(seal.rack, seal.first, seal.last, seal.file_id)
    return open_key(data, keyring, context, path.name)


def read_segment(
    stem: Path,
    keyring: Keyring,
    public: bytes,
    earlier: Collection[bytes] = (),
    files: SegmentFiles | None = None,
) -> list[CommittedBatch]:
    """Return every batch of a segment, each rebuilt to the byte and verified up to the signed seal; ``files`` as above.

    Raises:
        StorageError: a file is missing or unreadable.
        VerificationError: anything in it does not match its seal.
    """
    seal = load_seal(stem, public, earlier, files)
    dek = segment_key(stem, seal, keyring, files)
    parquet = (files or SegmentFiles.of(stem)).parquet
    try:
        data = parquet.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {parquet.name}: {error.strerror}") from error
    if blake3(data).digest() != seal.file_blake3:
        raise VerificationError(
            f"segment {stem.name} was altered: its BLAKE3 is not the one its seal names",
            remedy="keep the file for inspection; the mixer has these records if they were acknowledged",
        )
    from stagebox.columns.parquet import read_parquet

    try:
        batches = _rebuild(read_parquet(data, dek, f"segment {stem.name}"), seal)
    except DecodeError as error:
        raise VerificationError(
            f"segment {stem.name} does not give its records back: {error.message}"
        ) from None
    if len(batches) != seal.batches or not batches or batches[-1].digest != seal.head:
        raise VerificationError(f"segment {stem.name} does not lead to the chain head its seal names")
    return batches


def _rebuild(table: Any, seal: Seal) -> list[CommittedBatch]:
    version = (table.schema.metadata or {}).get(b"stagebox.version", b"")
    if not version.isdigit() or int(version) > VERSION:
        raise DecodeError(
            f"its columns have version {version.decode()!a}, this software reads up to {VERSION}"
        )
    columns = _columns(table)
    batches: list[CommittedBatch] = []
    expected, previous, position = seal.first, seal.previous, 0
    while position < len(columns.data):
        first = columns.batch[position]
        end = position
        while end < len(columns.data) and columns.batch[end] == first:
            if columns.seq[end] != expected:
                raise VerificationError(f"segment {seal.first}-{seal.last} lacks record {expected}")
            expected, end = expected + 1, end + 1
        records = columns.records(position, end)
        payload = WalBatch(seal.rack, first, previous, records, journal=seal.journal).encode()
        digest = payload_digest(payload)
        batches.append(CommittedBatch(first, expected - 1, previous, payload, digest))
        previous, position = digest, end
    return batches


@dataclass
class _Columns:
    """Lists of plain values: objects for every record would set off the garbage collector, which stops everything."""

    seq: list[int] = field(default_factory=list)
    batch: list[int] = field(default_factory=list)
    kind: list[str] = field(default_factory=list)
    time_ns: list[int] = field(default_factory=list)
    subject: list[str] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)

    def records(self, start: int, end: int) -> tuple[WalRecord, ...]:
        mine = slice(start, end)
        return tuple(map(WalRecord, self.kind[mine], self.time_ns[mine], self.subject[mine], self.data[mine]))


def _columns(table: Any) -> _Columns:
    from stagebox.columns.table import records_of

    columns = _Columns()
    for start in range(0, table.num_rows, LIMITS.wal_read_rows):
        part = table.slice(start, LIMITS.wal_read_rows)
        for name in ("seq", "batch", "kind", "time_ns", "subject"):
            getattr(columns, name).extend(part[name].to_pylist())
        columns.data.extend(records_of(part))
        time.sleep(0)  # as when sealing: the audio and bus threads come first
    return columns
