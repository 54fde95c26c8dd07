from __future__ import annotations

import asyncio

import pytest

from stagebox import tasks
from stagebox.tasks import end_tasks


async def test_a_task_that_swallows_a_cancellation_is_ended_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "_AGAIN_S", 0.01)
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        for _ in range(3):
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.sleep(3600)

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await end_tasks([task, None])
    assert task.cancelled()
    assert swallowed == 3


async def test_what_has_ended_already_or_ends_with_an_error_is_no_trouble() -> None:
    async def broken() -> None:
        raise ValueError("broken")

    done, failing = asyncio.create_task(asyncio.sleep(0)), asyncio.create_task(broken())
    await asyncio.wait({done})
    await end_tasks([done, failing])
    assert failing.done()
    assert isinstance(failing.exception(), ValueError)
