"""Every byte of a small journal changed, every file cut at every byte.

Nothing corrupt is handed out; what is in other files and what was before the damage is there; and a start that refuses
has changed nothing: with the byte back, all of it is there again.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from stagebox.errors import StageboxError
from stagebox.records.walbatch import WalRecord
from stagebox_rack.wal import journal_format as fmt
from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.events import JournalEvent
from stagebox_rack.wal.hotfile import HotSpan
from stagebox_rack.wal.layout import Layout
from stagebox_rack.wal.sealing import read_hot
from support.journal import QUICK, record
from support.journey import RackSteps

KEY = SigningKey(bytes(range(32)))
LIMITS = dataclasses.replace(QUICK, wal_hot_file_bytes=12 << 10)
Records = dict[int, WalRecord]
Damage = Callable[[bytes, int], bytes]


def changed(data: bytes, position: int) -> bytes:
    """One bit of a byte; which one goes round, and every bit is tried where files are read (unit tests)."""
    return data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :]


def cut(data: bytes, position: int) -> bytes:
    return data[:position]


class Small:
    """Records 3-6 and 7-10 in segments, 11-14 in a hot file; 1-2 were evicted before the mixer had them."""

    def __init__(self, root: Path) -> None:
        self.whole, self.copy = root / "whole", root / "copy"
        rack = self.start(self.whole)
        self.fill(rack, 2)
        rack.journal.rotate()
        rack.seal()
        for _ in range(2):
            self.fill(rack, 4)
            rack.journal.rotate()
            rack.seal()
        rack.retain(quota_bytes=sum(path.stat().st_size for path in self.segments(".parquet")) - 1)
        rack.save_cursor()
        for _ in range(4):
            self.fill(rack, 1)
        rack.journal.close()
        (hot,) = (span for span in rack.catalogue.spans() if isinstance(span, HotSpan))
        self.ends = {frame.batch.last: frame.end for frame in read_hot(hot, rack.keyring).frames}
        rack.abandon()
        self.records = self.read(self.whole)
        assert sorted(self.records) == list(range(3, 15))

    def start(self, directory: Path) -> RackSteps:
        return RackSteps(directory, KEY, Disk(), LIMITS, list[JournalEvent]())

    def fill(self, rack: RackSteps, count: int) -> None:
        for _ in range(count):
            rack.journal.commit([record(rack.journal.next_sequence)])

    def segments(self, suffix: str) -> list[Path]:
        return sorted(Layout(self.whole).segments.glob(f"*{suffix}"))

    def read(self, directory: Path) -> Records:
        """Open the journal and read every file of it that can be read."""
        rack = self.start(directory)
        try:
            found: Records = {}
            for span in rack.catalogue.spans():
                try:
                    batches = rack.read(span)
                except StageboxError:
                    continue
                for batch in batches:
                    found |= dict(enumerate(batch.decode().records, batch.first))
            return found
        finally:
            rack.abandon()

    def hurt(self, file: Path, damage: Damage, position: int) -> Records | None:
        """Return what a start finds; None if it refuses."""
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.whole, self.copy)
        target, data = self.copy / file.relative_to(self.whole), file.read_bytes()
        target.write_bytes(damage(data, position))
        try:
            return self.read(self.copy)
        except StageboxError:
            target.write_bytes(data)
            assert self.read(self.copy) == self.records, "a start that refused changed something"
            return None


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(tmp_path_factory.mktemp("small"))


def positions(file: Path) -> Iterator[int]:
    """Every byte that says something: not the zeros that a file is filled up with, nor all of two equal headers."""
    data = file.read_bytes()
    used = len(data.rstrip(b"\0"))
    if file.suffix == ".hot":
        yield from range(0, fmt.HEADER_BYTES, 31)
        yield from range(fmt.HEADER_BYTES, used)
    elif file.name == "mark":
        yield from (n for n in range(used) if data[n])
    else:
        yield from range(used)


@pytest.mark.parametrize("damage", [changed, cut])
@pytest.mark.parametrize("what", ["seal", "key", "tombstone", "hot", "mark", "cursor", "kek"])
def test_damage_to_a_small_file_costs_at_most_what_is_in_it(small: Small, what: str, damage: Damage) -> None:
    layout = Layout(small.whole)
    file = {
        "hot": layout.hot_files()[-1],
        "mark": layout.mark,
        "cursor": layout.cursor,
        "kek": layout.kek,
    }.get(what) or small.segments(f".{what}")[0]
    own = {"seal": range(3, 7), "key": range(3, 7), "hot": range(11, 15)}.get(what, range(0))
    refused = 0
    for position in positions(file):
        found = small.hurt(file, damage, position)
        if found is None:
            refused += 1
            continue
        assert found.items() <= small.records.items(), f"byte {position}: something corrupt"
        safe = [
            seq for seq in small.records if seq not in own or small.ends.get(seq, position + 1) <= position
        ]
        assert set(safe) <= set(found), f"byte {position}: what was not damaged is lost"
    assert bool(refused) == (what == "kek"), "only the key file stops a start, and does"


def test_damage_to_a_segments_data_costs_that_segment(small: Small) -> None:
    file = small.segments(".parquet")[0]
    for position in range(0, file.stat().st_size, 97):
        for damage in (changed, cut):
            found = small.hurt(file, damage, position)
            assert found == {seq: held for seq, held in small.records.items() if seq not in range(3, 7)}
