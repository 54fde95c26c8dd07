"""Counting rows on their way to the audit counts what happened, not what was tried."""

from __future__ import annotations

import pytest

from stagebox.errors import BusError
from stagebox_mixer.api.tally import TalliedAudit
from stagebox_mixer.audit import Row


class Log:
    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.away = False

    async def record(self, row: Row) -> int:
        if self.away:
            raise BusError("the audit cannot be used")
        self.rows.append(row)
        return len(self.rows)

    def refused(self, row: Row) -> None:
        self.rows.append(row)


def row(action: str, result: str, count: int = 1) -> Row:
    return Row("rack", action, "stage-left", result, count=count)


async def test_rows_pass_unchanged_and_count_once_they_are_written() -> None:
    log = Log()
    tally = TalliedAudit(log)
    renewed = row("renew", "ok")
    assert await tally.record(renewed) == 1
    assert await tally.record(row("renew_grace", "ok")) == 2
    tally.refused(row("renew", "refused", count=3))
    assert log.rows[0] is renewed
    assert tally.done("renew", "renew_grace") == 2
    assert tally.done("renew_grace") == 1
    assert tally.denied("renew") == 3


async def test_what_was_not_written_or_did_not_take_effect_does_not_count() -> None:
    log = Log()
    tally = TalliedAudit(log)
    await tally.record(row("renew", "ok"))
    await tally.record(row("renew", "failed"))
    assert tally.done("renew") == 0
    log.away = True
    with pytest.raises(BusError):
        await tally.record(row("renew", "ok"))
    assert tally.done("renew") == 0
