"""What goes from the journal and when, what is left in its place, and the chain of seals."""

from __future__ import annotations

import dataclasses
import errno
import os
import time
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from stagebox.errors import StorageError
from stagebox.records.seal import NO_SEAL, open_seal, seal_hash
from stagebox.records.tombstone import Reason, Tombstone, open_tombstone
from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.hotfile import make_spare
from stagebox_rack.wal.layout import Layout
from stagebox_rack.wal.retention import Eviction
from stagebox_rack.wal.wal import Wal
from support.journal import QUICK, RACK, Bench, eventually, fill, read_all, sequences


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "wal")


STILL = dataclasses.replace(QUICK, wal_maintain=3600.0, wal_maintain_first=3600.0, wal_tail_bytes=0)


async def three_segments(wal: Wal) -> int:
    """Seal records 1-2, 3-4 and 5-6; return the bytes of one segment."""
    for _ in range(3):
        await fill(wal, 2)
        await wal.seal_now()
    return wal._catalogue.segments()[0].size


def aged(wal: Wal, seconds: float) -> None:
    spans = wal._catalogue.segments()
    wal._catalogue._segments = [dataclasses.replace(s, sealed_at=time.time() - seconds) for s in spans]


async def test_acknowledged_segments_stay_for_their_grace_and_then_go(bench: Bench) -> None:
    async with await bench.open(dataclasses.replace(STILL, wal_grace=60.0)) as wal:
        await three_segments(wal)
        wal.acknowledge(4)
        await wal._upkeep.retain()
        assert wal.stats().segments == 3
        aged(wal, 61)
        await wal._upkeep.retain()
        assert sequences(await read_all(wal)) == [5, 6]
    assert len(list(Layout(bench.directory).segments.iterdir())) == 3
    assert [e.detail["reason"] for e in bench.events if e.name == "wal_evicted"] == ["age", "age"]


async def test_a_rack_that_was_off_for_long_ships_before_its_age_counts(bench: Bench) -> None:
    now = [0.0]
    async with await bench.open(STILL, clock=lambda: now[0]) as wal:
        await three_segments(wal)
        aged(wal, STILL.wal_age + 1)
        now[0] = STILL.wal_age_after_start - 1
        await wal._upkeep.retain()
        assert sequences(await read_all(wal)) == [1, 2, 3, 4, 5, 6]
        now[0] += 1
        await wal._upkeep.retain()
        assert sequences(await read_all(wal))[:2] == [5, 6]
    assert [e.detail["reason"] for e in bench.events if e.name == "wal_evicted_unshipped"] == ["age", "age"]


@pytest.mark.parametrize("theirs", [False, True])
async def test_a_tombstone_that_the_rack_did_not_sign_for_it_takes_no_segment_along(
    bench: Bench, theirs: bool
) -> None:
    async with await bench.open(STILL) as wal:
        await three_segments(wal)
        journal = wal.journal
    stem = Layout(bench.directory).segment_stem(1, 2)
    grave = Tombstone(
        RACK, journal, 3 if theirs else 1, 4, bytes(32), bytes(32), bytes(32), False, Reason.QUOTA, 1
    )
    key = bench.key if theirs else SigningKey.generate()
    stem.with_suffix(".tombstone").write_bytes(grave.sign(key))
    async with await bench.open(STILL) as wal:
        assert sequences(await read_all(wal))[:6] == [1, 2, 3, 4, 5, 6]
    assert bench.event("wal_damaged")["file"] == f"{stem.name}.tombstone.1"


async def test_a_hot_file_whose_segment_was_lost_is_kept(bench: Bench) -> None:
    async with await bench.open(STILL) as wal:
        await fill(wal, 2)
        await wal.seal_now()
        await fill(wal, 2)
        (hot,) = Layout(bench.directory).hot_files()
        kept = hot.read_bytes()
        await wal.seal_now()
        await fill(wal, 2)
        await wal.seal_now()
    hot.write_bytes(kept)
    for path in Layout(bench.directory).segments.glob(f"{3:020d}-*"):
        path.unlink()
    async with await bench.open(STILL):
        assert (Layout(bench.directory).quarantine / f"{hot.name}.1").read_bytes() == kept
    assert bench.event("wal_damaged")["reason"] == "the segment of its records is gone"


async def test_a_segment_that_lost_its_seal_is_kept_if_no_hot_file_has_its_records(bench: Bench) -> None:
    async with await bench.open(STILL) as wal:
        await fill(wal, 2)
        (hot,) = Layout(bench.directory).hot_files()
        kept = hot.read_bytes()
        await wal.seal_now()
        await fill(wal, 2)
        await wal.seal_now()
    hot.write_bytes(kept)  # of records 1 and 2
    stem = Layout(bench.directory).segment_stem(3, 4)
    stem.with_suffix(".seal").unlink()
    async with await bench.open(STILL):
        held = {path.name for path in Layout(bench.directory).quarantine.iterdir()}
    assert held == {f"{stem.name}.key.1", f"{stem.name}.parquet.1"}


async def test_the_quota_takes_acknowledged_segments_within_their_grace(bench: Bench) -> None:
    async with await bench.open(STILL) as wal:
        size = await three_segments(wal)
        wal.acknowledge(6)
        wal._upkeep._limits = dataclasses.replace(STILL, wal_quota_bytes=2 * size + size // 2)
        await wal._upkeep.retain()
        assert sequences(await read_all(wal)) == [3, 4, 5, 6]
        assert bench.event("wal_evicted")["reason"] == "quota"
        assert wal.stats().lost == 0


async def test_what_the_mixer_never_had_goes_last_with_an_alert_and_a_signed_tombstone(bench: Bench) -> None:
    async with await bench.open(STILL) as wal:
        size = await three_segments(wal)
        wal.acknowledge(2)
        wal._upkeep._limits = dataclasses.replace(STILL, wal_quota_bytes=size + size // 2)
        await wal._upkeep.retain()
        assert bench.event("wal_evicted_unshipped") == {
            "first": 3,
            "last": 4,
            "bytes": size,
            "reason": "quota",
        }
        assert wal.stats().lost == 2
        await wal.wait_committed(7)
        batches = await read_all(wal)
        tombstone = Layout(bench.directory).segment_stem(3, 4).with_suffix(".tombstone")
        assert tombstone.exists(), "it stays until the mixer knows"
        wal.acknowledge(7)
        await eventually(lambda: not tombstone.exists())
    records = [record for batch in batches for record in batch.decode().records]
    assert sequences(batches) == [5, 6, 7]
    grave = open_tombstone(records[-1].data, bench.public)
    assert (records[-1].kind, grave.first, grave.last, grave.acknowledged) == ("tombstone", 3, 4, False)


async def test_a_tombstone_that_is_evicted_before_the_mixer_had_it_is_journalled_again(bench: Bench) -> None:
    async with await bench.open(STILL) as wal:
        await three_segments(wal)
        wal._upkeep._limits = dataclasses.replace(STILL, wal_quota_bytes=1)
        await wal._upkeep.retain()  # records 1 to 4 go; 7 and 8 are their tombstones
        await wal.wait_committed(8)
        await wal.seal_now()
        await fill(wal, 1)
        await wal.seal_now()
        await wal._upkeep.retain()  # so do 5 to 8
        await wal.wait_committed(13)
        records = [record for batch in await read_all(wal, 9) for record in batch.decode().records]
    graves = [open_tombstone(record.data, bench.public) for record in records if record.kind == "tombstone"]
    assert sorted(grave.first for grave in graves) == [1, 3, 5, 7]


class StuckDisk(Disk):
    """Fails at the ``nth`` sync of a directory: of a segment that goes, its tombstone, its seal, its data."""

    def __init__(self, nth: int) -> None:
        self._left = nth

    def sync_dir(self, path: Path) -> None:
        super().sync_dir(path)
        self._left -= 1
        if not self._left:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_an_eviction_that_fails_in_the_middle_is_finished_and_still_tells(
    bench: Bench, nth: int, restart: bool
) -> None:
    async with await bench.open(STILL) as wal:
        await three_segments(wal)
        wal._upkeep._evictor._disk = StuckDisk(nth)
        oldest = Eviction(wal._catalogue.segments()[0], acknowledged=False, reason=Reason.QUOTA)
        with pytest.raises(StorageError, match="cannot remove a segment"):
            wal._upkeep._evictor.evict([oldest])
        assert wal.missing(1, 2) == (nth > 1), "a segment counts until its tombstone is durable"
        if not restart:
            wal._upkeep._evictor.evict([oldest])
            await wal.wait_committed(7)
            wal.acknowledge(7)
            await eventually(lambda: len(list(Layout(bench.directory).segments.iterdir())) == 6)
    async with await bench.open(STILL) as wal:
        await wal.wait_committed(7)
        batches = await read_all(wal)
        assert sequences(batches)[:5] == [3, 4, 5, 6, 7]
        assert batches[2].decode().records[0].kind == "tombstone"
        left = [
            path.suffix
            for path in Layout(bench.directory).segments.iterdir()
            if path.stem.startswith("0" * 19 + "1")
        ]
        assert left == ([".tombstone"] if restart else [])
    assert "wal_damaged" not in bench.names()


async def test_every_seal_is_journalled_and_names_the_one_before_it(bench: Bench) -> None:
    async with await bench.open(STILL, journal_seals=True) as wal:
        await fill(wal, 2)
        await wal.seal_now()
        await wal.wait_committed(3)
        await wal.seal_now()
        await wal.wait_committed(4)
        records = [r for batch in await read_all(wal) for r in batch.decode().records]
    seals = [record.data for record in records if record.kind == "seal"]
    first, second = (open_seal(data, bench.public) for data in seals)
    assert (first.first, first.last, first.previous_seal) == (1, 2, NO_SEAL)
    assert (second.first, second.last, second.previous_seal) == (3, 3, seal_hash(seals[0]))


async def test_a_seal_that_a_crash_kept_from_the_journal_is_journalled_at_the_next_start(
    bench: Bench,
) -> None:
    async with await bench.open(STILL) as wal:
        await fill(wal, 2)
        await wal.seal_now()
    async with await bench.open(STILL, journal_seals=True) as wal:
        await wal.wait_committed(3)
        assert (await read_all(wal))[-1].decode().records[0].kind == "seal"


async def test_a_sealed_hot_file_becomes_the_spare_of_zeros_if_there_is_none(bench: Bench) -> None:
    async with await bench.open(STILL) as wal:
        layout = Layout(bench.directory)
        await fill(wal, 2)
        (hot,) = layout.hot_files()
        inode = hot.stat().st_ino
        await wal.seal_now()
        assert layout.spare.stat().st_ino == inode
        assert layout.spare.read_bytes() == bytes(STILL.wal_hot_file_bytes)
        await fill(wal, 2)
        assert layout.hot_files()[0].stat().st_ino == inode
        make_spare(layout, STILL.wal_hot_file_bytes, Disk())
        await wal.seal_now()
        assert not layout.hot_files()
        assert sequences(await read_all(wal)) == [1, 2, 3, 4]
