"""A disk that is really full: a small tmpfs. Refusals are explicit, nothing acknowledged is lost, it recovers."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stagebox.errors import StorageError
from stagebox_rack.wal.wal import Wal
from support.journal import QUICK, SUBJECT, Bench, eventually, read_all

LIMITS = dataclasses.replace(
    QUICK, wal_hot_file_bytes=128 << 10, wal_seal_retry=0.05, wal_maintain_first=0.01
)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(mount)], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.decode().strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def fill(mount: Path) -> Path:
    """Take all space that is left."""
    ballast = mount / "ballast"
    with ballast.open("ab", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError:
            return ballast


async def append_until_refused(wal: Wal, kind: str, size: int, acknowledged: dict[int, bytes]) -> int:
    """Append records of ``kind`` until one is refused; return how many were taken."""
    for taken in range(4096):
        data = os.urandom(size)
        try:
            acknowledged[await wal.append(kind, 1, SUBJECT, data)] = data
        except StorageError as error:
            assert "No space left" in error.message or "the disk is full" in error.message
            assert error.remedy is not None
            return taken
    raise AssertionError("a full disk never refused")


async def test_a_full_disk_refuses_the_least_important_first_loses_nothing_and_recovers(
    small_disk: Path,
) -> None:
    bench = Bench(small_disk / "wal")
    acknowledged: dict[int, bytes] = {}
    async with await bench.open(LIMITS) as wal:
        data = os.urandom(8000)
        acknowledged[await wal.append("meter", 1, SUBJECT, data)] = data
        await eventually((small_disk / "wal/hot/spare").exists)
        ballast = fill(small_disk)
        meters = await append_until_refused(wal, "meter", 8000, acknowledged)
        assert meters > 10, "the active file and the spare still take records on a full disk"
        assert "wal_space_low" in bench.names()
        assert wal.stats().refused_by_class == {"measurement": 1}
        assert await append_until_refused(wal, "event", 4000, acknowledged) > 3
        assert wal.stats().refused_by_class == {"measurement": 1, "event": 1}
        assert await append_until_refused(wal, "alert", 2000, acknowledged) > 3
        assert "wal_disk_full" in bench.names()
        assert wal.stats().failed >= 1
        ballast.unlink()
        async with asyncio.timeout(10):
            while True:
                await asyncio.sleep(0.02)
                try:
                    acknowledged[await wal.append("meter", 1, SUBJECT, b"after")] = b"after"
                    break
                except StorageError:
                    continue
        assert {"wal_recovered", "wal_space_back"} & set(bench.names())
    async with await bench.open(LIMITS) as wal:
        batches = await read_all(wal)
        held = {n: r.data for b in batches for n, r in enumerate(b.decode().records, b.first)}
    assert {n: held.get(n) for n in acknowledged} == acknowledged
    assert sorted(held) == list(range(1, len(held) + 1))
