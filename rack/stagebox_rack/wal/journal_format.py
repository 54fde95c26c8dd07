"""The hot file, to the byte: header block, frames, chain and the scan that reads a file after any accident.

Pure: no I/O, no clock, no random source of its own. Rules:

* A frame is one encoded ``WalBatch``, encrypted under the file's own key. Its associated data is the frame
  head, which carries the chain head before it: hₙ = BLAKE3(hₙ₋₁ ‖ frame), h₀ = BLAKE3(domain ‖ header core).
* A frame opens alone (its head names the chain head it was written on), so damage costs the damaged frames
  and not those after them; the chain then says that something is missing and where.
* The end is clean when only zeros follow; torn when something follows that no valid frame comes after;
  damaged when a valid frame follows an invalid one or does not continue the chain.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from stagebox import cbor
from stagebox.errors import DecodeError
from stagebox.limits import LIMITS as SHARED_LIMITS
from stagebox.records.seal import FILE_ID_BYTES, NO_SEAL
from stagebox.records.walbatch import JOURNAL_BYTES, WalBatch, payload_digest, previous_of
from stagebox_rack.wal.keyring import WRAPPED_BYTES, Keyring

FORMAT_VERSION = 2
_FIRST_VERSION = 1
FILE_MAGIC = b"SBXHOT1\n"
FRAME_MAGIC = b"SBF1"
BLOCK_BYTES = 4096
HEADER_BYTES = 2 * BLOCK_BYTES  # the block twice: one bad sector there must not cost the whole file
DIGEST_BYTES = 32
TAG_BYTES = 16
FRAME_HEAD = struct.Struct(">4sIIQ12s32s")  # magic, length, count, first, nonce, chain head before
FRAME_OVERHEAD = FRAME_HEAD.size + TAG_BYTES

_CORE_DOMAIN = b"stagebox.wal.hot.v1\0"
_LENGTH = struct.Struct(">I")
_CHUNK_BYTES = 64 << 10


@dataclass(frozen=True)
class HotHeader:
    """What a hot file says about itself. ``previous`` is the digest of the batch before its first one.

    ``previous_seal`` is the hash of the newest seal when the file was begun; version 1 has none.
    """

    rack: str
    journal: bytes
    first: int
    previous: bytes
    boot: bytes
    file_id: bytes
    kek_version: int
    wrapped_dek: bytes
    previous_seal: bytes | None = NO_SEAL

    @property
    def version(self) -> int:
        """The version of its bytes."""
        return _FIRST_VERSION if self.previous_seal is None else FORMAT_VERSION

    def core(self) -> bytes:
        """Return the CBOR of the fields that never change; the wrapped key is bound to it."""
        return header_core(
            self.rack,
            self.journal,
            self.first,
            self.previous,
            self.boot,
            self.file_id,
            previous_seal=self.previous_seal,
        )

    def chain_start(self) -> bytes:
        """Return h₀."""
        return blake3(_CORE_DOMAIN + self.core()).digest()

    def encode(self) -> bytes:
        """Return the header: one block (magic, length, CBOR, zeros, BLAKE3 of all before), twice."""
        fields = cbor.decode_trusted(self.core(), max_bytes=BLOCK_BYTES)
        body = cbor.encode({**fields, "KekVersion": self.kek_version, "WrappedDek": self.wrapped_dek})
        block = (FILE_MAGIC + _LENGTH.pack(len(body)) + body).ljust(BLOCK_BYTES - DIGEST_BYTES, b"\0")
        if len(block) != BLOCK_BYTES - DIGEST_BYTES:
            raise ValueError("hot file header does not fit its block")
        return (block + blake3(block).digest()) * 2

    def unwrap(self, keyring: Keyring, where: str) -> bytes:
        """Return this file's data key.

        Raises:
            VerificationError: another key, or an altered header.
        """
        return keyring.unwrap(self.wrapped_dek, self.core(), version=self.kek_version, where=where)


def header_core(
    rack: str,
    journal: bytes,
    first: int,
    previous: bytes,
    boot: bytes,
    file_id: bytes,
    *,
    previous_seal: bytes | None,
) -> bytes:
    """Return the deterministic CBOR that a file's data key and chain are bound to; version 1 without a seal."""
    fields: dict[str, object] = {
        "Version": _FIRST_VERSION if previous_seal is None else FORMAT_VERSION,
        "Rack": rack,
        "Journal": journal,
        "First": first,
        "Previous": previous,
        "Boot": boot,
        "FileId": file_id,
    }
    return cbor.encode(fields if previous_seal is None else {**fields, "PreviousSeal": previous_seal})


def decode_header(data: bytes) -> HotHeader:
    """Parse the header at the start of ``data`` from the first of its two blocks that is whole.

    Raises:
        DecodeError: too short, both damaged, or an unknown version.
    """
    try:
        return _decode_block(data[:BLOCK_BYTES])
    except DecodeError as error:
        try:
            return _decode_block(data[BLOCK_BYTES:HEADER_BYTES])
        except DecodeError:
            raise error from None


def _decode_block(block: bytes) -> HotHeader:
    what = "hot file header"
    if len(block) < BLOCK_BYTES:
        raise DecodeError(f"{what} has {len(block)} bytes, expected {BLOCK_BYTES}")
    if block[: len(FILE_MAGIC)] != FILE_MAGIC:
        raise DecodeError(f"{what} does not start with the journal's magic")
    if blake3(block[:-DIGEST_BYTES]).digest() != block[-DIGEST_BYTES:]:
        raise DecodeError(f"{what} does not match its checksum")
    start = len(FILE_MAGIC) + _LENGTH.size
    (length,) = _LENGTH.unpack_from(block, len(FILE_MAGIC))
    if length > BLOCK_BYTES - DIGEST_BYTES - start:
        raise DecodeError(f"{what} claims {length} bytes of CBOR")
    decoded = cbor.decode_canonical(block[start : start + length], max_bytes=BLOCK_BYTES)
    fields = cbor.expect_map(decoded, what)
    version = cbor.take_uint(fields, "Version", what)
    if version not in (_FIRST_VERSION, FORMAT_VERSION):
        raise DecodeError(f"{what} has version {version}, this software understands 1 and {FORMAT_VERSION}")
    seal = (
        None
        if version == _FIRST_VERSION
        else cbor.take_bytes(fields, "PreviousSeal", what, length=DIGEST_BYTES)
    )
    return HotHeader(
        previous_seal=seal,
        rack=cbor.take(fields, "Rack", str, what),
        journal=cbor.take_bytes(fields, "Journal", what, length=JOURNAL_BYTES),
        first=cbor.take_uint(fields, "First", what),
        previous=cbor.take_bytes(fields, "Previous", what, length=DIGEST_BYTES),
        boot=cbor.take_bytes(fields, "Boot", what, length=16),
        file_id=cbor.take_bytes(fields, "FileId", what, length=FILE_ID_BYTES),
        kek_version=cbor.take_uint(fields, "KekVersion", what, bits=32),
        wrapped_dek=cbor.take_bytes(fields, "WrappedDek", what, length=WRAPPED_BYTES),
    )


@dataclass(frozen=True)
class CommittedBatch:
    """One batch as it stands in the journal: its exact payload and what identifies it."""

    first: int
    last: int
    previous: bytes
    payload: bytes
    digest: bytes

    @classmethod
    def of(cls, payload: bytes) -> tuple[CommittedBatch, WalBatch]:
        """Return (this, the decoded batch) of an encoded payload.

        Raises:
            DecodeError: not a WAL batch.
        """
        batch = WalBatch.decode(payload)
        return cls(batch.first, batch.last, batch.previous, payload, payload_digest(payload)), batch

    def decode(self) -> WalBatch:
        """Return the records."""
        return WalBatch.decode(self.payload)


def advance(chain: bytes, frame: bytes) -> bytes:
    """Return the chain head after ``frame``."""
    return blake3(chain + frame).digest()


def encode_frame(payload: bytes, first: int, count: int, chain: bytes, dek: bytes, nonce: bytes) -> bytes:
    """Return one frame: head ‖ AES-256-GCM(payload), the head being the associated data."""
    head = FRAME_HEAD.pack(FRAME_MAGIC, len(payload) + TAG_BYTES, count, first, nonce, chain)
    return head + AESGCM(dek).encrypt(nonce, payload, head)


@dataclass(frozen=True)
class Frame:
    """A frame that authenticated: where it lies, the chain around it and its batch."""

    offset: int
    end: int
    chain_before: bytes
    chain_after: bytes
    batch: CommittedBatch


@dataclass(frozen=True)
class Damage:
    """Bytes ``start`` … ``end`` of a file that should be frames and are not, or frames that are missing."""

    start: int
    end: int
    reason: str


@dataclass(frozen=True)
class Scan:
    """Everything a hot file still proves. ``end`` is where the last valid frame ends."""

    frames: tuple[Frame, ...]
    end: int
    torn_bytes: int
    damage: tuple[Damage, ...]

    @property
    def clean(self) -> bool:
        """Whether only zeros follow the frames and no frame is missing."""
        return not self.torn_bytes and not self.damage


def scan(data: bytes, header: HotHeader, dek: bytes, *, whole: bool = True) -> Scan:
    """Read every frame of a hot file that authenticates, and say what lies between and after them.

    Unless ``whole`` the batches are only placed: their records are not looked at and their payloads not kept.
    """
    cipher = AESGCM(dek)
    frames: list[Frame] = []
    damage: list[Damage] = []
    if data[:HEADER_BYTES] != header.encode():
        damage.append(Damage(0, HEADER_BYTES, "one of the two header blocks is damaged"))
    position, chain = HEADER_BYTES, header.chain_start()
    sequence, digest = header.first, header.previous
    end = HEADER_BYTES
    last_content = _content_end(data)
    while position < last_content:
        frame = _frame_at(data, position, cipher, header, whole=whole)
        if frame is None:
            position = _next_magic(data, position + 1)
            continue
        if frame.offset != end:
            damage.append(Damage(end, frame.offset, f"{frame.offset - end} bytes do not authenticate"))
        if frame.batch.first < sequence:
            damage.append(Damage(frame.offset, frame.end, f"repeats sequence {frame.batch.first}"))
            position = end = frame.end
            continue
        if frame.offset == end and (
            (frame.chain_before, frame.batch.first, frame.batch.previous) != (chain, sequence, digest)
        ):
            damage.append(Damage(end, end, f"a frame is missing before sequence {frame.batch.first}"))
        frames.append(frame)
        position = end = frame.end
        chain, sequence, digest = frame.chain_after, frame.batch.last + 1, frame.batch.digest
    return Scan(tuple(frames), end, max(0, last_content - end), tuple(damage))


def _content_end(data: bytes) -> int:
    """Return where the last byte that is not zero ends; from the end, because a full file has few zeros there."""
    end = len(data)
    while end:
        start = max(0, end - _CHUNK_BYTES)
        if kept := data[start:end].rstrip(b"\0"):
            return start + len(kept)
        end = start
    return 0


def _next_magic(data: bytes, position: int) -> int:
    found = data.find(FRAME_MAGIC, position)
    return len(data) if found < 0 else found


def _frame_at(data: bytes, offset: int, cipher: AESGCM, header: HotHeader, *, whole: bool) -> Frame | None:
    if data[offset : offset + len(FRAME_MAGIC)] != FRAME_MAGIC or offset + FRAME_OVERHEAD > len(data):
        return None
    _, length, count, first, nonce, chain = FRAME_HEAD.unpack_from(data, offset)
    start = offset + FRAME_HEAD.size
    end = start + length
    if length < TAG_BYTES or length > SHARED_LIMITS.max_wal_batch_bytes + TAG_BYTES or end > len(data):
        return None
    try:
        payload = cipher.decrypt(nonce, data[start:end], data[offset:start])
        batch = None if whole else _placed(payload, header, first, count)
        batch = batch or _opened(payload, header, first, count)
    except (InvalidTag, DecodeError):
        return None
    if batch is None:
        return None
    return Frame(offset, end, chain, advance(chain, data[offset:end]), batch)


def _placed(payload: bytes, header: HotHeader, first: int, count: int) -> CommittedBatch | None:
    previous = previous_of(payload, rack=header.rack, journal=header.journal, first=first, count=count)
    if previous is None or not count:
        return None
    return CommittedBatch(first, first + count - 1, previous, b"", payload_digest(payload))


def _opened(payload: bytes, header: HotHeader, first: int, count: int) -> CommittedBatch | None:
    batch, decoded = CommittedBatch.of(payload)
    # Authenticated, so a mismatch would be the writer's own error; it must not pass as good data.
    if (decoded.rack, decoded.journal) != (header.rack, header.journal):
        return None
    return batch if (decoded.first, len(decoded.records)) == (first, count) else None


def frame_bytes(payload_bytes: int) -> int:
    """Return the size of a frame whose batch payload has ``payload_bytes``."""
    return FRAME_OVERHEAD + payload_bytes
