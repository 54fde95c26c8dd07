"""The published vectors, read by a reader that shares no code with the writer (docs/reference/wal.md)."""

from __future__ import annotations

import json
import runpy
import shutil
import struct
from pathlib import Path
from typing import Any

import cbor2
import pytest
from blake3 import blake3
from nacl.signing import VerifyKey

from stagebox_rack.wal.journal_format import decode_header, scan
from stagebox_rack.wal.kek_protection import Keeper
from stagebox_rack.wal.keyring import decode_key_file, load_keyring
from stagebox_rack.wal.segment import read_segment
from support import wal_reader

VECTORS = Path(__file__).parents[3] / "vectors/wal"
EXPECTED: dict[str, Any] = json.loads((VECTORS / "expected.json").read_text())
PUBLIC = bytes.fromhex(EXPECTED["rack_public"])


@pytest.mark.parametrize("version", ["", "v1"])
@pytest.mark.parametrize(("name", "torn"), [("clean.hot", 0), ("torn.hot", EXPECTED["torn_bytes"])])
def test_an_independent_reader_reads_the_hot_file_vectors(version: str, name: str, torn: int) -> None:
    expected = json.loads((VECTORS / version / "expected.json").read_text())
    data = (VECTORS / version / name).read_bytes()
    payloads, chains, left = wal_reader.read_hot(data, wal_reader.kek(VECTORS / version / "kek.key"))
    assert [p.hex() for p in payloads] == [b["payload"] for b in expected["batches"]]
    assert [c.hex() for c in chains] == expected["chain"]
    assert left == torn
    previous = bytes(32)
    for payload in payloads:
        assert cbor2.loads(payload)["Prev"] == previous
        previous = blake3(payload).digest()


@pytest.mark.parametrize("version", ["", "v1"])
def test_an_independent_reader_reads_the_segment_vectors(version: str) -> None:
    expected = json.loads((VECTORS / version / "expected.json").read_text())
    files = [(VECTORS / version / f"segment.{suffix}").read_bytes() for suffix in ("parquet", "key", "seal")]
    read = wal_reader.read_segment(
        files[0], files[1], files[2], wal_reader.kek(VECTORS / version / "kek.key"), PUBLIC
    )
    assert [payload.hex() for payload in read] == [b["payload"] for b in expected["batches"]]


def test_an_independent_reader_reads_the_mark_and_cursor_vectors() -> None:
    data = (VECTORS / "mark").read_bytes()
    body, tag = data[4096 : 4096 + 108], data[4096 + 108 : 4096 + 140]
    magic, version, counter, sequence, digest, chain, file_id = struct.unpack(">8sIQQ32s32s16s", body)
    key = blake3(wal_reader.kek(VECTORS / "kek.key"), derive_key_context="stagebox.wal.mark.v1").digest()
    assert blake3(body, key=key).digest() == tag
    assert (magic, version, counter, len(file_id)) == (b"SBXMARK1", 1, 1, 16)
    assert {"sequence": sequence, "digest": digest.hex()} == EXPECTED["mark"]
    assert chain.hex() == EXPECTED["chain"][-1]
    assert cbor2.loads((VECTORS / "cursor").read_bytes())["Acknowledged"] == EXPECTED["acknowledged"]


def test_an_independent_reader_reads_the_tombstone_vector() -> None:
    envelope = cbor2.loads((VECTORS / "tombstone").read_bytes())
    VerifyKey(PUBLIC).verify(b"stagebox.tombstone.v1\0" + envelope["Payload"], envelope["Signature"])
    grave, last = cbor2.loads(envelope["Payload"]), EXPECTED["batches"][-1]
    assert (grave["Version"], grave["First"], grave["Last"]) == (
        1,
        1,
        last["first"] + len(last["records"]) - 1,
    )
    assert (grave["Previous"], grave["Head"].hex()) == (bytes(32), last["digest"])
    assert (grave["Acknowledged"], grave["Reason"]) == (0, "quota")


def test_the_committed_vectors_are_what_the_writer_makes(tmp_path: Path) -> None:
    runpy.run_path(str(VECTORS / "make.py"))["make"](tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (VECTORS / path.name).read_bytes(), path.name


@pytest.mark.parametrize("version", ["", "v1"])
@pytest.mark.parametrize("name", ["clean.hot", "torn.hot"])
def test_our_own_reader_reads_the_hot_file_vectors(version: str, name: str) -> None:
    expected = json.loads((VECTORS / version / "expected.json").read_text())
    data = (VECTORS / version / name).read_bytes()
    header = decode_header(data)
    found = scan(
        data,
        header,
        header.unwrap(decode_key_file((VECTORS / version / "kek.key").read_bytes(), Keeper()), name),
    )
    assert [frame.batch.payload.hex() for frame in found.frames] == [
        b["payload"] for b in expected["batches"]
    ]


@pytest.mark.parametrize("version", ["", "v1"])
def test_our_own_reader_reads_the_segment_vectors(version: str, tmp_path: Path) -> None:
    vectors = VECTORS / version
    stem = tmp_path / f"{1:020d}-{6:020d}"
    for suffix in (".parquet", ".key", ".seal"):
        shutil.copy(vectors / f"segment{suffix}", f"{stem}{suffix}")
    shutil.copy(vectors / "kek.key", tmp_path / "kek.key")
    (tmp_path / "kek.key").chmod(0o600)
    read = read_segment(stem, load_keyring(tmp_path / "kek.key"), PUBLIC)
    assert [batch.payload.hex() for batch in read] == [
        b["payload"] for b in json.loads((vectors / "expected.json").read_text())["batches"]
    ]
