"""The journal from append to question, beside SQLite (WAL, synchronous=FULL) doing the same job in the same run."""

from __future__ import annotations

from collections.abc import Callable

from bench.table import Row
from bench.wal import appending, questions, recovering, shipping, sizing


async def run(say: Callable[[str], None]) -> list[Row]:
    """Measure one part after the other, each in child processes, on the disk of the temporary directory."""
    rows = await appending.rows(say)
    rows += await recovering.rows(say)
    rows += await shipping.rows(say)
    rows += await questions.rows(say)
    return rows + await sizing.rows(say)
