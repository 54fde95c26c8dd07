"""The writer on a failing disk: nothing promised that is not durable, and it goes on when it can."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from stagebox.errors import StorageError
from support.journal import Bench, FailingDisk, read_all, record, sequences


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "wal")


def nth(operation: str, numbers: set[int], code: int) -> Callable[[str], int]:
    """Fail the given calls (counted from 1) of ``operation``."""
    seen = 0

    def fail(name: str) -> int:
        nonlocal seen
        if name != operation:
            return 0
        seen += 1
        return code if seen in numbers else 0

    return fail


async def recovered(bench: Bench) -> list[int]:
    async with await bench.open() as wal:
        return [int.from_bytes(r.data[:8], "big") for b in await read_all(wal) for r in b.decode().records]


@pytest.mark.parametrize("operation", ["pwrite", "datasync"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", range(1, 14))
async def test_after_any_one_failing_call_every_acknowledged_record_is_there_once(
    bench: Bench, operation: str, code: int, call: int
) -> None:
    journal, _ = bench.writer(FailingDisk(nth(operation, {call}, code)))
    acknowledged = []
    for number in range(6):
        try:
            journal.commit([record(number)])
        except StorageError:
            continue
        acknowledged.append(number)
    journal.close()
    found = await recovered(bench)
    assert [n for n in found if n in acknowledged] == acknowledged
    assert len(found) == len(set(found))
    assert len(acknowledged) >= 5


async def test_a_failed_sync_is_never_asked_again_on_the_same_file(bench: Bench) -> None:
    disk = FailingDisk(lambda _: 0)
    journal, _ = bench.writer(disk)
    journal.commit([record(0)])
    failed: list[int] = []

    def fail(operation: str) -> int:
        if operation == "datasync" and not failed:
            failed.append(disk.synced[-1])
            return errno.EIO
        return 0

    disk._fail = fail
    disk.synced.clear()
    old = journal._active
    journal.commit([record(1)])
    assert journal._active is not old
    assert disk.synced.count(failed[0]) == 1
    assert bench.event("wal_file_given_up")["reason"]
    assert journal.next_sequence == 3
    journal.close()
    assert await recovered(bench) == [0, 1]


async def test_a_full_disk_fails_the_group_reports_once_and_goes_on_when_space_returns(bench: Bench) -> None:
    full = True

    def fail(operation: str) -> int:
        return errno.ENOSPC if full and operation in ("pwrite", "create") else 0

    journal, _ = bench.writer(FailingDisk(fail))
    journal._edges = type(journal._edges)(journal._edges.disk, clock=lambda: clock[0])
    clock = [0.0]
    for number in range(3):
        with pytest.raises(StorageError, match="No space left") as caught:
            journal.commit([record(number)])
        assert caught.value.remedy is not None
        clock[0] += 1.0
    assert bench.names().count("wal_disk_full") == 1
    full = False
    clock[0] += 1.0
    assert journal.commit([record(3)]).first == 1, "what failed was not promised and its sequence is free"
    assert bench.names()[-1] == "wal_recovered"
    journal.close()
    assert await recovered(bench) == [3]


async def test_a_short_write_on_a_full_disk_leaves_only_whole_frames(bench: Bench) -> None:
    disk = FailingDisk(lambda _: 0)
    journal, _ = bench.writer(disk)
    journal.commit([record(0)])
    disk._fail = lambda operation: errno.ENOSPC if operation in ("pwrite", "create") else 0
    with pytest.raises(StorageError):
        journal.commit([record(1, size=4096)])
    (hot,) = list((bench.directory / "hot").glob("*.hot"))
    assert hot.read_bytes().count(b"SBF1") == 1, "the half-written frame was cut off"
    disk._fail = lambda _: 0
    journal._retry_at = -1.0
    journal.commit([record(2)])
    journal.close()
    assert await recovered(bench) == [0, 2]


async def test_a_mark_that_cannot_be_written_is_reported_and_does_not_stop_commits(bench: Bench) -> None:
    class NoMark(FailingDisk):
        def create(self, path: Path) -> int:
            if path.name == "mark":
                raise OSError(errno.EIO, "Input/output error")
            return super().create(path)

    journal, _ = bench.writer(NoMark(lambda _: 0))
    for number in range(3):
        journal.commit([record(number)])
    journal.close()
    assert bench.names().count("wal_mark_failed") == 1
    async with await bench.open() as wal:
        assert sequences(await read_all(wal)) == [1, 2, 3]
        assert "wal_mark_missing" in bench.names()


class KeepsWhatItRefusedDisk(FailingDisk):
    """Fails, and does not let the journal cut what it wrote before."""

    def truncate(self, descriptor: int, size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")


async def test_a_batch_left_in_a_failed_file_and_written_again_counts_once(bench: Bench) -> None:
    disk = KeepsWhatItRefusedDisk(lambda _: 0)
    journal, _ = bench.writer(disk)
    journal.commit([record(0)])
    disk._fail = nth("datasync", {1}, errno.EIO)
    journal.commit([record(1)])
    journal.commit([record(2)])
    hot = sorted((bench.directory / "hot").glob("*.hot"))
    assert [path.read_bytes().count(b"SBF1") for path in hot] == [2, 2], "record 1 lies in both files"
    assert await recovered(bench) == [0, 1, 2]


async def test_a_refused_batch_left_in_a_failed_file_does_not_displace_the_acknowledged_one(
    bench: Bench,
) -> None:
    disk = KeepsWhatItRefusedDisk(lambda _: 0)
    journal, _ = bench.writer(disk)
    journal.commit([record(0)])
    disk._fail = nth("datasync", {1, 2}, errno.EIO)
    with pytest.raises(StorageError):
        journal.commit([record(1)])
    assert journal.commit([record(2)]).first == 2
    assert await recovered(bench) == [0, 2]
