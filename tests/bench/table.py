"""Results as rows: ours, the baseline, their ratio and what was expected."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """One figure. ``baseline`` is None where there is nothing raw to compare with."""

    suite: str
    figure: str
    unit: str
    ours: float
    baseline: float | None = None
    baseline_is: str = ""
    expected: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the baseline."""
        return self.ours / self.baseline if self.baseline else None

    def as_dict(self) -> dict[str, object]:
        """The row as plain data."""
        return {**asdict(self), "ratio": self.ratio}


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` of ``values`` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def number(value: float | None) -> str:
    """A figure with three significant digits, thousands grouped."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


_HEAD = ("figure", "unit", "ours", "raw", "ours/raw", "raw is", "expected")


def _cells(row: Row) -> tuple[str, ...]:
    return (
        f"{row.suite}: {row.figure}",
        row.unit,
        number(row.ours),
        number(row.baseline),
        number(row.ratio),
        row.baseline_is,
        row.expected,
    )


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|" + " --- |" * len(_HEAD)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


_END = "<!-- bench:end -->"


def replace_tables(page: str, rows: Sequence[Row], made_on: str) -> str:
    """Return ``page`` with the table of each suite in ``rows`` replaced, between its marker and the end marker.

    Raises:
        ValueError: the page has no place for a suite.
    """
    for suite in dict.fromkeys(row.suite for row in rows):
        head, begin, tail = place_of(page, suite)
        table = markdown([row for row in rows if row.suite == suite])
        page = f"{head}{begin}\n{made_on}\n\n{table}{_END}{tail}"
    return page


def place_of(page: str, suite: str) -> tuple[str, str, str]:
    """Return what is before a suite's place in ``page``, its marker, and what is after it.

    Raises:
        ValueError: the page has no place for the suite.
    """
    begin = f"<!-- bench:{suite} -->"
    head, found, rest = page.partition(begin)
    _, end, tail = rest.partition(_END)
    if not found or not end:
        raise ValueError(f"the page has no {begin} … {_END}")
    return head, begin, tail


def show(rows: Sequence[Row]) -> None:
    """Print the rows as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in _HEAD:
        table.add_column(name, justify="right" if name in ("ours", "raw", "ours/raw") else "left")
    for row in rows:
        table.add_row(*_cells(row))
    Console(width=160).print(table)
