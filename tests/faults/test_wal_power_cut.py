"""A power cut forgets writes and names that were not synced, or part of them: what was acknowledged is untouched."""

from __future__ import annotations

import contextlib
import errno
import random
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from stagebox.errors import StorageError
from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.events import JournalEvent
from stagebox_rack.wal.inspect import verify
from support.fake_disk import FakeDisk, Fault, PowerCutError
from support.journal import QUICK, Bench, read_all, record
from support.journey import RackSteps


@pytest.fixture
def attic(tmp_path: Path) -> Path:
    path = tmp_path / "attic"
    path.mkdir()
    return path


@pytest.mark.parametrize("seed", range(40))
async def test_a_power_cut_after_any_call_loses_nothing_acknowledged(
    tmp_path: Path, attic: Path, seed: int
) -> None:
    source = random.Random(seed)
    bench = Bench(tmp_path / "wal")
    acknowledged: list[int] = []
    for life in range(3):
        disk = FakeDisk(attic, source, [Fault(PowerCutError, source.randrange(1, 60))])
        try:
            journal, _ = bench.writer(disk)
            for number in range(life * 1000, life * 1000 + 40):
                journal.commit([record(number, size=source.choice([64, 3000]))])
                acknowledged.append(number)
        except PowerCutError:
            disk.cut()
        else:
            journal.close()
            disk.cut()
    async with await bench.open() as wal:
        batches = await read_all(wal)
        held = [int.from_bytes(r.data[:8], "big") for b in batches for r in b.decode().records]
        await wal.append(
            "meter", 1, "rack.stage-left.meter.main", b"writes the mark that the cut may have taken"
        )
    assert [n for n in held if n in set(acknowledged)] == acknowledged
    assert len(held) - len(acknowledged) <= 3, "only a group in flight may survive unacknowledged"
    assert "wal_tail_missing" not in bench.names()
    assert "wal_damaged" not in bench.names()
    assert verify(bench.directory, bench.public).records == len(held) + 1


@pytest.mark.parametrize("calls", range(40))
def test_a_seal_whose_naming_failed_never_meets_the_key_of_another_attempt(
    tmp_path: Path, attic: Path, calls: int
) -> None:
    key, events = SigningKey(bytes(range(32))), list[JournalEvent]()
    disk = FakeDisk(attic, random.Random(calls))
    rack = RackSteps(tmp_path / "wal", key, disk, QUICK, events)
    for number in range(10):
        rack.journal.commit([record(number)])
    rack.journal.rotate()
    naming_of_the_seal = 2  # after those of the file and the key
    disk.faults.append(Fault(errno.EIO, naming_of_the_seal, frozenset({"sync_dir"})))
    with pytest.raises(StorageError, match="cannot seal"):
        rack.seal()
    disk.faults.append(Fault(PowerCutError, calls))
    with contextlib.suppress(PowerCutError):
        rack.seal()
    disk.cut()
    rack.abandon()
    (tmp_path / "wal" / "mark").unlink()  # a mark would have the pair set aside instead of refused

    rack = RackSteps(tmp_path / "wal", key, Disk(), QUICK, events)
    held = [r for batch in rack.batches_after(0) for r in batch.decode().records]
    rack.abandon()
    assert held == [record(number) for number in range(10)]
    assert not [event for event in events if event.severity == "alert"]
