"""Ending tasks for certain.

``asyncio.wait_for`` of Python 3.11 can swallow a cancellation that comes in the moment its inner future is done, and
the NATS client is built on it: a task cancelled once may go on, into a sleep of an hour.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

_AGAIN_S = 2.0  # long enough for what a cancelled task has to tidy up


async def end_tasks(tasks: Iterable[asyncio.Task[Any] | None]) -> None:
    """Cancel ``tasks`` until every one has ended; what they end with is not raised here."""
    running = {task for task in tasks if task is not None and task is not asyncio.current_task()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=_AGAIN_S)
