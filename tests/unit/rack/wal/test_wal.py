"""The journal as the application sees it: durable answers, back-pressure, recovery, retention."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import threading
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from stagebox.errors import InputError, KeyFileError, StorageError, VerificationError
from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.journal_format import CommittedBatch
from stagebox_rack.wal.layout import Layout
from stagebox_rack.wal.mark import MAGIC
from stagebox_rack.wal.wal import Wal
from support.journal import QUICK, RACK, SUBJECT, Bench, fill, read_all, record, sequences


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "wal")


def assert_chained(batches: list[CommittedBatch]) -> None:
    for before, after in itertools.pairwise(batches):
        assert (after.first, after.previous) == (before.last + 1, before.digest)


async def test_sequences_start_at_one_and_go_on_after_a_restart(bench: Bench) -> None:
    async with await bench.open() as wal:
        assert await fill(wal, 10) == 10
        assert wal.committed == 10
    async with await bench.open() as wal:
        assert await fill(wal, 5) == 15
        batches = await read_all(wal)
    assert sequences(batches) == list(range(1, 16))
    assert_chained(batches)
    assert batches[0].previous == bytes(32)


async def test_records_come_back_as_appended_from_memory_from_hot_files_and_from_segments(
    bench: Bench,
) -> None:
    no_tail = dataclasses.replace(QUICK, wal_tail_bytes=0)
    async with await bench.open(no_tail) as wal:
        for number in range(30):
            await wal.append("event", number, "rack.stage-left.event", b"%d" % number * 400)
        hot = await read_all(wal)
        await wal.seal_now()
        assert wal.stats().hot_files == 0
        sealed = await read_all(wal)
    assert [b.payload for b in hot] == [b.payload for b in sealed]
    records = [r for b in sealed for r in b.decode().records]
    assert [(r.kind, r.time_ns, r.data) for r in records] == [
        ("event", n, b"%d" % n * 400) for n in range(30)
    ]


async def test_reading_starts_in_the_middle_of_the_journal(bench: Bench) -> None:
    async with await bench.open() as wal:
        await fill(wal, 3)
        await wal.seal_now()
        await fill(wal, 3)
        assert sequences(await read_all(wal, after=3)) == [4, 5, 6]
        assert await read_all(wal, after=6) == []


async def test_appends_within_the_window_share_one_batch_and_an_urgent_one_does_not_wait(
    bench: Bench,
) -> None:
    slow = dataclasses.replace(QUICK, wal_commit_window=30.0)
    async with await bench.open(slow) as wal:
        first = wal.append("meter", 1, SUBJECT, b"a")
        assert await asyncio.wait_for(wal.append("alert", 2, SUBJECT, b"b", urgent=True), 5) == 2
        assert await first == 1
        assert len(await read_all(wal)) == 1


async def test_nothing_is_handed_out_before_it_is_committed(bench: Bench) -> None:
    slow = dataclasses.replace(QUICK, wal_commit_window=30.0)
    wal = await bench.open(slow)
    pending = wal.append("meter", 1, SUBJECT, b"a")
    await asyncio.sleep(0.05)
    assert not pending.done()
    assert await read_all(wal) == []
    await wal.close()
    assert pending.result() == 1


class SlowMark(Disk):
    """The high-water mark is not written before ``go``."""

    def __init__(self) -> None:
        self.go, self.waits = threading.Event(), threading.Event()

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        if bytes(data[: len(MAGIC)]) == MAGIC:
            self.waits.set()
            self.go.wait(10)
        return super().pwrite(descriptor, data, offset)


async def test_what_is_durable_is_not_handed_out_before_it_is_announced(bench: Bench) -> None:
    disk = SlowMark()
    async with await bench.open(dataclasses.replace(QUICK, wal_tail_bytes=0), disk=disk) as wal:
        pending = wal.append("meter", 1, SUBJECT, b"a", urgent=True)
        assert await asyncio.to_thread(disk.waits.wait, 10)
        handed_out = await read_all(wal)
        disk.go.set()
        assert handed_out == [], "whoever ships it would acknowledge what nobody was told of"
        assert await pending == 1
        assert sequences(await read_all(wal)) == [1]


async def test_a_filling_queue_refuses_measurements_before_events_before_alerts(bench: Bench) -> None:
    narrow = dataclasses.replace(QUICK, wal_commit_window=30.0, wal_queue_records=10)
    taken: dict[str, int] = {}
    async with await bench.open(narrow) as wal:
        for kind, remedy in (("meter", "slower"), ("event", "slower"), ("alert", "slower")):
            with pytest.raises(StorageError, match=r"queue is \d+% full and takes no") as refused:
                while True:
                    wal.append(kind, 1, SUBJECT, b"a")
                    taken[kind] = taken.get(kind, 0) + 1
            assert remedy in str(refused.value.remedy)
        assert taken == {"meter": 5, "event": 3, "alert": 2}
        assert wal.stats().refused_by_class == {"measurement": 1, "event": 1, "alert": 1}
        assert wal.stats().refused == 3


async def test_a_record_that_could_never_be_committed_is_refused_as_input(bench: Bench) -> None:
    async with await bench.open() as wal:
        with pytest.raises(InputError, match="over the"):
            wal.append("meter", 1, SUBJECT, bytes(QUICK.wal_record_bytes + 1))
        with pytest.raises(InputError, match="name"):
            wal.append("k" * 300, 1, SUBJECT, b"")
        with pytest.raises(InputError, match="time"):
            wal.append("meter", -1, SUBJECT, b"")


async def test_the_largest_batch_fits_the_message_and_a_small_hot_file_grows_to_none(bench: Bench) -> None:
    big = dataclasses.replace(QUICK, wal_hot_file_bytes=1 << 20, wal_commit_window=0.2)
    async with await bench.open(big) as wal:
        await asyncio.gather(*(wal.append("m", 1, SUBJECT, bytes(250 << 10)) for _ in range(6)))
        assert max(len(b.payload) for b in await read_all(wal)) < 768 << 10


async def test_a_second_process_is_kept_out(bench: Bench) -> None:
    async with await bench.open():
        with pytest.raises(StorageError, match="in use by another process"):
            await bench.open()


async def test_an_append_after_close_is_refused(bench: Bench) -> None:
    wal = await bench.open()
    await wal.close()
    with pytest.raises(StorageError, match="closed"):
        wal.append("meter", 1, SUBJECT, b"")


async def test_another_key_file_stops_the_journal_and_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    async with await bench.open() as wal:
        await fill(wal, 3)
    other = Bench(tmp_path / "other")
    async with await other.open() as wal:
        pass
    kek = bench.directory / "kek.key"
    right = kek.read_bytes()
    kek.write_bytes((other.directory / "kek.key").read_bytes())
    with pytest.raises(VerificationError, match="does not open with this journal key"):
        await bench.open()
    kek.unlink()
    with pytest.raises(KeyFileError, match="is missing but its journal is there"):
        await bench.open()
    assert not kek.exists()
    kek.write_bytes(right)
    kek.chmod(0o600)
    async with await bench.open() as wal:
        assert sequences(await read_all(wal)) == [1, 2, 3]


async def test_another_identity_key_stops_the_journal_and_changes_nothing(bench: Bench) -> None:
    async with await bench.open() as wal:
        await fill(wal, 3)
    before = {p: p.read_bytes() for p in bench.directory.rglob("*") if p.is_file()}
    with pytest.raises(VerificationError, match="another identity key") as caught:
        await Bench(bench.directory, SigningKey.generate()).open()
    assert "enrolled anew" in (caught.value.remedy or "")
    assert {p: p.read_bytes() for p in bench.directory.rglob("*") if p.is_file()} == before


async def crash(bench: Bench, groups: int) -> None:
    """Leave a journal as a killed process does: hot file not closed, nothing sealed."""
    journal, _ = bench.writer()
    for number in range(groups):
        journal.commit([record(number)])
    journal._mark.sync()


async def test_a_killed_process_loses_nothing_and_its_file_is_not_appended_to(bench: Bench) -> None:
    await crash(bench, 4)
    (hot,) = Layout(bench.directory).hot_files()
    before = hot.read_bytes()
    async with await bench.open() as wal:
        assert await fill(wal, 1) == 5
        assert hot.read_bytes() == before
        assert sequences(await read_all(wal)) == [1, 2, 3, 4, 5]
    assert not hot.exists()


async def test_a_torn_tail_is_cut_and_reported(bench: Bench) -> None:
    await crash(bench, 3)
    (hot,) = Layout(bench.directory).hot_files()
    journal_end = len(hot.read_bytes().rstrip(b"\0"))
    with hot.open("r+b") as stream:
        stream.seek(journal_end)
        stream.write(b"SBF1" + os.urandom(50))
    async with await bench.open() as wal:
        assert wal.committed == 3
        assert bench.event("wal_torn_tail")["bytes"] >= 50
        await wal.seal_now()
    assert "wal_damaged" not in bench.names()


async def test_a_shortened_tail_is_noticed_and_its_sequences_are_not_used_again(bench: Bench) -> None:
    await crash(bench, 5)
    (hot,) = Layout(bench.directory).hot_files()
    data = hot.read_bytes()
    cut = data.rindex(b"SBF1", 0, data.rindex(b"SBF1"))
    hot.write_bytes(data[:cut])
    async with await bench.open() as wal:
        assert bench.event("wal_tail_missing") == {"first": 4, "last": 5}
        assert wal.stats().lost == 2
        assert await fill(wal, 1) == 6
        assert sequences(await read_all(wal)) == [1, 2, 3, 6]


async def test_a_deleted_journal_is_noticed_by_its_mark(bench: Bench) -> None:
    await crash(bench, 5)
    for path in Layout(bench.directory).hot_files():
        path.unlink()
    async with await bench.open() as wal:
        assert bench.event("wal_tail_missing") == {"first": 1, "last": 5}
        assert await fill(wal, 1) == 6


async def test_damage_in_the_middle_costs_its_frame_and_the_file_is_quarantined(bench: Bench) -> None:
    await crash(bench, 5)
    (hot,) = Layout(bench.directory).hot_files()
    data = bytearray(hot.read_bytes())
    second = data.index(b"SBF1", data.index(b"SBF1") + 4)
    data[second + 80] ^= 1
    hot.write_bytes(data)
    async with await bench.open() as wal:
        await wal.seal_now()
        assert sequences(await read_all(wal)) == [1, 3, 4, 5]
        assert wal.stats().segments == 2
    assert bench.event("wal_damaged")["first"] == 1
    (kept,) = (bench.directory / "quarantine").iterdir()
    assert kept.read_bytes() == bytes(data)


async def test_a_damaged_file_is_kept_when_the_end_came_after_its_segments_were_sealed(bench: Bench) -> None:
    await crash(bench, 5)
    (hot,) = Layout(bench.directory).hot_files()
    data = bytearray(hot.read_bytes())
    data[data.index(b"SBF1", data.index(b"SBF1") + 4) + 80] ^= 1
    hot.write_bytes(data)
    async with await bench.open() as wal:
        await wal.seal_now()
    (kept,) = (bench.directory / "quarantine").iterdir()
    kept.rename(hot)
    async with await bench.open() as wal:
        assert sequences(await read_all(wal)) == [1, 3, 4, 5]
    assert kept.read_bytes() == bytes(data)
    assert not hot.exists()


async def test_a_damaged_header_block_costs_nothing(bench: Bench) -> None:
    await crash(bench, 3)
    (hot,) = Layout(bench.directory).hot_files()
    data = bytearray(hot.read_bytes())
    data[20] ^= 1
    hot.write_bytes(data)
    async with await bench.open() as wal:
        assert sequences(await read_all(wal)) == [1, 2, 3]


async def test_an_altered_segment_is_never_handed_out(bench: Bench) -> None:
    async with await bench.open() as wal:
        await fill(wal, 3)
    (parquet,) = Layout(bench.directory).segments.glob("*.parquet")
    data = bytearray(parquet.read_bytes())
    data[len(data) // 2] ^= 1
    parquet.write_bytes(data)
    async with await bench.open() as wal:
        with pytest.raises(VerificationError, match="altered"):
            await read_all(wal)


async def test_a_seal_by_another_key_is_quarantined_with_an_alert(bench: Bench) -> None:
    async with await bench.open() as wal:
        await fill(wal, 3)
    (seal,) = Layout(bench.directory).segments.glob("*.seal")
    data = bytearray(seal.read_bytes())
    data[-1] ^= 1
    seal.write_bytes(data)
    async with await bench.open() as wal:
        assert bench.event("wal_damaged")["last"] == 3
        assert bench.event("wal_tail_missing") == {"first": 1, "last": 3}
        assert await fill(wal, 1) == 4
    assert len(list((bench.directory / "quarantine").iterdir())) == 3


async def test_a_crash_between_seal_and_unlink_repeats_nothing(bench: Bench) -> None:
    async with await bench.open() as wal:
        await fill(wal, 3)
        kept = [(p, p.read_bytes()) for p in Layout(bench.directory).hot_files()]
        await wal.seal_now()
    for path, data in kept:
        path.write_bytes(data)
    async with await bench.open() as wal:
        assert sequences(await read_all(wal)) == [1, 2, 3]
    assert Layout(bench.directory).hot_files() == []


async def test_a_crash_before_the_seal_is_written_seals_again(bench: Bench) -> None:
    async with await bench.open() as wal:
        await fill(wal, 3)
        kept = [(p, p.read_bytes()) for p in Layout(bench.directory).hot_files()]
        await wal.seal_now()
    for path, data in kept:
        path.write_bytes(data)
    (seal,) = Layout(bench.directory).segments.glob("*.seal")
    seal.unlink()
    async with await bench.open() as wal:
        assert sequences(await read_all(wal)) == [1, 2, 3]
        await wal.seal_now()
        assert sequences(await read_all(wal)) == [1, 2, 3]
    assert "wal_damaged" not in bench.names()


async def test_the_acknowledged_cursor_survives_and_a_damaged_one_counts_as_zero(bench: Bench) -> None:
    async with await bench.open() as wal:
        await fill(wal, 3)
        wal.acknowledge(2)
        with pytest.raises(ValueError, match="never committed"):
            wal.acknowledge(4)
    async with await bench.open() as wal:
        assert wal.acknowledged == 2
    (bench.directory / "cursor").write_bytes(b"\xa1")
    async with await bench.open() as wal:
        assert wal.acknowledged == 0
    assert "wal_cursor_unreadable" in bench.names()


async def test_a_journal_is_not_opened_by_another_rack(bench: Bench) -> None:
    await crash(bench, 1)
    with pytest.raises(VerificationError, match=f"belongs to rack '{RACK}'"):
        await Wal.open(
            bench.directory, rack="other", signing_key=bench.key, boot=bytes(16), limits=QUICK, on_event=print
        )


async def test_reading_goes_on_while_the_journal_is_written_and_sealed(bench: Bench) -> None:
    no_tail = dataclasses.replace(QUICK, wal_tail_bytes=0, wal_maintain_first=0.01)
    async with await bench.open(no_tail) as wal:

        async def write() -> None:
            for _ in range(40):
                await fill(wal, 20, size=200)

        writer = asyncio.create_task(write())
        seen: list[int] = []
        while len(seen) < 800:
            await wal.wait_committed(len(seen) + 1)
            seen += sequences(await read_all(wal, after=len(seen)))
        await writer
    assert seen == list(range(1, 801))


async def test_nothing_is_left_running_after_close(bench: Bench) -> None:
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    async with await bench.open() as wal:
        await fill(wal, 3)
    assert not [t for t in threading.enumerate() if t.name == "wal-writer"]
    assert len(asyncio.all_tasks()) == 1
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors
