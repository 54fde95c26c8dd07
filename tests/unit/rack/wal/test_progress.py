"""How far a journal has come: what waits is told, and what the mixer holds goes back only when it says so."""

from __future__ import annotations

import asyncio

import pytest

from stagebox_rack.wal.progress import Progress


async def test_who_waits_is_told_when_it_is_so_and_not_before() -> None:
    progress = Progress(5, 3)
    durable = asyncio.create_task(progress.wait_committed(8))
    held = asyncio.create_task(progress.wait_acknowledged(7))
    progress.commit(7)
    await progress.told()
    progress.acknowledge(6, rewind=False)
    await progress.told()
    await asyncio.sleep(0)
    assert not durable.done()
    assert not held.done()
    progress.commit(8)
    progress.acknowledge(7, rewind=False)
    async with asyncio.timeout(5):
        await asyncio.gather(durable, held)


def test_the_mixer_holds_no_more_than_was_committed() -> None:
    assert Progress(5, 9).acknowledged == 5


async def test_what_the_mixer_holds_goes_back_only_by_a_rewind() -> None:
    progress = Progress(5, 4)
    assert not progress.acknowledge(3, rewind=False)
    assert progress.acknowledged == 4
    assert progress.acknowledge(3, rewind=True)
    assert progress.acknowledged == 3
    with pytest.raises(ValueError, match="never committed"):
        progress.acknowledge(6, rewind=True)
    await progress.told()
