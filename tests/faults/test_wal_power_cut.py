"""A power cut takes back every write that was not synced, or part of it: what was acknowledged is untouched."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.inspect import verify
from support.journal import Bench, read_all, record


class PowerCutError(BaseException):
    """The machine stopped."""


class VolatileDisk(Disk):
    """Keeps what a write replaced until it is synced, so that :meth:`cut` can take it back.

    Names are as durable as on a journalling file system with ordered data; only file content is lost here.
    """

    def __init__(self, source: random.Random, calls: int) -> None:
        self._source = source
        self._left = calls
        self._unsynced: dict[int, list[tuple[int, int, bytes]]] = {}
        self._open: set[int] = set()

    def create(self, path: Path) -> int:
        descriptor = super().create(path)
        self._open.add(descriptor)
        return descriptor

    def open(self, path: Path) -> int:
        descriptor = super().open(path)
        self._open.add(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        self._open.discard(descriptor)
        super().close(descriptor)

    def _count(self) -> None:
        self._left -= 1
        if self._left <= 0:
            raise PowerCutError

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        inode = os.fstat(descriptor).st_ino
        before = os.pread(descriptor, len(data), offset)
        keep = os.dup(descriptor)
        written = super().pwrite(descriptor, data, offset)
        self._unsynced.setdefault(inode, []).append((keep, offset, before))
        self._count()
        return written

    def datasync(self, descriptor: int) -> None:
        self._count()
        super().datasync(descriptor)
        for keep, _, _ in self._unsynced.pop(os.fstat(descriptor).st_ino, []):
            os.close(keep)

    def cut(self) -> None:
        """Take back what was never synced: each sector of 512 bytes with probability 0.7."""
        for writes in self._unsynced.values():
            for descriptor, offset, before in reversed(writes):
                for start in range(0, len(before), 512):
                    if self._source.random() < 0.7:
                        os.pwrite(descriptor, before[start : start + 512], offset + start)
                os.close(descriptor)
        self._unsynced.clear()
        for descriptor in list(self._open):
            self.close(descriptor)


@pytest.mark.parametrize("seed", range(40))
async def test_a_power_cut_after_any_call_loses_nothing_acknowledged(tmp_path: Path, seed: int) -> None:
    source = random.Random(seed)
    bench = Bench(tmp_path / "wal")
    acknowledged: list[int] = []
    for life in range(3):
        disk = VolatileDisk(source, calls=source.randrange(1, 60))
        journal, _ = bench.writer(disk)
        try:
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
    assert [n for n in held if n in set(acknowledged)] == acknowledged
    assert len(held) - len(acknowledged) <= 3, "only a group in flight may survive unacknowledged"
    assert "wal_tail_missing" not in bench.names()
    assert "wal_damaged" not in bench.names()
    if held:
        assert verify(bench.directory, bench.public).records == len(held)
