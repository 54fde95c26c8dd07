"""``wal repair``: what verifies stays or comes back, what does not is set aside, and nothing is ever lost by it."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stagebox.cli import host
from stagebox.errors import KeyFileError, StorageError, VerificationError
from stagebox.keyfiles import load_ed25519, save_private_key, signing_key
from stagebox.records.tombstone import Reason
from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.inspect import JournalDamageError, verify
from stagebox_rack.wal.kek_protection import Keeper, Protection
from stagebox_rack.wal.layout import Layout, Lock
from stagebox_rack.wal.repair import RepairReport, repair
from stagebox_rack.wal.repair_plan import Finish, WriteMark
from stagebox_rack.wal.retention import Eviction
from stagebox_rack.wal.rotation import rotate
from stagebox_rack.wal.segment import SegmentFiles
from support.fake_disk import FakeDisk, Fault, KilledError, PowerCutError
from support.issuer import Issuer
from support.journal import RACK, Bench, read_all, record, sequences, three_files

Damage = Callable[[Bench], None]


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    """Records 1-3 and 4-6 in two segments, 7-9 in a hot file that a killed process left."""
    return await three_files(Bench(tmp_path / "rack" / "wal"))


def mend(bench: Bench, **more: Any) -> RepairReport:
    return repair(bench.directory, bench.key, rack=RACK, **more)


def contents(bench: Bench) -> dict[str, bytes]:
    found = (path for path in sorted(bench.directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(bench.directory)): path.read_bytes() for path in found}


def names(report: RepairReport) -> list[str]:
    return [action.name for action in report.actions]


def quarantined(bench: Bench) -> list[str]:
    return sorted(path.name for path in Layout(bench.directory).quarantine.iterdir())


def stem(bench: Bench, first: int, last: int) -> Path:
    return Layout(bench.directory).segment_stem(first, last)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def damage_segment(bench: Bench) -> None:
    flip(stem(bench, 1, 3).with_suffix(".parquet"), 40)


def damage_frame(bench: Bench) -> None:
    """The middle one of three frames."""
    (hot,) = Layout(bench.directory).hot_files()
    data = hot.read_bytes()
    flip(hot, data.index(b"SBF1", data.index(b"SBF1") + 4) + 70)


def lose_key(bench: Bench) -> None:
    """A start finds a segment without its key, and sets it aside; the operator then finds the key."""
    key = stem(bench, 4, 6).with_suffix(".key")
    kept = key.read_bytes()
    key.unlink()
    bench.writer()
    (Layout(bench.directory).quarantine / key.name).write_bytes(kept)


def lose_mark(bench: Bench) -> None:
    (bench.directory / "mark").unlink()


def swap_keys(bench: Bench) -> None:
    """A key that opens nothing in the place of the right one, which is in quarantine."""
    key = stem(bench, 1, 3).with_suffix(".key")
    Layout(bench.directory).to_quarantine(key, Disk())
    shutil.copy(stem(bench, 4, 6).with_suffix(".key"), key)


def set_hot_aside(bench: Bench) -> None:
    """And the rack went on after it."""
    layout = Layout(bench.directory)
    layout.to_quarantine(layout.hot_files()[0], Disk())
    journal, _ = bench.writer()
    journal.commit([record(9)])
    journal._mark.sync()


def all_at_once(bench: Bench) -> None:
    swap_keys(bench)
    lose_key(bench)
    damage_frame(bench)
    lose_mark(bench)
    stem(bench, 1, 3).with_suffix(".key.tmp").write_bytes(b"unfinished")


async def test_a_whole_journal_is_left_alone(bench: Bench) -> None:
    before = contents(bench)
    report = mend(bench)
    report.require_whole()
    assert (report.actions, report.missing) == ((), ())
    assert report.verified is not None
    assert report.verified.records == 9
    assert contents(bench) == before


async def test_a_running_rack_is_refused(bench: Bench) -> None:
    async with await bench.open():
        for dry_run in (True, False):
            with pytest.raises(StorageError, match="in use by another process"):
                mend(bench, dry_run=dry_run)


async def test_another_users_journal_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    with pytest.raises(StorageError, match="belongs to user"):
        mend(bench)


async def test_another_journals_key_file_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    other = await three_files(Bench(tmp_path / "other"))
    damage_segment(bench)
    kek = bench.directory / "kek.key"
    shutil.copy(other.directory / "kek.key", kek)
    for path in SegmentFiles.of(stem(other, 1, 3)):
        shutil.copy(path, Layout(bench.directory).quarantine)
    before = contents(bench)
    with pytest.raises(VerificationError, match="opens nothing") as caught:
        mend(bench)
    assert caught.value.remedy
    assert contents(bench) == before
    kek.unlink()
    with pytest.raises(KeyFileError):
        mend(bench)
    assert contents(bench) == {name: data for name, data in before.items() if name != "kek.key"}


async def test_a_key_file_from_before_a_rotation_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    kek = bench.directory / "kek.key"
    shutil.copy(kek, tmp_path / "old")
    rotate(bench.directory, bench.public, protection=Protection.FILE, keeper=Keeper(None))
    shutil.copy(tmp_path / "old", kek)
    before = contents(bench)
    with pytest.raises(VerificationError, match="names journal key version 2"):
        mend(bench)
    for path in Layout(bench.directory).segments.iterdir():
        path.unlink()
    before = contents(bench)
    with pytest.raises(VerificationError, match="mark names journal key version 2"):
        mend(bench)
    assert contents(bench) == before


async def test_another_racks_key_and_name_change_nothing(bench: Bench, tmp_path: Path) -> None:
    before = contents(bench)
    with pytest.raises(VerificationError, match="another identity key"):
        repair(bench.directory, type(bench.key)(bytes(32)), rack=RACK)
    with pytest.raises(VerificationError, match="belongs to rack"):
        repair(bench.directory, bench.key, rack="stage-right")
    with pytest.raises(StorageError, match="holds no journal"):
        repair(tmp_path, bench.key, rack=RACK)
    assert contents(bench) == before


@pytest.mark.parametrize(
    "damage", [damage_segment, damage_frame, lose_key, swap_keys, lose_mark, set_hot_aside, all_at_once]
)
async def test_a_dry_run_changes_nothing_and_says_what_the_real_one_does(
    bench: Bench, damage: Damage
) -> None:
    damage(bench)
    before = contents(bench)
    planned = mend(bench, dry_run=True)
    planned.require_whole()
    assert (planned.verified, bool(planned.actions)) == (None, True)
    assert contents(bench) == before
    done = mend(bench)
    assert (done.actions, done.missing) == (planned.actions, planned.missing)
    assert mend(bench).actions == ()


async def test_a_dry_run_makes_no_lock(bench: Bench) -> None:
    (bench.directory / "lock").unlink()
    mend(bench, dry_run=True)
    assert not (bench.directory / "lock").exists()


async def test_a_damaged_segment_is_set_aside_the_rest_verifies_and_its_range_is_named(bench: Bench) -> None:
    damage_segment(bench)
    for _ in range(2):
        report = mend(bench)
        assert report.missing == ((1, 3),)
        with pytest.raises(JournalDamageError, match="records 1-3 are missing") as caught:
            report.require_whole()
        assert "mixer" in str(caught.value.remedy)
    assert verify(bench.directory, bench.public).records == 6
    assert quarantined(bench) == [f"{stem(bench, 1, 3).name}.{kind}.1" for kind in ("key", "parquet", "seal")]


async def test_a_hole_in_the_middle_is_named_once(bench: Bench) -> None:
    flip(stem(bench, 4, 6).with_suffix(".parquet"), 40)
    with pytest.raises(JournalDamageError) as caught:
        mend(bench).require_whole()
    assert caught.value.report.problems == ["records 4-6 are missing"]


async def test_the_good_frames_of_a_damaged_hot_file_are_kept_and_the_file_too(bench: Bench) -> None:
    damage_frame(bench)
    (hot,) = Layout(bench.directory).hot_files()
    data = hot.read_bytes()
    report = mend(bench)
    assert names(report) == ["seal", "set_aside", "finish"]
    assert report.missing == ((8, 8),)
    assert (Layout(bench.directory).quarantine / f"{hot.name}.1").read_bytes() == data
    async with await bench.open() as wal:
        assert sequences(await read_all(wal)) == [1, 2, 3, 4, 5, 6, 7, 9]
        assert await wal.append("meter", 1, "s", b"x") == 10


async def test_a_hot_file_that_says_nothing_any_more_is_set_aside(bench: Bench) -> None:
    (hot,) = Layout(bench.directory).hot_files()
    hot.write_bytes(bytes(8192) + hot.read_bytes()[8192:])
    report = mend(bench)
    assert (names(report), report.missing) == (["set_aside", "finish"], ((7, 9),))
    assert quarantined(bench) == [f"{hot.name}.1"]


async def test_a_torn_end_that_was_promised_is_kept_for_whoever_looks(bench: Bench) -> None:
    (hot,) = Layout(bench.directory).hot_files()
    flip(hot, hot.read_bytes().rindex(b"SBF1") + 70)
    report = mend(bench)
    assert (names(report), report.missing) == (["seal", "set_aside", "finish"], ((9, 9),))
    assert quarantined(bench) == [f"{hot.name}.1"]


@pytest.mark.parametrize("damage", [lose_key, swap_keys])
async def test_a_segment_comes_back_once_its_key_does(bench: Bench, damage: Damage) -> None:
    before = verify(bench.directory, bench.public)
    damage(bench)
    with pytest.raises(JournalDamageError):
        verify(bench.directory, bench.public)
    report = mend(bench)
    report.require_whole()
    assert "put_back" in names(report)
    assert report.verified is not None
    assert (report.verified.records, report.verified.segments) == (before.records, before.segments)


async def test_a_key_put_where_it_belongs_brings_its_segment_back_too(bench: Bench) -> None:
    lose_key(bench)
    key = stem(bench, 4, 6).with_suffix(".key")
    (Layout(bench.directory).quarantine / key.name).rename(key)
    mend(bench).require_whole()
    assert quarantined(bench) == []


async def test_the_last_segments_come_back_before_a_rack_gives_their_numbers_out_again(bench: Bench) -> None:
    async with await bench.open() as wal:
        await wal.seal_now()
    for name in ((4, 6), (7, 9)):
        for path in SegmentFiles.of(stem(bench, *name)):
            Layout(bench.directory).to_quarantine(path, Disk())
    lose_mark(bench)
    mend(bench).require_whole()
    async with await bench.open() as wal:
        assert await wal.append("meter", 1, "s", b"x") == 10
    assert verify(bench.directory, bench.public).records == 10


async def test_a_segment_of_another_past_does_not_come_back(bench: Bench, tmp_path: Path) -> None:
    other = Bench(tmp_path / "copy")
    shutil.copytree(bench.directory, other.directory)
    for path in SegmentFiles.of(stem(other, 4, 6)):
        path.unlink()
    layout = Layout(other.directory)
    layout.hot_files()[0].unlink()
    lose_mark(other)
    journal, _ = other.writer()
    for number in (70, 80, 90):
        journal.commit([record(number)])
    async with await other.open() as wal:
        await wal.seal_now()
    here = Layout(bench.directory)
    for path in SegmentFiles.of(stem(bench, 4, 6)):
        path.unlink()
        shutil.copy(layout.segments / path.name, here.quarantine)
    report = mend(bench)
    assert (report.actions, report.missing) == ((), ((4, 6),))
    assert len(quarantined(bench)) == 3


async def test_a_hot_file_in_quarantine_fills_the_hole_that_it_left(bench: Bench) -> None:
    layout = Layout(bench.directory)
    (hot,) = layout.hot_files()
    data = hot.read_bytes()
    layout.to_quarantine(hot, Disk())
    async with await bench.open() as wal:
        assert await wal.append("meter", 1, "s", b"x") == 10
    report = mend(bench)
    report.require_whole()
    assert names(report) == ["seal", "finish"]
    assert verify(bench.directory, bench.public).records == 10
    assert (layout.quarantine / f"{hot.name}.1").read_bytes() == data


async def test_a_hot_file_before_the_last_segment_is_sealed_before_anything_can_take_it_for_sealed(
    bench: Bench,
) -> None:
    """Its segment is damaged, and the removal of the hot file had failed."""
    layout = Layout(bench.directory)
    (hot,) = layout.hot_files()
    data = hot.read_bytes()
    async with await bench.open() as wal:
        await wal.append("meter", 1, "s", b"x")
    hot.write_bytes(data)
    flip(stem(bench, 7, 9).with_suffix(".parquet"), 40)
    report = mend(bench)
    report.require_whole()
    assert names(report) == ["set_aside", "seal", "finish"]
    assert verify(bench.directory, bench.public).records == 10
    assert layout.hot_files() == []


@pytest.mark.parametrize("how", ["missing", "damaged"])
async def test_a_mark_that_is_missing_or_damaged_is_written_anew(bench: Bench, how: str) -> None:
    mark = bench.directory / "mark"
    if how == "missing":
        mark.unlink()
    else:
        flip(mark, 120)
        flip(mark, 4096 + 120)
    report = mend(bench)
    report.require_whole()
    assert isinstance(report.actions[-1], WriteMark)
    assert verify(bench.directory, bench.public).mark == 9
    async with await bench.open() as wal:
        assert await wal.append("meter", 1, "s", b"x") == 10
    assert not {"wal_mark_missing", "wal_chain_broken", "wal_hole"} & set(bench.names())


async def test_a_mark_ahead_of_the_journal_stays_and_tells_what_is_missing(bench: Bench) -> None:
    Layout(bench.directory).hot_files()[0].unlink()
    mark = (bench.directory / "mark").read_bytes()
    report = mend(bench)
    assert (report.actions, report.missing) == ((), ((7, 9),))
    with pytest.raises(JournalDamageError) as caught:
        report.require_whole()
    assert caught.value.report.problems == ["records 7-9 were committed and are missing"]
    assert (bench.directory / "mark").read_bytes() == mark


@pytest.mark.parametrize("suffixes", [[".parquet.tmp"], [".parquet"], [".parquet", ".key", ".seal.tmp"]])
async def test_what_an_interrupted_seal_left_goes(bench: Bench, suffixes: list[str]) -> None:
    made = [stem(bench, 7, 9).with_suffix(suffix) for suffix in suffixes]
    for path in made:
        path.write_bytes(b"a part")
    (planned,) = mend(bench, dry_run=True).actions
    assert isinstance(planned, Finish)
    report = mend(bench)
    report.require_whole()
    assert (report.actions, names(report), sorted(planned.files)) == ((planned,), ["finish"], sorted(made))
    assert not any(path.exists() for path in made)
    assert quarantined(bench) == []


async def test_data_without_a_seal_is_no_leftover_when_nothing_else_holds_its_records(bench: Bench) -> None:
    seal = stem(bench, 4, 6).with_suffix(".seal")
    data = stem(bench, 4, 6).with_suffix(".parquet").read_bytes()
    kept = seal.read_bytes()
    seal.unlink()
    assert mend(bench).missing == ((4, 6),)
    assert (Layout(bench.directory).quarantine / f"{seal.stem}.parquet.1").read_bytes() == data
    seal.write_bytes(kept)
    mend(bench).require_whole()


async def test_an_eviction_that_was_interrupted_is_finished(bench: Bench) -> None:
    async with await bench.open() as wal:
        await wal.seal_now()
        first = wal._catalogue.segments()[0]
        left = {path: path.read_bytes() for path in SegmentFiles.of(first.stem) if path.suffix != ".seal"}
        wal._upkeep._evictor.evict([Eviction(first, acknowledged=False, reason=Reason.QUOTA)])
    for path, data in left.items():
        path.write_bytes(data)
    report = mend(bench)
    report.require_whole()
    assert (names(report), report.missing) == (["finish"], ())
    assert [path.suffix for path in Layout(bench.directory).segments.glob(f"{first.stem.name}*")] == [
        ".tombstone"
    ]


@pytest.mark.parametrize(
    ("end", "started", "step"),
    [(KilledError, False, 1), (KilledError, True, 3), (PowerCutError, False, 3), (PowerCutError, True, 3)],
)
@pytest.mark.parametrize("damage", [all_at_once, damage_segment, swap_keys, set_hot_aside])
async def test_the_end_after_any_step_and_another_call_come_to_the_same_end(
    bench: Bench, tmp_path: Path, end: type[BaseException], started: bool, step: int, damage: Damage
) -> None:
    """``started``: between the two the rack ran."""
    damage(bench)
    whole = Bench(tmp_path / "whole" / "wal")
    shutil.copytree(bench.directory, whole.directory)
    expected = mend(whole).missing
    held = dict.fromkeys(records(whole))
    for after in itertools.count(0, step):
        other = Bench(tmp_path / f"{after}" / "wal")
        shutil.copytree(bench.directory, other.directory)
        attic = tmp_path / f"{after}" / "attic"
        attic.mkdir()
        disk = FakeDisk(attic, random.Random(after), [Fault(end, after)])
        try:
            mend(other, disk=disk)
            disk.release()
            break
        except BaseException as error:
            if not isinstance(error, end):
                raise
            disk.cut() if end is PowerCutError else disk.release()
        if started:
            with contextlib.suppress(
                VerificationError
            ):  # a start is not sure of the key file where repair is
                await (await other.open()).close()
        assert mend(other).missing == expected
        assert dict.fromkeys(records(other)) == held
        assert bytes_of_damage(other) >= bytes_of_damage(whole)
        assert started or bytes_of_damage(other) == bytes_of_damage(whole)
        assert mend(other).actions == ()
    assert after > 5


def records(bench: Bench) -> list[bytes]:
    """The content of every record that verifies, in order."""
    from stagebox_rack.wal.reader import JournalReader

    read = JournalReader(bench.directory, bench.public).files()
    return [r.data for content in read for batch in content.batches for r in batch.decode().records]


def bytes_of_damage(bench: Bench) -> set[bytes]:
    return {path.read_bytes() for path in Layout(bench.directory).quarantine.iterdir()}


async def test_a_disk_that_refuses_is_an_error_and_another_call_goes_on(bench: Bench, tmp_path: Path) -> None:
    all_at_once(bench)
    for after in range(8):
        with pytest.raises(StorageError, match="cannot repair") as caught:
            mend(bench, disk=FakeDisk(tmp_path, random.Random(0), [Fault(errno.EIO, after)]))
        assert caught.value.remedy
    assert mend(bench).missing == ((8, 8),)


async def test_the_command_says_what_it_did_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = Issuer().enroll(tmp_path).paths
    bench = await three_files(Bench(paths.wal, signing_key(load_ed25519(paths.identity_key))))
    command = ["rack", "wal", "repair", "--state-dir", str(tmp_path)]
    lose_key(bench)
    assert host.run([*command, "--dry-run"]) == 0
    assert "would put back" in capsys.readouterr().out
    assert host.run([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["verified"], said["missing"], said["journal"]["records"]) == (True, [], 9)
    assert [action["action"] for action in said["actions"]] == ["put_back", "finish"]
    assert host.run(command) == 0
    assert "nothing to repair" in capsys.readouterr().out
    damage_segment(bench)
    assert host.run(command) == 77
    shown = capsys.readouterr()
    assert f"set aside {stem(bench, 1, 3).name}.parquet" in shown.out
    assert "still missing: records 1-3" in shown.err
    assert "mixer" in shown.err
    assert host.run([*command, "--json"]) == 77
    assert json.loads(capsys.readouterr().out)["missing"] == [[1, 3]]
    lock = Lock(bench.directory / "lock")
    lock.acquire()
    assert host.run(command) == 74
    assert "in use" in capsys.readouterr().err
    lock.release()
    paths.identity_key.unlink()
    save_private_key(paths.identity_key, Ed25519PrivateKey.generate(), None)
    assert host.run(command) == 66
    assert "not the key that the passport beside it names" in capsys.readouterr().err
