"""Makes the journal's test vectors: ``python tests/vectors/wal/make.py [directory]``.

Keys, identifiers and nonces are counted instead of drawn, so all files but ``segment.*`` come out the same
every time; Parquet encryption draws its own nonces. Keys in here protect nothing.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

from blake3 import blake3
from nacl.signing import SigningKey

from stagebox import cbor
from stagebox.records.event import Event
from stagebox.records.meter import MeterFrame, ProgrammeLevels, levels
from stagebox.records.seal import NO_SEAL
from stagebox.records.tombstone import Reason, Tombstone
from stagebox.records.walbatch import FIRST_PREVIOUS, WalBatch, WalRecord
from stagebox_rack.wal import journal_format as fmt
from stagebox_rack.wal.acknowledged import encode_cursor
from stagebox_rack.wal.catalogue import Catalogue
from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.hotfile import HotSpan
from stagebox_rack.wal.keyring import Keyring
from stagebox_rack.wal.layout import Layout
from stagebox_rack.wal.mark import Mark, encode_slot
from stagebox_rack.wal.sealing import Sealer
from stagebox_rack.wal.segment import SegmentFiles

RACK = "stage-left"
BOOT = bytes(range(16))
JOURNAL = bytes.fromhex("019b76da7c00700080000000000000aa")
KEK = bytes(range(0x40, 0x60))
DEK = bytes(range(0x60, 0x80))
FILE_ID = bytes(range(0xF0, 0x100))
SIGNING_KEY = SigningKey(bytes(range(32)))
RING = Keyring(1, KEK, JOURNAL, bytes(SIGNING_KEY.verify_key))
TIME = 1_767_225_600_000_000_000


def _record(number: int) -> WalRecord:
    """A record of a kind of its own: meter frames, an event, one whose detail JSON cannot hold, and an unknown kind."""
    time_ns = TIME + number
    names = ("peak", "peak_hold", "true_peak", "rms", "ppm1", "ppm2", "vu", "momentary")
    measured: dict[str, Any] = dict.fromkeys(names, levels([-20.0 - number, math.nan]))
    frame = MeterFrame(
        seq=number,
        boot=BOOT,
        time_ns=time_ns,
        start=number * 2400,
        frames=2400,
        rate=48_000,
        **measured,
        flags=bytes([number, 0]),
        correlation=levels([0.5]),
        programmes=(ProgrammeLevels(-23.0, -23.5, math.nan, 0.0, -22.0, -23.0, -1.0),),
    )
    event = Event(number, BOOT, time_ns, "clip", {"channel": 1, "level": -0.5})
    alert = Event(number, BOOT, time_ns, "forked", {"digest": bytes(4)})
    kind, data = {
        1: ("meter", frame.encode()),
        2: ("event", event.encode()),
        3: ("meter", frame.encode()),
        4: ("alert", alert.encode()),
        5: ("unheard_of", b"\x00\x01"),
    }.get(number, ("meter", b"not a meter frame"))
    return WalRecord(kind, time_ns, f"rack.{RACK}.{'meter.main' if kind == 'meter' else kind}", data)


def batches() -> list[WalBatch]:
    """Three batches of one, two and three records."""
    made: list[WalBatch] = []
    first, previous = 1, FIRST_PREVIOUS
    for count in (1, 2, 3):
        records = tuple(_record(number) for number in range(first, first + count))
        made.append(WalBatch(RACK, first, previous, records, journal=JOURNAL))
        first, previous = first + count, made[-1].digest()
    return made


def _first_key_file() -> bytes:
    """Return the key file in its version 1, which is still read."""
    public = bytes(SIGNING_KEY.verify_key)
    named = b"stagebox.wal.kek.v1\0" + (1).to_bytes(4, "big") + KEK + JOURNAL + public
    fields = {"Version": 1, "KekVersion": 1, "Kek": KEK, "Journal": JOURNAL, "RackPublic": public}
    return cbor.encode({**fields, "Check": blake3(named).digest()[:8]})


def make(directory: Path) -> None:
    """Write every vector into ``directory``."""
    core = fmt.header_core(RACK, JOURNAL, 1, FIRST_PREVIOUS, BOOT, FILE_ID, previous_seal=NO_SEAL)
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
    directory.joinpath("kek.key").write_bytes(_first_key_file())
    directory.joinpath("clean.hot").write_bytes(data + bytes(256))
    directory.joinpath("torn.hot").write_bytes(data + b"SBF1" + bytes(range(1, 61)) + bytes(192))
    directory.joinpath("mark").write_bytes(bytes(fmt.BLOCK_BYTES) + encode_slot(mark, 1, RING))
    directory.joinpath("cursor").write_bytes(encode_cursor(RACK, JOURNAL, 3))
    directory.joinpath("envelope.cbor").write_bytes(batches()[0].sign(SIGNING_KEY))
    grave = Tombstone(
        RACK,
        JOURNAL,
        1,
        last.last,
        FIRST_PREVIOUS,
        last.digest(),
        bytes(range(32)),
        False,
        Reason.QUOTA,
        TIME,
    )
    directory.joinpath("tombstone").write_bytes(grave.sign(SIGNING_KEY))
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
    layout = Layout(directory / "wal")
    layout.make(Disk())
    hot = layout.hot_file(1)
    hot.write_bytes((directory / "clean.hot").read_bytes())
    last = batches()[-1]
    span = HotSpan(hot, 1, last.last, FIRST_PREVIOUS, last.digest(), hot.stat().st_size)
    sealer = Sealer(
        layout,
        RING,
        Catalogue([], [span]),
        SIGNING_KEY,
        rack=RACK,
        on_event=lambda event: None,
        on_seal=lambda data: None,
        clock_quality=lambda: "synchronised",
        disk=Disk(),
    )
    (segment,) = sealer.seal(span)
    for path in SegmentFiles.of(segment.stem):
        path.replace(directory / f"segment{path.suffix}")
    shutil.rmtree(layout.root)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    make(target)
    make_segment(target)
