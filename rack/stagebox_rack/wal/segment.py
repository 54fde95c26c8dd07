"""Segments on disk: encrypted zstd Parquet that ordinary tools read, and its exact way back to batches.

Rules: a segment is one unbroken chain of batches; every batch payload is rebuilt from its rows and the chain
is computed again from the seal's ``previous`` to its ``head``. pyarrow is imported on first use. One data
page a column chunk and row groups well under 32 MB, because DuckDB reads encrypted files only so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3
from nacl.signing import SigningKey

from stagebox import files
from stagebox.errors import DecodeError, StorageError, VerificationError
from stagebox.records.walbatch import WalBatch, WalRecord, payload_digest
from stagebox_rack.limits import LIMITS
from stagebox_rack.wal.catalogue import SegmentSpan
from stagebox_rack.wal.journal_format import CommittedBatch
from stagebox_rack.wal.keyring import FILE_ID_BYTES, KEY_BYTES, NONCE_BYTES, Keyring, Random
from stagebox_rack.wal.layout import Layout
from stagebox_rack.wal.seal import VERSION, Seal, encode_key, key_context, open_key, open_seal

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("seq", "batch", "kind", "time_ns", "subject", "data")
_ONE_PAGE = {"data_page_size": 64 << 20, "max_rows_per_page": 10**9, "write_batch_size": 1 << 20}


@dataclass(frozen=True)
class SegmentFiles:
    """The three files of a segment."""

    parquet: Path
    key: Path
    seal: Path

    @classmethod
    def of(cls, stem: Path) -> SegmentFiles:
        """Return the files whose common path without suffix is ``stem``."""
        return cls(*(stem.with_name(stem.name + suffix) for suffix in (".parquet", ".key", ".seal")))

    def __iter__(self) -> Iterator[Path]:
        """The seal first: removing in this order never leaves a seal without its data."""
        return iter((self.seal, self.key, self.parquet))


def write_segment(
    layout: Layout,
    batches: Sequence[CommittedBatch],
    keyring: Keyring,
    signing_key: SigningKey,
    *,
    rack: str,
    boot: bytes,
    torn_bytes: int,
    random: Random = os.urandom,
) -> SegmentSpan:
    """Write one unbroken run of batches as a segment; durable when this returns.

    Raises:
        StorageError: the disk refused; no seal is left, so nothing counts as sealed.
    """
    first, last = batches[0].first, batches[-1].last
    stem = layout.segment_stem(first, last)
    paths = SegmentFiles.of(stem)
    dek, file_id = random(KEY_BYTES), random(FILE_ID_BYTES)
    try:
        digest, size = _write_parquet(
            paths.parquet, batches, dek, _metadata(batches, keyring, file_id, rack, boot)
        )
    except OSError as error:
        raise StorageError(
            f"cannot seal {stem.name}: {error.strerror or error}",
            remedy=f"free space in {layout.segments}; the hot file is kept and sealing is tried again",
        ) from error
    wrapped = keyring.wrap(dek, key_context(rack, first, last, file_id), random(NONCE_BYTES))
    files.write_atomic(paths.key, encode_key(keyring, wrapped))
    seal = Seal(
        rack=rack,
        journal=keyring.journal,
        first=first,
        last=last,
        count=last - first + 1,
        batches=len(batches),
        previous=batches[0].previous,
        head=batches[-1].digest,
        file_id=file_id,
        file_blake3=digest,
        file_bytes=size,
        torn_bytes=torn_bytes,
        boot=boot,
    )
    files.write_atomic(paths.seal, seal.sign(signing_key))
    return SegmentSpan(stem, first, last, seal.previous, seal.head, size, time.time())


def _metadata(
    batches: Sequence[CommittedBatch], keyring: Keyring, file_id: bytes, rack: str, boot: bytes
) -> dict[str, str]:
    first, last = batches[0].first, batches[-1].last
    return {
        "stagebox.version": str(VERSION),
        "stagebox.rack": rack,
        "stagebox.journal": keyring.journal.hex(),
        "stagebox.first": str(first),
        "stagebox.last": str(last),
        "stagebox.count": str(last - first + 1),
        "stagebox.previous": batches[0].previous.hex(),
        "stagebox.file_id": file_id.hex(),
        "stagebox.kek_version": str(keyring.version),
        "stagebox.boot": boot.hex(),
    }


def load_seal(stem: Path, public: bytes, earlier: Collection[bytes] = ()) -> Seal:
    """Read and verify a segment's seal and check that its name and its other files agree with it.

    Raises:
        StorageError: a file of the segment is missing or unreadable.
        DecodeError, VerificationError: the seal is not the rack's, or speaks of another file.
    """
    paths = SegmentFiles.of(stem)
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


def segment_key(stem: Path, seal: Seal, keyring: Keyring) -> bytes:
    """Return the data key of a segment, for reading its Parquet file with any tool.

    Raises:
        StorageError: the key file cannot be read.
        DecodeError, VerificationError: it is damaged or belongs to another KEK or segment.
    """
    path = SegmentFiles.of(stem).key
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path.name}: {error.strerror}") from error
    context = key_context(seal.rack, seal.first, seal.last, seal.file_id)
    return open_key(data, keyring, context, path.name)


def read_segment(
    stem: Path, keyring: Keyring, public: bytes, earlier: Collection[bytes] = ()
) -> list[CommittedBatch]:
    """Return every batch of a segment, each rebuilt to the byte and verified up to the signed seal.

    Raises:
        StorageError: a file is missing or unreadable.
        VerificationError: anything in it does not match its seal.
    """
    seal = load_seal(stem, public, earlier)
    dek = segment_key(stem, seal, keyring)
    parquet = SegmentFiles.of(stem).parquet
    try:
        data = parquet.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {parquet.name}: {error.strerror}") from error
    if blake3(data).digest() != seal.file_blake3:
        raise VerificationError(
            f"segment {stem.name} was altered: its BLAKE3 is not the one its seal names",
            remedy="keep the file for inspection; the mixer has these records if they were acknowledged",
        )
    batches = _rebuild(_decrypt(data, dek, stem.name), seal)
    if len(batches) != seal.batches or not batches or batches[-1].digest != seal.head:
        raise VerificationError(f"segment {stem.name} does not lead to the chain head its seal names")
    return batches


def open_parquet(source: Any, dek: bytes) -> Any:
    """Return a ``pyarrow.parquet.ParquetFile`` that decrypts with ``dek``."""
    import pyarrow.parquet as pq
    from pyarrow.parquet import encryption

    return pq.ParquetFile(source, decryption_properties=encryption.create_decryption_properties(dek))


def _decrypt(data: bytes, dek: bytes, name: str) -> list[WalRecordRow]:
    import pyarrow as pa

    rows: list[WalRecordRow] = []
    try:
        parquet = open_parquet(pa.BufferReader(data), dek)
        for chunk in parquet.iter_batches(batch_size=LIMITS.wal_seal_rows, columns=list(COLUMNS)):
            rows.extend(zip(*(column.to_pylist() for column in chunk.columns), strict=True))
            time.sleep(0)  # hands the interpreter to the audio and bus threads between chunks
    except (OSError, pa.ArrowInvalid) as error:
        raise VerificationError(f"segment {name} does not decrypt: {error}") from None
    return rows


WalRecordRow = tuple[int, int, str, int, str, bytes]


def _rebuild(rows: Sequence[WalRecordRow], seal: Seal) -> list[CommittedBatch]:
    batches: list[CommittedBatch] = []
    expected, previous, position = seal.first, seal.previous, 0
    while position < len(rows):
        first = rows[position][1]
        end = position
        while end < len(rows) and rows[end][1] == first:
            if rows[end][0] != expected:
                raise VerificationError(f"segment {seal.first}-{seal.last} lacks record {expected}")
            expected, end = expected + 1, end + 1
        records = tuple(WalRecord(row[2], row[3], row[4], row[5]) for row in rows[position:end])
        payload = WalBatch(seal.rack, first, previous, records, journal=seal.journal).encode()
        digest = payload_digest(payload)
        batches.append(CommittedBatch(first, expected - 1, previous, payload, digest))
        previous, position = digest, end
    return batches


def _write_parquet(
    path: Path, batches: Sequence[CommittedBatch], dek: bytes, metadata: dict[str, str]
) -> tuple[bytes, int]:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow.parquet import encryption

    table = pa.Table.from_batches(list(_chunks(batches)))
    table = table.replace_schema_metadata(metadata)
    temporary = path.with_name(path.name + ".tmp")
    properties = encryption.create_encryption_properties(dek)
    try:
        # One column chunk a column: a hot file holds far less than the 32 MB DuckDB takes.
        pq.write_table(
            table,
            temporary,
            row_group_size=max(1, table.num_rows),
            compression="zstd",
            compression_level=3,
            use_dictionary=["kind", "subject"],
            encryption_properties=properties,
            **_ONE_PAGE,
        )
        return _publish(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _publish(temporary: Path, path: Path) -> tuple[bytes, int]:
    descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    data = temporary.read_bytes()
    temporary.replace(path)
    files.fsync_dir(path.parent)
    return blake3(data).digest(), len(data)


def _chunks(batches: Sequence[CommittedBatch]) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    schema = pa.schema(
        [
            ("seq", pa.uint64()),
            ("batch", pa.uint64()),
            ("kind", pa.string()),
            ("time_ns", pa.int64()),
            ("subject", pa.string()),
            ("data", pa.binary()),
        ]
    )
    rows: list[WalRecordRow] = []
    for batch in batches:
        decoded = batch.decode()
        if decoded.extra:
            raise DecodeError(
                f"batch {batch.first} has fields a segment cannot hold: {sorted(decoded.extra)}"
            )
        for sequence, record in enumerate(decoded.records, batch.first):
            rows.append((sequence, batch.first, record.kind, record.time_ns, record.subject, record.data))
        if len(rows) >= LIMITS.wal_seal_rows:
            yield pa.RecordBatch.from_arrays([list(c) for c in zip(*rows, strict=True)], schema=schema)
            rows = []
            time.sleep(0)
    if rows:
        yield pa.RecordBatch.from_arrays([list(c) for c in zip(*rows, strict=True)], schema=schema)
