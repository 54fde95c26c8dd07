"""Audit rows for people: pages from the mixer's API, the filters of ``audit list``, and a row as one line. Pure.

``fetch`` is whoever asks the mixer: it takes the number behind which to begin and how many rows, and returns the
answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from stagebox.audit_chain import AuditRow, ChainReport, ChainVerifier, Head, decode_row
from stagebox.errors import BusError, DecodeError, InputError, VerificationError
from stagebox.logs import printable

PAGE_ROWS = 1000
Fetch = Callable[[int, int], dict[str, Any]]


@dataclass(frozen=True)
class Page:
    """One answer. ``last`` is the stream's newest number, ``witness`` the head the mixer keeps outside the stream."""

    rows: list[tuple[int, bytes]]
    last: int
    witness: Head | None


def page(fetch: Fetch, after: int, limit: int = PAGE_ROWS) -> Page:
    """Ask for the rows behind number ``after``.

    Raises:
        BusError: the answer is not a page of audit rows.
    """
    answer = fetch(after, limit)
    try:
        rows = [(_number(row["seq"]), row["data"].encode("utf-8", "surrogatepass")) for row in answer["rows"]]
        witness = answer.get("witness")
        head = Head.parse(f"{_number(witness['seq'])}:{witness['head']}") if witness is not None else None
        return Page(rows, _number(answer["last"]), head)
    except (KeyError, TypeError, ValueError, AttributeError, InputError):
        raise BusError("the mixer answered, but not with a page of audit rows") from None


@dataclass(frozen=True)
class Filter:
    """Which rows are wanted; empty takes all. Patterns know ``*`` and ``?``."""

    rack: str = ""
    subject: str = ""
    action: str = ""
    actor: str = ""
    result: str = ""
    since_ns: int = 0

    def takes(self, row: AuditRow) -> bool:
        """Whether the row is wanted."""
        fields = row.fields
        patterns = {
            "subject": self.subject, "action": self.action, "actor": self.actor, "result": self.result,
        }  # fmt: skip
        return (
            fields["time_ns"] >= self.since_ns
            and all(not pattern or fnmatchcase(fields[name], pattern) for name, pattern in patterns.items())
            and (not self.rack or _concerns(self.rack, fields))
        )


def newest(fetch: Fetch, wanted: Filter, limit: int) -> tuple[list[AuditRow], int]:
    """Return the newest ``limit`` rows that are wanted, oldest first, and the number of the newest row of all.

    Raises:
        BusError: the mixer cannot be reached. DecodeError: a row is damaged.
    """
    last = end = page(fetch, 0, 1).last
    found: list[AuditRow] = []
    while end > 0 and len(found) < limit:
        start = max(0, end - PAGE_ROWS)
        rows = [_decoded(seq, data) for seq, data in _between(fetch, start, end)]
        found[:0] = [row for row in rows if wanted.takes(row)]
        if rows and all(row.fields["time_ns"] < wanted.since_ns for row in rows):
            break
        end = start
    return found[-limit:], last


def behind(fetch: Fetch, wanted: Filter, after: int) -> tuple[list[AuditRow], int]:
    """Return the wanted rows behind number ``after`` and the number of the newest row seen.

    Raises:
        BusError: the mixer cannot be reached. DecodeError: a row is damaged.
    """
    rows = [_decoded(seq, data) for seq, data in page(fetch, after).rows]
    return [row for row in rows if wanted.takes(row)], rows[-1].seq if rows else after


def verify(fetch: Fetch, expected: Head | None, progress: Callable[[int, int], None]) -> ChainReport:
    """Hold every row of the audit to its chain, to the mixer's witness and to ``expected``.

    Rows that are written meanwhile are left to the next time.

    Raises:
        ChainBroken: it does not hold. BusError: the mixer cannot be reached.
    """
    current = page(fetch, 0)
    noted = [(current.witness, "noted by the mixer outside the stream"), (expected, "noted by you")]
    verifier = ChainVerifier((head, who) for head, who in noted if head is not None)
    last = current.last
    # The witness may name a row that was written while the mixer was answering.
    goal = max(last, current.witness.seq if current.witness is not None else 0)
    while current.rows:
        for seq, data in current.rows:
            verifier.add(seq, data)
        progress(verifier.head.seq, goal)
        if verifier.head.seq >= goal:
            break
        current = page(fetch, verifier.head.seq)
    return verifier.finish(last)


def since(text: str, now: datetime) -> int:
    """Return the time that ``--since`` names, in ns since the Unix epoch: ``2h`` ago, or a date with or without time.

    Raises:
        InputError: it is neither.
    """
    from stagebox.cli.durations import seconds

    try:
        return int((now.timestamp() - seconds(text, "--since")) * 1_000_000_000)
    except InputError:
        pass
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InputError(
            f"--since {text!r} is neither a duration nor a time",
            remedy="write it like 2h, 7d, 2026-01-31 or 2026-01-31T18:00:00Z",
        ) from None
    return int((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp() * 1_000_000_000)


def as_json(row: AuditRow) -> str:
    """Return the row as one line of JSON: its own fields and ``seq``."""
    return json.dumps({"seq": row.seq, **row.fields}, ensure_ascii=True)


def as_line(row: AuditRow) -> str:
    """Return the row as one line of text without control characters."""
    fields = row.fields
    words = [
        f"{row.seq:>7}",
        _clock(fields["time_ns"]),
        f"{fields['result']:<7}",
        f"{fields['action']:<14}",
        f"{fields['subject']:<20}",
        f"by {fields['actor']}",
    ]
    if fields["reason"]:
        words.append(f"({fields['reason']})")
    if fields["count"] != 1:
        words.append(f"x{fields['count']}")
    words += [f"{name}={value}" for name, value in fields["detail"].items()]
    return printable("  ".join(words))


def report_lines(report: ChainReport) -> list[str]:
    """Return what ``audit verify`` says of an audit that holds."""
    if not report.rows:
        return ["the audit has no rows"]
    lines = [f"verified  {report.rows} rows, {report.first} to {report.last}: every one is as it was written"]
    if report.unchained:
        lines.append(
            f"unchained rows 1 to {report.unchained} are of the first release; the chain covers the last of them"
        )
    lines += [f"rewound   {_rewound(row)}" for row in report.rewound]
    return [*lines, f"head      {report.head}"]


def report_json(report: ChainReport) -> dict[str, object]:
    """Return the same for programs."""
    return {
        "ok": True,
        "rows": report.rows,
        "first": report.first,
        "last": report.last,
        "unchained": report.unchained,
        "head": str(report.head),
        "rewound": [{"seq": row.seq, **row.fields} for row in report.rewound],
    }


def _rewound(row: AuditRow) -> str:
    detail = row.fields["detail"]
    return (
        f"row {row.seq}, {_clock(row.fields['time_ns'])}: the stream ended at row {detail.get('stream_seq')} "
        f"although the mixer knew row {detail.get('witness_seq')} ({row.fields['reason']}); what lay between is lost"
    )


def _between(fetch: Fetch, after: int, end: int) -> Iterator[tuple[int, bytes]]:
    while after < end:
        rows = page(fetch, after, end - after).rows
        if not rows:
            raise VerificationError(
                f"the mixer has no audit row {after + 1}, although newer ones exist",
                remedy="stagebox audit verify",
            )
        for seq, data in rows:
            if seq <= after:
                raise BusError(f"the mixer sent audit row {seq} twice")
            after = seq
            if seq <= end:
                yield seq, data


def _decoded(seq: int, data: bytes) -> AuditRow:
    try:
        return decode_row(seq, data)
    except DecodeError as error:
        raise VerificationError(error.message, remedy="stagebox audit verify") from None


def _concerns(rack: str, fields: dict[str, Any]) -> bool:
    subject, actor = fields["subject"], fields["actor"]
    return bool(
        subject == rack
        or subject.startswith(f"rack.{rack}.")
        or subject == f"mixer.cmd.{rack}"
        or actor == f"rack:{rack}"
        or actor.endswith(f"/rack/{rack}")
    )


def _clock(time_ns: int) -> str:
    try:
        return f"{datetime.fromtimestamp(time_ns // 1_000_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (OverflowError, OSError, ValueError):
        return f"{time_ns} ns since 1970"


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not a number of rows")
    return value
