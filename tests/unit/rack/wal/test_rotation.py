"""A new journal key without touching the data: whole after a crash at any step, and old keys go once unused."""

from __future__ import annotations

import errno
import itertools
import json
import shutil
from pathlib import Path

import pytest

from stagebox.cli import host
from stagebox.errors import KeyFileError, StorageError, VerificationError
from stagebox_rack import cli_wal
from stagebox_rack.wal import rotation
from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.inspect import verify
from stagebox_rack.wal.kek_protection import CREDENTIAL, Keeper, Protection
from stagebox_rack.wal.keyring import load_keyring
from stagebox_rack.wal.layout import Layout, Lock
from stagebox_rack.wal.mark import decode_slot
from stagebox_rack.wal.rotation import Rotation, rotate
from support.journal import Bench, FailingDisk, three_files

VECTORS = Path(__file__).parents[3] / "vectors/wal"
PLAIN = Keeper(None)


class Crash(Exception):
    """The process ends here."""


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    """Records 1-3 and 4-6 in two segments, 7-9 in a hot file."""
    return await three_files(Bench(tmp_path / "rack" / "wal"))


def turn(bench: Bench, **more: object) -> Rotation:
    return rotate(bench.directory, bench.public, **{"protection": Protection.FILE, "keeper": PLAIN, **more})  # type: ignore[arg-type]


async def seal(bench: Bench) -> None:
    async with await bench.open() as wal:
        await wal.seal_now()


def records(bench: Bench) -> int:
    return verify(bench.directory, bench.public).records


def held(bench: Bench) -> tuple[int, ...]:
    return load_keyring(bench.directory / "kek.key").versions


async def test_the_old_key_stays_for_the_hot_file_and_goes_with_the_second_call(bench: Bench) -> None:
    first = turn(bench)
    (hot,) = Layout(bench.directory).hot_files()
    assert first == Rotation(2, Protection.FILE, True, 2, (), {1: (hot.name,)})
    assert records(bench) == 9
    waiting = turn(bench)
    assert (waiting.created, waiting.version, waiting.rewrapped, waiting.dropped) == (False, 2, 0, ())
    await seal(bench)
    last = turn(bench)
    assert (last.created, last.version, last.dropped, last.held) == (False, 2, (1,), {})
    assert (held(bench), records(bench)) == ((2,), 9)
    again = turn(bench)
    assert (again.created, again.version, again.rewrapped, again.dropped) == (True, 3, 3, (2,))
    assert (held(bench), records(bench)) == ((3,), 9)
    async with await bench.open() as wal:
        assert await wal.append("meter", 1, "s", b"x") == 10
    assert not {"wal_mark_missing", "wal_damaged"} & set(bench.names())


@pytest.mark.parametrize("sealed", [True, False])
async def test_a_crash_after_any_step_leaves_a_journal_that_reads_and_the_next_call_goes_on(
    bench: Bench, tmp_path: Path, sealed: bool
) -> None:
    if sealed:
        await seal(bench)
    seen: list[str] = []
    for stop in itertools.count():
        other = Bench(tmp_path / str(stop) / "wal")
        shutil.copytree(bench.directory, other.directory)
        steps: list[str] = []

        def on_step(step: str, steps: list[str] = steps, stop: int = stop) -> None:
            steps.append(step)
            if len(steps) > stop:
                raise Crash

        try:
            turn(other, on_step=on_step)
        except Crash:
            assert records(other) == 9
            async with await other.open() as wal:
                assert len([batch async for batch in wal.batches_after(0)]) == 9
                await wal.seal_now()
            assert not list(Layout(other.directory).segments.glob("*.tmp"))
            turn(other)
            # After the last step there was nothing left to finish, and this began another.
            assert held(other) == ((3,) if steps[-1] == "dropped" else (2,))
            assert records(other) == 9
            assert not {"wal_damaged", "wal_mark_missing"} & set(other.names())
            continue
        seen = steps
        break
    keys = ["key_written", "key_named"] * (3 if sealed else 2)
    assert seen == ["added", *keys, "mark_written", "mark_written", *["dropped"] * sealed]


@pytest.mark.parametrize("operation", ["create", "datasync", "pwrite"])
async def test_a_failing_disk_leaves_a_journal_that_reads(bench: Bench, operation: str) -> None:
    for after in range(8):
        count = itertools.count()
        disk = FailingDisk(lambda name, c=count, n=after: errno.EIO * (name == operation and next(c) >= n))  # type: ignore[misc]
        try:
            turn(bench, disk=disk)
        except StorageError as error:
            assert error.remedy
        assert records(bench) == 9


async def test_both_slots_of_the_mark_are_under_the_new_key(bench: Bench) -> None:
    turn(bench)
    ring = load_keyring(bench.directory / "kek.key").keeping((), Protection.FILE)
    data = (bench.directory / "mark").read_bytes()
    found = [decode_slot(data[at : at + 4096], ring) for at in (0, 4096)]
    assert [slot is not None and slot[1].sequence for slot in found] == [9, 9]


async def test_a_mark_under_an_older_held_key_still_counts(bench: Bench) -> None:
    mark = (bench.directory / "mark").read_bytes()
    turn(bench)
    (bench.directory / "mark").write_bytes(mark)
    assert verify(bench.directory, bench.public).mark == 9


async def test_what_is_in_quarantine_keeps_its_key_and_stops_no_new_one(bench: Bench) -> None:
    layout = Layout(bench.directory)
    layout.to_quarantine(layout.hot_files()[0], Disk())
    (bench.directory / "mark").unlink()
    assert turn(bench).held.keys() == {1}
    assert (turn(bench).version, held(bench)) == (3, (1, 3))
    for path in layout.quarantine.iterdir():
        path.unlink()
    assert (turn(bench).created, held(bench)) == (False, (3,))


async def test_a_key_file_that_cannot_be_judged_holds_every_version_and_nothing_is_lost(bench: Bench) -> None:
    await seal(bench)
    key = sorted(Layout(bench.directory).segments.glob("*.key"))[1]
    whole = key.read_bytes()
    key.write_bytes(whole[:-1])
    assert turn(bench).held == {1: (key.name,)}
    key.write_bytes(whole)
    done = turn(bench)
    assert (done.created, done.rewrapped, done.dropped, records(bench)) == (False, 1, (1,), 9)


async def test_a_running_rack_refuses(bench: Bench) -> None:
    before = (bench.directory / "kek.key").read_bytes()
    async with await bench.open():
        with pytest.raises(StorageError, match="in use by another process"):
            turn(bench)
    assert (bench.directory / "kek.key").read_bytes() == before


async def test_another_journals_key_file_changes_nothing(bench: Bench, tmp_path: Path) -> None:
    other = Bench(tmp_path / "other")
    await seal(other)
    shutil.copy(other.directory / "kek.key", bench.directory / "kek.key")
    before = {path: path.read_bytes() for path in bench.directory.rglob("*") if path.is_file()}
    with pytest.raises(VerificationError, match="opens nothing"):
        turn(bench)
    assert before == {path: path.read_bytes() for path in bench.directory.rglob("*") if path.is_file()}


async def test_no_key_is_made_where_one_is_missing_or_what_protects_it_is(
    bench: Bench, tmp_path: Path
) -> None:
    kek = bench.directory / "kek.key"
    before = kek.read_bytes()
    with pytest.raises(KeyFileError, match="CREDENTIALS_DIRECTORY"):
        turn(bench, protection=Protection.CREDENTIAL)
    assert kek.read_bytes() == before
    kek.unlink()
    with pytest.raises(KeyFileError, match="cannot read"):
        turn(bench)
    assert not kek.exists()


async def test_another_users_journal_is_left_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    with pytest.raises(StorageError, match="belongs to user"):
        turn(bench)


async def test_as_many_versions_as_the_file_takes_and_no_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(bench.directory)
    layout.to_quarantine(layout.hot_files()[0], Disk())
    monkeypatch.setattr(rotation, "LIMITS", type("Limits", (), {"wal_kek_versions": 2}))
    turn(bench)
    with pytest.raises(StorageError, match="as many as it can"):
        turn(bench)
    assert held(bench) == (1, 2)


async def test_a_plain_journal_comes_under_a_credential(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / CREDENTIAL).write_bytes(b"c" * 32)
    done = turn(bench, protection=Protection.AUTO, keeper=Keeper(tmp_path))
    assert done.protection is Protection.CREDENTIAL
    with pytest.raises(KeyFileError, match="credential"):
        await bench.open()
    (tmp_path / CREDENTIAL).write_bytes(b"d" * 32)
    with pytest.raises(KeyFileError, match="not the one"):
        turn(bench, keeper=Keeper(tmp_path))


async def test_a_version_1_key_file_is_read_and_turned_into_version_2(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "wal")
    layout.make(Disk())
    shutil.copy(VECTORS / "kek.key", layout.kek)
    layout.kek.chmod(0o600)
    shutil.copy(VECTORS / "clean.hot", layout.hot_file(1))
    public = bytes(load_keyring(layout.kek).rack_public)
    done = rotate(layout.root, public, protection=Protection.FILE, keeper=PLAIN)
    assert (done.version, done.held) == (2, {1: (layout.hot_file(1).name,)})
    assert load_keyring(layout.kek).versions == (1, 2)


async def test_the_command_says_what_it_did_and_refuses_beside_a_rack(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setattr(cli_wal, "_rack_keys", lambda _: (bench.public, ()))
    command = ["rack", "wal", "rekey", "--state-dir", str(bench.directory.parent), "--protection", "file"]
    assert host.run([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["version"], said["protection"], said["created"], said["rewrapped"]) == (2, "file", True, 2)
    assert host.run(command) == 0
    shown = capsys.readouterr()
    assert "journal key version 2 (file): 0 segments rewrapped" in shown.out
    assert "version 1 is still needed by 1 files" in shown.err
    lock = Lock(bench.directory / "lock")
    lock.acquire()
    assert host.run(command) != 0
    assert "in use" in capsys.readouterr().err
    lock.release()
