"""The audit's hash chain, recomputed from the rows' exact bytes. Pure: whoever asks brings the rows.

Rules (docs/reference/audit.md): rows are numbered 1, 2, 3, … without a hole; a row of version 2 names in ``prev`` the
hash of the row before it; rows of version 1, from the first release, have no ``prev`` and may stand only before the
first row of version 2. A head (number and hash of a row) that somebody noted earlier must still be in the chain.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, Self

from blake3 import blake3

from stagebox.errors import DecodeError, InputError, VerificationError
from stagebox.limits import LIMITS

NO_HASH = "0" * 64
"""What the very first row names as its predecessor's hash."""

REWOUND = "audit_rewound"
"""The action of a row with which a mixer notes that the stream had lost rows it knew."""

_HASH = re.compile(r"[0-9a-f]{64}")
_HEAD = re.compile(r"(0|[1-9][0-9]{0,18}):([0-9a-f]{64})")
_TEXTS = ("id", "action", "actor", "subject", "result", "reason")
_NUMBERS = ("time_ns", "count")


class ChainBroken(VerificationError):
    """The rows are not the ones that were written. ``seq`` is the row at which it shows."""

    def __init__(self, seq: int, message: str) -> None:
        super().__init__(
            message,
            remedy="compare with a backup of the audit stream, and with a head noted elsewhere (--expect)",
        )
        self.seq = seq


class Head(NamedTuple):
    """The newest row of a chain: its number in the stream and the hash of its bytes."""

    seq: int
    hash: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``SEQ:HASH``, as ``audit verify`` writes it.

        Raises:
            InputError: it is not a head.
        """
        found = _HEAD.fullmatch(text.strip().lower())
        if found is None:
            raise InputError(
                f"{text!r} is not the head of an audit",
                remedy="write it as `stagebox audit verify` shows it: SEQ:HASH",
            )
        return cls(int(found[1]), found[2])

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"


EMPTY = Head(0, NO_HASH)
"""The head of an audit without rows."""


@dataclass(frozen=True)
class AuditRow:
    """A decoded row. ``fields`` is its JSON object; ``prev`` is empty in rows of version 1."""

    seq: int
    version: int
    prev: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class ChainReport:
    """What was verified. ``unchained`` counts the rows of version 1 before the chain begins."""

    rows: int
    first: int
    last: int
    unchained: int
    head: Head
    rewound: tuple[AuditRow, ...]


def row_hash(data: bytes) -> str:
    """Return the BLAKE3-256 of a row's exact bytes, in hexadecimal."""
    return blake3(data).hexdigest()


def decode_row(seq: int, data: bytes) -> AuditRow:
    """Read one row.

    Raises:
        DecodeError: it is none.
    """
    if len(data) > LIMITS.max_audit_row_bytes:
        raise DecodeError(
            f"audit row {seq} has {len(data)} bytes, at most {LIMITS.max_audit_row_bytes} are legal"
        )
    try:
        fields = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"audit row {seq} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise DecodeError(f"audit row {seq} is not a JSON object")
    version, prev = fields.get("v"), fields.get("prev")
    if type(version) is not int or version not in (1, 2):
        raise DecodeError(f"audit row {seq} has the version {version!r}, this program knows 1 and 2")
    if version == 2 and not (isinstance(prev, str) and _HASH.fullmatch(prev)):
        raise DecodeError(f"audit row {seq} has no hash of its predecessor")
    wrong = [name for name in _TEXTS if not isinstance(fields.get(name), str)]
    wrong += [name for name in _NUMBERS if type(fields.get(name)) is not int]
    wrong += ["detail"] if not isinstance(fields.get("detail"), dict) else []
    if wrong:
        raise DecodeError(f"audit row {seq} lacks {', '.join(wrong)}")
    return AuditRow(seq, version, str(prev) if version == 2 else "", fields)


class ChainVerifier:
    """Takes rows in the order of the stream, from its first on, and holds them to the rules.

    ``expected`` are heads noted earlier, each with the words for who noted it.
    """

    def __init__(self, expected: Iterable[tuple[Head, str]] = ()) -> None:
        self._expected: dict[int, list[tuple[Head, str]]] = {}
        self._head = EMPTY
        self._unchained = 0
        self._rewound: list[AuditRow] = []
        for head, who in expected:
            if head != EMPTY:
                self._expected.setdefault(head.seq, []).append((head, who))

    @property
    def head(self) -> Head:
        """The newest row taken."""
        return self._head

    def add(self, seq: int, data: bytes) -> AuditRow:
        """Take the next row.

        Raises:
            ChainBroken: rows are missing before it, it is not the successor of the one before, or not the row
                that somebody noted.
        """
        before = self._head
        if seq != before.seq + 1:
            raise ChainBroken(before.seq + 1, _hole(before.seq + 1, seq))
        try:
            row = decode_row(seq, data)
        except DecodeError as error:
            raise ChainBroken(seq, error.message) from None
        if row.version == 1:
            if self._unchained != before.seq:
                raise ChainBroken(seq, f"row {seq} is outside the chain, which began before it")
            self._unchained += 1
        elif row.prev != before.hash:
            raise ChainBroken(
                seq,
                f"row {seq} does not follow row {before.seq}: one of the two was altered, or rows were exchanged"
                if before.seq
                else "row 1 names a predecessor: what came before it is missing",
            )
        self._head = Head(seq, row_hash(data))
        for head, who in self._expected.pop(seq, []):
            if head != self._head:
                raise ChainBroken(seq, f"row {seq} is not the one of the head {head}, {who}")
        if row.fields["action"] == REWOUND:
            self._rewound.append(row)
        return row

    def finish(self, last: int) -> ChainReport:
        """End at the stream's last number and return what was verified.

        Raises:
            ChainBroken: rows are missing at the end, or a head that was noted lies beyond it.
        """
        if self._head.seq < last:
            raise ChainBroken(self._head.seq + 1, _hole(self._head.seq + 1, last + 1))
        for head, who in sorted(item for items in self._expected.values() for item in items):
            raise ChainBroken(
                self._head.seq + 1,
                f"the audit ends at row {self._head.seq}, but the head {head}, {who}, lies behind it: "
                "newer rows are gone",
            )
        return ChainReport(
            rows=self._head.seq,
            first=min(1, self._head.seq),
            last=self._head.seq,
            unchained=self._unchained,
            head=self._head,
            rewound=tuple(self._rewound),
        )


def _hole(first: int, found: int) -> str:
    if found < first:
        return f"row {found} came again after row {first - 1}"
    last = found - 1
    return f"row {first} is missing" if first == last else f"rows {first} to {last} are missing"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key appears twice")
    return fields


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
