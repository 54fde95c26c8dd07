"""Ingest with a real stream and a real lake: every authentic batch exactly once, nothing else at all."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from nacl.signing import SigningKey

import stagebox.lake
from stagebox import subjects
from stagebox.errors import StageboxError, StorageError, VerificationError
from stagebox.identity import Role
from stagebox.passport import PassportStatus
from stagebox.records.checkpoint import FIRST_PREVIOUS, Checkpoint, StreamDigests
from stagebox.records.digest import record_digest
from stagebox.records.event import Event
from stagebox.records.status import Status
from stagebox.records.tombstone import Reason, Tombstone
from stagebox.records.walbatch import WalRecord
from stagebox_mixer import streams
from stagebox_mixer.ingest import batches
from stagebox_mixer.lake.lake import Lake
from stagebox_mixer.lake.state import JournalState, Missing, Position
from stagebox_mixer.lake.storage import LocalStorage
from stagebox_mixer.limits import LIMITS
from stagebox_rack.state import RackIdentity
from stagebox_rack.wal.jetstream import Outgoing, WalStream
from support.cluster import Cluster, RunningMixer, running_mixer
from support.lake import journals, lake_records
from support.rackside import Journal, connected, rack_options, store, until

RACK = "stage-left"


@pytest.fixture
def journal(rack: RackIdentity) -> Journal:
    return Journal(RACK, rack.key)


async def committed(mixer: RunningMixer, *, batches: int = 0, rejected: int = 0) -> None:
    """Wait until the ingest has dealt with so much since the mixer's start."""

    async def reached() -> bool:
        health = mixer.mixer.health()
        return (health["wal_batches_committed"], health["wal_batches_rejected"]) == (batches, rejected)

    await until(reached)


async def contents(mixer: RunningMixer, journal: Journal) -> list[bytes]:
    """Return the records' data in the lake, in order."""
    found = await asyncio.to_thread(lake_records, mixer, journal.rack, journal.journal)
    assert [seq for seq, _, _ in found] == sorted({seq for seq, _, _ in found})
    return [data for _, _, data in found]


async def rows(mixer: RunningMixer, rack: str = RACK) -> list[JournalState]:
    return await asyncio.to_thread(journals, mixer, rack)


async def test_batches_are_committed_in_order_with_their_chain(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    async with connected(rack_options(rack)) as bus:
        for number in range(20):
            await store(bus, RACK, journal.signed(b"a%d" % number, b"b%d" % number))
    await committed(mixer, batches=20)
    (row,) = await rows(mixer)
    assert (row.last, row.records, row.batches, row.rejected) == (40, 40, 20, 0)
    assert row.head == journal.previous
    assert (await contents(mixer, journal))[-2:] == [b"a19", b"b19"]


async def test_a_batch_delivered_twice_is_committed_once(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    first, second = journal.signed(b"one"), journal.signed(b"two")
    async with connected(rack_options(rack)) as bus:
        for data in (first, first, second, first, second, journal.signed(b"three")):
            await store(bus, RACK, data)
    await committed(mixer, batches=3)
    assert await contents(mixer, journal) == [b"one", b"two", b"three"]


async def test_a_batch_signed_by_another_key_is_rejected_and_audited(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    forged = replace(journal, key=SigningKey.generate())
    async with connected(rack_options(rack)) as bus:
        await store(bus, RACK, forged.signed(b"forged"))
        await store(bus, RACK, journal.signed(b"genuine"))
    await committed(mixer, batches=1, rejected=1)
    assert await contents(mixer, journal) == [b"genuine"]
    row = await mixer.wait_audit(action="wal_batch", reason="signature")
    assert (row["actor"], row["result"]) == (f"rack:{RACK}", "refused")


async def test_what_an_earlier_key_signed_is_committed_after_the_rack_got_a_new_one(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    async with connected(rack_options(rack)) as bus:
        await store(bus, RACK, journal.signed(b"before"))
        await committed(mixer, batches=1)
        stored = await mixer.registry.racks.get(RACK)
        assert stored is not None
        fresh = SigningKey.generate()
        entry = replace(stored.entry, rack_public=bytes(fresh.verify_key), earlier_keys=stored.entry.keys)
        await mixer.registry.racks.put(RACK, entry, revision=stored.revision)
        await store(bus, RACK, journal.signed(b"still by the old key"))
        journal.key = fresh
        await store(bus, RACK, journal.signed(b"by the new key"))
        await store(bus, RACK, replace(journal, key=SigningKey.generate()).signed(b"by nobody's"))
    await committed(mixer, batches=3, rejected=1)
    assert await contents(mixer, journal) == [b"before", b"still by the old key", b"by the new key"]


async def test_a_suspended_racks_shipped_batches_are_committed(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    assert mixer.mixer._ingest is not None
    await mixer.mixer._ingest.stop()
    async with connected(rack_options(rack)) as bus:
        await store(bus, RACK, journal.signed(b"shipped"))
    stored = await mixer.registry.racks.get(RACK)
    assert stored is not None
    suspended = replace(stored.entry, status=PassportStatus.SUSPENDED)
    await mixer.registry.racks.put(RACK, suspended, revision=stored.revision)
    mixer.mixer._ingest._stop.clear()
    await mixer.mixer._ingest.start()
    await committed(mixer, batches=1)


async def test_a_flipped_bit_and_plain_garbage_are_rejected(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    good = journal.signed(b"good")
    flipped = bytearray(good)
    flipped[len(flipped) // 2] ^= 1
    async with connected(rack_options(rack)) as bus:
        for data in (bytes(flipped), b"", b"garbage", good[:-1], good):
            await store(bus, RACK, data)
    await committed(mixer, batches=1, rejected=4)
    await mixer.wait_audit(action="wal_batch", reason="malformed")
    assert await contents(mixer, journal) == [b"good"]


async def test_a_batch_in_another_racks_name_is_rejected(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    async with connected(rack_options(rack)) as bus:
        await store(bus, RACK, replace(journal, rack="stage-right").signed(b"not mine"))
    await committed(mixer, rejected=1)
    await mixer.wait_audit(action="wal_batch", reason="other_rack", subject=RACK)
    assert await rows(mixer, "stage-right") == []


async def test_what_comes_after_a_gap_is_committed_and_the_gap_audited(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    first, _lost, third = (journal.signed(b"%d" % number) for number in range(3))
    async with connected(rack_options(rack)) as bus:
        await store(bus, RACK, first)
        await store(bus, RACK, third)
        await committed(mixer, batches=2)
        row = await mixer.wait_audit(action="wal_gap", reason="missing", subject=RACK)
    assert (row["detail"]["first"], row["detail"]["last"]) == (2, 2)
    assert [entry.missing for entry in await rows(mixer)] == [1]
    assert await contents(mixer, journal) == [b"0", b"2"]


async def test_a_fork_is_rejected_in_either_form(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    async with connected(rack_options(rack)) as bus:
        start = replace(journal)
        await store(bus, RACK, journal.signed(b"one"))
        await store(bus, RACK, start.signed(b"another one"))  # the same number, other content
        await store(bus, RACK, start.signed(b"another two"))  # the next number, another past
    await committed(mixer, batches=1, rejected=2)
    (row,) = await mixer.audit_rows(action="wal_fork")
    assert (row["detail"]["first"], row["detail"]["last"]) == (1, 1)
    await mixer.wait_audit(action="wal_batch", reason="fork")  # the second within a minute is counted only
    assert await contents(mixer, journal) == [b"one"]


async def test_a_new_journal_of_the_same_rack_starts_anew(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    replaced = Journal(RACK, rack.key)
    async with connected(rack_options(rack)) as bus:
        await store(bus, RACK, journal.signed(b"old disk"))
        await store(bus, RACK, replaced.signed(b"new disk"))
    await committed(mixer, batches=2)
    assert sorted(row.journal for row in await rows(mixer)) == sorted([journal.journal, replaced.journal])


async def test_checkpoints_prove_records_and_a_false_one_loses_no_record(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    subject = subjects.event(RACK)
    records = [WalRecord("event", 1, subject, b"r%d" % number) for number in range(3)]

    def checkpoint(key: SigningKey) -> WalRecord:
        digests = tuple(record_digest(subject, record.data) for record in records)
        streams_ = {subject: StreamDigests(1, digests)}
        made = Checkpoint(RACK, bytes(16), 1, FIRST_PREVIOUS, 1, 2, streams_, ())
        return WalRecord("checkpoint", 2, subjects.checkpoint(RACK), made.sign(key))

    async with connected(rack_options(rack)) as bus:
        await store(bus, RACK, journal.of(*records).sign(rack.key))
        await store(bus, RACK, journal.of(checkpoint(SigningKey.generate())).sign(rack.key))
        await store(bus, RACK, journal.of(checkpoint(rack.key)).sign(rack.key))
    await committed(mixer, batches=3)
    (row,) = await rows(mixer)
    assert (row.records, row.checkpoints, row.proved) == (5, 1, 3)
    await mixer.wait_audit(action="wal_checkpoint", reason="checkpoint")


# Crashes and restarts


async def test_a_restart_continues_where_it_stopped(cluster: Cluster, tmp_path: Path) -> None:
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        rack = await mixer.enroll(tmp_path / "rack", RACK)
        journal = Journal(RACK, rack.key)
        async with connected(rack_options(rack)) as bus:
            await store(bus, RACK, journal.signed(b"before"))
        await committed(mixer, batches=1)
        # Stored while nobody ingests: what a mixer finds that was killed before it could commit.
        assert mixer.mixer._ingest is not None
        await mixer.mixer._ingest.stop()
        for number in range(3):
            await store(mixer.bus, RACK, journal.signed(b"while down %d" % number))
    async with running_mixer(cluster, tmp_path / "data") as mixer:
        await store(mixer.bus, RACK, journal.signed(b"after"))
        await committed(mixer, batches=4)
        assert await contents(mixer, journal) == [
            b"before", b"while down 0", b"while down 1", b"while down 2", b"after",
        ]  # fmt: skip


class Trouble:
    """Makes the lake's commits fail, before or after they are durable, so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int, *, durable: bool) -> None:
        self.left = times
        self.happened = asyncio.Event()
        original = Lake._commit

        def commit(target: Lake, *arguments: object) -> None:
            if self.left == 0:
                original(target, *arguments)  # type: ignore[arg-type]
                return
            self.left -= 1
            if durable:
                original(target, *arguments)  # type: ignore[arg-type]
            raise StorageError("the disk is full")

        monkeypatch.setattr(Lake, "_commit", commit)


@pytest.mark.parametrize("durable", [False, True], ids=["before it is durable", "after it is durable"])
async def test_a_commit_that_breaks_off_loses_nothing_and_repeats_nothing(
    mixer: RunningMixer,
    rack: RackIdentity,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
    durable: bool,
) -> None:
    trouble = Trouble(monkeypatch, 2, durable=durable)
    async with connected(rack_options(rack)) as bus:
        for number in range(6):
            # Later batches arrive while the earlier ones are still unconfirmed: none may overtake.
            await store(bus, RACK, journal.signed(b"%d" % number))
    expected = [b"%d" % number for number in range(6)]

    async def complete() -> bool:
        return trouble.left == 0 and await contents(mixer, journal) == expected

    await until(complete)
    (row,) = await rows(mixer)
    assert (row.records, row.batches, row.rejected) == (6, 6, 0)
    assert not await mixer.audit_rows(action="wal_batch")


async def test_a_registry_that_does_not_answer_rejects_nothing(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mixer.mixer._ingest is not None
    registry = mixer.mixer._ingest._registry
    original, asked = registry.rack, 0

    async def rack_entry(name: str) -> object:
        nonlocal asked
        asked += 1
        if asked == 1:  # after the batches were fetched
            raise TimeoutError
        return await original(name)

    async with connected(rack_options(rack)) as bus:
        await mixer.mixer._ingest.stop()
        for number in range(3):
            await store(bus, RACK, journal.signed(b"%d" % number))
    monkeypatch.setattr(registry, "rack", rack_entry)
    mixer.mixer._ingest._stop.clear()
    await mixer.mixer._ingest.start()
    await committed(mixer, batches=3)
    assert asked > 1
    assert await contents(mixer, journal) == [b"0", b"1", b"2"]


async def test_a_stream_made_anew_is_read_from_its_start(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    async with connected(rack_options(rack)) as bus:
        first, second = journal.signed(b"first"), journal.signed(b"second")
        for data in (first, second):
            await store(bus, RACK, data)
        await committed(mixer, batches=2)
        await mixer.bus.js.delete_stream(streams.WAL_STREAM)
        await streams.ensure(mixer.bus.js)
        await store(bus, RACK, second)  # the rack sends again what it no longer finds there
        await store(bus, RACK, journal.signed(b"third"))
    await committed(mixer, batches=3)
    assert await contents(mixer, journal) == [b"first", b"second", b"third"]


async def test_an_older_copy_of_the_stream_is_read_from_its_start(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    assert mixer.mixer._ingest is not None
    async with connected(rack_options(rack)) as bus:
        await store(bus, RACK, journal.signed(b"first"))
        await committed(mixer, batches=1)
        await mixer.mixer._ingest.stop()
        # As if the stream had been further when the lake last read it.
        lake = mixer.mixer._lake
        assert lake is not None
        held = lake.state().position
        await lake.commit([], position=Position(held.stream_id, 1000))
        await store(bus, RACK, journal.signed(b"second"))
        mixer.mixer._ingest._stop.clear()
        await mixer.mixer._ingest.start()
        await committed(mixer, batches=2)
        await mixer.mixer._ingest.trim(mixer.bus.js)
        assert (await mixer.bus.js.get_last_msg(streams.WAL_STREAM, f"rack.{RACK}.wal")).seq == 2
    assert await contents(mixer, journal) == [b"first", b"second"]


async def test_a_stream_made_anew_is_not_trimmed_before_it_is_read(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    assert mixer.mixer._ingest is not None
    async with connected(rack_options(rack)) as bus:
        for number in range(3):
            await store(bus, RACK, journal.signed(b"%d" % number))
        await committed(mixer, batches=3)
        await mixer.mixer._ingest.stop()
        await mixer.bus.js.delete_stream(streams.WAL_STREAM)
        await streams.ensure(mixer.bus.js)
        await store(bus, RACK, journal.signed(b"not committed yet"))
        await mixer.mixer._ingest.trim(mixer.bus.js)
        assert (await mixer.bus.js.stream_info(streams.WAL_STREAM)).state.messages == 1


async def test_a_backlog_in_one_atomic_batch_reaches_the_ledger(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    async with connected(rack_options(rack)) as bus:
        stream = WalStream(bus, subjects.wal(RACK))
        window = [Outgoing(f"id-{number}", journal.signed(b"%d" % number)) for number in range(64)]
        assert await stream.publish(window, 0) == 64
        assert stream.atomic
    await committed(mixer, batches=64)


async def test_a_rack_that_names_ever_new_journals_does_not_fill_the_memory(
    mixer: RunningMixer, rack: RackIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "LIMITS", replace(LIMITS, ingest_journals_per_rack=4))
    async with connected(rack_options(rack)) as bus:
        for number in range(1, 13):
            await store(bus, RACK, Journal(RACK, rack.key).signed(b"x"))
            await until_dealt_with(mixer, number)
    assert mixer.mixer._ingest is not None
    assert len(mixer.mixer._ingest._desk._checks) == 1
    assert len([row for row in await rows(mixer) if row.batches]) == 4
    assert (await mixer.wait_audit(action="wal_batch", reason="journals"))["result"] == "refused"


async def until_dealt_with(mixer: RunningMixer, messages: int) -> None:
    async def reached() -> bool:
        health = mixer.mixer.health()
        return int(health["wal_batches_committed"]) + int(health["wal_batches_rejected"]) == messages

    await until(reached, timeout=30)


async def test_trimming_keeps_each_racks_last_batch_and_all_that_is_not_committed(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal, tmp_path: Path
) -> None:
    other = await mixer.enroll(tmp_path / "other", "stage-right")
    second = Journal("stage-right", other.key)
    assert mixer.mixer._ingest is not None
    async with connected(rack_options(rack)) as left, connected(rack_options(other)) as right:
        last_right = [await store(right, "stage-right", second.signed(b"x")) for _ in range(3)][-1]
        last_left = [await store(left, RACK, journal.signed(b"x")) for _ in range(3)][-1]
        await committed(mixer, batches=6)
        await mixer.mixer._ingest.stop()
        waiting = await store(left, RACK, journal.signed(b"not committed yet"))
        await mixer.mixer._ingest.trim(mixer.bus.js)
        info = await mixer.bus.js.stream_info(streams.WAL_STREAM)
        assert info.state.messages == 3
        for sequence in (last_right, last_left, waiting):
            assert (await mixer.bus.js.get_msg(streams.WAL_STREAM, seq=sequence)).data


# The lake's files


async def test_no_file_of_the_lake_holds_plaintext_of_a_batch(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    marker = b"PLAINTEXT-MARKER-0123456789"
    async with connected(rack_options(rack)) as bus:
        await store(bus, RACK, journal.signed(marker))
    await committed(mixer, batches=1)
    assert await contents(mixer, journal) == [marker]
    files = [path for path in (mixer.settings.data / "lake").rglob("*") if path.is_file()]
    assert len(files) > 2
    assert all(marker not in file.read_bytes() for file in files)
    stored = [path for path in (mixer.settings.data / "jetstream").rglob("*") if path.is_file()]
    assert any(path.suffix == ".blk" for path in stored)
    assert all(marker not in path.read_bytes() for path in stored)


async def test_a_lake_of_another_key_stops_the_mixer_with_a_clear_error(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    foreign = Lake(LocalStorage(tmp_path / "data/lake"), bytes(32), cluster="other")
    await foreign.open()
    await foreign.commit([], position=Position(1, 1))
    await foreign.close()
    with pytest.raises(VerificationError, match="written with another storage key"):
        async with running_mixer(cluster, tmp_path / "data"):
            pass


async def test_a_second_writer_is_kept_out_of_a_lake(tmp_path: Path) -> None:
    first, second = (Lake(LocalStorage(tmp_path / "lake"), bytes(32), cluster="c") for _ in range(2))
    await first.open()
    with pytest.raises(StorageError, match="in use by another mixer"):
        await second.open()
    await second.close()
    await first.close()


async def test_a_damaged_manifest_stops_the_mixer_and_is_not_replaced(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "data/lake/manifest" / f"{1:020d}.cbor"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is no manifest" * 10)
    with pytest.raises(VerificationError, match="does not open"):
        async with running_mixer(cluster, tmp_path / "data"):
            pass
    assert path.read_bytes() == b"this is no manifest" * 10


async def test_an_altered_file_is_found_when_it_is_read(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    async with connected(rack_options(rack)) as bus:
        await store(bus, RACK, journal.signed(b"evidence"))
    await committed(mixer, batches=1)
    (arrival,) = (mixer.settings.data / "lake/arrivals").iterdir()
    data = bytearray(arrival.read_bytes())
    data[len(data) // 2] ^= 1
    arrival.write_bytes(data)
    with pytest.raises(VerificationError, match="was altered"):
        await contents(mixer, journal)


async def test_a_rewound_rack_raises_an_alarm_that_names_the_records(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    async with connected(rack_options(rack)) as bus:
        await store(bus, RACK, journal.signed(b"one"))
        older = replace(journal)
        await store(bus, RACK, journal.signed(b"two", b"three"))
        await store(bus, RACK, journal.signed(b"four"))
        await committed(mixer, batches=3)
        await store(bus, RACK, older.signed(b"another two"))
        row = await mixer.wait_audit(action="wal_rewind")
    assert (row["subject"], row["detail"]["first"], row["detail"]["last"]) == (RACK, 2, 2)
    await committed(mixer, batches=3, rejected=1)
    assert await contents(mixer, journal) == [b"one", b"two", b"three", b"four"]
    assert mixer.mixer.counters().journal_alarms == 1


async def test_a_hole_raises_an_alarm_and_a_tombstone_explains_it(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    async with connected(rack_options(rack)) as bus:
        await store(bus, RACK, journal.signed(b"one"))
        journal.signed(b"lost", b"lost too")
        await store(bus, RACK, journal.signed(b"four"))
        row = await mixer.wait_audit(action="wal_gap")
        assert (row["detail"]["first"], row["detail"]["last"]) == (2, 3)
        await committed(mixer, batches=2)
        assert (await rows(mixer))[0].gaps == (Missing(2, 3),)
        grave = Tombstone(
            RACK, journal.journal, 2, 3, bytes(32), bytes(32), bytes(32), False, Reason.QUOTA, 1
        )
        await store(bus, RACK, journal.signed(grave.sign(rack.key), kind="tombstone"))
        await committed(mixer, batches=3)
    assert (await rows(mixer))[0].gaps == (Missing(2, 3, explained=True),)


async def test_a_journal_that_says_less_than_before_raises_an_alarm(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    def status(seq: int, name: bytes, committed_to: int) -> bytes:
        body = {"wal": {"journal": name.hex(), "committed": committed_to}}
        return Status(seq, bytes(16), 1, "running", body).encode()

    async with connected(rack_options(rack)) as bus:
        for seq, committed_to in enumerate((100, 120, 119, 119), 1):
            bus.publish(subjects.status(RACK), status(seq, journal.journal, committed_to))
        await bus.flush()
        row = await mixer.wait_audit(action="wal_shortened")
        assert (row["detail"]["first"], row["detail"]["last"]) == (120, 120)
        bus.publish(subjects.status(RACK), status(5, bytes(16), 1))
        await bus.flush()
        row = await mixer.wait_audit(action="wal_replaced")
        assert (row["detail"]["first"], row["detail"]["last"]) == (1, 120)
    assert mixer.mixer.counters().journal_alarms == 2


async def test_a_notebook_reads_a_running_mixers_lake_as_a_table(
    mixer: RunningMixer, rack: RackIdentity, journal: Journal
) -> None:
    event = Event(1, bytes(16), 7, "clip", {"channel": 3})
    record = WalRecord("event", 7, "rack.stage-left.event", event.encode())
    async with connected(rack_options(rack)) as bus:
        await store(bus, RACK, journal.of(record).sign(journal.key))
    await committed(mixer, batches=1)
    viewer = mixer.cluster.client(Role.VIEWER)
    table = await asyncio.to_thread(stagebox.lake.table, mixer.https, viewer, "event", rack=RACK)
    (row,) = table.to_pylist()
    assert (row["rack"], row["seq"], row["name"]) == (RACK, 1, "clip")
    with pytest.raises(StageboxError, match="no date"):
        await asyncio.to_thread(stagebox.lake.table, mixer.https, viewer, "event", first="today")
