"""Makes the journal's test vectors: ``python tests/vectors/wal/make.py [directory]``.

Keys, identifiers and nonces are counted instead of drawn, so all files but ``segment.*`` come out the same
every time; Parquet encryption draws its own nonces. Keys in here protect nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nacl.signing import SigningKey

from stagebox.records.walbatch import FIRST_PREVIOUS, WalBatch, WalRecord
from stagebox_rack.wal import journal_format as fmt
from stagebox_rack.wal.acknowledged import encode_cursor
from stagebox_rack.wal.keyring import Keyring
from stagebox_rack.wal.layout import Layout
from stagebox_rack.wal.mark import Mark, encode_slot
from stagebox_rack.wal.segment import SegmentFiles, write_segment

RACK = "stage-left"
BOOT = bytes(range(16))
JOURNAL = bytes.fromhex("019b76da7c00700080000000000000aa")
KEK = bytes(range(0x40, 0x60))
DEK = bytes(range(0x60, 0x80))
FILE_ID = bytes(range(0xF0, 0x100))
SIGNING_KEY = SigningKey(bytes(range(32)))
RING = Keyring(1, KEK, JOURNAL, bytes(SIGNING_KEY.verify_key))
TIME = 1_767_225_600_000_000_000


def batches() -> list[WalBatch]:
    """Three batches of one, two and three records."""
    made: list[WalBatch] = []
    first, previous = 1, FIRST_PREVIOUS
    for count in (1, 2, 3):
        records = tuple(
            WalRecord(
                "event" if n % 2 else "meter",
                TIME + n,
                f"rack.{RACK}.{'event' if n % 2 else 'meter.main'}",
                b"%d" % n,
            )
            for n in range(first, first + count)
        )
        made.append(WalBatch(RACK, first, previous, records, journal=JOURNAL))
        first, previous = first + count, made[-1].digest()
    return made


def make(directory: Path) -> None:
    """Write every vector into ``directory``."""
    core = fmt.header_core(RACK, JOURNAL, 1, FIRST_PREVIOUS, BOOT, FILE_ID)
    header = fmt.HotHeader(
        RACK, JOURNAL, 1, FIRST_PREVIOUS, BOOT, FILE_ID, 1, RING.wrap(DEK, core, bytes(12))
    )
    data, chain = header.encode(), header.chain_start()
    chains = [chain]
    for number, batch in enumerate(batches()):
        nonce = (number + 1).to_bytes(12, "big")
        frame = fmt.encode_frame(batch.encode(), batch.first, len(batch.records), chain, DEK, nonce)
        data, chain = data + frame, fmt.advance(chain, frame)
        chains.append(chain)
    last = batches()[-1]
    mark = Mark(last.last, last.digest(), chain, FILE_ID)
    directory.joinpath("kek.key").write_bytes(RING.encode())
    directory.joinpath("clean.hot").write_bytes(data + bytes(256))
    directory.joinpath("torn.hot").write_bytes(data + b"SBF1" + bytes(range(1, 61)) + bytes(192))
    directory.joinpath("mark").write_bytes(bytes(fmt.BLOCK_BYTES) + encode_slot(mark, 1, RING))
    directory.joinpath("cursor").write_bytes(encode_cursor(RACK, JOURNAL, 3))
    directory.joinpath("envelope.cbor").write_bytes(batches()[0].sign(SIGNING_KEY))
    expected = {
        "kek": KEK.hex(),
        "dek": DEK.hex(),
        "rack_public": bytes(SIGNING_KEY.verify_key).hex(),
        "chain": [value.hex() for value in chains],
        "torn_bytes": 64,
        "mark": {"sequence": mark.sequence, "digest": mark.digest.hex()},
        "acknowledged": 3,
        "batches": [
            {
                "first": batch.first,
                "previous": batch.previous.hex(),
                "payload": batch.encode().hex(),
                "digest": batch.digest().hex(),
                "records": [[r.kind, r.time_ns, r.subject, r.data.hex()] for r in batch.records],
            }
            for batch in batches()
        ],
    }
    directory.joinpath("expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def make_segment(directory: Path) -> None:
    """Write ``segment.parquet``, ``segment.key`` and ``segment.seal`` (not the same bytes every time)."""
    layout = Layout(directory)
    layout.make()
    committed = [fmt.CommittedBatch.of(batch.encode())[0] for batch in batches()]
    span = write_segment(layout, committed, RING, SIGNING_KEY, rack=RACK, boot=BOOT, torn_bytes=0)
    for path in SegmentFiles.of(span.stem):
        path.replace(directory / f"segment{path.suffix}")
    for folder in (layout.segments, layout.hot, layout.quarantine):
        folder.rmdir()


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    make(target)
    make_segment(target)
