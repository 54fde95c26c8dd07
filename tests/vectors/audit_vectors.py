"""The vectors of the audit's chain, written from docs/reference/audit.md alone."""

from __future__ import annotations

import json
from typing import Any

from blake3 import blake3

Map = dict[str, Any]
Rows = list[tuple[int, bytes]]
T0 = 1_767_312_000_000_000_000  # 2026-01-02T00:00:00Z in ns
NO_HASH = "0" * 64


def digest(data: bytes) -> str:
    """Return what the next row names as ``prev``."""
    return blake3(data).hexdigest()


def row(number: int, prev: str | None, **fields: Any) -> bytes:
    """Return a stored row; without ``prev`` one of the first release."""
    table = {
        "v": 1 if prev is None else 2,
        "id": f"019b7b8f-0000-7000-8000-{number:012x}",
        "time_ns": T0 + number * 10**9,
        "actor": "spiffe://flux-prod/client/admin/ops",
        "action": "approve",
        "subject": "stage-left",
        "result": "ok",
        "reason": "",
        "detail": {},
        "count": 1,
        **({} if prev is None else {"prev": prev}),
        **fields,
    }
    return json.dumps(table, sort_keys=True).encode()


def chain(unchained: int, count: int) -> Rows:
    """Return ``unchained`` rows of the first release and ``count`` chained ones behind them."""
    rows: Rows = []
    for number in range(1, unchained + count + 1):
        prev = digest(rows[-1][1]) if rows else NO_HASH
        fields = ROWS[(number - 1) % len(ROWS)]
        rows.append((number, row(number, None if number <= unchained else prev, **fields)))
    return rows


ROWS: list[Map] = [
    {"action": "token_create", "detail": {"ttl_s": 900}},
    {"action": "enroll", "actor": "192.0.2.7", "detail": {"serial": 1, "key": "ab" * 32}},
    {"action": "connect", "result": "refused", "reason": "secret", "subject": "snake", "count": 12},
    {"action": "deny", "reason": "stolen from the van \u2013 \u00bbRudi\u00ab \U0001f69a \x1b[2J"},
]


def rechained(rows: Rows, first: int) -> Rows:
    """Return the rows with every ``prev`` from row ``first`` on made right again, as a forger would."""
    done: Rows = []
    for number, data in rows:
        fields = json.loads(data)
        if number >= first:
            fields["prev"] = digest(done[-1][1])
        done.append((number, json.dumps(fields, sort_keys=True).encode()))
    return done


def altered_rows(good: Rows, older: Rows) -> list[Map]:
    """Return audits of which a row is not the one that was written."""
    third = json.loads(good[2][1])
    forged = json.dumps({**third, "result": "ok"}, sort_keys=True)
    newest = good[5][1].replace(b"192.0.2.7", b"192.0.2.8")
    head = f"6:{digest(good[5][1])}"
    return [
        _case("the result of a row altered", 4, _with(good, 3, forged)),
        _case("a row written with other spaces", 4, _with(good, 3, json.dumps(third, sort_keys=True, indent=0))),
        _case("the newest row altered, but its head was noted", 6, [*good[:5], (6, newest)], heads=[head]),
        _case("the last row of the first release altered", 3, _with(older, 2, older[1][1].replace(b"ab", b"ac"))),
        _case("a whole new chain, but a head of the old one was noted", 5, rechained(_with(good, 3, forged), 4),
              heads=[f"5:{digest(good[4][1])}"]),
    ]  # fmt: skip


def moved_rows(good: Rows) -> list[Map]:
    """Return audits of which rows are missing, exchanged, repeated or slipped in."""
    data = [item for _, item in good]
    strange = row(9, digest(good[1][1]))
    return [
        _case("a row removed", 3, [item for item in good if item[0] != 3], last=6),
        _case("a row removed and the rest renumbered", 3, _numbered([*data[:2], *data[3:]])),
        _case("the oldest rows removed", 1, good[2:], last=6),
        _case("the oldest rows removed and the rest renumbered", 1, _numbered(data[2:])),
        _case("the newest row removed", 6, good[:5], last=6),
        _case("the newest rows removed, but a head was noted", 5, good[:4], heads=[f"6:{digest(data[5])}"]),
        _case("two rows exchanged", 3, _numbered([data[number] for number in (0, 1, 3, 2, 4, 5)])),
        _case("a row twice", 4, [*good[:3], good[2], *good[3:]], last=6),
        _case("a row slipped in", 4, _numbered([*data[:3], strange, *data[3:]])),
    ]


def malformed_rows(good: Rows) -> list[Map]:
    """Return audits of which a row is none, or none that may stand there."""
    prev, second = digest(good[0][1]), good[1][1]
    bare = json.dumps({**json.loads(row(2, None)), "v": 2}, sort_keys=True)
    return [
        _case("a row of the first release behind the chain's begin", 4, _with(good, 4, row(4, None))),
        _case("the first row names a predecessor", 1, _with(good, 1, row(1, "1" * 64))),
        _case("prev in capital letters", 2, _with(good, 2, row(2, prev.upper()))),
        _case("a chained row without prev", 2, _with(good, 2, bare)),
        _case("an unknown version", 2, _with(good, 2, row(2, prev, v=3))),
        _case("a count that is no number", 2, _with(good, 2, row(2, prev, count="1"))),
        _case("a key twice", 2, _with(good, 2, second.replace(b'"count": 1', b'"count": 1, "count": 1'))),
        _case("no JSON", 2, _with(good, 2, second[:-1])),
    ]


def _case(
    reason: str, at: int, rows: Rows, *, last: int | None = None, heads: list[str] | None = None
) -> Map:
    """Return one audit that must not verify; ``at`` is the number at which it shows, ``last`` the stream's."""
    stream = rows[-1][0] if last is None else last
    return {"reason": reason, "at": at, "last": stream, "rows": _plain(rows), "heads": heads or []}


def _with(rows: Rows, number: int, changed: str | bytes) -> Rows:
    other = changed.encode() if isinstance(changed, str) else changed
    return [(seq, other if seq == number else data) for seq, data in rows]


def _numbered(rows: list[bytes]) -> Rows:
    return list(enumerate(rows, 1))


def _plain(rows: Rows) -> list[Map]:
    return [{"seq": number, "data": data.decode()} for number, data in rows]


def _valid(reason: str, rows: Rows, unchained: int, heads: list[str]) -> Map:
    head = f"{rows[-1][0]}:{digest(rows[-1][1])}" if rows else f"0:{NO_HASH}"
    return {"reason": reason, "rows": _plain(rows), "last": len(rows), "unchained": unchained, "head": head,
            "heads": heads}  # fmt: skip


def audit_vectors() -> Map:
    """Audits that verify and audits that must not."""
    good, older = chain(0, 6), chain(2, 3)
    return {
        "valid": [
            _valid("no row at all", [], 0, []),
            _valid("six chained rows", good, 0, []),
            _valid("heads noted on the way", good, 0, [f"{n}:{digest(data)}" for n, data in good[3:]]),
            _valid("two rows of the first release, then the chain", older, 2, []),
            _valid("rows of the first release alone", older[:2], 2, []),
        ],
        "broken": [*altered_rows(good, older), *moved_rows(good), *malformed_rows(good)],
    }
