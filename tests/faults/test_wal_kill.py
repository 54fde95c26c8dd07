"""kill -9 at any moment: every record the journal acknowledged is there, once, under its sequence."""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from stagebox_rack.wal.inspect import verify
from support import journal_child
from support.journal import Bench, read_all

ROUNDS = 24


async def one_round(directory: Path, number: int, source: random.Random) -> dict[int, int]:
    """Start a writer, kill it after a random time, return what it acknowledged: number → sequence."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        journal_child.__file__,
        str(directory),
        str(number),
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    lines = [await asyncio.wait_for(child.stdout.readline(), 20)]
    assert lines[0], "the writer ended by itself"
    await asyncio.sleep(source.uniform(0.0, 0.15))
    child.kill()
    lines += (await child.stdout.read()).splitlines(keepends=True)
    await child.wait()
    acknowledged: dict[int, int] = {}
    for line in lines:
        if not line.endswith(b"\n"):
            continue  # cut off by the kill
        assert not line.startswith(b"alert"), line
        value, sequence = line.split()
        acknowledged[int(value)] = int(sequence)
    return acknowledged


async def test_nothing_acknowledged_is_lost_or_repeated_by_kill_9(tmp_path: Path) -> None:
    source = random.Random(20_260_101)
    bench = Bench(tmp_path / "wal")
    acknowledged: dict[int, int] = {}
    number = 0
    for _ in range(ROUNDS):
        acknowledged |= await one_round(bench.directory, number, source)
        number = max(acknowledged) + 1_000
    async with await bench.open() as wal:
        held: dict[int, int] = {}
        expected, previous = 1, bytes(32)
        for batch in await read_all(wal):
            assert (batch.first, batch.previous) == (expected, previous)
            expected, previous = batch.last + 1, batch.digest
            for sequence, record in enumerate(batch.decode().records, batch.first):
                value = int.from_bytes(record.data[:8], "big")
                assert value not in held, "a record was journalled twice"
                held[value] = sequence
    assert len(acknowledged) > ROUNDS * 8
    assert {value: held.get(value) for value in acknowledged} == acknowledged
    assert verify(bench.directory, bench.public).records == len(held)
    assert [event.name for event in bench.events if event.severity == "alert"] == []
