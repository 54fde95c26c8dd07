"""An independent reader of the journal, written from docs/reference/wal.md alone: it shares no code with the writer."""

from __future__ import annotations

import array
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cbor2
import pyarrow.parquet as pq
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl.signing import VerifyKey
from pyarrow.parquet import encryption

LEVELS = {"peak": "peak", "peak_hold": "hold", "true_peak": "tp", "rms": "rms"}
LEVELS |= {"ppm1": "p1", "ppm2": "p2", "vu": "vu", "momentary": "m"}
PROGRAMME = (
    "momentary",
    "short_term",
    "integrated",
    "range",
    "max_momentary",
    "max_short_term",
    "max_true_peak",
)
DOCUMENTS = {"event": ("event_seq", "name", "event", "detail", "detail")}
DOCUMENTS |= {"alert": ("alert_seq", "name", "event", "detail", "detail")}
DOCUMENTS |= {"status": ("status_seq", "state", "state", "body", "body")}


def kek(path: Path) -> bytes:
    fields = cbor2.loads(path.read_bytes())
    named = fields["KekVersion"].to_bytes(4, "big") + fields["Kek"] + fields["Journal"] + fields["RackPublic"]
    assert fields["Check"] == blake3(b"stagebox.wal.kek.v1\0" + named).digest()[:8]
    return bytes(fields["Kek"])


def unwrap(key: bytes, wrapped: bytes, context: bytes) -> bytes:
    return AESGCM(key).decrypt(wrapped[:12], wrapped[12:], b"stagebox.wal.dek.v1\0" + context)


def read_hot(data: bytes, key: bytes) -> tuple[list[bytes], list[bytes], int]:
    """Return (batch payloads, chain heads, torn bytes) of a hot file."""
    block = data[:4096] if blake3(data[:4064]).digest() == data[4064:4096] else data[4096:8192]
    assert block[:8] == b"SBXHOT1\n"
    assert blake3(block[:4064]).digest() == block[4064:]
    (length,) = struct.unpack(">I", block[8:12])
    header = cbor2.loads(block[12 : 12 + length])
    wrapped = header.pop("WrappedDek")
    assert header.pop("KekVersion") == 1
    core = cbor2.dumps(header, canonical=True)
    dek = unwrap(key, wrapped, core)
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


def read_segment(parquet: bytes, key_file: bytes, seal_file: bytes, key: bytes, public: bytes) -> list[bytes]:
    """Return the batch payloads of a segment, verified up to its seal."""
    envelope = cbor2.loads(seal_file)
    VerifyKey(public).verify(b"stagebox.seal.v1\0" + envelope["Payload"], envelope["Signature"])
    seal = cbor2.loads(envelope["Payload"])
    assert (blake3(parquet).digest(), len(parquet)) == (seal["FileBlake3"], seal["FileBytes"])
    named = {name: seal[name] for name in ("Rack", "First", "Last", "FileId")}
    wrapped = cbor2.loads(key_file)["WrappedDek"]
    dek = unwrap(key, wrapped, b"stagebox.wal.segment.v1\0" + cbor2.dumps(named, canonical=True))
    properties = encryption.create_decryption_properties(dek)
    rows = pq.ParquetFile(io.BytesIO(parquet), decryption_properties=properties).read().to_pylist()
    payloads = list(batches(rows, seal["Rack"], seal["Journal"], seal["Previous"]))
    assert blake3(payloads[-1]).digest() == seal["Head"]
    return payloads


def batches(rows: list[dict[str, Any]], rack: str, journal: bytes, previous: bytes) -> Iterator[bytes]:
    """Yield the batch payloads that ``rows``, in sequence order, were made from."""
    for first in sorted({row["batch"] for row in rows}):
        records = [
            [row["kind"], row["time_ns"], row["subject"], record(row)]
            for row in rows
            if row["batch"] == first
        ]
        batch = {"Version": 1, "Rack": rack, "Journal": journal, "First": first, "Prev": previous}
        payload: bytes = cbor2.dumps({**batch, "Records": records}, canonical=True)
        previous = blake3(payload).digest()
        yield payload


def record(row: dict[str, Any]) -> bytes:
    """Return a row's record: its bytes, or what its typed columns say."""
    if row["data"] is not None:
        return bytes(row["data"])
    kind, typed = row["kind"], row[row["kind"]]
    if kind == "meter":
        return _meter(typed)
    seq, column, name, text, body = DOCUMENTS[kind]
    wire = {"v": 1, "seq": typed[seq], "boot": typed["boot"], "t": typed["recorded_ns"], name: typed[column]}
    return bytes(cbor2.dumps({**wire, body: json.loads(typed[text])}, canonical=True))


def _meter(typed: dict[str, Any]) -> bytes:
    wire: dict[str, Any] = {key: _packed(typed[column], "h", -32768, 77) for column, key in LEVELS.items()}
    programmes = zip(*(typed[f"programme_{name}"] for name in PROGRAMME), strict=True)
    wire |= {
        "v": 2,
        "seq": typed["meter_seq"],
        "boot": typed["boot"],
        "t": typed["captured_ns"],
        "start": typed["start"],
        "n": typed["frames"],
        "rate": typed["rate"],
        "flags": bytes(typed["flags"]),
        "corr": _packed(typed["correlation"], "b", -128, 72),
        "prog": _packed([value for programme in programmes for value in programme], "h", -32768, 77),
    }
    return bytes(cbor2.dumps(wire, canonical=True))


def _packed(values: list[int | None], code: str, none: int, tag: int) -> cbor2.CBORTag:
    packed = array.array(code, [none if value is None else value for value in values])
    return cbor2.CBORTag(tag, packed.tobytes())
