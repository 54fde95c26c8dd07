"""The published vectors, read by a reader that shares no code with the writer (docs/reference/wal.md)."""

from __future__ import annotations

import io
import json
import runpy
import shutil
import struct
from pathlib import Path
from typing import Any

import cbor2
import pyarrow.parquet as pq
import pytest
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl.signing import VerifyKey
from pyarrow.parquet import encryption

from stagebox_rack.wal.keyring import load_keyring
from stagebox_rack.wal.segment import read_segment

VECTORS = Path(__file__).parents[3] / "vectors/wal"
EXPECTED: dict[str, Any] = json.loads((VECTORS / "expected.json").read_text())
PUBLIC = bytes.fromhex(EXPECTED["rack_public"])


def kek() -> bytes:
    fields = cbor2.loads((VECTORS / "kek.key").read_bytes())
    named = fields["KekVersion"].to_bytes(4, "big") + fields["Kek"] + fields["Journal"] + fields["RackPublic"]
    check = blake3(b"stagebox.wal.kek.v1\0" + named).digest()
    assert fields["Check"] == check[:8]
    return bytes(fields["Kek"])


def unwrap(wrapped: bytes, context: bytes) -> bytes:
    return AESGCM(kek()).decrypt(wrapped[:12], wrapped[12:], b"stagebox.wal.dek.v1\0" + context)


def read_hot(data: bytes) -> tuple[list[bytes], list[bytes], int]:
    """Return (payloads, chain heads, torn bytes) of a hot file, from the reference page alone."""
    block = data[:4096]
    assert block[:8] == b"SBXHOT1\n"
    assert blake3(block[:4064]).digest() == block[4064:]
    assert data[4096:8192] == block
    (length,) = struct.unpack(">I", block[8:12])
    header = cbor2.loads(block[12 : 12 + length])
    wrapped = header.pop("WrappedDek")
    assert header.pop("KekVersion") == 1
    core = cbor2.dumps(header, canonical=True)
    dek = unwrap(wrapped, core)
    chains, payloads, position = [blake3(b"stagebox.wal.hot.v1\0" + core).digest()], [], 8192
    while data[position : position + 4] == b"SBF1":
        head = data[position : position + 64]
        _, size, count, first, nonce, before = struct.unpack(">4sIIQ12s32s", head)
        if before != chains[-1]:
            break
        try:
            payload = AESGCM(dek).decrypt(nonce, data[position + 64 : position + 64 + size], head)
        except InvalidTag:
            break
        batch = cbor2.loads(payload)
        assert (batch["First"], len(batch["Records"])) == (first, count)
        payloads.append(payload)
        chains.append(blake3(before + data[position : position + 64 + size]).digest())
        position += 64 + size
    return payloads, chains, len(data[position:].rstrip(b"\0"))


@pytest.mark.parametrize(("name", "torn"), [("clean.hot", 0), ("torn.hot", EXPECTED["torn_bytes"])])
def test_an_independent_reader_reads_the_hot_file_vectors(name: str, torn: int) -> None:
    payloads, chains, left = read_hot((VECTORS / name).read_bytes())
    assert [p.hex() for p in payloads] == [b["payload"] for b in EXPECTED["batches"]]
    assert [c.hex() for c in chains] == EXPECTED["chain"]
    assert left == torn
    previous = bytes(32)
    for payload in payloads:
        assert cbor2.loads(payload)["Prev"] == previous
        previous = blake3(payload).digest()


def test_an_independent_reader_reads_the_segment_vector() -> None:
    envelope = cbor2.loads((VECTORS / "segment.seal").read_bytes())
    VerifyKey(PUBLIC).verify(b"stagebox.seal.v1\0" + envelope["Payload"], envelope["Signature"])
    seal = cbor2.loads(envelope["Payload"])
    parquet = (VECTORS / "segment.parquet").read_bytes()
    assert (blake3(parquet).digest(), len(parquet)) == (seal["FileBlake3"], seal["FileBytes"])
    named = {name: seal[name] for name in ("Rack", "First", "Last", "FileId")}
    wrapped = cbor2.loads((VECTORS / "segment.key").read_bytes())["WrappedDek"]
    dek = unwrap(wrapped, b"stagebox.wal.segment.v1\0" + cbor2.dumps(named, canonical=True))
    keys = encryption.create_decryption_properties(dek)
    rows = pq.ParquetFile(io.BytesIO(parquet), decryption_properties=keys).read().to_pylist()
    previous = seal["Previous"]
    for expected in EXPECTED["batches"]:
        mine = [row for row in rows if row["batch"] == expected["first"]]
        records = [[row["kind"], row["time_ns"], row["subject"], row["data"]] for row in mine]
        batch = {"Version": 1, "Rack": seal["Rack"], "Journal": seal["Journal"], "First": expected["first"]}
        batch |= {"Prev": previous, "Records": records}
        payload = cbor2.dumps(batch, canonical=True)
        assert payload.hex() == expected["payload"]
        previous = blake3(payload).digest()
    assert previous == seal["Head"]


def test_an_independent_reader_reads_the_mark_and_cursor_vectors() -> None:
    data = (VECTORS / "mark").read_bytes()
    body, tag = data[4096 : 4096 + 108], data[4096 + 108 : 4096 + 140]
    magic, version, counter, sequence, digest, chain, file_id = struct.unpack(">8sIQQ32s32s16s", body)
    key = blake3(kek(), derive_key_context="stagebox.wal.mark.v1").digest()
    assert blake3(body, key=key).digest() == tag
    assert (magic, version, counter, len(file_id)) == (b"SBXMARK1", 1, 1, 16)
    assert {"sequence": sequence, "digest": digest.hex()} == EXPECTED["mark"]
    assert chain.hex() == EXPECTED["chain"][-1]
    assert cbor2.loads((VECTORS / "cursor").read_bytes())["Acknowledged"] == EXPECTED["acknowledged"]


def test_the_committed_vectors_are_what_the_writer_makes(tmp_path: Path) -> None:
    runpy.run_path(str(VECTORS / "make.py"))["make"](tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (VECTORS / path.name).read_bytes(), path.name


def test_our_own_reader_reads_the_segment_vector(tmp_path: Path) -> None:
    stem = tmp_path / f"{1:020d}-{6:020d}"
    for suffix in (".parquet", ".key", ".seal"):
        shutil.copy(VECTORS / f"segment{suffix}", f"{stem}{suffix}")
    shutil.copy(VECTORS / "kek.key", tmp_path / "kek.key")
    (tmp_path / "kek.key").chmod(0o600)
    read = read_segment(stem, load_keyring(tmp_path / "kek.key"), PUBLIC)
    assert [batch.payload.hex() for batch in read] == [b["payload"] for b in EXPECTED["batches"]]
