"""The high-water mark: two slots, so one torn write leaves the other."""

from __future__ import annotations

from pathlib import Path

from stagebox_rack.wal.disk import Disk
from stagebox_rack.wal.keyring import Keyring
from stagebox_rack.wal.mark import SLOT_BYTES, Mark, MarkFile, decode_marks

RING = Keyring(1, bytes(32), bytes(16), bytes(32))


def mark(sequence: int) -> Mark:
    return Mark(sequence, bytes([sequence]) * 32, bytes(32), bytes(16))


def written(path: Path, count: int) -> bytes:
    file = MarkFile(path, RING, Disk())
    for sequence in range(1, count + 1):
        file.write(mark(sequence))
    file.sync()
    file.close()
    return path.read_bytes()


def test_the_newest_mark_is_read_back_and_writing_goes_on_after_it(tmp_path: Path) -> None:
    path = tmp_path / "mark"
    for count in (1, 2, 5):
        path.unlink(missing_ok=True)
        written(path, count)
        file = MarkFile(path, RING, Disk())
        assert file.load() == mark(count)
        file.write(mark(count + 1))
        file.close()
        assert MarkFile(path, RING, Disk()).load() == mark(count + 1)


def test_a_flipped_bit_in_either_slot_leaves_the_other(tmp_path: Path) -> None:
    data = written(tmp_path / "mark", 4)
    for position in [*range(160), *range(SLOT_BYTES, SLOT_BYTES + 160)]:
        broken = bytearray(data)
        broken[position] ^= 0x10
        newest = decode_marks(bytes(broken), RING)
        assert newest is not None
        assert newest[1] in (mark(3), mark(4))


def test_every_truncation_gives_a_written_mark_or_none(tmp_path: Path) -> None:
    data = written(tmp_path / "mark", 4)
    for cut in range(0, len(data), 7):
        newest = decode_marks(data[:cut], RING)
        assert newest is None or newest[1] in (mark(3), mark(4))


def test_a_mark_made_with_another_key_does_not_count(tmp_path: Path) -> None:
    written(tmp_path / "mark", 2)
    assert MarkFile(tmp_path / "mark", Keyring(1, b"x" * 32, bytes(16), bytes(32)), Disk()).load() is None
